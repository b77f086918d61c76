"""The numbers of a model in two files: what people compare, and the details beside it.

DVC shows each value of a metrics file as a column, so `test.json` holds only what one compares,
and `test_details.json` the rest. DVC keeps the details as it keeps plots, because a plain file
that Git tracks would turn its run cache off; it draws every list of maps in them, so that such
lists are written as maps by position, `#0`, `#1` and so on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

SUFFIX = "_details"


def beside(path: str) -> str:
    """The path of the details: `test_details.json` of `test.json`."""
    return f"{path.removesuffix('.json')}{SUFFIX}.json"


def read(path: Path, load: Callable[[Path], bytes] = Path.read_bytes) -> dict[str, Any]:
    """The content of a file of numbers and of its details, as one map.

    A file of details alone, such as that of a data set, has none beside it. load: gives the
    content of a path. Raises FileNotFoundError, and ValueError where a file is not JSON.
    """
    content = decode(json.loads(load(path)))
    if "made_by" in content:
        return content
    return {**decode(json.loads(load(path.with_name(beside(path.name))))), **content}


def encode(value: Any) -> Any:
    """The value with each list of maps as a map by position."""
    if isinstance(value, dict):
        return {key: encode(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple) and value and all(isinstance(v, dict) for v in value):
        return {f"#{position}": encode(inner) for position, inner in enumerate(value)}
    return value


def decode(value: Any) -> Any:
    """The inverse of `encode`."""
    if not isinstance(value, dict):
        return value
    if value and all(key.startswith("#") for key in value):
        return [decode(value[f"#{position}"]) for position in range(len(value))]
    return {key: decode(inner) for key, inner in value.items()}

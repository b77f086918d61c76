"""The numbers of a model, in two files: the numbers that people compare, and the details.

DVC shows each value of a metrics file as a column, so `test.json` has only what people compare, and
`test_details.json` has the rest. The details are a DVC plot, because a plain file in Git would turn
off DVC's run cache. DVC draws every list of maps in a plot, so such lists are written as maps by
position, `#0`, `#1` and so on, and an empty list as `{"#": 0}`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kmnist_pipeline.errors import UserError

EMPTY = {"#": 0}


class NumbersError(UserError, ValueError):
    """A file of numbers is damaged, or of another form."""


def beside(path: str) -> str:
    """The path of the details: `test_details.json` for `test.json`."""
    return f"{path.removesuffix('.json')}_details.json"


def read(path: Path) -> dict[str, Any]:
    """The content of a file of numbers and of its details, as one map.

    A dataset has only a file of details. Raises FileNotFoundError, or NumbersError, which names
    the file that is not of this form.
    """
    content = _read(path)
    if "made_by" in content:
        return content
    return {**_read(path.with_name(beside(path.name))), **content}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = decode(json.loads(path.read_bytes()))
    except (ValueError, KeyError) as error:
        raise NumbersError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise NumbersError(f"{path} has no map of numbers")
    return content


def encode(value: Any) -> Any:
    """The value, with each list of maps and each empty list as a map by position."""
    if isinstance(value, dict):
        return {key: encode(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple) and all(isinstance(v, dict) for v in value):
        return {f"#{n}": encode(inner) for n, inner in enumerate(value)} or EMPTY
    return value


def decode(value: Any) -> Any:
    """The inverse of `encode`; a value that was not encoded stays unchanged."""
    if not isinstance(value, dict):
        return value
    if value == EMPTY:
        return []
    if value and all(key.startswith("#") for key in value):
        return [decode(value[f"#{position}"]) for position in range(len(value))]
    return {key: decode(inner) for key, inner in value.items()}

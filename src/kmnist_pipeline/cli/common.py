"""Functions that several commands share."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from kmnist_pipeline.errors import UserError

PARAMS = Path("params.yaml")


def absolute(name: str) -> Path:
    """The absolute path, because the command changes its folder later."""
    return Path(os.path.abspath(name))


def mend_lock() -> None:
    """Put back what an interrupted DVC has lost from dvc.lock, and say so."""
    from kmnist_pipeline.commands import recovery

    if said := recovery.put_back():
        print(said, file=sys.stderr)


def read_params() -> dict[str, Any]:
    """The content of params.yaml. Raises UserError if it cannot be read or is invalid."""
    from kmnist_pipeline.config import rules
    from kmnist_pipeline.repository import locks

    if not PARAMS.exists():
        raise UserError(f"{PARAMS} does not exist: run `kmnist compose`")
    params = locks.load(PARAMS.read_text(), PARAMS.name)
    rules.check(params)
    return params


def print_json(content: Any) -> None:
    """Print JSON for programs."""
    print(json.dumps(content, indent=2, ensure_ascii=False))


def console() -> Any:
    """A console that does not wrap or cut lines in a pipe."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 10_000)

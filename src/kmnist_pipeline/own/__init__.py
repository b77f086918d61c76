"""Metrics and figures of your own: each is one function, which `evaluate` finds by itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any


def functions(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """The public functions that a module defines, by name, in their order."""
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    }

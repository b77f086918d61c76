"""The key of a fit, computed from everything it depends on: equal keys mean equal results.

A key is the sha256 of canonical JSON. Its parts are the digests of the fit's arrays (so the code
that makes them does not count), its settings, seed and fold, the code of its family, the versions
of its numeric libraries, and the arithmetic. A setting that is null does not count. So a family can
get a new setting, and the fits without it are not trained again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kmnist_pipeline import arithmetic
from kmnist_pipeline.evidence import lineage
from kmnist_pipeline.families import modules
from kmnist_pipeline.families.base import FORMAT, Data, Fit
from kmnist_pipeline.families.modules import PACKAGE
from kmnist_pipeline.families.registry import FAMILIES

ARRAYS = ("training", "validation", "shift", "scale")  # of a fit


def key(fit: Fit, data: str, around: dict[str, Any] | None = None) -> str:
    """The key of a fit.

    data: the digest of its `Data`; around: its `surroundings`, by default the current ones.
    """
    parts = {
        "arrays": {"data": data} | {name: digest_of_array(getattr(fit, name)) for name in ARRAYS},
        "settings": _without_null(fit.settings),
        "seed": fit.seed,
        "fold": fit.fold,
        "family": fit.family,
        "format": FORMAT,
        **(around or surroundings(fit.family, fit.settings)),
    }
    content = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()


def stopped(key: str, epochs: int) -> str:
    """The key of a fit that is stopped after this many epochs; key: that of the whole fit."""
    return hashlib.sha256(f"{key} stopped after {epochs}".encode()).hexdigest()


def surroundings(family: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The current code, libraries and arithmetic that a fit with these settings depends on."""
    return {
        "code": code(family, settings),
        "libraries": libraries(family),
        "arithmetic": {"name": arithmetic.name(), **arithmetic.variables()},
    }


def environment(family: str, *others: str) -> dict[str, Any]:
    """The libraries and the arithmetic that a family computes with, for the evidence.

    others: more libraries that decide its numbers.
    """
    used = {**libraries(family), **lineage.versions(others)}
    return {"arithmetic": arithmetic.name(), "libraries": used}


def libraries(family: str) -> dict[str, str]:
    """The versions of a family's libraries."""
    return lineage.versions(FAMILIES[family].libraries)


def digest(data: Data) -> str:
    """The digest of the images and labels from which fits draw their rows."""
    both = digest_of_array(data.pixels) + digest_of_array(data.labels) + str(data.classes)
    return hashlib.sha256(both.encode()).hexdigest()


def digest_of_array(array: np.ndarray) -> str:
    """The sha256 of an array's type, shape and content."""
    total = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def code(family: str, settings: Mapping[str, Any], package: Path = PACKAGE) -> dict[str, str]:
    """The digest of each module that a fit uses, by its path in the package.

    These are the modules in the family's folder, the exchangeable modules that the settings name,
    and the modules of the package that they import.
    """
    return modules.closure(modules.used(family, settings, package), package)


def _without_null(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_null(value) if isinstance(value, Mapping) else value
        for name, value in settings.items()
        if value is not None
    }

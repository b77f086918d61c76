"""Comparing the values that evidence states with those that follow from other evidence."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from numbers import Real
from pathlib import Path
from typing import Any

from kmnist_pipeline.evidence import lineage, numbers, outs, paths
from kmnist_pipeline.repository.locks import LockedStage

# Numbers are stored with six digits. A number and those that it follows from were both rounded,
# and the standard deviation of rates has the rounding errors of the rates.
RELATIVE, ABSOLUTE = 1e-5, 2e-6

Values = dict[str, Any]  # by dotted name


def numbers_of(stage: LockedStage, name: str) -> Path:
    """The out of a stage with this file name."""
    (path,) = (out for out in stage.outs if out.endswith(f"/{name}"))
    return Path(path)


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def flat(prefix: str, value: Any) -> Values:
    """The leaves of a value, by dotted name."""
    return dict(lineage.leaves(prefix, value))


def training_images(experiment: dict[str, Any], params: dict[str, Any]) -> int:
    """The number of training images of an experiment's classes."""
    counts = per_class(experiment["dataset"], params)
    chosen = experiment["classes"]
    return sum(counts[c]["train"] for c in (range(len(counts)) if chosen is None else chosen))


def per_class(dataset: str, params: dict[str, Any]) -> list[dict[str, int]]:
    """The number of training and test images of each class. Raises KeyError if one is missing."""
    stated = numbers.read(Path(paths.data_numbers(dataset)))["per_class"]
    names = params["datasets"][dataset]["classes"]
    if len(stated) != len(names):
        raise KeyError(f"per_class has {len(stated)} classes, but {dataset} has {len(names)}")
    return [stated[name if name == str(c) else f"{c} {name}"] for c, name in enumerate(names)]


def apart(path: Path, stated: Values, expected: Values) -> Iterator[str]:
    """A message for each stated value that differs from the expected one by more than rounding."""
    for name, value in expected.items():
        given = stated.get(name)
        if isinstance(given, Real) and isinstance(value, Real):
            same = math.isclose(given, value, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
            known = float(f"{value:.6g}")
        else:
            known = outs.rounded(value)
            same = given == known
        if not same:
            yield f"{path}: {name} is {given}, but {known} follows from the rest"


def beyond(path: Path, limits: dict[str, tuple[float, float]]) -> Iterator[str]:
    """A message for each count that is negative or above its maximum; limits: both, by name."""
    for name, (count, most) in limits.items():
        if not 0 <= count <= most:
            yield f"{path}: {name} is {count}, but the rest allows 0 to {most}"

"""The trials of a study: each is the base experiment, changed to the values of one point.

Here an experiment is a plain map, as in `params.yaml`.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from typing import Any

from kmnist_pipeline.errors import UserError

Experiment = dict[str, Any]
CLEAN = "none"  # the name under which `faults.json` has the numbers without a fault


class PointError(UserError):
    """A point names a key that the base experiment does not have."""


def points(study: dict[str, Any]) -> list[dict[str, Any]]:
    """The points of a study: the listed ones, or every combination of the values in `product`.

    A search has none before it has run.

    The values of the last key change fastest.
    """
    product = study["product"]
    combined = itertools.product(*product.values()) if product else ()
    return study["points"] or [dict(zip(product, values, strict=True)) for values in combined]


def name(point: dict[str, Any]) -> str:
    """The name of a point's trial, such as `lr=0.1,batch_size=512`."""
    return ",".join(f"{dotted.split('.')[-1]}={value}" for dotted, value in point.items())


def trials(study: dict[str, Any], base: Experiment) -> dict[str, Experiment]:
    """The experiments that a study tries, by trial name; points of equal name give one trial.

    Raises PointError if a point names a key that the base does not have.
    """
    return {name(point): trial(study, base, point) for point in points(study)}


def trial(study: dict[str, Any], base: Experiment, point: dict[str, Any]) -> Experiment:
    """The experiment that a study tries at a point."""
    return apply(apply({**base, "seeds": seeds(study, base)}, study.get("trial") or {}), point)


def seeds(study: dict[str, Any], base: Experiment) -> list[int]:
    """The seeds of a study, by default those of its base."""
    return study.get("seeds") or base["seeds"]


def retrained(study: dict[str, Any], base: Experiment, point: dict[str, Any]) -> Experiment:
    """The base experiment, changed to the values of a point but not to those of `trial`."""
    return apply({**base, "seeds": seeds(study, base)}, point)


def apply(base: Experiment, point: dict[str, Any]) -> Experiment:
    """`base` with the value of every dotted key of `point` replaced.

    Raises PointError for a key that `base` does not have.
    """
    changed = copy.deepcopy(base)
    for dotted, value in point.items():
        *parents, leaf = dotted.split(".")
        node: Any = changed
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict) or leaf not in node:
            raise PointError(f"the base experiment has no key {dotted!r}")
        node[leaf] = value
    return changed


def with_fault(fault: Mapping[str, Any], before: Any) -> Any:
    """The value of a setting after a fault with the `act` change, multiply or add."""
    match fault["act"]:
        case "change":
            return fault["value"]
        case "multiply":
            return before * fault["factor"]
        case _:
            return before + fault["amount"]

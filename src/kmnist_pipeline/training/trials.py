"""The trials of a study: its base experiment with the values of one point in place of its own."""

from __future__ import annotations

import copy
import itertools
from typing import Any

from kmnist_pipeline.errors import UserError


class PointError(UserError, KeyError):
    """A point that names a key which the base experiment does not have."""

    def __str__(self) -> str:
        return str(self.args[0])


def points(listed: list[dict[str, Any]], product: dict[str, list]) -> list[dict[str, Any]]:
    """The points of a study: those listed, or every combination of the values of `product`.

    The values of the key that stands last change fastest.
    """
    if not product:
        return listed
    return [
        dict(zip(product, values, strict=True)) for values in itertools.product(*product.values())
    ]


def name(point: dict[str, Any]) -> str:
    """The name of a point's trial, such as `lr=0.1,batch_size=512`."""
    return ",".join(f"{dotted.split('.')[-1]}={value}" for dotted, value in point.items())


def apply(base: dict[str, Any], point: dict[str, Any]) -> dict[str, Any]:
    """`base` with the value of every dotted key of `point` replaced.

    Raises PointError for a key that is not there.
    """
    trial = copy.deepcopy(base)
    for dotted, value in point.items():
        *parents, leaf = dotted.split(".")
        node: Any = trial
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict) or leaf not in node:
            raise PointError(f"the base experiment has no key {dotted!r}")
        node[leaf] = value
    return trial

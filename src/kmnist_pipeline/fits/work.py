"""What a worker does with a fit, wherever it runs."""

from __future__ import annotations

import time
from typing import Any

from kmnist_pipeline import arithmetic
from kmnist_pipeline.families import file
from kmnist_pipeline.families.base import Checkpoint, Data, Fit, Progress
from kmnist_pipeline.families.registry import FAMILIES
from kmnist_pipeline.fits import key

ARRAYS = ("training", "validation", "shift", "scale")


class RefusedError(RuntimeError):
    """A worker's own key of a fit is another one.

    surroundings: the code, libraries and arithmetic of the worker.
    """

    def __init__(self, surroundings: dict[str, Any]) -> None:
        super().__init__(surroundings)
        self.surroundings = surroundings


def encode(fit: Fit) -> bytes:
    """A fit as bytes, on its way to a worker."""
    about = {name: getattr(fit, name) for name in ("family", "settings", "seed", "fold")}
    return file.encode({name: getattr(fit, name) for name in ARRAYS}, about)


def decode(content: bytes) -> Fit:
    """The inverse of `encode`."""
    arrays, about = file.decode(content)
    everything: dict[str, Any] = {**about, **{name: array.copy() for name, array in arrays.items()}}
    return Fit(**everything)


def verified(data: Data, digest: str) -> Data:
    """The data, if their digest is this one. Raises ValueError."""
    if key.digest(data) != digest:
        raise ValueError("the images were damaged on their way to the worker")
    return data


def train(
    content: bytes,
    expected: str,
    data: Data,
    digest: str,
    checkpoint: Checkpoint,
    progress: Progress,
    stop_after: int | None,
) -> tuple[bytes, float]:
    """Train an encoded fit; its result as bytes, and the seconds that it took.

    expected: its key, as whoever asks for it knows it; digest: that of the data.
    Raises RefusedError before it computes, where this process would compute something else.
    """
    fit = decode(content)
    family = FAMILIES[fit.family].train
    arithmetic.require()
    if key.key(fit, digest) != expected:
        raise RefusedError(key.surroundings(fit.family, fit.settings))
    began = time.monotonic()
    fitted = family.fit(fit, data, checkpoint, progress, stop_after)
    return fitted.encode(), round(time.monotonic() - began, 3)


def difference(mine: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """What differs between two surroundings, in words; mine: those of whoever asks."""
    told = []
    for module in sorted(mine["code"].keys() | theirs["code"].keys()):
        if mine["code"].get(module) != theirs["code"].get(module):
            told.append(f"another {module}")
    for name in sorted(mine["libraries"].keys() | theirs["libraries"].keys()):
        here, there = mine["libraries"].get(name), theirs["libraries"].get(name)
        if here != there:
            told.append(f"{name} {there} instead of {here}")
    if mine["arithmetic"] != theirs["arithmetic"]:
        told.append(f"arithmetic {theirs['arithmetic']} instead of {mine['arithmetic']}")
    return told

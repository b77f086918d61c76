"""The training of one fit in a worker, on this machine or another."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from kmnist_pipeline import arithmetic
from kmnist_pipeline.families import file
from kmnist_pipeline.families.base import Checkpoint, Data, Fit, Progress, TrainingError
from kmnist_pipeline.families.registry import FAMILIES
from kmnist_pipeline.fits import key

VALUES = ("family", "settings", "seed", "fold")  # of a fit, besides its arrays

# The digest of each module and the version of each library that this process has loaded.
_loaded: dict[str, str] = {}


class RefusedError(RuntimeError):
    """A worker computes another key for a fit than the client does.

    surroundings: the code, libraries and arithmetic of the worker.
    """

    def __init__(self, surroundings: dict[str, Any]) -> None:
        super().__init__(surroundings)
        self.surroundings = surroundings


def encode(fit: Fit) -> bytes:
    """A fit as bytes, for a worker."""
    arrays = {name: getattr(fit, name) for name in key.ARRAYS}
    return file.encode(arrays, {name: getattr(fit, name) for name in VALUES})


def decode(content: bytes) -> Fit:
    """The inverse of `encode`."""
    arrays, values = file.decode(content)
    return Fit(**values | {name: array.copy() for name, array in arrays.items()})


def surroundings(family: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The code, libraries and arithmetic of this process that a fit with these settings depends on.

    As on first use: a change on the disk does not change what a running worker computes.
    """
    _ = FAMILIES[family].train
    around = key.surroundings(family, settings)
    for part in ("code", "libraries"):
        around[part] = {name: _loaded.setdefault(name, now) for name, now in around[part].items()}
    return around


def verified(data: Data, digest: str) -> Data:
    """Returns the data. Raises ValueError if they do not have this digest."""
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
    """Train an encoded fit; returns the encoded result, and the seconds that it took.

    expected: the key of the fit on the client; digest: the digest of the data.
    Raises RefusedError, before training, if this process computes another key, and
    TrainingError if the weights, as they are stored, are not finite.
    """
    fit = decode(content)
    family = FAMILIES[fit.family].train
    arithmetic.require()
    around = surroundings(fit.family, fit.settings)
    if key.key(fit, digest, around) != expected:
        raise RefusedError(around)
    if stop_after is not None:
        stop_after = min(stop_after, fit.settings["trainer"].get("epochs", 1))
    began = time.monotonic()
    fitted = family.fit(fit, data, checkpoint, progress, stop_after)
    if stop_after is not None and fitted.history[-1].epoch > stop_after:
        # The checkpoint is of a longer training; the result of this one was lost.
        fitted = family.fit(fit, data, Checkpoint(), progress, stop_after)
    for tensor, values in fitted.tensors.items():
        if not np.isfinite(values).all():
            raise TrainingError(
                f"epoch {fitted.kept_epoch}: {tensor} is not finite as it is stored; a smaller "
                "optimizer.lr may help"
            )
    return fitted.encode(), round(time.monotonic() - began, 3)


def differences(mine: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """The differences between two surroundings, in words; mine: those of the client."""
    found = []
    for part in ("code", "libraries", "arithmetic"):
        for name in sorted(mine[part].keys() | theirs[part].keys()):
            here, there = mine[part].get(name), theirs[part].get(name)
            label = part if name == "name" else name  # the name of the arithmetic
            if here != there:
                values = f"{label} {there} instead of {here}"
                found.append(f"another {name}" if part == "code" else values)
    return found


def reasons(fit: Fit, refused: RefusedError) -> str:
    """Why a worker refused a fit, in words."""
    mine = key.surroundings(fit.family, fit.settings)
    return ", ".join(differences(mine, refused.surroundings) or ["code has just changed"])

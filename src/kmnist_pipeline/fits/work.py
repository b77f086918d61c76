"""The training of one task in a worker, on this machine or another."""

from __future__ import annotations

import pickle
import time
from typing import Any

from kmnist_pipeline import arithmetic
from kmnist_pipeline.families.base import Checkpoint, Data, Progress
from kmnist_pipeline.fits import key
from kmnist_pipeline.fits.tasks import Task


class RefusedError(RuntimeError):
    """A worker computes another key for a task than the client does.

    surroundings: the code, libraries and arithmetic of the worker.
    """

    def __init__(self, surroundings: dict[str, Any]) -> None:
        super().__init__(surroundings)
        self.surroundings = surroundings


def encode(task: Task) -> bytes:
    """A task as bytes, for a worker."""
    return pickle.dumps(task)


def decode(content: bytes) -> Task:
    """The inverse of `encode`, only for what this project's own pool has sent."""
    return pickle.loads(content)  # noqa: S301 - loky and Dask pickle what they send, too


def verified(data: Data, digest: str) -> Data:
    """Returns the data. Raises ValueError if they do not have this digest."""
    if key.digest(data) != digest:
        raise ValueError("the images were damaged on their way to the worker")
    return data


def train(
    task: Task, data: Data, checkpoint: Checkpoint, progress: Progress
) -> tuple[bytes, float]:
    """Train a task; returns the encoded result, and the seconds that it took.

    Raises RefusedError, before training, if this process computes another key.
    """
    around = task.surroundings()
    arithmetic.require()
    if task.key_in(around) != task.whole:
        raise RefusedError(around)
    began = time.monotonic()
    result = task.train(data, checkpoint, progress)
    return result, round(time.monotonic() - began, 3)


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


def reasons(task: Task, refused: RefusedError) -> str:
    """Why a worker refused a task, in words."""
    mine = task.surroundings()
    return ", ".join(differences(mine, refused.surroundings) or ["code has just changed"])

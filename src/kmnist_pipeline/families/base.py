"""The input and the result of a fit, the same for every family."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.families import file

Progress = Callable[[float], object]  # gets the finished share of a fit, from 0 to 1

FORMAT = 1  # increase it when `Fitted`, its bytes or `digest` change


class TrainingError(UserError, RuntimeError):
    """Training failed; the message says where and what may help."""


class Epoch(NamedTuple):
    """Mean loss (nats) and accuracy of one split in one epoch; epochs count from 1."""

    epoch: int
    split: str
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Data:
    """The images from which all fits of an experiment draw their rows.

    pixels: (N, H, W) or (N, H, W, C) uint8; labels: (N,) int64 from 0 to classes - 1.
    """

    pixels: np.ndarray
    labels: np.ndarray
    classes: int

    @property
    def flat(self) -> np.ndarray:
        """The images as rows, (N, D) uint8."""
        return self.pixels.reshape(len(self.pixels), -1)


@dataclass(frozen=True)
class Fit:
    """The training of one trial on one seed and fold: with `Data`, it decides the result.

    settings: those of `model`, `optimizer` and `trainer` that affect the training;
    training, validation: rows of the data, without validation rows if nothing is held out;
    shift, scale: the scaling of the features, (D,) float64.
    """

    family: str
    settings: dict[str, Any]
    seed: int
    fold: int
    training: np.ndarray
    validation: np.ndarray
    shift: np.ndarray
    scale: np.ndarray


@dataclass
class Fitted:
    """The result of a fit: its history, and the weights of the kept epoch.

    digests: of all weights, after each epoch; n_validation: 0 if nothing was held out.
    """

    history: list[Epoch]
    digests: list[str]
    kept_epoch: int
    n_train: int
    n_validation: int
    tensors: dict[str, np.ndarray]

    def kept(self, split: str) -> Epoch | None:
        """The loss and accuracy of `split` in the kept epoch; None if there are none."""
        at = (e for e in self.history if e.epoch == self.kept_epoch and e.split == split)
        return next(at, None)

    def encode(self) -> bytes:
        """The bytes of a model file."""
        return file.encode(self.tensors, {**asdict(self), "tensors": None})


def decode(content: bytes) -> Fitted:
    """The inverse of `Fitted.encode`. Raises ModelFileError for other bytes."""
    tensors, about = file.decode(content)
    history = [Epoch(*epoch) for epoch in about["history"]]
    return Fitted(**{**about, "history": history, "tensors": tensors})


def digest(tensors: dict[str, np.ndarray]) -> str:
    """A digest of named arrays, as 16 hexadecimal digits."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode())
        total.update(np.ascontiguousarray(tensors[name]).data)
    return total.hexdigest()[:16]


class Checkpoint:
    """The state of an unfinished fit; this class keeps none, `fits/store.py` keeps it in a file."""

    def load(self) -> bytes | None:
        """The last state, or None."""
        return None

    def save(self, state: bytes) -> None:
        """Replace the last state."""

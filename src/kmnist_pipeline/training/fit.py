"""What a training module hands back, whatever the family of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kmnist_pipeline.errors import UserError


class TrainingError(UserError, RuntimeError):
    """Training that cannot go on; the message says where it stopped and what may help."""


class Epoch(NamedTuple):
    """Mean loss (nats) and accuracy of one split in one epoch (counted from 1)."""

    epoch: int
    split: str
    loss: float
    accuracy: float


@dataclass
class FoldFit:
    """A model trained on one fold: its history and the weights of its best epoch.

    n_validation is 0 where nothing was held out.
    """

    history: list[Epoch]
    best_epoch: int
    n_train: int
    n_validation: int
    tensors: dict[str, np.ndarray]

    def best(self, split: str) -> Epoch | None:
        """The measurements of `split` in the best epoch."""
        at_best = (e for e in self.history if e.epoch == self.best_epoch and e.split == split)
        return next(at_best, None)

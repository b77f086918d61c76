"""Trajectories: validation and test accuracy after every epoch of a training.

A group of trainings has the same images in the same batches and order, and may differ in scaling,
learning rate and loss. So a group takes its steps together, with one matrix product for all its
trainings. Each takes the steps of `families/linear/train.py`, so its weights differ from those of
that module by no more than rounding. That module measures no test images, as no training may;
readings do, because they explain a publication and choose nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kmnist_pipeline.data import scaling, streams
from kmnist_pipeline.families.base import TrainingError
from kmnist_pipeline.families.linear import model
from kmnist_pipeline.families.linear.train import SHUFFLE

MEASURES = ("validation_accuracy", "validation_loss", "test_accuracy")


class Column(NamedTuple):
    """What distinguishes a training of a group; loss: `mean` or `sum` over the batch."""

    lr: float
    scaling: str
    loss: str


@dataclass(frozen=True)
class Group:
    """Trainings on the same images, in the same batches and order.

    kind: `logistic` or `softmax`; training, validation, test: rows of the images.
    """

    kind: str
    classes: int
    columns: tuple[Column, ...]
    batch_size: int
    epochs: int
    seed: int
    fold: int
    training: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def follow(group: Group, images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Train a group; returns each of MEASURES by column and epoch, (M, epochs) float64.

    images: (N, D) uint8; labels: (N,) from 0 to classes - 1.
    Raises TrainingError if a validation loss is not finite.
    """
    targets = model.one_hot(group.kind, labels, group.classes)
    together = (_Single if group.batch_size == 1 else _Batches)(group, images, targets)
    found = {name: np.empty((len(group.columns), group.epochs)) for name in MEASURES}
    held = {split: images[getattr(group, split)].astype(float) for split in ("validation", "test")}
    rng = streams.generator(group.seed, SHUFFLE, group.fold)
    # Overflow shows in the loss.
    with np.errstate(over="ignore", invalid="ignore"):
        for epoch in range(group.epochs):
            together.epoch(rng.permutation(len(group.training)))
            weights = together.over_pixels()
            for split, inputs in held.items():
                logits = inputs @ weights[1:].reshape(inputs.shape[1], -1)
                logits = logits.reshape(len(inputs), *weights.shape[1:]) + weights[0]
                of_split = labels[getattr(group, split)]
                right = model.predicted(group.kind, logits) == of_split[:, None]
                found[f"{split}_accuracy"][:, epoch] = right.mean(axis=0)
                if split == "validation":
                    losses = model.cross_entropy(group.kind, logits, of_split).mean(axis=0)
                    found["validation_loss"][:, epoch] = losses
            _check(group.columns, found["validation_loss"][:, epoch], epoch + 1)
    return found


def _check(columns: Iterable[Column], losses: np.ndarray, epoch: int) -> None:
    for column, loss in zip(columns, losses, strict=True):
        if not np.isfinite(loss):
            raise TrainingError(f"the validation loss is {loss} in epoch {epoch} of {column}")


def _scalings(group: Group, images: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Shift and scale (D,) of each scaling in the group."""
    names = {column.scaling for column in group.columns}
    return {name: scaling.estimate(name, images[group.training]) for name in names}


class _Batches:
    """Steps on batches, with weights (D + 1, M, K) for raw pixels; row 0 is the bias."""

    def __init__(self, group: Group, images: np.ndarray, targets: np.ndarray) -> None:
        self._group, self._images, self._targets = group, images, targets
        known = _scalings(group, images)
        scaled = [known[column.scaling] for column in group.columns]
        self._shift = np.stack([shift for shift, _ in scaled], axis=1)
        self._precision = np.stack([scale**-2.0 for _, scale in scaled], axis=1)[..., None]
        self._rates = np.array([column.lr for column in group.columns])
        self._is_mean = np.array([column.loss == "mean" for column in group.columns])
        self._weights = np.zeros((images.shape[1] + 1, len(scaled), targets.shape[1]))

    def epoch(self, order: np.ndarray) -> None:
        """One pass over the training rows in this order."""
        weights, size = self._weights, self._group.batch_size
        batch = np.ones((size, len(weights)))
        gathered = np.empty((size, self._images.shape[1]), np.uint8)
        rows = self._group.training[order]
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            x = batch[: len(some)]
            np.take(self._images, some, axis=0, out=gathered[: len(some)], mode="clip")
            x[:, 1:] = gathered[: len(some)]
            logits = (x @ weights.reshape(len(weights), -1)).reshape(len(x), *weights.shape[1:])
            error = model.activate(self._group.kind, logits)
            error -= self._targets[some][:, None]
            error *= np.where(self._is_mean, self._rates / len(x), self._rates)[:, None]
            step = (x.T @ error.reshape(len(x), -1)).reshape(weights.shape)
            pixels = step[1:]
            pixels -= self._shift[..., None] * step[0]
            pixels *= self._precision
            step[0] -= np.einsum("dm,dmk->mk", self._shift, pixels)
            weights -= step

    def over_pixels(self) -> np.ndarray:
        """The weights (D + 1, M, K) for raw pixels."""
        return self._weights


class _Single:
    """Steps on single images, which are kept scaled, because Python's overhead dominates here."""

    def __init__(self, group: Group, images: np.ndarray, targets: np.ndarray) -> None:
        self._group, self._targets = group, targets[group.training]
        self._scaled = _scalings(group, images)
        self._inputs = {}
        for name, (shift, scale) in self._scaled.items():
            inputs = np.ones((len(group.training), images.shape[1] + 1))
            inputs[:, 1:] = (images[group.training] - shift) / scale
            self._inputs[name] = inputs
        self._weights = [np.zeros((images.shape[1] + 1, targets.shape[1])) for _ in group.columns]

    def epoch(self, order: np.ndarray) -> None:
        """One pass over the training rows in this order; the two losses are equal here."""
        rows, targets, kind = order.tolist(), self._targets, self._group.kind
        for column, weights in zip(self._group.columns, self._weights, strict=True):
            inputs, rate = self._inputs[column.scaling], column.lr
            step, logits = np.empty_like(weights), np.empty(weights.shape[1])
            for row in rows:
                x = inputs[row]
                error = model.activate(kind, np.matmul(x, weights, out=logits))
                error -= targets[row]
                error *= rate
                np.multiply(x[:, None], error, out=step)
                np.subtract(weights, step, out=weights)

    def over_pixels(self) -> np.ndarray:
        """As `_Batches.over_pixels`."""
        found = np.stack(self._weights, axis=1)
        for position, column in enumerate(self._group.columns):
            shift, scale = self._scaled[column.scaling]
            found[1:, position] /= scale[:, None]
            found[0, position] -= shift @ found[1:, position]
        return found

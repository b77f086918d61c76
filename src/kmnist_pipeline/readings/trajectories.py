"""Trajectories: validation and test accuracy after every epoch of a training.

A group of trainings has the same images in the same batches and order, and may differ in scaling,
learning rate and loss. It shares what costs most, the conversion of pixels to numbers. Each
training does the steps of `families/linear/train.py` with arrays of the same shapes, so that its
weights have the same bytes. That module measures no test images, as no training may; readings do,
because they explain a publication and choose nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    scaled = {c.scaling: scaling.estimate(c.scaling, images[group.training]) for c in group.columns}
    trainings = [_Training(group.kind, column, *scaled[column.scaling]) for column in group.columns]
    targets = model.one_hot(group.kind, labels, group.classes)
    for training in trainings:
        training.weights = np.zeros((images.shape[1] + 1, targets.shape[1]))
    step = _Single(group, images, targets, scaled) if group.batch_size == 1 else None
    found = {name: np.empty((len(trainings), group.epochs)) for name in MEASURES}
    held = {split: images[getattr(group, split)].astype(float) for split in ("validation", "test")}
    rng = streams.generator(group.seed, SHUFFLE, group.fold)
    # Overflow shows in the loss.
    with np.errstate(over="ignore", invalid="ignore"):
        for epoch in range(group.epochs):
            order = rng.permutation(len(group.training))
            if step is not None:
                step.epoch(trainings, order)
            else:
                _epoch(group, trainings, images, targets, order)
            weights = [t.weights if step is None else t.folded() for t in trainings]
            stacked = np.stack(weights, axis=1)  # (D + 1, M, K)
            for split, inputs in held.items():
                logits = inputs @ stacked[1:].reshape(inputs.shape[1], -1)
                logits = logits.reshape(len(inputs), *stacked.shape[1:]) + stacked[0]
                of_split = labels[getattr(group, split)]
                right = model.predicted(group.kind, logits) == of_split[:, None]
                found[f"{split}_accuracy"][:, epoch] = right.mean(axis=0)
                if split == "validation":
                    losses = model.cross_entropy(group.kind, logits, of_split).mean(axis=0)
                    found["validation_loss"][:, epoch] = losses
            _check(group.columns, found["validation_loss"][:, epoch], epoch + 1)
    return found


class _Training:
    """One training of a group: its weights (D + 1, K), with which row 0 is the bias.

    In batches they are those of raw pixels, in batches of one image those of scaled pixels.
    """

    weights: np.ndarray

    def __init__(self, kind: str, column: Column, shift: np.ndarray, scale: np.ndarray) -> None:
        self.kind, self.column, self.shift, self.scale = kind, column, shift, scale
        self._precision = (scale**-2.0)[:, None]

    def update(self, x: np.ndarray, targets: np.ndarray) -> None:
        """Take a step on a batch of raw pixels with a leading 1, (B, D + 1)."""
        error = model.activate(self.kind, x @ self.weights)
        error -= targets
        error *= self.column.lr / len(x) if self.column.loss == "mean" else self.column.lr
        step = x.T @ error
        pixels = step[1:]
        pixels -= self.shift[:, None] * step[0]
        pixels *= self._precision
        step[0] -= self.shift @ pixels
        self.weights -= step

    def folded(self) -> np.ndarray:
        """The weights for raw pixels, if `weights` are those for scaled pixels."""
        folded = self.weights.copy()
        folded[1:] /= self.scale[:, None]
        folded[0] -= self.shift @ folded[1:]
        return folded


def _check(columns: Iterable[Column], losses: np.ndarray, epoch: int) -> None:
    for column, loss in zip(columns, losses, strict=True):
        if not np.isfinite(loss):
            raise TrainingError(f"the validation loss is {loss} in epoch {epoch} of {column}")


def _epoch(
    group: Group,
    trainings: list[_Training],
    images: np.ndarray,
    targets: np.ndarray,
    order: np.ndarray,
) -> None:
    """One pass over the training rows in this order, in batches."""
    batch = np.ones((group.batch_size, images.shape[1] + 1))
    gathered = np.empty((group.batch_size, images.shape[1]), np.uint8)
    rows = group.training[order]
    for some in _cut(rows, group.batch_size):
        x = batch[: len(some)]
        np.take(images, some, axis=0, out=gathered[: len(some)], mode="clip")
        x[:, 1:] = gathered[: len(some)]
        for training in trainings:
            training.update(x, targets[some])


def _cut(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


class _Single:
    """Steps on single images, which are kept scaled, because Python's overhead dominates here."""

    def __init__(
        self,
        group: Group,
        images: np.ndarray,
        targets: np.ndarray,
        scaled: dict[str, tuple[np.ndarray, np.ndarray]],
    ) -> None:
        self._targets = targets[group.training]
        self._inputs = {
            name: np.ones((len(group.training), images.shape[1] + 1)) for name in scaled
        }
        for name, (shift, scale) in scaled.items():
            self._inputs[name][:, 1:] = (images[group.training] - shift) / scale

    def epoch(self, trainings: list[_Training], order: np.ndarray) -> None:
        """One pass over the training rows in this order; the two losses are equal here."""
        rows, targets = order.tolist(), self._targets
        for training in trainings:
            inputs, weights = self._inputs[training.column.scaling], training.weights
            kind, rate = training.kind, training.column.lr
            step, logits = np.empty_like(weights), np.empty(weights.shape[1])
            for row in rows:
                x = inputs[row]
                error = model.activate(kind, np.matmul(x, weights, out=logits))
                error -= targets[row]
                error *= rate
                np.multiply(x[:, None], error, out=step)
                np.subtract(weights, step, out=weights)

"""Training of logistic and softmax regression by mini-batch SGD (kmnist_linear IV to VII).

Two things make it fast. Pixels stay bytes: a batch is read from the uint8 matrix, and the affine
scaling x' = (x - shift) / scale is applied to the weights and the gradient instead, which gives
the same result. For batches of one image Python's overhead dominates, so there the scaled images
are kept, and a step is two vector operations.
"""

from __future__ import annotations

import numpy as np

from kmnist_pipeline.data import streams
from kmnist_pipeline.families.base import (
    Checkpoint,
    Data,
    Epoch,
    Fit,
    Fitted,
    Progress,
    TrainingError,
    digest,
)
from kmnist_pipeline.families.linear import model
from kmnist_pipeline.families.selection import Selection

SHUFFLE = 2  # the purpose of the random stream; data/splits.py has others
STORED = "float32"
AT_ONCE = 1 << 24  # validation pixels to convert at once; a fold of KMNIST has fewer


def fit(
    fit: Fit,
    data: Data,
    checkpoint: Checkpoint,
    progress: Progress,
    stop_after: int | None = None,
) -> Fitted:
    """Train by SGD on the cross-entropy of each batch, with a new shuffle each epoch.

    `trainer.loss` says whether the gradient is that of the mean or of the sum over the batch;
    reported losses are means. Training loss and accuracy are measured on each batch before its
    update, and averaged over the epoch. stop_after: the last epoch to train, None for all. A fit
    takes seconds, so `checkpoint` is not used.

    Raises TrainingError when a loss is not finite.
    """
    settings, trainer = fit.settings["model"], fit.settings["trainer"]
    kind, precision = settings["kind"], trainer["precision"]
    targets = model.one_hot(kind, data.labels, data.classes).astype(precision)
    rng = streams.generator(fit.seed, SHUFFLE, fit.fold)
    sgd = _Single(fit, data, targets) if _batch_size(fit) == 1 else _Batches(fit, data, targets)
    held_out = _HeldOut(data.flat, fit.validation, precision)
    selection = Selection(trainer["keep"], trainer["patience"])
    history: list[Epoch] = []
    digests: list[str] = []

    # Overflow shows in the loss or in the stored weights; the error names the learning rate.
    with np.errstate(over="ignore", invalid="ignore"):
        for epoch in range(1, (stop_after or trainer["epochs"]) + 1):
            order = rng.permutation(len(fit.training))
            seen = sgd.epoch(order)
            history.append(_measure(fit, epoch, "train", seen, data.labels[fit.training[order]]))
            validation = None
            if len(fit.validation):
                weights = sgd.over_pixels()
                unseen = held_out.logits(weights)
                history.append(
                    _measure(fit, epoch, "validation", unseen, data.labels[fit.validation])
                )
                validation = (history[-1].loss, history[-1].accuracy)
            digests.append(digest({"weights": sgd.weights}))
            if selection.keeps(epoch, validation):
                kept_epoch, kept = epoch, sgd.over_scaled()
            progress(epoch / trainer["epochs"])
            if selection.is_over(epoch):
                break
        tensors = {"weights": kept.astype(STORED), "shift": fit.shift, "scale": fit.scale}

    return Fitted(history, digests, kept_epoch, len(fit.training), len(fit.validation), tensors)


class _HeldOut:
    """The validation images, converted once if they are few, else in parts in every epoch."""

    def __init__(self, images: np.ndarray, rows: np.ndarray, precision: str) -> None:
        self._images, self._precision = images, precision
        size = max(1, AT_ONCE // images.shape[1])
        self._parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        self._converted = self._convert(rows) if len(self._parts) == 1 else None

    def logits(self, weights: np.ndarray) -> np.ndarray:
        """The logits (n, K) of all validation images; weights: (D + 1, K) for raw pixels."""
        if self._converted is not None:
            return self._converted @ weights[1:] + weights[0]
        parts = [self._convert(rows) @ weights[1:] + weights[0] for rows in self._parts]
        return np.concatenate(parts)

    def _convert(self, rows: np.ndarray) -> np.ndarray:
        return self._images[rows].astype(self._precision)


class _Batches:
    """SGD in batches, with weights for raw pixels.

    Scaling is a matrix T: x' = x T, where x has a leading 1. The weights here are T W, so a step
    of W along its gradient is a step of T W along T T' times the gradient for raw pixels.
    """

    def __init__(self, fit: Fit, data: Data, targets: np.ndarray) -> None:
        self._images, self._rows, self._targets = data.flat, fit.training, targets
        self._size, self._rate = _batch_size(fit), fit.settings["optimizer"]["lr"]
        self._mean = fit.settings["trainer"]["loss"] == "mean"
        self._shift, self._scale = fit.shift, fit.scale
        self.weights = np.zeros((len(fit.shift) + 1, targets.shape[1]), targets.dtype)
        self._kind = fit.settings["model"]["kind"]

    def epoch(self, order: np.ndarray) -> np.ndarray:
        """One pass over the training rows in this order; the logits (n, K) before each update."""
        weights, size = self.weights, self._size
        shift = self._shift.astype(weights.dtype)
        precision = (self._scale**-2.0).astype(weights.dtype)[:, None]
        column = shift[:, None]
        gathered = np.empty((size, self._images.shape[1]), np.uint8)
        batch = np.ones((size, len(weights)), weights.dtype)
        seen = np.empty((len(order), weights.shape[1]), weights.dtype)
        rows = self._rows[order]
        for start in range(0, len(order), size):
            some = rows[start : start + size]
            b = len(some)
            x, logits = batch[:b], seen[start : start + b]
            np.take(self._images, some, axis=0, out=gathered[:b], mode="clip")
            x[:, 1:] = gathered[:b]
            np.matmul(x, weights, out=logits)
            error = model.activate(self._kind, logits)
            error -= self._targets[some]
            error *= self._rate / b if self._mean else self._rate
            step = x.T @ error
            pixels = step[1:]
            pixels -= column * step[0]
            pixels *= precision
            step[0] -= shift @ pixels
            weights -= step
        return seen

    def over_pixels(self) -> np.ndarray:
        """The weights (D + 1, K) for raw pixels; row 0 is the bias."""
        return self.weights

    def over_scaled(self) -> np.ndarray:
        """The weights (D + 1, K) float64 for scaled pixels."""
        weights = self.weights.astype(np.float64)
        weights[0] += self._shift @ weights[1:]
        weights[1:] *= self._scale[:, None]
        return weights


class _Single:
    """SGD in batches of one image, with weights for scaled pixels."""

    def __init__(self, fit: Fit, data: Data, targets: np.ndarray) -> None:
        self._inputs = np.ones((len(fit.training), len(fit.shift) + 1), targets.dtype)
        self._inputs[:, 1:] = (data.flat[fit.training] - fit.shift) / fit.scale
        self._targets = targets[fit.training]
        self._rate = fit.settings["optimizer"]["lr"]
        self._kind = fit.settings["model"]["kind"]
        self._shift, self._scale = fit.shift, fit.scale
        self.weights = np.zeros((len(fit.shift) + 1, targets.shape[1]), targets.dtype)

    def epoch(self, order: np.ndarray) -> np.ndarray:
        """As `_Batches.epoch`."""
        weights, inputs, targets = self.weights, self._inputs, self._targets
        kind, rate = self._kind, self._rate
        seen = np.empty((len(order), weights.shape[1]), weights.dtype)
        step = np.empty_like(weights)
        for position, row in enumerate(order.tolist()):
            x = inputs[row]
            logits = np.matmul(x, weights, out=seen[position])
            error = model.activate(kind, logits)
            error -= targets[row]
            error *= rate
            np.multiply(x[:, None], error, out=step)
            np.subtract(weights, step, out=weights)
        return seen

    def over_pixels(self) -> np.ndarray:
        """As `_Batches.over_pixels`."""
        folded = self.weights.copy()
        folded[1:] /= self._scale[:, None]
        folded[0] -= self._shift @ folded[1:]
        return folded

    def over_scaled(self) -> np.ndarray:
        """As `_Batches.over_scaled`."""
        return self.weights.astype(np.float64)


def _batch_size(fit: Fit) -> int:
    return fit.settings["optimizer"]["batch_size"]


def _measure(fit: Fit, epoch: int, split: str, logits: np.ndarray, labels: np.ndarray) -> Epoch:
    """Mean loss and accuracy of logits (N, K)."""
    kind = fit.settings["model"]["kind"]
    loss = float(model.cross_entropy(kind, logits, labels).mean(dtype=np.float64))
    if not np.isfinite(loss):
        raise TrainingError(
            f"the {split} loss is {loss} in epoch {epoch} at "
            f"optimizer.lr={fit.settings['optimizer']['lr']}: a smaller learning rate may help"
        )
    return Epoch(epoch, split, loss, float((model.predicted(kind, logits) == labels).mean()))

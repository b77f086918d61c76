"""Logistic and softmax regression by mini-batch SGD, from scratch (kmnist_linear IV to VII).

Three things make it fast. Pixels stay bytes: a batch is gathered from the uint8 matrix, and the
affine scaling x' = (x - shift) / scale is folded into the weights and the gradient, which is the
same mathematics. Learning rates that share everything else see the same batches, so their
weights stand side by side in one matrix. Folds are independent, so each goes to a core of its
own with a single-threaded BLAS, and the result does not depend on how many cores there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import joblib
import numpy as np
from threadpoolctl import threadpool_limits

from kmnist_pipeline.data import scaling, splits
from kmnist_pipeline.data.dataset import Images
from kmnist_pipeline.models import linear
from kmnist_pipeline.training.fit import Epoch, FoldFit, Memory, TrainingError

LIBRARIES = ("numpy",)
SHUFFLE = 2  # the purpose of the random stream, beside those in data/splits.py
STORED = "float32"


@dataclass
class _Best:
    score: tuple[float, float] = (-1.0, 0.0)
    epoch: int = 0
    weights: np.ndarray | None = None


def groups(trials: list) -> list[list[int]]:
    """Which trials are trained together: those that differ in the learning rate alone."""
    together: dict[str, list[int]] = {}
    for position, trial in enumerate(trials):
        shared = (trial.model, trial.optimizer.batch_size, trial.validation, trial.trainer)
        together.setdefault(repr((shared, trial.subset)), []).append(position)
    return list(together.values())


def hardware(trainer) -> dict[str, str]:
    """Where, and in which number format, a training with these settings computes."""
    return {"device": "cpu", "precision": trainer.precision}


def steps(trial, n: int) -> int:
    """How many folds a seed's training fits."""
    return trial.validation.folds


def fit(
    trials: list, images: Images, seed: int, memory: Memory, progress: Callable[[int], object]
) -> list[list[FoldFit]]:
    """Train the trials of one group on every fold of one seed: FoldFits by trial and fold.

    images: the training split, restricted to the experiment's classes. `progress` is told how
    many folds were fitted; `memory` is not needed, for a group and seed take seconds.
    """
    first = trials[0]
    rows = splits.subset(len(images), first.subset, seed)
    images = images.take(rows) if first.subset is not None else images
    jobs = [
        joblib.delayed(fit_fold)(
            images.flat,
            images.labels,
            training,
            validation,
            kind=first.model.kind,
            scaling_method=first.model.scaling,
            lrs=[trial.optimizer.lr for trial in trials],
            batch_size=first.optimizer.batch_size,
            epochs=first.trainer.epochs,
            patience=first.trainer.patience,
            dtype=first.trainer.precision,
            rng=splits.generator(seed, SHUFFLE, fold),
            classes=len(images.classes),
        )
        for fold, (training, validation) in enumerate(
            splits.kfold(len(images), first.validation.folds, seed)
        )
    ]
    by_fold = []
    for fits in joblib.Parallel(n_jobs=first.trainer.threads, return_as="generator")(jobs):
        by_fold.append(fits)
        progress(len(trials))
    return [list(folds) for folds in zip(*by_fold, strict=True)]


def fit_fold(
    images: np.ndarray,
    labels: np.ndarray,
    training: np.ndarray,
    validation: np.ndarray,
    *,
    kind: str,
    scaling_method: str,
    lrs: list[float],
    batch_size: int,
    epochs: int,
    patience: int | None,
    dtype: str,
    rng: np.random.Generator,
    classes: int,
) -> list[FoldFit]:
    """Train one fold at each of the learning rates: a FoldFit for each, in their order.

    images: (N, D) uint8; labels: (N,); training, validation: rows of them. SGD on the mean
    cross-entropy of each batch, with a fresh shuffle each epoch. The weights kept are those of
    the epoch with the highest validation accuracy (then the lowest loss); `patience` epochs
    without a better one end a learning rate's training. Training loss and accuracy are those
    of each batch before its update, averaged over the epoch.

    Raises TrainingError when a loss stops being finite.
    """
    # Overflow is found in the loss, and reported with its learning rate.
    with threadpool_limits(1), np.errstate(over="ignore", invalid="ignore"):
        shift, scale = scaling.fit(scaling_method, images[training])
        columns = 1 if kind == "logistic" else classes
        targets = linear.one_hot(kind, labels, classes).astype(dtype)[:, None, :]
        held_out = _with_leading_one(images[validation], dtype)
        weights = np.zeros((images.shape[1] + 1, len(lrs), columns), dtype)
        rates = np.array(lrs, dtype)[:, None]
        best = [_Best() for _ in lrs]
        history: list[list[Epoch]] = [[] for _ in lrs]
        active = list(range(len(lrs)))

        for epoch in range(1, epochs + 1):
            order = training[rng.permutation(len(training))]
            seen = _epoch(kind, images, targets, order, batch_size, rates, weights, shift, scale)
            unseen = (held_out @ weights.reshape(len(weights), -1)).reshape(-1, *weights.shape[1:])
            train = _measure(kind, seen, labels[order])
            held = _measure(kind, unseen, labels[validation])
            stay = []
            for position, r in enumerate(active):
                for split, (losses, accuracies) in (("train", train), ("validation", held)):
                    loss, accuracy = losses[position], accuracies[position]
                    if not np.isfinite(loss):
                        raise TrainingError(
                            f"the {split} loss is {loss} in epoch {epoch} at "
                            f"optimizer.lr={lrs[r]}: a smaller learning rate may help"
                        )
                    history[r].append(Epoch(epoch, split, loss, accuracy))
                if (accuracy, -loss) > best[r].score:
                    best[r] = _Best((accuracy, -loss), epoch, weights[:, position].copy())
                if patience is None or epoch - best[r].epoch < patience:
                    stay.append(position)
            if not stay:
                break
            if len(stay) < len(active):
                active = [active[position] for position in stay]
                weights, rates = np.ascontiguousarray(weights[:, stay]), rates[stay]

    return [
        FoldFit(epochs_of, kept.epoch, len(training), len(validation), _tensors(kept, shift, scale))
        for epochs_of, kept in zip(history, best, strict=True)
    ]


def _epoch(
    kind: str,
    images: np.ndarray,
    targets: np.ndarray,
    order: np.ndarray,
    batch_size: int,
    rates: np.ndarray,
    weights: np.ndarray,
    shift: np.ndarray,
    scale: np.ndarray,
) -> np.ndarray:
    """One pass of SGD over the rows `order`: weights (D + 1, R, K) change in place.

    Returns the logits (n, R, K) that each row had before its batch's update. Scaling is the
    matrix T of x' = x T, over x with a leading 1; the weights here are T W, over raw pixels, so
    the step of W by its gradient is a step of T W by T T' times the gradient over raw pixels.
    """
    flat = weights.reshape(len(weights), -1)
    shift, precision = shift.astype(flat.dtype), (scale**-2.0).astype(flat.dtype)[:, None]
    column = shift[:, None]
    gathered = np.empty((batch_size, images.shape[1]), np.uint8)
    batch = np.ones((batch_size, len(weights)), flat.dtype)
    seen = np.empty((len(order), *weights.shape[1:]), flat.dtype)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        b = len(rows)
        x = batch[:b]
        np.take(images, rows, axis=0, out=gathered[:b], mode="clip")
        x[:, 1:] = gathered[:b]
        logits = seen[start : start + b]
        np.matmul(x, flat, out=logits.reshape(b, -1))
        error = linear.activate(kind, logits)
        error -= targets[rows]
        error *= rates / b
        step = x.T @ error.reshape(b, -1)
        pixels = step[1:]
        pixels -= column * step[0]
        pixels *= precision
        step[0] -= shift @ pixels
        flat -= step
    return seen


def _with_leading_one(images: np.ndarray, dtype: str) -> np.ndarray:
    x = np.ones((len(images), images.shape[1] + 1), dtype)
    x[:, 1:] = images
    return x


def _tensors(best: _Best, shift: np.ndarray, scale: np.ndarray) -> dict[str, np.ndarray]:
    """The weights over scaled inputs. Stored as float32, their bytes do not depend on the last
    bits, in which one machine's BLAS differs from another's."""
    assert best.weights is not None
    weights = best.weights.astype(np.float64)
    weights[0] += shift @ weights[1:]
    weights[1:] *= scale[:, None]
    return {"weights": weights.astype(STORED), "shift": shift, "scale": scale}


def _measure(kind: str, logits: np.ndarray, labels: np.ndarray) -> tuple[list, list]:
    """Mean loss and accuracy of each learning rate, from logits (N, R, K)."""
    losses = linear.cross_entropy(kind, logits, labels).mean(axis=0, dtype=np.float64)
    hits = (linear.predicted(kind, logits) == labels[:, None]).mean(axis=0)
    return losses.tolist(), hits.tolist()

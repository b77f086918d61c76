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
from kmnist_pipeline.training.fit import Epoch, FoldFit, TrainingError

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


def fit(
    trials: list, images: Images, seed: int, progress: Callable[[int], None]
) -> list[list[FoldFit]]:
    """Train the trials of one group on every fold of one seed: FoldFits by trial and fold.

    images: the training split, restricted to the experiment's classes. `progress` is told how
    many folds were fitted.
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
        precision = scale[:, None].astype(dtype) ** -2
        offset = shift.astype(dtype)
        n, features = len(training), images.shape[1]

        targets = linear.one_hot(kind, labels, classes).astype(dtype)[:, None, :]
        held_out = images[validation].astype(dtype)
        gathered = np.empty((batch_size, features), np.uint8)
        batch = np.empty((batch_size, features), dtype)

        active = list(range(len(lrs)))
        weights = np.zeros((features, len(lrs), columns), dtype)  # over raw pixels
        bias = np.zeros((len(lrs), columns), dtype)
        rates = np.array(lrs, dtype)[:, None]
        best = [_Best() for _ in lrs]
        history: list[list[Epoch]] = [[] for _ in lrs]

        for epoch in range(1, epochs + 1):
            order = training[rng.permutation(n)]
            seen = np.empty((n, len(active), columns), dtype)
            flat = weights.reshape(features, -1)
            for start in range(0, n, batch_size):
                rows = order[start : start + batch_size]
                b = len(rows)
                np.take(images, rows, axis=0, out=gathered[:b], mode="clip")
                x = batch[:b]
                np.copyto(x, gathered[:b])
                logits = (x @ flat + (bias.ravel() - offset @ flat)).reshape(b, -1, columns)
                seen[start : start + b] = logits
                error = linear.activate(kind, logits)
                error -= targets[rows]
                error *= rates / b
                summed = error.sum(axis=0)
                step = x.T @ error.reshape(b, -1)
                step -= offset[:, None] * summed.ravel()
                step *= precision
                flat -= step
                bias -= summed

            val_logits = held_out @ flat + (bias.ravel() - offset @ flat)
            val_logits = val_logits.reshape(len(validation), -1, columns)
            measured = [
                (split, *_measure(kind, logits, labels[rows]))
                for split, logits, rows in (
                    ("train", seen, order),
                    ("validation", val_logits, validation),
                )
            ]
            stay = []
            for position, r in enumerate(active):
                for split, losses, hits in measured:
                    if not np.isfinite(losses[position]):
                        raise TrainingError(
                            f"the {split} loss is {losses[position]} in epoch {epoch} at "
                            f"optimizer.lr={lrs[r]}: a smaller learning rate may help"
                        )
                    history[r].append(Epoch(epoch, split, losses[position], hits[position]))
                val_loss, val_hits = history[r][-1].loss, history[r][-1].accuracy
                if (val_hits, -val_loss) > best[r].score:
                    kept = np.vstack([bias[position], weights[:, position]])
                    best[r] = _Best((val_hits, -val_loss), epoch, kept)
                if patience is None or epoch - best[r].epoch < patience:
                    stay.append(position)
            if len(stay) < len(active):
                active = [active[position] for position in stay]
                if not active:
                    break
                weights = np.ascontiguousarray(weights[:, stay])
                bias, rates = bias[stay], rates[stay]

    fits = []
    for r, kept in enumerate(best):
        assert kept.weights is not None
        scaled = kept.weights.astype(np.float64)
        # Back from raw pixels to scaled inputs. Stored as float32, the bytes no longer depend on
        # the last bits, in which one machine's BLAS differs from another's.
        scaled[1:] *= scale[:, None]
        tensors = {"weights": scaled.astype(STORED), "shift": shift, "scale": scale}
        fits.append(FoldFit(history[r], kept.epoch, len(training), len(validation), tensors))
    return fits


def _measure(kind: str, logits: np.ndarray, labels: np.ndarray) -> tuple[list, list]:
    """Mean loss and accuracy of each learning rate, from logits (N, R, K)."""
    losses = linear.cross_entropy(kind, logits, labels).mean(axis=0, dtype=np.float64)
    hits = (linear.predicted(kind, logits) == labels[:, None]).mean(axis=0)
    return losses.tolist(), hits.tolist()

"""The results of trained trials: numbers, tables and the model file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from kmnist_pipeline.data import npz
from kmnist_pipeline.data.dataset import Images
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evaluation import metrics
from kmnist_pipeline.families import file
from kmnist_pipeline.families.base import Fitted
from kmnist_pipeline.families.registry import FAMILIES

CURVES = ["trial", "seed", "fold", "epoch", "split", "loss", "accuracy"]


@dataclass(frozen=True)
class TrainedTrial:
    """A trained trial: its experiment, and its fits by seed and fold."""

    experiment: dict[str, Any]
    fits: list[list[Fitted]]


TrainedTrials = dict[str, TrainedTrial]  # by name, which is "" for an experiment


def kept_fold(folds: list[Fitted]) -> int:
    """The fold whose model is kept: the highest validation accuracy, then the lowest loss."""
    scores = [(e.accuracy, -e.loss) if (e := f.kept("validation")) else (0.0, 0.0) for f in folds]
    return scores.index(max(scores))


def validation_accuracy(trial: TrainedTrial) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Validation accuracy and loss: the mean over folds of each fold's kept epoch.

    Returns the numbers of the first seed, which people compare (n counts its validation images),
    and the spread of the accuracy over seeds. They are None if nothing was held out.
    """
    kept = [[fit.kept("validation") for fit in folds] for folds in trial.fits]
    if kept[0][0] is None:
        return {"accuracy": None, "loss": None, "n": 0}, None
    accuracies = [float(np.mean([e.accuracy for e in folds if e])) for folds in kept]
    losses = [float(np.mean([e.loss for e in folds if e])) for folds in kept]
    compared = {
        "accuracy": accuracies[0],
        "loss": losses[0],
        "n": sum(fit.n_validation for fit in trial.fits[0]),
    }
    return compared, metrics.spread(accuracies)


def mean_accuracy(trial: TrainedTrial) -> float:
    """The mean validation accuracy over seeds; 0 if nothing was held out."""
    spread = validation_accuracy(trial)[1]
    return spread["mean"] if spread else 0.0


def epochs(trial: TrainedTrial) -> int:
    """The number of epochs of all fits of a trial."""
    return sum(fit.history[-1].epoch for folds in trial.fits for fit in folds)


def longest(waves: list[TrainedTrials]) -> TrainedTrials:
    """The trials of all waves, each from the wave with the most epochs."""
    found: TrainedTrials = {}
    for wave in waves:
        for name, trial in wave.items():
            if name not in found or epochs(trial) > epochs(found[name]):
                found[name] = trial
    return found


def winner(trials: TrainedTrials) -> str:
    """The first trial with the best validation accuracy (the mean over seeds)."""
    return max(trials, key=lambda name: mean_accuracy(trials[name]))


def fold_rows(trials: TrainedTrials) -> list[dict[str, Any]]:
    """A row for each trial, seed and fold: sizes, epochs, the numbers of the kept epoch, and the
    digest of the weights after each epoch."""
    rows = []
    for name, seed, fold, fit, kept in _fits(trials):
        row: dict[str, Any] = {"trial": name} if name else {}
        row |= {"seed": seed, "fold": fold, "kept": kept}
        row |= {"kept_epoch": fit.kept_epoch, "epochs": fit.history[-1].epoch}
        row |= {"n_train": fit.n_train, "n_validation": fit.n_validation}
        for prefix, split in (("train_", "train"), ("", "validation")):
            epoch = fit.kept(split)
            row[f"{prefix}accuracy"] = epoch and epoch.accuracy
            row[f"{prefix}loss"] = epoch and epoch.loss
        rows.append(row | {"weights": fit.digests})
    return rows


def curve_rows(trials: TrainedTrials) -> list[list[Any]]:
    """The rows of `curves.csv`, with the columns CURVES."""
    return [
        [name, seed, fold, epoch.epoch, epoch.split, epoch.loss, epoch.accuracy]
        for name, seed, fold, fit, _ in _fits(trials)
        for epoch in fit.history
    ]


def _fits(trials: TrainedTrials) -> Iterator[tuple[str, int, int, Fitted, bool]]:
    """The trial, seed and fold of each fit, the fit itself, and whether its model is kept."""
    for name, trial in trials.items():
        for seed, folds in zip(trial.experiment["seeds"], trial.fits, strict=True):
            kept = kept_fold(folds)
            for fold, fit in enumerate(folds):
                yield name, seed, fold, fit, fold == kept


def model_bytes(name: str, trials: TrainedTrials, winner: str, classes: tuple[str, ...]) -> bytes:
    """The model file: for every trial and seed the weights of the kept fold, or of all folds if
    they predict together.

    With `trainer.stored` they are rounded to this type. All that reads the file computes from the
    rounded weights. Raises UserError if a weight is too large for it.
    """
    tensors = {}
    kept = [[kept_fold(folds) for folds in trial.fits] for trial in trials.values()]
    for t, trial in enumerate(trials.values()):
        is_ensemble = trial.experiment["validation"].get("ensemble")
        for s, folds in enumerate(trial.fits):
            for fold in range(len(folds)) if is_ensemble else [kept[t][s]]:
                for tensor, array in folds[fold].tensors.items():
                    part = file.name(t, s, tensor, fold if is_ensemble else None)
                    tensors[part] = stored(array, trial.experiment["trainer"].get("stored"), part)
    first = next(iter(trials.values())).experiment
    metadata = {
        "name": name,
        "dataset": first["dataset"],
        "classes": first["classes"],
        "class_names": list(classes),
        "seeds": first["seeds"],
        # The report that shows the numbers does not change the model.
        "trials": [
            {"name": key, **{k: v for k, v in trial.experiment.items() if k != "report"}}
            for key, trial in trials.items()
        ],
        "kept_folds": kept,
        "winner": list(trials).index(winner),
    }
    return file.encode(tensors, metadata)


def stored(tensor: np.ndarray, kind: str | None, name: str) -> np.ndarray:
    """The tensor, rounded if it has floats: to `float16`, or not at all if `kind` is None.

    Raises UserError, which has the `name`, if a finite number becomes infinite.
    """
    if kind is None or tensor.dtype.kind != "f":
        return tensor
    with np.errstate(over="ignore"):
        rounded = tensor.astype(kind)
    if (np.isfinite(tensor) & ~np.isfinite(rounded)).any():
        raise UserError(
            f"trainer.stored={kind}: {name} has numbers of up to {np.abs(tensor).max():.3g}, and "
            f"the largest of {kind} is {np.finfo(kind).max:.0f}: remove the setting"
        )
    return rounded


def out_of_fold(trial: TrainedTrial, validated: list[list[np.ndarray]], images: Images) -> bytes:
    """An npz with the predictions of each fold's model for its validation images.

    validated: validation rows of `images` by seed and fold. The npz has an entry for each of them:
    `probabilities` (M, C) float32, `seed` (position among the seeds), `fold`, `index` in original
    file order and `labels`. It also has `classes`.
    """
    model = trial.experiment["model"]
    family, classes = FAMILIES[model["family"]].model, len(images.classes)
    parts = []
    for seed, folds in enumerate(trial.fits):
        for fold, fit in enumerate(folds):
            rows = validated[seed][fold]
            found = np.zeros((0, classes))
            if len(rows):
                found = family.probabilities(model, fit.tensors, images.pixels[rows], classes)
            of_fit = (np.full(len(rows), position) for position in (seed, fold))
            parts.append((found.astype(np.float32), *of_fit, rows))
    probabilities, seeds, numbers, rows = map(np.concatenate, zip(*parts, strict=True))
    return npz.encode(
        probabilities=probabilities,
        seed=seeds,
        fold=numbers,
        index=images.index[rows],
        labels=images.labels[rows],
        classes=np.array(images.classes),
    )

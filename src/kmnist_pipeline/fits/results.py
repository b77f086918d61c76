"""What the fits of an experiment or study come to: numbers, tables and the model file.

Fits stand here by trial, seed and fold.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from kmnist_pipeline.data.dataset import Images
from kmnist_pipeline.evaluation import metrics
from kmnist_pipeline.families import file
from kmnist_pipeline.families.base import Fitted
from kmnist_pipeline.families.registry import FAMILIES

OF_FIT = ("seed", "fold")
CURVES = ["trial", "seed", "fold", "epoch", "split", "loss", "accuracy"]


def kept_fold(folds: list[Fitted]) -> int:
    """The fold whose model is kept: the highest validation accuracy, then the lowest loss."""
    scores = [(e.accuracy, -e.loss) if (e := f.kept("validation")) else (0.0, 0.0) for f in folds]
    return scores.index(max(scores))


def validation_accuracy(seeds: list[list[Fitted]]) -> dict[str, Any]:
    """Validation accuracy and loss: the mean over folds of each fold's kept epoch.

    The first seed's numbers, with mean, standard deviation and values over seeds; n counts the
    images validated in one seed. None where nothing was held out.
    """
    kept = [[fit.kept("validation") for fit in folds] for folds in seeds]
    if kept[0][0] is None:
        return {"accuracy": None, "loss": None, "n": 0, "seeds": None}
    accuracies = [float(np.mean([e.accuracy for e in folds if e])) for folds in kept]
    losses = [float(np.mean([e.loss for e in folds if e])) for folds in kept]
    return {
        "accuracy": accuracies[0],
        "loss": losses[0],
        "n": sum(fit.n_validation for fit in seeds[0]),
        "seeds": metrics.spread(accuracies),
    }


def winner(fits: list[list[list[Fitted]]]) -> int:
    """The trial with the best validation accuracy, the mean over seeds; of equals the first."""
    means = [validation_accuracy(seeds)["seeds"]["mean"] for seeds in fits]
    return means.index(max(means))


def fold_rows(trial: str, seeds: list[int], fits: list[list[Fitted]]) -> list[dict[str, Any]]:
    """One row a seed and fold: sizes, epochs, the numbers of the kept epoch, and the digest of
    the weights after each epoch."""
    rows = []
    for seed, folds in zip(seeds, fits, strict=True):
        for k, fit in enumerate(folds):
            row: dict[str, Any] = {"trial": trial} if trial else {}
            row |= {"seed": seed, "fold": k, "kept": k == kept_fold(folds)}
            row |= {"kept_epoch": fit.kept_epoch, "epochs": fit.history[-1].epoch}
            row |= {"n_train": fit.n_train, "n_validation": fit.n_validation}
            for prefix, split in (("train_", "train"), ("", "validation")):
                kept = fit.kept(split)
                row |= {
                    f"{prefix}accuracy": kept and kept.accuracy,
                    f"{prefix}loss": kept and kept.loss,
                }
            rows.append(row | {"weights": fit.digests})
    return rows


def curve_rows(trial: str, seeds: list[int], fits: list[list[Fitted]]) -> list[list[Any]]:
    """The rows of `curves.csv`, in the order of CURVES."""
    return [
        [trial, seed, k, epoch.epoch, epoch.split, epoch.loss, epoch.accuracy]
        for seed, folds in zip(seeds, fits, strict=True)
        for k, fit in enumerate(folds)
        for epoch in fit.history
    ]


def model_bytes(
    name: str,
    trials: dict[str, dict[str, Any]],
    winner: int,
    classes: tuple[str, ...],
    fits: list[list[list[Fitted]]],
) -> bytes:
    """The model file: of every trial and seed, the weights of the fold that is kept.

    trials: the experiments by trial name.
    """
    tensors = {}
    kept = [[kept_fold(folds) for folds in seeds] for seeds in fits]
    for t, seeds in enumerate(fits):
        for s, folds in enumerate(seeds):
            for tensor, array in folds[kept[t][s]].tensors.items():
                tensors[file.name(t, s, tensor)] = array
    first = next(iter(trials.values()))
    metadata = {
        "name": name,
        "dataset": first["dataset"],
        "classes": first["classes"],
        "class_names": list(classes),
        "seeds": first["seeds"],
        # Where the numbers are shown changes no model.
        "trials": [
            {"name": key, **{k: v for k, v in trial.items() if k != "report"}}
            for key, trial in trials.items()
        ],
        "kept_folds": kept,
        "winner": winner,
    }
    return file.encode(tensors, metadata)


def out_of_fold(
    model: dict[str, Any],
    validated: list[list[np.ndarray]],
    fits: list[list[Fitted]],
    images: Images,
) -> bytes:
    """An npz of what each fold's model says of the images that it was validated with.

    validated: rows of `images` by seed and fold; fits: by seed and fold. The arrays have an entry
    for each image and seed that was held out: `probabilities` (M, C) float32, `seed` (position
    among the seeds), `fold`, `index` in original file order, `labels`; and `classes`.
    """
    family = FAMILIES[model["family"]].model
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("probabilities", "rows", *OF_FIT)}
    for seed, folds in enumerate(fits):
        for fold, fit in enumerate(folds):
            rows = validated[seed][fold]
            found = np.zeros((0, len(images.classes)))
            if len(rows):
                pixels = images.pixels[rows]
                found = family.probabilities(model, fit.tensors, pixels, len(images.classes))
            parts["probabilities"].append(found.astype(np.float32))
            parts["rows"].append(rows)
            for name, value in zip(OF_FIT, (seed, fold), strict=True):
                parts[name].append(np.full(len(rows), value))
    arrays = {name: np.concatenate(part) for name, part in parts.items()}
    rows = arrays.pop("rows")
    content = io.BytesIO()
    np.savez(
        content,
        allow_pickle=False,
        **arrays,
        index=images.index[rows],
        labels=images.labels[rows],
        classes=np.array(images.classes),
    )
    return content.getvalue()

"""Training trials on every seed and fold, and what comes of it, whatever the model's family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from kmnist_pipeline.data.dataset import Images
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evaluation import metrics
from kmnist_pipeline.models import file

CURVES = ["trial", "seed", "fold", "epoch", "split", "loss", "accuracy"]


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


Fits = list[list[FoldFit]]  # by trial and fold


class Memory(Protocol):
    """What outlives a killed run: bytes by name, with room for memories within."""

    def __contains__(self, name: str) -> bool: ...
    def __getitem__(self, name: str) -> bytes: ...
    def __setitem__(self, name: str, content: bytes) -> None: ...

    def within(self, name: str) -> Memory:
        """A memory of its own, whose names do not clash with those of others."""


class Family(Protocol):
    """A module of `training/`: how models of one family are trained."""

    def groups(self, trials: list) -> list[list[int]]:
        """Which trials are trained together."""

    def hardware(self, trainer: Any) -> dict[str, str]:
        """Where, and in which number format, a training with these settings computes."""

    def steps(self, trial: Any, n: int) -> int:
        """How often `fit` calls `progress` for one trial and seed, with n images."""

    def fit(
        self,
        trials: list,
        images: Images,
        seed: int,
        memory: Memory,
        progress: Callable[[int], object],
    ) -> Fits:
        """Train the trials of one group on every fold of one seed."""


def train(
    family: Family,
    trials: list,
    images: Images,
    memory: Memory,
    progress: Callable[[int], object],
) -> list[list[list[FoldFit]]]:
    """Train every trial on every seed and fold: FoldFits by trial, seed and fold.

    memory: where a killed run left off. `progress` is told how many of `total` steps are done.
    """
    fitted: list[list[list[FoldFit]]] = [[] for _ in trials]
    for number, members in enumerate(family.groups(trials)):
        group = [trials[position] for position in members]
        for seed in group[0].seeds:
            name = f"group{number}-seed{seed}"
            if name in memory:
                print(f"{name}: kept from a run that was interrupted", flush=True)
                progress(sum(family.steps(trial, len(images)) for trial in group))
            else:
                unfinished = memory.within(f"{name}.unfinished")
                memory[name] = pack(family.fit(group, images, seed, unfinished, progress))
            # Read back in any case, so that an interruption cannot show in the result.
            for position, folds in zip(members, unpack(memory[name]), strict=True):
                fitted[position].append(folds)
    return fitted


def total(family: Family, trials: list, n: int) -> int:
    """How many steps `train` takes over all trials and seeds, with n images."""
    return sum(len(trial.seeds) * family.steps(trial, n) for trial in trials)


def pack(fits: Fits) -> bytes:
    """FoldFits as the bytes of a model file."""
    tensors, about = {}, []
    for t, folds in enumerate(fits):
        about.append([{**asdict(fit), "tensors": None} for fit in folds])
        for k, fit in enumerate(folds):
            tensors.update({file.name(t, k, name): array for name, array in fit.tensors.items()})
    return file.encode(tensors, {"fits": about})


def unpack(content: bytes) -> Fits:
    """The inverse of `pack`."""
    tensors, metadata = file.decode(content)
    return [
        [
            FoldFit(
                history=[Epoch(*epoch) for epoch in fit["history"]],
                best_epoch=fit["best_epoch"],
                n_train=fit["n_train"],
                n_validation=fit["n_validation"],
                tensors=file.select(tensors, t, k),
            )
            for k, fit in enumerate(folds)
        ]
        for t, folds in enumerate(metadata["fits"])
    ]


def kept_fold(folds: list[FoldFit]) -> int:
    """The fold whose model is kept: the highest validation accuracy, then the lowest loss."""
    scores = [(e.accuracy, -e.loss) if (e := f.best("validation")) else (0.0, 0.0) for f in folds]
    return scores.index(max(scores))


def validation_accuracy(seeds: list[list[FoldFit]]) -> dict[str, Any]:
    """Validation accuracy and loss: the mean over folds of each fold's best epoch.

    The first seed's numbers, with mean, standard deviation and values over seeds; n counts the
    images validated in one seed. None where nothing was held out.
    """
    best = [[fit.best("validation") for fit in folds] for folds in seeds]
    if best[0][0] is None:
        return {"accuracy": None, "loss": None, "n": 0, "seeds": None}
    accuracies = [float(np.mean([e.accuracy for e in folds if e])) for folds in best]
    losses = [float(np.mean([e.loss for e in folds if e])) for folds in best]
    return {
        "accuracy": accuracies[0],
        "loss": losses[0],
        "n": sum(fit.n_validation for fit in seeds[0]),
        "seeds": metrics.spread(accuracies),
    }


def fold_rows(trial: str, seeds: list[int], fits: list[list[FoldFit]]) -> list[dict[str, Any]]:
    """One row a seed and fold: sizes, epochs, and the numbers of the best epoch."""
    rows = []
    for seed, folds in zip(seeds, fits, strict=True):
        for k, fit in enumerate(folds):
            row: dict[str, Any] = {"trial": trial} if trial else {}
            row |= {"seed": seed, "fold": k, "kept": k == kept_fold(folds)}
            row |= {"best_epoch": fit.best_epoch, "epochs": fit.history[-1].epoch}
            row |= {"n_train": fit.n_train, "n_validation": fit.n_validation}
            for prefix, split in (("train_", "train"), ("", "validation")):
                best = fit.best(split)
                row |= {
                    f"{prefix}accuracy": best and best.accuracy,
                    f"{prefix}loss": best and best.loss,
                }
            rows.append(row)
    return rows


def curve_rows(trial: str, seeds: list[int], fits: list[list[FoldFit]]) -> list[list[Any]]:
    """The rows of `curves.csv`, in the order of CURVES."""
    return [
        [trial, seed, k, epoch.epoch, epoch.split, epoch.loss, epoch.accuracy]
        for seed, folds in zip(seeds, fits, strict=True)
        for k, fit in enumerate(folds)
        for epoch in fit.history
    ]


def model_bytes(
    name: str, trials: dict[str, Any], winner: int, classes: tuple[str, ...], fits: list
) -> bytes:
    """The model file: of every trial and seed, the weights of the fold that is kept.

    trials: the experiments by trial name; fits: FoldFits by trial, seed and fold.
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
        "dataset": first.dataset,
        "classes": first.classes,
        "class_names": list(classes),
        "seeds": first.seeds,
        "trials": [{"name": key, **_settings(trial)} for key, trial in trials.items()],
        "kept_folds": kept,
        "winner": winner,
    }
    return file.encode(tensors, metadata)


def _settings(trial: Any) -> dict[str, Any]:
    settings = asdict(trial)
    del settings["report"]  # where the numbers are shown changes no model
    return settings

"""The fits of an experiment or a study; an experiment is a study with one trial."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kmnist_pipeline import arithmetic
from kmnist_pipeline.config import grid
from kmnist_pipeline.data import dataset, scaling, splits
from kmnist_pipeline.data.dataset import Images
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import paths
from kmnist_pipeline.families.base import Data, Fit, Fitted, decode
from kmnist_pipeline.fits import key, results
from kmnist_pipeline.fits.results import TrainedTrial, TrainedTrials
from kmnist_pipeline.fits.store import Store

RETRAINED = "retrained"  # the trial name of the winner that is trained again
Experiment = dict[str, Any]
Fold = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # rows, validation, shift, scale
Step = tuple[dict[str, Experiment], int | None]  # the trials of a wave, their last epoch (or None)
Choose = Callable[[TrainedTrials], Step | None]


@dataclass(frozen=True)
class Task:
    """A fit with its key, the digest of its `Data`, its label and its cost.

    cost: roughly its floating-point operations; sets the order of fits and their share of progress;
    stop_after: the last epoch to train, None for all; whole: the key of the fit with all epochs,
    which names its checkpoint, so that a longer training continues a shorter one.
    """

    fit: Fit
    key: str
    data: str
    label: str
    cost: float
    whole: str
    stop_after: int | None = None

    def last(self, limit: int | None) -> int | None:
        """The last epoch to train if `limit` is the last one of all fits; None for all epochs."""
        given = [epoch for epoch in (self.stop_after, limit) if epoch is not None]
        return min(given, default=None)


Wave = dict[str, list[list[Task]]]  # by trial, seed and fold


@dataclass(eq=False)
class Plan:
    """The fits of an experiment or study, in waves; each wave depends on the one before.

    label: the name of the experiment or study; trials: the trials of all waves by name ("" for
    an experiment); images: the training split, restricted to their classes; choose: returns the
    next wave, such as the winner again, from the trained trials of the last wave, None after it;
    stop_after: the last epoch of the first wave; points: the changes of each trial of a study, by
    name; stops: the last epoch of each wave, None for all epochs.
    """

    label: str
    trials: dict[str, Experiment]
    images: Images
    choose: Choose | None = None
    stop_after: int | None = None
    points: dict[str, dict[str, Any]] = field(default_factory=dict)
    data: Data = field(init=False)
    digest: str = field(init=False)
    waves: list[Wave] = field(default_factory=list, init=False)
    stops: list[int | None] = field(default_factory=list, init=False)
    _folds: dict[str, list[Fold]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Raises UserError if a trial cannot be evidence."""
        self.data = Data(self.images.pixels, self.images.labels, len(self.images.classes))
        self.digest = key.digest(self.data)
        self._append(self.trials, self.stop_after)

    def advance(self, store: Store) -> bool:
        """Add the next wave, which depends on finished fits; returns whether there is one."""
        if self.choose is None:
            return False
        if (chosen := self.choose(self.trained(store, len(self.waves) - 1))) is None:
            self.choose = None
            return False
        self.trials = {**self.trials, **chosen[0]}
        self._append(*chosen)
        return True

    def tasks(self) -> Iterator[Task]:
        """The fits of all waves until now."""
        for wave in self.waves:
            for seeds in wave.values():
                for folds in seeds:
                    yield from folds

    def trained(self, store: Store, wave: int) -> TrainedTrials:
        """The trials of a wave, with their finished fits from the store."""
        found = {}
        for name, seeds in self.waves[wave].items():
            fits = [[_fitted(store, task) for task in folds] for folds in seeds]
            found[name] = TrainedTrial(self.trials[name], fits)
        return found

    def validated(self, trial: str) -> list[list[np.ndarray]]:
        """The validation rows of a trial in the first wave, by seed and fold."""
        return [[task.fit.validation for task in folds] for folds in self.waves[0][trial]]

    def wave(self, trials: dict[str, Experiment], stop_after: int | None = None) -> Wave:
        """The fits of `trials`; stop_after: the last epoch to train, None for all."""
        return {
            name: [self._seed(name, trial, seed, stop_after) for seed in trial["seeds"]]
            for name, trial in trials.items()
        }

    def _append(self, trials: dict[str, Experiment], stop_after: int | None) -> None:
        self.waves.append(self.wave(trials, stop_after))
        self.stops.append(stop_after)

    def _seed(self, name: str, trial: Experiment, seed: int, stop: int | None) -> list[Task]:
        """The fits of a trial and seed; their folds are kept for other trials of a study."""
        decided = str([trial["subset"], trial["validation"], trial["model"]["scaling"], seed])
        if decided not in self._folds:
            self._folds[decided] = _folds(trial, self.images, seed)
        tasks = []
        for number, fold in enumerate(self._folds[decided]):
            fit = _fit(trial, seed, number, fold)
            label, whole = f"{self.label} {name_of(name, seed, number)}", key.key(fit, self.digest)
            own, work = whole, cost(fit, self.data)
            if stop is not None:
                own, label = key.stopped(whole, stop), f"{label} to epoch {stop}"
                work *= stop / trial["trainer"]["epochs"]
            tasks.append(Task(fit, own, self.digest, label, work, whole, stop))
        return tasks


def of_experiment(name: str, experiment: Experiment, images: Images | None = None) -> Plan:
    """The fits of an experiment.

    images: the training split, restricted to its classes; None: read those of its dataset.
    """
    return Plan(name, {"": experiment}, _images(experiment) if images is None else images)


def of_study(
    name: str,
    study: dict[str, Any],
    base: Experiment,
    images: Images | None = None,
    winner: str | None = None,
) -> Plan:
    """The fits of a study's trials and, with `retrain`, of its winner trained again.

    images: as above, of the base; winner: its trial name; None if validation decides it.
    """
    from kmnist_pipeline.fits import search  # only the stage `tune` depends on it

    drawn_from = _images(base) if images is None else images
    if study.get("search"):
        searched = search.Search(study, base, RETRAINED)
        first, stop = searched.first()
        return Plan(name, first, drawn_from, searched.next, stop, searched.points)
    points = {grid.name(point): point for point in grid.points(study)}
    waves = iter([True])

    def again(trained: TrainedTrials) -> Step | None:
        if not next(waves, False):
            return None
        chosen = results.winner(trained) if winner is None else winner
        return {RETRAINED: grid.retrained(study, base, points[chosen])}, None

    choose = again if study["retrain"] else None
    return Plan(name, grid.trials(study, base), drawn_from, choose, points=points)


def name_of(trial: str, seed: int, fold: int) -> str:
    """The name of a fit within its stage; trial: "" in an experiment."""
    return f"{trial} seed {seed} fold {fold}".strip()


def _images(experiment: Experiment) -> Images:
    processed = Path(paths.processed(experiment["dataset"]))
    return dataset.load(processed, "train", experiment["classes"])


class LostError(RuntimeError):
    """The store has lost a fit."""


def _fitted(store: Store, task: Task) -> Fitted:
    content = store.read(task.key)
    if content is None:
        raise LostError(f"{task.label} is not in {store.folder}")
    return decode(content)


def _folds(trial: Experiment, images: Images, seed: int) -> list[Fold]:
    """The folds of one seed: the training images of each fold decide its scaling."""
    drawn = splits.subset(len(images), trial["subset"], seed)
    found = []
    for training, validation in splits.folds(images, drawn, trial["validation"], seed):
        rows = drawn[training]
        shift, scale = scaling.estimate(trial["model"]["scaling"], images.flat[rows])
        found.append((rows, drawn[validation], shift, scale))
    return found


def _fit(trial: Experiment, seed: int, number: int, fold: Fold) -> Fit:
    if trial["trainer"]["precision"] == "bfloat16" and arithmetic.name() != arithmetic.NATIVE:
        raise UserError(
            "trainer.precision=bfloat16: evidence needs float32 or float64; "
            f"set {arithmetic.VARIABLE}={arithmetic.NATIVE} to try it without making evidence"
        )
    # The arrays shift and scale replace the setting `scaling`; the family is a field of its own.
    # How weights are `stored` acts after the training.
    others = {"model": ("family", "scaling"), "trainer": ("stored",)}
    settings = {part: trial[part] for part in ("model", "optimizer", "trainer")} | {
        part: {k: v for k, v in trial[part].items() if k not in names}
        for part, names in others.items()
    }
    return Fit(trial["model"]["family"], settings, seed, number, *fold)


# Roughly the floating-point operations for each pixel of a training image in one epoch.
PER_PIXEL = {
    "simple": 120_000,
    "resnet_like": 220_000,
    "improved": 250_000,
    "siamese": 60_000,
    "residual": 380_000,
}


def cost(fit: Fit, data: Data) -> float:
    """Roughly the number of floating-point operations of a fit."""
    model, trainer = fit.settings["model"], fit.settings["trainer"]
    pixels = data.flat.shape[1] * len(fit.training)
    if fit.family == "cnn":
        return pixels * trainer["epochs"] * PER_PIXEL.get(model["architecture"], 200_000)
    if fit.family == "linear":
        # The overhead of a batch matters for small batches.
        overhead = 1_000 / fit.settings["optimizer"]["batch_size"]
        return pixels * trainer["epochs"] * (20 * data.classes + overhead)
    return pixels * 100 * 8 * data.classes

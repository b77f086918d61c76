"""The readings of a publication, and which of them agree with its numbers.

A reading is one way to fill in what the text leaves open (a multiverse analysis: Steegen et al.
2016, Increasing Transparency Through a Multiverse Analysis). All readings are compared with the
published numbers after the trainings: they explain a publication, and choose nothing.

Epochs, kept epoch and reported value only say what is read off a training, so readings that differ
in these share their trainings.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from math import inf, sqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kmnist_pipeline.config import grid
from kmnist_pipeline.evaluation.claims import Spread
from kmnist_pipeline.readings.trajectories import MEASURES

SPLITS = ("validation", "test")


class Reading(NamedTuple):
    """One value of each open choice.

    keep: the epoch whose weights are kept, as `trainer.keep`; value: `mean` over the folds, that of
    the `best` fold, or `mean_best`, the mean for validation and the best fold's model for test.
    """

    scaling: str
    loss: str
    folds: int
    epochs: int
    keep: str
    value: str


class Configuration(NamedTuple):
    """What a publication states about one of its models; classes: None for all."""

    kind: str
    classes: tuple[int, ...] | None
    lr: float
    batch_size: int

    def __str__(self) -> str:
        of = f" {' vs '.join(map(str, self.classes))}" if self.classes else ""
        return f"{self.kind}{of}, lr={self.lr}, batch_size={self.batch_size}"


class Course(NamedTuple):
    """The trainings that readings share: one for each fold; loss is None for single images,
    where mean and sum are the same."""

    configuration: Configuration
    scaling: str
    loss: str | None
    folds: int
    seed: int


Courses = Mapping[Course, np.ndarray]  # each (folds, len(MEASURES), epochs)


class Stated(NamedTuple):
    """A published number; images: their number, if they may have been others, else 0."""

    id: str
    configuration: Configuration
    split: str
    reported: str
    images: int


def all_readings(choices: Mapping[str, Sequence[Any]]) -> list[Reading]:
    """Every combination of the values of the choices; the values of the last change fastest."""
    values = [choices[name] for name in Reading._fields]
    return [Reading(*combination) for combination in itertools.product(*values)]


def ours(experiment: Mapping[str, Any]) -> Reading:
    """The reading of an experiment: our protocol keeps the model of the best fold for the test."""
    trainer = experiment["trainer"]
    return Reading(
        experiment["model"]["scaling"],
        trainer["loss"],
        experiment["validation"]["folds"],
        trainer["epochs"],
        trainer["keep"],
        "mean_best",
    )


def configurations(about: Mapping[str, Any]) -> dict[tuple[str, str], Configuration]:
    """The configuration of each model and trial ("" for an experiment) of a study of readings."""
    found = {(name, ""): _configuration(e) for name, e in about["experiments"].items()}
    for name, study in about["studies"].items():
        for trial, e in grid.trials(study, about["experiments"][study["base"]]).items():
            found[name, trial] = _configuration(e)
    return found


def _configuration(experiment: Mapping[str, Any]) -> Configuration:
    optimizer, classes = experiment["optimizer"], experiment["classes"]
    kind = experiment["model"]["kind"]
    classes = None if classes is None else tuple(classes)
    return Configuration(kind, classes, optimizer["lr"], optimizer["batch_size"])


def stated(
    claims: Iterable[Mapping[str, str]],
    known: Mapping[tuple[str, str], Configuration],
    images: Mapping[tuple[int, ...] | None, int],
) -> list[Stated]:
    """The claims about the accuracy of these models; images: of the training split, by classes."""
    found = []
    for claim in claims:
        file = Path(claim["file"])
        model = (file.parent.name, claim["trial"])
        if model in known and claim["value"] == "accuracy" and file.stem in SPLITS:
            of = known[model]
            others = images[of.classes] if "split" in claim["unknown"] else 0
            found.append(Stated(claim["id"], of, file.stem, claim["reported"], others))
    return found


def course(reading: Reading, configuration: Configuration, seed: int) -> Course:
    """The trainings off which a reading is read."""
    loss = None if configuration.batch_size == 1 else reading.loss
    return Course(configuration, reading.scaling, loss, reading.folds, seed)


def courses(
    readings: Iterable[Reading], configurations: Iterable[Configuration], seeds: Iterable[int]
) -> dict[Course, int]:
    """All trainings that these readings need, and the epochs of the longest of its readings."""
    found: dict[Course, int] = {}
    for reading, *rest in itertools.product(readings, dict.fromkeys(configurations), seeds):
        needed = course(reading, *rest)
        found[needed] = max(found.get(needed, 0), reading.epochs)
    return found


def sharing(readings: Iterable[Reading], one: Reading) -> list[Reading]:
    """The readings that are read off the same trainings as `one`."""
    return [r for r in readings if _trained(r) == _trained(one)]


def _trained(reading: Reading) -> tuple[str, str, int]:
    return reading.scaling, reading.loss, reading.folds


def value(reading: Reading, folds: np.ndarray, split: str) -> float:
    """The number that a reading reports; folds: of one of `Courses`, (F, 3, epochs)."""
    accuracy, loss, test = (folds[:, MEASURES.index(name), : reading.epochs] for name in MEASURES)
    if reading.keep == "last":
        kept = np.full(len(folds), reading.epochs - 1)
    else:  # as families/selection.py: the first epoch with the best score, then the other score
        scores = (accuracy, -loss) if reading.keep == "best_accuracy" else (-loss, accuracy)
        kept = np.array([_first_best(*fold) for fold in zip(*scores, strict=True)])
    rows = np.arange(len(folds))
    by_split = {"validation": accuracy[rows, kept], "test": test[rows, kept]}
    is_mean = reading.value == "mean" or (reading.value, split) == ("mean_best", "validation")
    if is_mean:
        return float(by_split[split].mean())
    return float(by_split[split][_first_best(by_split["validation"], -loss[rows, kept])])


def _first_best(first: np.ndarray, second: np.ndarray) -> int:
    return int(np.lexsort((-np.arange(len(first)), second, first))[-1])


def spread(numbers: Sequence[float], draws: int = 1) -> Spread | None:
    """The spread of a number over seeds, for the mean over `draws` of them; None for one seed."""
    if len(numbers) < 2:
        return None
    sd = float(np.std(numbers, ddof=1))
    return Spread(float(np.mean(numbers)), sd, len(numbers) - 1, sd / sqrt(draws))


def half_width(
    claim: Stated, reading: Reading, number: float, over: Spread | None, confidence: float
) -> float:
    """Half the prediction interval of a published number around that of a reading.

    over: the spread over seeds; without it only the sampling error of other images counts.
    """
    if over is None and not claim.images:
        return 0.0
    of_fold = claim.split == "validation" and reading.value == "best"
    n = claim.images / (reading.folds if of_fold else 1)
    sampling = sqrt(number * (1 - number) / n) if n else 0.0
    return (over or Spread(number, 0.0, inf, 0.0)).half_width(confidence, sampling)


def agrees(claim: Stated, number: float, half: float) -> bool:
    """Whether a published number is ours at its printed digits, or inside the interval."""
    reported, digits = float(claim.reported), len(claim.reported.partition(".")[2])
    return round(number, digits) == reported or abs(number - reported) <= half


def simplest(readings: Sequence[Reading], agreeing: np.ndarray, own: Reading) -> Reading | None:
    """The agreeing reading that differs from ours in the fewest choices, and then the first."""
    positions = np.flatnonzero(agreeing).tolist()
    if not positions:
        return None
    return readings[min(positions, key=lambda p: (differences(readings[p], own), p))]


def differences(reading: Reading, own: Reading) -> int:
    """The number of choices in which a reading differs from ours."""
    return sum(a != b for a, b in zip(reading, own, strict=True))


def moves(choices: Mapping[str, Sequence[Any]], numbers: np.ndarray) -> dict[str, float]:
    """How far each choice moves a number: the range over its values, with all others held, in the
    mean over the others; numbers: in the order of `all_readings`."""
    table = numbers.reshape([len(choices[name]) for name in Reading._fields])
    return {
        name: float(np.ptp(table, axis=axis).mean()) for axis, name in enumerate(Reading._fields)
    }

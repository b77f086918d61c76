"""Faults on the way into a fit: in its images, its split or its settings.

A fault never changes the code of a family. Each is a map with the key `act`, as `conf/faults/` has
it: what it does is below, and `says` tells people.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from kmnist_pipeline.config import grid
from kmnist_pipeline.data import scaling, splits, streams
from kmnist_pipeline.data.dataset import Images
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.families.base import Fit

RANDOM = 100  # the purpose of the random stream; data/splits.py and the families have others
Experiment = dict[str, Any]
NONE: dict[str, Any] = {"act": None}
SETTINGS = ("change", "multiply", "add")  # the acts on a setting


class Faulty(NamedTuple):
    """What a fault, or none, leaves of an experiment's first seed and fold.

    images: the training images, then the test images, as the fit sees them; measured: for
    `validation` and `test`, the rows on which the model is measured.
    """

    experiment: Experiment
    images: Images
    fit: Fit
    measured: dict[str, np.ndarray]


def together(train: Images, test: Images) -> Images:
    """The training images, then the test images."""
    pixels, labels, index = (
        np.concatenate([getattr(images, part) for images in (train, test)])
        for part in ("pixels", "labels", "index")
    )
    return Images(pixels, labels, index, train.classes)


def tampered(
    experiment: Experiment, images: Images, n_train: int, fault: Mapping[str, Any]
) -> Faulty | None:
    """An experiment with a fault; None if the fault changes nothing that the experiment has.

    images: see `together`; n_train: how many of them are training images; fault:
    NONE for none. Raises UserError for a share that selects no image.
    """
    act = fault["act"]
    if act in SETTINGS:
        other = _changed(experiment, fault)
        if other is None:
            return None
        experiment = other
    seed, method = experiment["seeds"][0], experiment["model"]["scaling"]
    drawn = splits.subset(n_train, experiment["subset"], seed)
    training, validation = splits.folds(images, drawn, experiment["validation"], seed)[0]
    rows, held = drawn[training], drawn[validation]
    test = np.arange(n_train, len(images))
    measured = {"validation": held, "test": test}
    rng = streams.generator(seed, RANDOM)
    match act:
        case "leak":
            rows = np.sort(np.concatenate([rows, _part(rng, test, fault)]))
        case "keep":
            rows = np.sort(_part(rng, rows, fault))
        case "swap":
            images = _swapped(images, rows, *fault["classes"])
        case "measure_validation":
            if not len(held):
                return None
            measured["test"] = held
    shift, scale = scaling.estimate(method, images.flat[rows])
    if act == "scale_by_test":
        own = shift, scale
        shift, scale = scaling.estimate(method, images.flat[test])
        if all(map(np.array_equal, own, (shift, scale))):
            return None
    settings = {p: experiment[p] for p in ("model", "optimizer", "trainer")}
    model = {k: v for k, v in experiment["model"].items() if k not in ("family", "scaling")}
    family = experiment["model"]["family"]
    fit = Fit(family, {**settings, "model": model}, seed, 0, rows, held, shift, scale)
    return Faulty(experiment, images, fit, measured)


def _changed(experiment: Experiment, fault: Mapping[str, Any]) -> Experiment | None:
    """The experiment with the first of the fault's settings that it has; None if it has none.

    A fault that leaves the value as it is changes nothing.
    """
    for dotted in fault["settings"]:
        part, _, name = dotted.partition(".")
        before = (experiment[part] or {}).get(name)
        if before is None:
            continue
        after = grid.with_fault(fault, before)
        return grid.apply(experiment, {dotted: after}) if after != before else None
    return None


def _part(rng: np.random.Generator, rows: np.ndarray, fault: Mapping[str, Any]) -> np.ndarray:
    """A random share of the rows; raises UserError if these are none."""
    share, n = fault["share"], len(rows)
    if not round(n * share):
        raise UserError(
            f"share={share} of the fault “{fault['says']}”: must be larger, because it selects "
            f"none of {n} images"
        )
    return rng.permutation(rows)[: round(n * share)]


def _swapped(images: Images, rows: np.ndarray, one: int, other: int) -> Images:
    """The images with the labels of two classes swapped in some rows."""
    labels = images.labels.copy()
    labels[rows[images.labels[rows] == one]] = other
    labels[rows[images.labels[rows] == other]] = one
    return Images(images.pixels, labels, images.index, images.classes)

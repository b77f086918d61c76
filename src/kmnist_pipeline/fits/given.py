"""Fits of rows that are given, and not drawn by a split: those that are labelled so far."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kmnist_pipeline.data import scaling
from kmnist_pipeline.data.dataset import Images
from kmnist_pipeline.families.base import Fit, Fitted
from kmnist_pipeline.fits import key, training
from kmnist_pipeline.fits.plan import Plan, cost
from kmnist_pipeline.fits.tasks import FitTask

NO_ROWS = np.arange(0)
Case = tuple[str, int]  # the name of a case, and its seed


def train(
    label: str, settings: dict[str, Any], images: Images, rows: Mapping[Case, np.ndarray]
) -> dict[Case, Fitted]:
    """Train a model for each case on its rows of `images`, all in one pool.

    settings: `model`, `optimizer` and `trainer`. Equal rows and seeds are trained once, and what
    the store has is not trained.
    """
    planned = Plan(label, {}, images)  # without trials: they would draw their own rows
    planned.trials = {"": settings}
    tasks = [_task(planned, settings, case, chosen) for case, chosen in rows.items()]
    planned.waves = [{"": [tasks]}]
    (trials,) = training.train(planned)
    return dict(zip(rows, trials[""].fits[0], strict=True))


def _task(planned: Plan, settings: dict[str, Any], case: Case, rows: np.ndarray) -> FitTask:
    name, seed = case
    training_rows = np.sort(rows)  # so that the order of labelling does not count
    method = settings["model"]["scaling"]
    scaled = scaling.estimate(method, planned.images.flat[training_rows])
    used = {part: settings[part] for part in ("model", "optimizer", "trainer")}
    used["model"] = {k: v for k, v in used["model"].items() if k not in ("family", "scaling")}
    family = settings["model"]["family"]
    fit = Fit(family, used, seed, 0, training_rows, NO_ROWS, *scaled)
    own = key.key(fit, planned.digest)
    label = f"{planned.label} {name}, seed {seed}, {len(rows)} images"
    return FitTask(own, own, planned.digest, label, cost(fit, planned.data), fit)

"""The pool of fits, to be timed in its own process."""

from __future__ import annotations

import tempfile
import time
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.measuring import Answer
from kmnist_pipeline.commands import fit
from kmnist_pipeline.data.dataset import Images
from kmnist_pipeline.fits import plan, pool
from kmnist_pipeline.fits.plan import Plan
from kmnist_pipeline.fits.store import Store
from kmnist_pipeline.repository import locks

REPORT = "kmnist_linear"
EPOCHS, SEEDS = 10, [0]  # instead of 50 and five: a round must take less than 2 minutes
SIDE, IMAGES = 2, 8  # the side and number of the images that empty fits train on


def load() -> None:
    """Do nothing, so that only workers are timed."""


@cache
def _plans() -> list[Plan]:
    """The plans of a report's stages that train, with fewer epochs and seeds."""
    params = locks.load(Path("params.yaml").read_text(), "params.yaml")
    for experiment in params["experiments"].values():
        experiment["seeds"] = SEEDS
        if "epochs" in experiment["trainer"]:
            experiment["trainer"]["epochs"] = EPOCHS
    return [
        fit.plan_of(f"{kind}@{name}", params)
        for kind, section in fit.SECTIONS.items()
        for name in params[section]
        if params["models"][name]["report"] == REPORT
    ]


def plan_report() -> Answer:
    """Make the plans, which is not timed; returns the number of different `fits`."""
    return {"fits": len({task.key for planned in _plans() for task in planned.tasks()})}


def report() -> Answer:
    """Train all fits of the report into an empty store."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        pool.train(_plans(), Store(Path(folder)))
        return {"seconds": time.perf_counter() - began}


def empty(fits: int) -> Answer:
    """Train fits that compute almost nothing; returns the total seconds `planned` and `seconds`."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=(IMAGES, SIDE, SIDE)).astype(np.uint8)
    labels = np.arange(IMAGES) % 2
    images = Images(pixels, labels, np.arange(IMAGES), ("a", "b"))
    experiment = {
        "subset": None,
        "model": {"family": "linear", "kind": "softmax", "scaling": "none"},
        "optimizer": {"name": "sgd", "lr": 0.1, "batch_size": IMAGES},
        "validation": {"method": "none"},
        "trainer": {
            "epochs": 1,
            "patience": None,
            "keep": "last",
            "loss": "mean",
            "precision": "float64",
        },
        "seeds": list(range(fits)),
    }
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        plans = [plan.of_experiment("empty", experiment, images)]
        planned = time.perf_counter() - began
        pool.train(plans, Store(Path(folder)))
        return {"planned": planned, "seconds": time.perf_counter() - began}

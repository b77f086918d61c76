"""Fits of given rows, and fits on labels that are wrong on purpose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kmnist_pipeline.commands import diff
from kmnist_pipeline.data import dataset
from kmnist_pipeline.data.dataset import Images
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evaluation import metrics
from kmnist_pipeline.families.base import Fitted
from kmnist_pipeline.fits import given, swapped, training
from kmnist_pipeline.fits.plan import Plan
from kmnist_pipeline.fits.results import TrainedTrial

SETTINGS: dict[str, Any] = {
    "model": {"family": "linear", "kind": "softmax", "scaling": "minmax"},
    "optimizer": {"name": "sgd", "lr": 0.1, "batch_size": 8},
    "trainer": {
        "epochs": 2, "patience": None, "keep": "last", "loss": "mean", "precision": "float64",
    },
}  # fmt: skip
EXPERIMENT = SETTINGS | {
    "dataset": "x", "classes": None, "subset": None, "seeds": [0, 1], "report": "x",
    "validation": {"method": "kfold", "folds": 3},
}  # fmt: skip


def images(n: int = 60) -> Images:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 200, (n, 4, 4)).astype(np.uint8)
    return Images(pixels, np.arange(n) % 3, np.arange(n) + 5, ("a", "b", "c"))


def test_given_rows_are_trained_without_validation_and_equal_ones_have_equal_keys(monkeypatch):
    seen: list[Plan] = []

    def train(plan: Plan) -> list[dict[str, TrainedTrial]]:  # as the pool does, in this process
        seen.append(plan)
        fits = [Fitted([], [], 1, len(task.fit.training), 0, {}) for task in plan.tasks()]
        return [{"": TrainedTrial(SETTINGS, [fits])}]

    monkeypatch.setattr(training, "train", train)
    rows = {
        ("one", 0): np.array([4, 2, 9]), ("other", 0): np.array([9, 4, 2]),
        ("one", 1): np.array([4, 2, 9]), ("more", 0): np.array([4, 2, 9, 1]),
    }  # fmt: skip
    fitted = given.train("loop@x", SETTINGS, images(), rows)
    assert {case: fit.n_train for case, fit in fitted.items()} == {
        case: len(chosen) for case, chosen in rows.items()
    }
    tasks = dict(zip(rows, seen[0].tasks(), strict=True))
    assert tasks["one", 0].key == tasks["other", 0].key
    assert len({task.key for task in tasks.values()}) == 3
    fit = tasks["other", 0].fit
    assert fit.training.tolist() == [2, 4, 9] and len(fit.validation) == 0
    assert "family" not in fit.settings["model"] and fit.settings["trainer"] == SETTINGS["trainer"]


def test_an_experiment_is_planned_on_swapped_labels(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data/processed").mkdir(parents=True)
    all_images = images()
    train = np.arange(50)
    content = dataset.encode(
        all_images.pixels, all_images.labels, train, np.arange(50, 60), ["a", "b", "c"]
    )
    Path("data/processed/x.npz").write_bytes(content)
    settings = {"dataset": "x", "swapped": 7, "seed": 3, "changes": {"trainer.epochs": 1}}
    planned, rows = swapped.of_suspects("x", settings, EXPERIMENT)
    changed = np.flatnonzero(planned.images.labels != all_images.labels[:50])
    assert changed.tolist() == rows.tolist() and len(rows) == 7
    assert planned.trials[""]["trainer"]["epochs"] == 1
    assert len(list(planned.tasks())) == 6
    with pytest.raises(UserError, match=r"suspects\.x\.swapped=51: there are 50 images"):
        swapped.of_suspects("x", settings | {"swapped": 51}, EXPERIMENT)


def test_diff_compares_predictions_before_and_after_by_mcnemars_test():
    before, after = np.array([1, 1, 1, 0, 0], bool), np.array([1, 1, 0, 1, 1], bool)
    told = diff._mcnemar(metrics.pack_bits(before), metrics.pack_bits(after))
    assert told == "correct only before: 1, only after: 2 (McNemar's test: p = 1)"
    assert diff._mcnemar("ff", "ffff") is None and diff._mcnemar(None, "ff") is None

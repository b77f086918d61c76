"""Networks for tests to train, on scikit-learn's digits or on noise."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from kmnist_pipeline.data.dataset import Images
from kmnist_pipeline.families.base import Checkpoint, Data, Fit, Fitted, Progress
from kmnist_pipeline.families.cnn import train
from kmnist_pipeline.fits import plan

HOLDOUT, NONE = {"method": "holdout", "fraction": 0.2}, {"method": "none"}
NAMES = tuple(map(str, range(10)))


class Memory(Checkpoint):
    """A checkpoint that is there as long as the test."""

    def __init__(self) -> None:
        self.state: bytes | None = None

    def load(self) -> bytes | None:
        return self.state

    def save(self, state: bytes) -> None:
        self.state = state


def digits(n: int = 600) -> Images:
    loaded = load_digits()
    pixels = loaded.images[:n].astype(np.uint8)
    return Images(pixels, loaded.target[:n].astype(np.int64), np.arange(n), NAMES)


def noise(shape: tuple[int, ...], n: int = 320) -> Images:
    """Images of any shape, brighter from class to class."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(n) % 10)
    pixels = rng.integers(0, 64, (n, *shape)) + 16 * labels.reshape(-1, *[1] * len(shape))
    return Images(pixels.astype(np.uint8), labels, np.arange(n), NAMES)


def trial(architecture: str = "simple", **changes: Any) -> dict[str, Any]:
    """An experiment as it stands in `params.yaml`, with values of any of its parts changed."""
    experiment = {
        "report": "r",
        "dataset": "d",
        "classes": None,
        "subset": None,
        "model": {
            "family": "cnn",
            "architecture": architecture,
            "dropout": 0.2,
            "scaling": "minmax",
            "draws": 5 if architecture == "siamese" else None,
        },
        "optimizer": {"name": "adam", "lr": 0.002, "batch_size": 32},
        "validation": HOLDOUT,
        "trainer": {
            "epochs": 3,
            "patience": None,
            "keep": "last",
            "loss": "mean",
            "precision": "float32",
            "schedule": "constant",
            "augmentation": "none",
            "averaging": "none",
        },
        "seeds": [0],
    }
    for name, value in changes.items():
        parts = [part for part in experiment.values() if isinstance(part, dict)]
        holder = next((part for part in [experiment, *parts] if name in part), None)
        assert holder is not None, f"an experiment has no {name}"
        holder[name] = value
    return experiment


def fits(experiment: dict[str, Any], images: Images) -> list[Fit]:
    """The fits of an experiment, seed by seed and fold by fold."""
    return [task.fit for task in plan.of_experiment("t", experiment, images).tasks()]


def run(
    fit: Fit,
    images: Images,
    checkpoint: Checkpoint | None = None,
    progress: Progress = lambda _: None,
    stop_after: int | None = None,
) -> Fitted:
    data = Data(images.pixels, images.labels, len(images.classes))
    return train.fit(fit, data, checkpoint or Checkpoint(), progress, stop_after)


def trained(experiment: dict[str, Any], images: Images, *more: Any, **options: Any) -> Fitted:
    """The first fit of an experiment, trained."""
    return run(fits(experiment, images)[0], images, *more, **options)

"""Small fits of every family, on random images."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from kmnist_pipeline.data.dataset import Images
from kmnist_pipeline.families.base import Checkpoint, Data, Fit, Fitted
from kmnist_pipeline.families.registry import FAMILIES

OPTIMIZER = {"lr": 0.1, "batch_size": 16}
TRAINER = {"epochs": 2, "patience": None, "keep": "last", "loss": "mean"}
SETTINGS: dict[str, dict[str, Any]] = {
    "linear": {
        "model": {"kind": "softmax"},
        "optimizer": {"name": "sgd", **OPTIMIZER},
        "trainer": {**TRAINER, "precision": "float64"},
    },
    "sklearn": {
        "model": {"solver": "lbfgs", "max_iter": 5},
        "optimizer": None,
        "trainer": {"precision": "float64"},
    },
    "cnn": {
        "model": {"architecture": "simple", "dropout": 0.1, "draws": None},
        "optimizer": {"name": "adam", **OPTIMIZER, "lr": 0.001},
        "trainer": {
            **TRAINER,
            "precision": "float32",
            "schedule": "constant",
            "augmentation": "none",
            "averaging": "none",
        },
    },
}


def images(n: int = 60, shape: tuple[int, ...] = (6, 5), classes: int = 3) -> Images:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % classes
    pixels = rng.integers(0, 200, (n, *shape)) + 20 * labels.reshape(-1, *[1] * len(shape))
    names = tuple("abcdefgh"[:classes])
    return Images(pixels.astype(np.uint8), labels, np.arange(n), names)


def experiment(family: str = "linear", **changes: Any) -> dict[str, Any]:
    """An experiment as it stands in `params.yaml`, with other parts."""
    settings = SETTINGS[family]
    return {
        "report": "r",
        "dataset": "d",
        "classes": None,
        "subset": None,
        "model": {"family": family, "scaling": "minmax", **settings["model"]},
        "optimizer": settings["optimizer"],
        "validation": {"method": "kfold", "folds": 3},
        "trainer": settings["trainer"],
        "seeds": [0, 1],
    } | changes


def a_fit(family: str, data: Images, **changes: Any) -> Fit:
    features = data.flat.shape[1]
    fit = Fit(
        family,
        SETTINGS[family],
        seed=0,
        fold=0,
        training=np.arange(45),
        validation=np.arange(45, 60),
        shift=np.zeros(features),
        scale=np.full(features, 255.0),
    )
    return dataclasses.replace(fit, **changes)


def data_of(data: Images) -> Data:
    return Data(data.pixels, data.labels, len(data.classes))


def run(fit: Fit, data: Images, stop_after: int | None = None) -> Fitted:
    train = FAMILIES[fit.family].train
    return train.fit(fit, data_of(data), Checkpoint(), lambda _: None, stop_after)

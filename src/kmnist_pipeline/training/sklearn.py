"""scikit-learn's logistic regression on a whole training split or on k folds."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from threadpoolctl import threadpool_limits

from kmnist_pipeline.data import scaling, splits
from kmnist_pipeline.data.dataset import Images
from kmnist_pipeline.models import sklearn as models
from kmnist_pipeline.training.fit import Epoch, FoldFit, Memory

LIBRARIES = ("numpy", "scipy", "scikit-learn")


def groups(trials: list) -> list[list[int]]:
    """Which trials are trained together: none."""
    return [[position] for position in range(len(trials))]


def hardware(trainer) -> dict[str, str]:
    """Where, and in which number format, a training with these settings computes."""
    return {"device": "cpu", "precision": trainer.precision}


def steps(trial, n: int) -> int:
    """How many folds a seed's training fits."""
    return getattr(trial.validation, "folds", 1)


def fit(
    trials: list, images: Images, seed: int, memory: Memory, progress: Callable[[int], object]
) -> list[list[FoldFit]]:
    """Fit one trial on every fold of one seed: FoldFits by trial and fold.

    images: the training split, restricted to the experiment's classes. The one epoch is the
    whole fit; `progress` is told of each fold, and `memory` is not needed.
    """
    (trial,) = trials
    rows = splits.subset(len(images), trial.subset, seed)
    images = images.take(rows) if trial.subset is not None else images
    fits = []
    for training, validation in splits.folds(len(images), asdict(trial.validation), seed):
        fits.append(_fit_fold(trial, images, training, validation))
        progress(1)
    return [fits]


def _fit_fold(trial, images: Images, training: np.ndarray, validation: np.ndarray) -> FoldFit:
    shift, scale = scaling.fit(trial.model.scaling, images.flat[training])
    estimator = models.build(trial.model.solver, trial.model.max_iter)

    def scaled(rows: np.ndarray) -> np.ndarray:
        return (images.flat[rows].astype(trial.trainer.precision) - shift) / scale

    with threadpool_limits(trial.trainer.threads), warnings.catch_warnings():
        # The published fit stops at its iteration limit too; validation.json carries n_iter.
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(scaled(training), images.labels[training])
        history = [
            _measure(estimator, split, scaled(rows), images.labels[rows])
            for split, rows in (("train", training), ("validation", validation))
            if len(rows)
        ]
    tensors = {**models.to_tensors(estimator), "shift": shift, "scale": scale}
    return FoldFit(history, 1, len(training), len(validation), tensors)


def _measure(estimator, split: str, inputs: np.ndarray, labels: np.ndarray) -> Epoch:
    probabilities = estimator.predict_proba(inputs)
    hits = estimator.classes_[probabilities.argmax(axis=1)] == labels
    loss = log_loss(labels, probabilities, labels=estimator.classes_)
    return Epoch(1, split, float(loss), float(hits.mean()))

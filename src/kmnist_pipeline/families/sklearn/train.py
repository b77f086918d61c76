"""scikit-learn's logistic regression on the training rows of a fit."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss

from kmnist_pipeline.families.base import (
    Checkpoint,
    Data,
    Epoch,
    Fit,
    Fitted,
    Progress,
    TrainingError,
    digest,
)
from kmnist_pipeline.families.sklearn import model


def fit(
    fit: Fit,
    data: Data,
    checkpoint: Checkpoint,
    progress: Progress,
    stop_after: int | None = None,
) -> Fitted:
    """Fit the estimator. It counts as one epoch, so it has no early stop and no checkpoint.

    Raises TrainingError if a class has no training image: the estimator would not know the class.
    """
    missing = np.setdiff1d(np.arange(data.classes), data.labels[fit.training])
    if len(missing):
        raise TrainingError(
            f"no image of class {', '.join(map(str, missing))} is among the {len(fit.training)} "
            f"training images of fold {fit.fold}: fewer folds, or a smaller part held out, may help"
        )
    settings = fit.settings["model"]
    estimator = model.build(settings["solver"], settings["max_iter"])

    def scaled(rows: np.ndarray) -> np.ndarray:
        inputs = (data.flat[rows] - fit.shift) / fit.scale
        return inputs.astype(fit.settings["trainer"]["precision"])

    with warnings.catch_warnings():
        # The published fit stops at its iteration limit too.
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(scaled(fit.training), data.labels[fit.training])
        history = [
            _measure(estimator, split, scaled(rows), data.labels[rows])
            for split, rows in (("train", fit.training), ("validation", fit.validation))
            if len(rows)
        ]
    progress(1.0)
    tensors = model.to_tensors(estimator)
    digests = [digest(tensors)]
    tensors |= {"shift": fit.shift, "scale": fit.scale}
    return Fitted(history, digests, 1, len(fit.training), len(fit.validation), tensors)


def _measure(estimator, split: str, inputs: np.ndarray, labels: np.ndarray) -> Epoch:
    probabilities = estimator.predict_proba(inputs)
    hits = estimator.classes_[probabilities.argmax(axis=1)] == labels
    loss = log_loss(labels, probabilities, labels=estimator.classes_)
    return Epoch(1, split, float(loss), float(hits.mean()))

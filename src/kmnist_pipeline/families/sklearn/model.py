"""scikit-learn's logistic regression, as plain tensors (mnist_logistic 4.5, kmnist_cnn II.B)."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression


def build(solver: str, max_iter: int) -> LogisticRegression:
    """The unfitted estimator."""
    return LogisticRegression(solver=solver, max_iter=max_iter)


def to_tensors(estimator: LogisticRegression) -> dict[str, np.ndarray]:
    """The arrays of a fitted estimator: `coef` (K, D), `intercept` (K,), `classes` (C,)."""
    learnt = {"coef": estimator.coef_, "intercept": estimator.intercept_}
    return {**learnt, "classes": estimator.classes_.astype(np.int64)}


def probabilities(
    model: dict, tensors: dict[str, np.ndarray], pixels: np.ndarray, classes: int
) -> np.ndarray:
    """Class probabilities (N, C) float64, computed by scikit-learn; pixels: (N, ...) uint8."""
    estimator = build(model["solver"], model["max_iter"])
    estimator.coef_ = tensors["coef"]
    estimator.intercept_ = tensors["intercept"]
    estimator.classes_ = tensors["classes"]
    flat = pixels.reshape(len(pixels), -1).astype(np.float64)
    return estimator.predict_proba((flat - tensors["shift"]) / tensors["scale"])


def class_weights(tensors: dict[str, np.ndarray]) -> np.ndarray:
    """The weights of the scaled pixels, one row for each output: (K, D)."""
    return tensors["coef"]

"""All scores of a model: those of its confusion matrix, and those of `own/metrics.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from kmnist_pipeline import own
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evaluation import metrics
from kmnist_pipeline.own import metrics as own_metrics

OWN = own.functions(own_metrics)
SCORES = (*metrics.SCORES, *OWN)


def scores(labels: np.ndarray, probabilities: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
    """The scores of predictions, as `metrics.scores` gives them, and those of our own.

    labels: (N,); probabilities: (N, C). Raises UserError if one of our own is not a finite number.
    """
    counts = metrics.confusion(labels, probabilities.argmax(axis=1), len(names))
    found = {name: metric(labels, probabilities) for name, metric in OWN.items()}
    for name, value in found.items():
        if not np.isscalar(value) or not np.isfinite(value):
            raise UserError(f"own/metrics.py: {name} gives {value}, which is not a finite number")
    return {**metrics.scores(counts, names), **{n: float(value) for n, value in found.items()}}


def compared(scores: dict[str, Any]) -> dict[str, Any]:
    """The part of the scores that people compare between models."""
    return metrics.compared(scores) | {name: scores[name] for name in OWN}

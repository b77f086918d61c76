"""Confidence routing: accept predictions with high confidence; a person reviews the others.

kmnist_cnn III.D.2 proposes it. Validation images calibrate the confidence by temperature scaling
(Guo et al., arXiv:1706.04599) and choose the threshold. Test images only show whether the promised
accuracy holds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from kmnist_pipeline.evaluation import acceptance

BINS = 15
TINY = 1e-300  # smaller probabilities count as this one in logarithms
Predicted = tuple[np.ndarray, np.ndarray]  # class probabilities (N, C) and true labels (N,)


def route(splits: dict[str, Predicted], promise: float) -> dict[str, Any]:
    """The temperature and threshold from validation, and their results on each split.

    splits: the predictions for `validation` and `test`; promise: the promised accuracy of accepted
    predictions. The threshold is None if none gives the promised accuracy on validation.
    """
    probabilities, labels = splits["validation"]
    t = temperature(probabilities, labels)
    chosen = threshold(*confidence(calibrated(probabilities, t), labels), promise)
    result: dict[str, Any] = {"promise": promise, "temperature": t, "threshold": chosen}
    result["calibration"] = {}
    for split, (before, labels) in splits.items():
        after = calibrated(before, t)
        sure, right = confidence(after, labels)
        result[split] = _outcome(sure >= (np.inf if chosen is None else chosen), right, promise)
        result["calibration"][split] = {
            name: {"nll": nll(p, labels), "ece": calibration_error(p, labels)}
            for name, p in (("before", before), ("after", after))
        }
    return result


def confidence(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The confidence (N,) of each prediction, and whether it is correct (N,)."""
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == labels


def temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The T > 0 for which softmax(log p / T) has the lowest mean cross-entropy."""
    loss = minimize_scalar(
        lambda log_t: nll(calibrated(probabilities, float(np.exp(log_t))), labels),
        bounds=(-3, 3),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(loss.x))


def calibrated(probabilities: np.ndarray, t: float) -> np.ndarray:
    """softmax(log p / T): the same order of classes, with more (T < 1) or less confidence."""
    return np.exp(log_softmax(np.log(np.maximum(probabilities, TINY)) / t, axis=1))


def threshold(sure: np.ndarray, right: np.ndarray, promise: float) -> float | None:
    """The lowest confidence that accepts predictions with the promised accuracy.

    sure: confidences (N,); right: which predictions are correct (N,). None if no threshold gives
    that accuracy.
    """
    order = np.argsort(-sure, kind="stable")
    sorted_sure = sure[order]
    share = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    # Equal confidences are accepted together.
    last_of_equal = np.append(sorted_sure[1:] < sorted_sure[:-1], True)
    keeping = np.flatnonzero((share >= promise) & last_of_equal)
    return float(sorted_sure[keeping[-1]]) if len(keeping) else None


def risk_coverage(sure: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coverage (N,), and the error rate (N,) among as many predictions of highest confidence."""
    order = np.argsort(-sure, kind="stable")
    count = np.arange(1, len(order) + 1)
    return count / len(order), np.cumsum(~right[order]) / count


def bins(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
    """Mean confidence, accuracy and count of predictions in BINS equal ranges of confidence."""
    sure, right = confidence(probabilities, labels)
    of_bin = np.minimum((sure * BINS).astype(int), BINS - 1)
    count = np.bincount(of_bin, minlength=BINS)
    some = np.maximum(count, 1)
    mean = np.bincount(of_bin, sure, BINS) / some
    accuracy = np.bincount(of_bin, right, BINS) / some
    return mean, accuracy, count


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error: mean |accuracy - confidence| of bins, weighted by count."""
    mean, accuracy, count = bins(probabilities, labels)
    return float((np.abs(accuracy - mean) * count).sum() / count.sum())


def nll(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean cross-entropy in nats."""
    own = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(own, TINY)).mean())


def _outcome(accepted: np.ndarray, right: np.ndarray, promise: float) -> dict[str, Any]:
    n, k = int(accepted.sum()), int(right[accepted].sum())
    return {
        "n": len(accepted),
        "accepted": n,
        "review": len(accepted) - n,
        "correct": k,
        "accuracy": k / n if n else None,
        "interval": acceptance.interval(k, n),
        "target": acceptance.target(k, n, promise),
    }

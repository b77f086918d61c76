"""What answers are worth: how many are right, and how many of those that are accepted."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import betaincinv

CONFIDENCE = 0.95  # of the interval


def outcome(right: np.ndarray, accepted: np.ndarray, promise: float) -> dict[str, Any]:
    """What is counted and computed from answers that are right, and accepted, (N,) bool."""
    both = int((right & accepted).sum())
    return outcome_of(len(right), int(right.sum()), int(accepted.sum()), both, promise)


def outcome_of(
    n: int, correct: int, accepted: int, accepted_correct: int, promise: float
) -> dict[str, Any]:
    """Accuracy of n answers, and of the accepted ones with its exact interval.

    `keeps`: the promised accuracy is in the interval, or below it.
    """
    interval = None
    if accepted:  # Clopper and Pearson's
        wrong, tail = accepted - accepted_correct, (1 - CONFIDENCE) / 2
        low = betaincinv(accepted_correct, wrong + 1, tail) if accepted_correct else 0.0
        high = betaincinv(accepted_correct + 1, wrong, 1 - tail) if wrong else 1.0
        interval = [float(low), float(high)]
    return {
        "n": n,
        "correct": correct,
        "accuracy": correct / n,
        "accepted": accepted,
        "accepted_correct": accepted_correct,
        "accepted_accuracy": accepted_correct / accepted if accepted else None,
        "interval": interval,
        "keeps": interval is None or interval[1] >= promise,
    }

"""The accuracy of answers: of all of them, and of those that are accepted."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import betaincinv

CONFIDENCE = 0.95  # of the interval
MET, WITHIN, NOT_MET, NONE_ACCEPTED = "met", "within the interval", "not met", "none accepted"


def outcome(right: np.ndarray, accepted: np.ndarray, promise: float) -> dict[str, Any]:
    """The counts and rates of answers; right, accepted: whether each is correct, accepted, (N,)."""
    both = int((right & accepted).sum())
    return outcome_of(len(right), int(right.sum()), int(accepted.sum()), both, promise)


def outcome_of(
    n: int, correct: int, accepted: int, accepted_correct: int, promise: float
) -> dict[str, Any]:
    """Accuracy of n answers, and of the accepted ones with its interval and target."""
    return {
        "n": n,
        "correct": correct,
        "accuracy": correct / n,
        "accepted": accepted,
        "accepted_correct": accepted_correct,
        "accepted_accuracy": accepted_correct / accepted if accepted else None,
        "interval": interval(accepted_correct, accepted),
        "target": target(accepted_correct, accepted, promise),
    }


def interval(correct: int, n: int) -> list[float] | None:
    """Clopper and Pearson's interval of an accuracy with CONFIDENCE; None without answers."""
    if not n:
        return None
    wrong, tail = n - correct, (1 - CONFIDENCE) / 2
    low = betaincinv(correct, wrong + 1, tail) if correct else 0.0
    high = betaincinv(correct + 1, wrong, 1 - tail) if wrong else 1.0
    return [float(low), float(high)]


def target(correct: int, n: int, promise: float) -> str:
    """Whether n accepted answers have the promised accuracy.

    Their accuracy may miss it by chance: then it is within the interval.
    """
    around = interval(correct, n)
    if around is None:
        return NONE_ACCEPTED
    if correct / n >= promise:
        return MET
    return WITHIN if around[1] >= promise else NOT_MET

"""Classification metrics from a confusion matrix (the definitions are scikit-learn's)."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import bdtr


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts (C, C) int64: rows are true classes, columns predicted ones."""
    cells = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return cells.reshape(classes, classes)


def scores(counts: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
    """Accuracy and macro precision, recall and F1, with the same per class.

    A class that is never predicted has precision 0, as one without images has recall 0.
    """
    right = np.diag(counts).astype(float)
    support, chosen = counts.sum(axis=1), counts.sum(axis=0)
    precision = right / np.maximum(chosen, 1)
    recall = right / np.maximum(support, 1)
    f1 = 2 * right / np.maximum(support + chosen, 1)
    n, correct = int(counts.sum()), int(right.sum())
    return {
        "n": n,
        "correct": correct,
        "accuracy": correct / n,
        "precision": precision.mean(),
        "recall": recall.mean(),
        "f1": f1.mean(),
        "per_class": {
            name: {
                "precision": precision[c],
                "recall": recall[c],
                "f1": f1[c],
                "support": int(support[c]),
            }
            for c, name in enumerate(names)
        },
        "confusion": counts,
    }


def pack_bits(right: np.ndarray) -> str:
    """Which of N predictions are right, as hexadecimal digits (eight predictions a pair)."""
    return np.packbits(right).tobytes().hex()


def unpack_bits(text: str, n: int) -> np.ndarray:
    """The inverse of `pack_bits`: (N,) bool."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=n).astype(bool)


def spread(values: list[float]) -> dict[str, Any]:
    """n, mean, standard deviation (n - 1; None for one value) and the values themselves."""
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"n": len(values), "mean": float(np.mean(values)), "sd": sd, "values": values}


def mcnemar(right: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """McNemar's exact test of two models on the same images.

    right, other: which of N predictions are right. `only` and `only_other` count the images that
    one model alone gets right; p is the probability of so uneven a division, or more, of these
    if either model were as likely to be the one.
    """
    only, only_other = int((right & ~other).sum()), int((other & ~right).sum())
    discordant = only + only_other
    p = min(1.0, 2 * float(bdtr(min(only, only_other), discordant, 0.5)))
    return {"only": only, "only_other": only_other, "p": p}

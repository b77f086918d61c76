"""Classification metrics from a confusion matrix (the definitions are scikit-learn's)."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import bdtr

SCORES = ("accuracy", "precision", "recall", "f1")  # the last three are means over classes
DENSE = 50  # the most classes whose confusion matrix is written with its zeros


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts (C, C) int64: rows are true classes, columns are predicted classes."""
    cells = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return cells.reshape(classes, classes)


def pack_confusion(counts: np.ndarray) -> list[list[int]]:
    """The rows of a confusion matrix for a file.

    With more than DENSE classes a row has only the counts that are not zero, each after the number
    of its predicted class, because most of the C * C cells are zero.
    """
    if len(counts) <= DENSE:
        return counts.tolist()
    return [
        [int(n) for column in np.flatnonzero(row) for n in (column, row[column])] for row in counts
    ]


def unpack_confusion(rows: list[list[int]]) -> np.ndarray:
    """The inverse of `pack_confusion`: (C, C) int64."""
    if len(rows) <= DENSE:
        return np.array(rows)
    counts = np.zeros((len(rows), len(rows)), np.int64)
    for number, row in enumerate(rows):
        counts[number, row[::2]] = row[1::2]
    return counts


def scores(counts: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
    """Accuracy and macro precision, recall and F1, and these three for each class.

    A class that is never predicted has precision 0; a class without images has recall 0.
    """
    right = np.diag(counts).astype(float)
    support, chosen = counts.sum(axis=1), counts.sum(axis=0)
    precision = right / np.maximum(chosen, 1)
    recall = right / np.maximum(support, 1)
    f1 = 2 * right / np.maximum(support + chosen, 1)
    by_class = {"precision": precision, "recall": recall, "f1": f1, "support": support}
    n, correct = int(counts.sum()), int(right.sum())
    return {
        "n": n,
        "correct": correct,
        "accuracy": correct / n,
        "precision": precision.mean(),
        "recall": recall.mean(),
        "f1": f1.mean(),
        "per_class": {
            name: {score: values[c] for score, values in by_class.items()}
            for c, name in enumerate(names)
        },
        "confusion": counts,
    }


def pack_bits(right: np.ndarray) -> str:
    """Which of N predictions are correct, as hexadecimal digits (two for eight predictions)."""
    return np.packbits(right).tobytes().hex()


def unpack_bits(text: str, n: int) -> np.ndarray:
    """The inverse of `pack_bits`: (N,) bool."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=n).astype(bool)


def compared(scores: dict[str, Any]) -> dict[str, Any]:
    """The part of `scores` that people compare between models."""
    return {name: scores[name] for name in (*SCORES, "n", "correct")}


def nested(values: list[list[float]]) -> dict[str, Any]:
    """The spread of a number over groups, and over draws in each group.

    values: (groups, draws). `sd` is the standard deviation of one draw in a new group, from the
    analysis of variance with random groups. `se` is the standard error of the mean. `df` is the
    degrees of freedom of both together, by Satterthwaite's approximation. One group has only the
    spread of its draws; with one draw all three are None.
    """
    table = np.asarray(values, float)
    groups, draws = table.shape
    # Each part of the variance: its share in one draw in a new group and in the mean, and its
    # degrees of freedom.
    parts = []
    if groups > 1:  # the means of groups vary by the groups' variance and a part of the draws'
        between = float(table.mean(axis=1).var(ddof=1))
        parts.append((between, between / groups, groups - 1))
    if draws > 1:
        within = float(table.var(axis=1, ddof=1).mean())
        shares = ((1 - 1 / draws) * within, 0.0) if groups > 1 else (within, within / draws)
        parts.append((*shares, groups * (draws - 1)))
    sd = se = df = None
    if parts:
        sd, se = (sum(part[i] for part in parts) ** 0.5 for i in (0, 1))
        weight = sum((of_draw + of_mean) ** 2 / freedom for of_draw, of_mean, freedom in parts)
        df = (sd**2 + se**2) ** 2 / weight if weight else 1.0
    return {
        "groups": groups,
        "draws": draws,
        "mean": float(table.mean()),
        "sd": sd,
        "se": se,
        "df": df,
        "first": table[:, 0].tolist(),
    }


def spread(values: list[float]) -> dict[str, Any]:
    """n, mean, standard deviation (n - 1; None for one value) and the values."""
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"n": len(values), "mean": float(np.mean(values)), "sd": sd, "values": values}


def mcnemar(right: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """McNemar's exact test of two models on the same images.

    right, other: which of N predictions are correct. `only` and `only_other` count the images that
    only one of the two models classifies correctly; p is the two-sided p-value for equal error
    rates.
    """
    only, only_other = int((right & ~other).sum()), int((other & ~right).sum())
    discordant = only + only_other
    p = min(1.0, 2 * float(bdtr(min(only, only_other), discordant, 0.5)))
    return {"only": only, "only_other": only_other, "p": p}


def holm(p: list[float]) -> list[float]:
    """The p-values after Holm's correction for their number, in the given order."""
    order, corrected = np.argsort(p), np.empty(len(p))
    steps = np.sort(p) * np.arange(len(p), 0, -1)
    corrected[order] = np.minimum(1, np.maximum.accumulate(steps))
    return corrected.tolist()


def in_words(p: float, equal: str = "") -> str:
    """A p-value with two digits, or a bound if it is too small for a float.

    equal: the prefix of a number that is not a bound.
    """
    return f"{equal}{p:.2g}" if p > 0 else "< 1e-300"

"""Suspects: images whose label the models that have not seen them contradict.

The ranking is that of confident learning (Northcutt, Jiang and Chuang, Journal of Artificial
Intelligence Research 70, 2021) by normalised margin: the probability of the label minus the
largest probability of another class, lowest first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kmnist_pipeline.data import streams

SWAP = 6  # the purpose of the random stream
CONTRADICTED = 0.5  # below this margin, another class is more probable than the label


def margins(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The normalised margin (N,) of each label, from 0 (surely wrong) to 1 (surely right).

    probabilities: (N, C); labels: (N,). Half of 1 plus the label's probability minus the largest
    other one: below CONTRADICTED another class is more probable.
    """
    rows = np.arange(len(labels))
    others = probabilities.copy()
    others[rows, labels] = -np.inf
    return (1 + probabilities[rows, labels] - others.max(axis=1)) / 2


def ranking(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The rows (N,), most suspect first; equal margins stay in order."""
    return np.argsort(margins(probabilities, labels), kind="stable")


def swapped(labels: np.ndarray, classes: int, count: int, seed: int) -> tuple[np.ndarray, ...]:
    """The labels (N,) with `count` of them wrong, and the rows (count,) of these.

    Rows and wrong classes are drawn uniformly, by the seed.
    """
    rng = streams.generator(seed, SWAP)
    rows = np.sort(rng.choice(len(labels), count, replace=False))
    wrong = labels.copy()
    wrong[rows] = (labels[rows] + rng.integers(1, classes, count)) % classes
    return wrong, rows


def found(order: np.ndarray, rows: np.ndarray, ranks: Sequence[int]) -> list[int]:
    """How many of `rows` are among the first of `order` (N,), for each of the `ranks`."""
    hits = np.isin(order, rows).cumsum()
    return [int(hits[min(rank, len(order)) - 1]) for rank in ranks]

"""How likely each trial of a study is to win when it is run once more, with one seed."""

from __future__ import annotations

from collections import Counter
from math import sqrt

import numpy as np
from scipy.special import ndtr

POINTS = 4001  # of the integral
REACH = 8.0  # standard deviations beyond the means


def wins(values: np.ndarray) -> list[int]:
    """The number of seeds in which each trial is the best, the first of equal ones.

    values: validation accuracy by trial and seed, (T, S).
    """
    counted = Counter(values.argmax(axis=0).tolist())
    return [counted[trial] for trial in range(len(values))]


def chances(values: np.ndarray) -> list[float]:
    """The probability that each trial has the highest validation accuracy of one more seed.

    Trials share the images of a seed, so what a seed does to all of them cancels out. What is left
    has one standard deviation, pooled over the trials, and a normal distribution around the mean of
    each trial; the error of this mean comes on top. values: as above, at least two seeds.
    """
    trials, seeds = values.shape
    means = values.mean(axis=1)
    left = values - means[:, None] - values.mean(axis=0) + values.mean()
    variance = float((left**2).sum()) / ((trials - 1) * (seeds - 1))
    sd = sqrt(variance * (1 + 1 / seeds))
    if sd == 0:
        best = (means == means.max()).astype(float)
        return (best / best.sum()).tolist()
    x = np.linspace(means.min() - REACH * sd, means.max() + REACH * sd, POINTS)
    z = (x - means[:, None]) / sd
    below = ndtr(z)
    density = np.exp(-(z**2) / 2)
    others = np.array([np.delete(below, trial, axis=0).prod(axis=0) for trial in range(trials)])
    found = (density * others).sum(axis=1)
    return (found / found.sum()).tolist()

"""The order in which a person labels images, and the labels that a better order saves.

mnist_logistic proposes a cycle of learning, predicting and correcting. Here the person is simulated
by the true labels, and only training images are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from kmnist_pipeline.data import streams
from kmnist_pipeline.errors import UserError

PARTS, CHOICE = 7, 8  # the purposes of the random streams
GUIDED, RANDOM = "least_confident_first", "at_random"
WAYS = (GUIDED, RANDOM)


class Parts(NamedTuple):
    """Rows of the training images: those to measure on, those labelled at first, and the others."""

    held_out: np.ndarray
    labelled: np.ndarray
    waiting: np.ndarray


def parts(n: int, settings: dict[str, Any], seed: int) -> Parts:
    """A random division of n training images. Raises UserError if there are too few."""
    held_out, start = settings["held_out"], settings["start"]
    needed = held_out + start + settings["rounds"] * settings["size"]
    if needed > n:
        raise UserError(
            f"held_out, start and the images of all rounds are {needed} images, and there are {n}"
        )
    rows = streams.generator(seed, PARTS).permutation(n)
    return Parts(*np.split(rows, [held_out, held_out + start]))


def choose(way: str, probabilities: np.ndarray, count: int, seed: int, number: int) -> np.ndarray:
    """The places (count,) of the images to label next among those waiting.

    probabilities: (M, C) of the waiting images. Least confident first means the lowest probability
    of the predicted class; at random is drawn by the seed and the number of the round.
    """
    if way == RANDOM:
        return streams.generator(seed, CHOICE, number).permutation(len(probabilities))[:count]
    return np.argsort(probabilities.max(axis=1), kind="stable")[:count]


class Saving(NamedTuple):
    """needed: the labels at which the random order first has its best accuracy; saved: how many
    fewer the guided order needs for it, None if it never is as accurate."""

    needed: float
    saved: float | None


def saving(labels: Sequence[int], guided: Sequence[float], random: Sequence[float]) -> Saving:
    """The labels that the guided order saves.

    labels, guided, random: the number of labels and both accuracies after each round. Between
    rounds the accuracy is interpolated.
    """
    goal = max(random)
    needed, enough = (_first(labels, accuracies, goal) for accuracies in (random, guided))
    assert needed is not None  # it has its best accuracy somewhere
    return Saving(needed, None if enough is None else needed - enough)


def _first(labels: Sequence[int], accuracies: Sequence[float], goal: float) -> float | None:
    """The number of labels at which an accuracy is first reached; None if it never is."""
    for n, accuracy in enumerate(accuracies):
        if accuracy >= goal:
            if n == 0:
                return float(labels[0])
            share = (goal - accuracies[n - 1]) / (accuracy - accuracies[n - 1])
            return float(labels[n - 1] + share * (labels[n] - labels[n - 1]))
    return None

"""What models on folds predict for the training images that they have not seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np


@dataclass(frozen=True)
class Predictions:
    """A prediction for each image: probabilities (N, C), index in file order (N,), labels (N,)."""

    probabilities: np.ndarray
    index: np.ndarray
    labels: np.ndarray


def load(file: Path | BinaryIO) -> Predictions:
    """The out-of-fold predictions of an experiment; those of several seeds are averaged."""
    with np.load(file, allow_pickle=False) as arrays:
        return averaged(arrays["probabilities"], arrays["index"], arrays["labels"])


def averaged(probabilities: np.ndarray, index: np.ndarray, labels: np.ndarray) -> Predictions:
    """The mean of the predictions (M, C) for each image; index, labels: of each prediction (M,)."""
    images, first, place = np.unique(index, return_index=True, return_inverse=True)
    totals = np.zeros((len(images), probabilities.shape[1]))
    np.add.at(totals, place, probabilities)
    return Predictions(totals / np.bincount(place)[:, None], images, labels[first])

"""Groups of similar writing among the images of a class, found by k-means.

Test images may be written by other people than the training images, as KMNIST's are from other
books. A fold that holds whole groups out measures a model on writing that it has not seen.
"""

from __future__ import annotations

import numpy as np

from kmnist_pipeline.data.streams import generator

GROUPS = 8  # the purpose of the random stream; splits.py and the families have others
SIDE = 14  # pixels of the reduced images that are compared, at most
ROUNDS = 50  # of k-means, at most


def groups(pixels: np.ndarray, labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The group (N,) of each image, from 0: `count` of each class, or one for each of its images.

    pixels: (N, H, W) or (N, H, W, C); labels: (N,).
    """
    reduced = _reduced(pixels)
    found = np.zeros(len(labels), dtype=np.int64)
    known = 0
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        rng = generator(seed, GROUPS, int(label))
        found[rows] = known + _k_means(reduced[rows], min(count, len(rows)), rng)
        known += count
    return found


def _reduced(pixels: np.ndarray) -> np.ndarray:
    """The images with means of blocks for pixels, (N, D) float32."""
    reduced = pixels.astype(np.float32)
    for axis in (1, 2):
        size = pixels.shape[axis]
        firsts = np.arange(min(size, SIDE)) * size // min(size, SIDE)
        widths = np.diff(firsts, append=size).astype(np.float32)
        shape = [-1 if number == axis else 1 for number in range(reduced.ndim)]
        reduced = np.add.reduceat(reduced, firsts, axis=axis) / widths.reshape(shape)
    return reduced.reshape(len(pixels), -1)


def _k_means(points: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """The nearest centre (N,) of each point by Lloyd's algorithm.

    Arthur and Vassilvitskii 2007, k-means++, draw the first centres.
    """
    centres = points[rng.integers(len(points), size=1)]
    while len(centres) < count:
        near = _distances(points, centres).min(axis=1).astype(np.float64)
        total = near.sum()
        share = near / total if total else None
        centres = np.append(centres, points[rng.choice(len(points), size=1, p=share)], axis=0)
    nearest = np.full(len(points), -1)
    for _ in range(ROUNDS):
        before, nearest = nearest, _distances(points, centres).argmin(axis=1)
        if np.array_equal(before, nearest):
            break
        for number in np.unique(nearest):
            centres[number] = points[nearest == number].mean(axis=0)
    return nearest


def _distances(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The squared distance of each point from each centre, (N, K), and not below 0."""
    squares = (points**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1)
    return np.maximum(squares - 2 * points @ centres.T, 0)

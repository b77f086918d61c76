"""Seeded choices among the training images: random subsets, folds and a holdout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from kmnist_pipeline.data import writing
from kmnist_pipeline.data.dataset import Images
from kmnist_pipeline.data.streams import generator
from kmnist_pipeline.errors import UserError


class SplitError(UserError, ValueError):
    """A split that needs more images than there are."""


def subset(n: int, size: int | None, seed: int) -> np.ndarray:
    """`size` different rows of 0..n-1 in random order; all rows in order if it is None."""
    if size is None:
        return np.arange(n)
    if size > n:
        raise SplitError(f"a subset of {size} images cannot be drawn from {n}")
    return generator(seed, 0).permutation(n)[:size]


def folds(
    images: Images, drawn: np.ndarray, validation: Mapping[str, Any], seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The (training, validation) rows among `drawn` of each fold; `holdout` and `none` have one.

    drawn: the rows of `images` to divide, (N,). validation: its `method` is `kfold` with `folds`,
    `grouped` with `folds` and `groups`, `holdout` with `fraction`, or `none`, where all rows are
    training rows.
    """
    n = len(drawn)
    if validation["method"] == "kfold":
        return list(kfold(n, validation["folds"], seed))
    if validation["method"] == "grouped":
        labels = images.labels[drawn]
        groups = writing.groups(images.pixels[drawn], labels, validation["groups"], seed)
        return list(grouped(groups, labels, validation["folds"]))
    if validation["method"] == "holdout":
        return [holdout(n, validation["fraction"], seed)]
    return [(np.arange(n), np.arange(0))]


def holdout(n: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The (training, validation) rows of a random split, both sorted."""
    held = round(n * fraction)
    if not 0 < held < n:
        raise SplitError(f"a fraction of {fraction} of {n} images leaves one side empty")
    order = generator(seed, 1).permutation(n)
    return np.sort(order[held:]), np.sort(order[:held])


def kfold(n: int, folds: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The (training, validation) rows of each of `folds` folds of a shuffled k-fold.

    Every row is a validation row once; fold sizes differ by at most one. The rows are sorted, so
    that their order does not affect how training shuffles them.
    """
    if folds > n:
        raise SplitError(f"{folds} folds need at least {folds} images, and there are {n}")
    parts = np.array_split(generator(seed, 1).permutation(n), folds)
    for k, part in enumerate(parts):
        training = np.concatenate(parts[:k] + parts[k + 1 :])
        yield np.sort(training), np.sort(part)


def grouped(
    groups: np.ndarray, labels: np.ndarray, folds: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The (training, validation) rows of each of `folds` folds, which divide no group.

    groups, labels: (N,). The groups of a class go, the largest first, to the fold that has the
    fewest images of the class. All rows are sorted.
    """
    fold_of = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        own, counts = np.unique(groups[labels == label], return_counts=True)
        if len(own) < folds:
            raise SplitError(f"class {label} has {len(own)} groups, too few for {folds} folds")
        sizes = np.zeros(folds, dtype=np.int64)
        for position in np.argsort(-counts, kind="stable"):
            smallest = sizes.argmin()
            fold_of[(groups == own[position]) & (labels == label)] = smallest
            sizes[smallest] += counts[position]
    for fold in range(folds):
        yield np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)

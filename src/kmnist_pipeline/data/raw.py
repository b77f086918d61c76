"""The raw files of a dataset, checked against its description, and the split."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from kmnist_pipeline.data import idx
from kmnist_pipeline.errors import UserError

Parameters = dict[str, Any]
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # images, labels, train, test


class DataError(UserError):
    """Raw files that do not match the description of the dataset in `conf/dataset/`."""


def load(raw: Path, about: Parameters) -> Arrays:
    """All images and labels in file order, and the rows of the training and test images."""
    if content := about.get("imported"):
        return read_imported(raw / Path(content["file"]).name, about)
    images, labels = read(raw, about)
    return images, labels, *split(about, len(images))


def read_imported(file: Path, about: Parameters) -> Arrays:
    """The arrays of an imported file.

    Raises DataError, which names the file, if they are not as the configuration says.
    """
    try:
        with np.load(file) as arrays:
            images, labels, train, test = (arrays[n] for n in ("images", "labels", "train", "test"))
            classes = arrays["classes"].tolist()
    except (BadZipFile, ValueError, KeyError, EOFError) as error:
        raise DataError(f"{file}: is not a file of `kmnist import`: {error}") from error
    n, content = len(images), about["imported"]
    outside = [part for part in (train, test) if part.dtype != np.int64 or part.ndim != 1]
    if images.dtype != np.uint8 or images.shape[1:] != tuple(about["shape"]):
        problem = f"has images {images.dtype} {images.shape[1:]}, but shape is {about['shape']}"
    elif images.max(initial=0) > about["pixel_max"]:
        problem = f"has a pixel {images.max()}, but pixel_max is {about['pixel_max']}"
    elif classes != about["classes"]:
        problem = "has other classes than the configuration"
    elif labels.dtype != np.int64 or labels.shape != (n,):
        problem = f"has labels {labels.dtype} {labels.shape} for {n} images"
    elif labels.min() < 0 or labels.max() >= len(classes):
        problem = f"has labels {labels.min()} to {labels.max()} for {len(classes)} classes"
    elif outside or not np.array_equal(np.sort(np.concatenate([train, test])), np.arange(n)):
        problem = "has train and test rows that are not each image once"
    elif (len(train), len(test)) != (content["train"], content["test"]):
        told = f"{content['train']} and {content['test']}"
        problem = f"has {len(train)} training and {len(test)} test images, but conf/ says {told}"
    else:
        return images, labels, train, test
    raise DataError(f"{file}: {problem}; `kmnist import {file.stem} SOURCE` makes both again")


def read(raw: Path, about: Parameters) -> tuple[np.ndarray, np.ndarray]:
    """All images (N, H, W) and labels (N,) in file order.

    Raises DataError, which names the file, if a file is not an IDX array, or if its count, shape,
    pixels or labels do not match the configuration.
    """
    images, labels = [], []
    for part in about["parts"]:
        file = raw / f"{part['name']}-images-idx3-ubyte"
        images.append(_decode(file, (part["count"], *about["shape"])))
        if (largest := images[-1].max()) > about["pixel_max"]:
            raise DataError(f"{file}: has a pixel {largest}, but pixel_max is {about['pixel_max']}")
        file = raw / f"{part['name']}-labels-idx1-ubyte"
        labels.append(_decode(file, (part["count"],)))
        outside = np.flatnonzero(labels[-1] >= len(about["classes"]))
        if len(outside):
            raise DataError(
                f"{file}: label {labels[-1][outside[0]]} of image {outside[0]} is outside the "
                f"{len(about['classes'])} classes (and {len(outside) - 1} more)"
            )
    return np.concatenate(images), np.concatenate(labels).astype(np.int64)


def _decode(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    try:
        array = idx.decode(path.read_bytes())
    except idx.FormatError as error:
        raise DataError(f"{path}: {error}") from error
    if array.shape != shape:
        raise DataError(f"{path}: has the shape {array.shape}, but the dataset's parts say {shape}")
    return array


def split(about: Parameters, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The train and test rows of `count` images, in the order in which the split returns them."""
    rows, drawn = np.arange(count), about["split"]
    if drawn["method"] == "files":
        first = about["parts"][0]["count"]
        return rows[:first], rows[first:]
    from sklearn.model_selection import train_test_split  # takes 2 s, only needed here

    train, test = train_test_split(rows, train_size=drawn["train_size"], random_state=drawn["seed"])
    return train, test

"""A processed dataset: one npz of images, labels and the train/test split."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from kmnist_pipeline.data import npz


@dataclass(frozen=True)
class Images:
    """Labelled images of one split, with their positions in the original files.

    pixels: (N, H, W) or (N, H, W, 3) uint8; labels: (N,) int64; index: (N,) int64 in original file
    order; classes: the name of each label.
    """

    pixels: np.ndarray
    labels: np.ndarray
    index: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def flat(self) -> np.ndarray:
        """The images as rows, (N, D) uint8."""
        return self.pixels.reshape(len(self.pixels), -1)

    def take(self, rows: np.ndarray) -> Images:
        """The images at `rows`, in that order."""
        return Images(self.pixels[rows], self.labels[rows], self.index[rows], self.classes)

    def of_classes(self, classes: list[int] | None) -> Images:
        """The images of `classes`, relabelled 0, 1, ... in that order; all images if it is None."""
        if classes is None:
            return self
        position = np.full(len(self.classes), -1)
        position[classes] = np.arange(len(classes))
        taken = self.take(np.flatnonzero(position[self.labels] >= 0))
        names = tuple(self.classes[label] for label in classes)
        return replace(taken, labels=position[taken.labels], classes=names)


def save(
    file: BinaryIO,
    images: np.ndarray,
    labels: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    classes: list[str],
    **more: np.ndarray,
) -> None:
    """Write the npz of the dataset; the same content gives the same bytes.

    images: (N, H, W) or (N, H, W, 3) uint8; labels: (N,) integers; train, test: int64 rows; more:
    further arrays.
    """
    npz.write(
        file,
        images=images,
        labels=labels.astype(np.int64),
        train=train,
        test=test,
        classes=np.array(classes),
        **more,
    )


def encode(
    images: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray, classes: list[str]
) -> bytes:
    """The bytes that `save` writes."""
    content = io.BytesIO()
    save(content, images, labels, train, test, classes)
    return content.getvalue()


def load(path: Path, split: str, classes: list[int] | None = None) -> Images:
    """The `train` or `test` images of the dataset at `path`, restricted to `classes`."""
    with np.load(path) as arrays:
        rows = arrays[split]
        names = tuple(str(name) for name in arrays["classes"])
        images = Images(arrays["images"][rows], arrays["labels"][rows], rows, names)
    return images.of_classes(classes)

"""What a source has: images with labels, in one part or in parts for training and test."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.repository.names import printable

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing", "t10k"), "test"),
    # The pipeline draws validation images from the training images itself.
    **dict.fromkeys(("val", "valid", "validation", "dev"), "train"),
}
IMAGES = {"images", "image", "imgs", "img", "x", "data", "pixels"}
LABELS = {"labels", "label", "y", "target", "targets", "class"}
LARGEST = 1 << 33  # bytes of the images of a dataset


class ImportSourceError(UserError):
    """A source that cannot be imported; the message names the file and the reason."""


@dataclass(frozen=True)
class Part:
    """Images of one file or folder.

    split: `train`, `test`, or None if the source does not say; images: uint8 (H, W) or (H, W, 3),
    of any sizes; labels: the name of the class of each image; names: what an image is called in
    messages.
    """

    split: str | None
    images: Sequence[np.ndarray] | np.ndarray
    labels: list[str]
    names: list[str]


@dataclass(frozen=True)
class Source:
    """All parts.

    is_raw: whether the pixels are numbers of a file of arrays; classes: in the order of the source,
    or None if it has no order; labelled: where the labels are, if one may look for them elsewhere.
    """

    kind: str
    is_raw: bool
    parts: list[Part]
    classes: list[str] | None = None
    labelled: str = ""

    @property
    def hint(self) -> str:
        """The end of a message about classes that may be none."""
        return self.labelled and f"; the labels are those of {self.labelled}"


def words(text: str) -> list[str]:
    """The words of the name of a file, folder, column or array, such as `train` and `images`."""
    return [word for word in re.split("[^a-z0-9]+", text.lower()) if word]


def split_word(text: str) -> str | None:
    """The word of a name that says the split, one of `SPLITS`."""
    return next((word for word in words(text) if word in SPLITS), None)


def shown(path: Path) -> str:
    """A path in a message."""
    return printable(str(path))


def reason(error: Exception) -> str:
    """Why a file cannot be read, without its name, which the message has already."""
    return getattr(error, "strerror", None) or str(error)


def named(labels: np.ndarray, names: Sequence[str] | None, where: str) -> list[str]:
    """The class of each label, a number or a text.

    names: of the labels 0, 1, ..., if the source has them.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise ImportSourceError(
            f"{where}: has labels of shape {labels.shape}, not one for each image"
        )
    if labels.dtype.kind == "U":
        return [str(label) for label in labels]
    if labels.dtype.kind not in "ui":
        raise ImportSourceError(
            f"{where}: has labels of type {labels.dtype}, not whole numbers or texts"
        )
    if names is None:
        return [str(label) for label in labels.tolist()]
    outside = np.flatnonzero((labels < 0) | (labels >= len(names)))
    if len(outside):
        first = outside[0]
        raise ImportSourceError(
            f"{where}: label {labels[first]} of image {first} has no name: there are "
            f"{len(names)} names"
        )
    return [names[label] for label in labels.tolist()]


def pixels_of(array: np.ndarray, where: str, size: tuple[int, int] | None) -> np.ndarray:
    """Images of an array, uint8 (N, H, W) or (N, H, W, 3).

    The array has bytes, masks, or fractions from 0 to 1. Rows of pixels become square images, or
    images of `size` if the number of pixels is right.
    """
    if array.ndim == 4 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 2:
        array = array.reshape(len(array), *shape_of_row(array.shape[1], where, size))
    if not (array.ndim == 3 or (array.ndim == 4 and array.shape[-1] == 3)) or not array.size:
        raise ImportSourceError(
            f"{where}: has the shape {array.shape}, not (images, height, width) for grey images "
            "or (images, height, width, 3) for colours"
        )
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array * np.uint8(255)
    low, high = array.min(), array.max()
    if array.dtype.kind == "f" and low >= 0 and high <= 1:
        return np.rint(array * 255).astype(np.uint8)
    if array.dtype.kind in "ui" and low >= 0 and high <= 255:
        return array.astype(np.uint8)
    raise ImportSourceError(
        f"{where}: has pixels of type {array.dtype} from {low} to {high}; they must be bytes "
        "or fractions from 0 to 1"
    )


def shape_of_row(count: int, where: str, size: tuple[int, int] | None) -> tuple[int, ...]:
    """The shape of an image that is a row of `count` pixels: `size`, else square."""
    if not count:
        raise ImportSourceError(
            f"{where}: has labels, but no pixels; commas must separate the cells of a CSV"
        )
    for colours in ((), (3,)):
        pixels = count // 3 if colours else count
        if count % (3 if colours else 1):
            continue
        if size is not None and size[0] * size[1] == pixels:
            return (*size, *colours)
        side = round(pixels**0.5)
        if side * side == pixels:
            return (side, side, *colours)
    raise ImportSourceError(
        f"{where}: {count} pixels do not form a square image; give height and width, "
        "such as `--size 12x10`"
    )


def require_fits(size: int, where: str) -> None:
    """Raise ImportSourceError if images of `size` bytes are more than a dataset may have."""
    if size > LARGEST:
        raise ImportSourceError(
            f"{where}: the images have {size >> 20:,} MiB, more than the {LARGEST >> 20:,} MiB "
            "that are allowed; `--size` makes them smaller"
        )


def one_each(parts: Iterable[Part]) -> list[Part]:
    """The parts. Raises ImportSourceError if some say their split and others do not."""
    found = list(parts)
    if len({part.split is None for part in found}) > 1:
        unknown = next(part for part in found if part.split is None)
        raise ImportSourceError(
            f"{unknown.names[0]}: its name says neither train nor test, as those of others do"
        )
    return found

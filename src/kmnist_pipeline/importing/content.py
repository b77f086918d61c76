"""From a source to the content of a dataset: one size, grey or colour, classes and a split."""

from __future__ import annotations

import csv
import hashlib
import io
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from kmnist_pipeline.data import depth, pictures
from kmnist_pipeline.data.reviews import EXCLUDED
from kmnist_pipeline.importing.source import ImportSourceError, Source, reason, require_fits, shown

SHARE = 0.2  # of test images, if the source has no split
FEW = 3  # examples in a message


@dataclass(frozen=True)
class Options:
    """How a source becomes a dataset; None: as the source has it.

    size: height and width; colour: three channels, or grey; test_share, seed: of a stratified
    split; classes: the shown name of each class of the source, in their order.
    """

    size: tuple[int, int] | None = None
    colour: bool | None = None
    test_share: float | None = None
    seed: int | None = None
    classes: dict[str, str] | None = None

    def over(self, earlier: Options) -> Options:
        """These options, and the earlier ones where these are None."""
        given = {key: value for key, value in asdict(self).items() if value is not None}
        return Options(**{**asdict(earlier), **given})

    def plain(self) -> dict[str, Any]:
        """The options that are not None, for YAML."""
        values = {**asdict(self), "size": None if self.size is None else [*self.size]}
        return {key: value for key, value in values.items() if value is not None}

    @classmethod
    def of_plain(cls, values: dict[str, Any]) -> Options:
        """The inverse of `plain`; unknown keys are left out."""
        known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        if "size" in known:
            known["size"] = tuple(known["size"])
        return cls(**known)


@dataclass(frozen=True)
class Content:
    """A dataset as its file has it.

    images: uint8 (N, H, W) or (N, H, W, 3); labels: int64; train, test: rows; names: what each
    image is called in messages; is_split_here: whether the source had no split.
    """

    images: np.ndarray
    labels: np.ndarray
    train: np.ndarray
    test: np.ndarray
    classes: list[str]
    pixel_max: int
    names: list[str]
    is_split_here: bool

    def digests(self) -> list[bytes]:
        """The hash of the pixels of each image."""
        return digests(self.images)


def digests(images: np.ndarray) -> list[bytes]:
    """The hash of the pixels of each image."""
    return [hashlib.sha256(image.tobytes()).digest() for image in images]


def prepare(source: Source, options: Options) -> Content:
    """The content of the dataset that a source gives.

    Names of classes are compared and written in the form NFC of Unicode: macOS writes another one.
    Raises ImportSourceError if the images have no common size, if two names of classes differ only
    in case, and if a class lacks training or test images.
    """
    names = [name for part in source.parts for name in part.names]
    given = [_nfc(label) for part in source.parts for label in part.labels]
    example = dict(zip(reversed(given), reversed(names), strict=True))
    classes, position = _classes(source, example, options.classes)
    labels = np.array([position[label] for label in given], np.int64)
    images = _images(source, names, options)
    if (train_test := _split_of(source)) is None or options.test_share is not None:
        share, seed = options.test_share or SHARE, options.seed or 0
        train, test = stratified(images, labels, classes, share, seed, source.hint)
        is_split_here = True
    else:
        (train, test), is_split_here = train_test, False
    for part, rows in (("training", train), ("test", test)):
        counts = np.bincount(labels[rows], minlength=len(classes))
        if missing := [name for name, count in zip(classes, counts, strict=True) if not count]:
            raise ImportSourceError(
                f"class {_listed(missing)} has no {part} images; add some, or split all images "
                f"again with `--test-share {SHARE}`"
            )
    return Content(
        images, labels, train, test, classes, _white(source, images), names, is_split_here
    )


def _split_of(source: Source) -> tuple[np.ndarray, np.ndarray] | None:
    """The rows of the split that the source has."""
    splits = np.repeat([str(p.split) for p in source.parts], [len(p.labels) for p in source.parts])
    test = np.flatnonzero(splits == "test")
    if not len(test):
        return None
    return np.flatnonzero(splits == "train"), test


def stratified(
    images: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    share: float,
    seed: int,
    hint: str = "",
) -> tuple[np.ndarray, np.ndarray]:
    """Training and test rows, with the share of test images in each class, at least one.

    Only the pixels and the seed decide, not the order of the images: so the images stay where they
    are when others are added, except for a few of them, and equal images of a class stay together.
    hint: the end of the message about a class that has too few.
    """
    rank = np.array([hashlib.sha256(b"%d" % seed + digest).digest() for digest in digests(images)])
    is_test = np.zeros(len(labels), bool)
    for label, name in enumerate(classes):
        rows = np.flatnonzero(labels == label)
        distinct, of = np.unique(rank[rows], return_inverse=True)
        if len(distinct) < 2:
            raise ImportSourceError(
                f"class {name} has only {len(distinct)} distinct image; it needs at least 2, one "
                f"for training and one for test{hint}"
            )
        wanted = max(1, round(share * len(rows)))
        below = np.cumsum(np.bincount(of))[:-1]  # images of the first 1, 2, ... distinct ones
        last = int(np.abs(below - wanted).argmin())
        is_test[rows[of <= last]] = True
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)


def _classes(
    source: Source, example: dict[str, str], chosen: dict[str, str] | None
) -> tuple[list[str], dict[str, int]]:
    """The names of the classes, and the label of each class of the source.

    example: what the first image of each class is called.
    """
    found = example.keys()
    listed = [_nfc(name) for name in source.classes or sorted(found, key=_natural)]
    if chosen is not None:
        chosen = {_nfc(name): _nfc(shown_name) for name, shown_name in chosen.items()}
        listed = [*chosen]
    if missing := sorted(found - {*listed}, key=_natural):
        if chosen is not None:
            raise ImportSourceError(f"--classes: the class {_listed(missing)} is missing")
        raise ImportSourceError(
            f"{example[missing[0]]}: the class {missing[0]} is not one of those that the "
            f"source names: {_listed(listed)}"
        )
    if empty := [name for name in listed if name not in found]:
        if chosen is not None:
            raise ImportSourceError(
                f"--classes: the source has no images of class {_listed(empty)}; remove its line"
            )
        raise ImportSourceError(
            f"class {_listed(empty)} has no images; `--classes` can leave it out"
        )
    shown_names = [chosen[name] if chosen else name for name in listed]
    seen = dict[str, str]()
    for name, given in zip(shown_names, listed, strict=True):
        where = f"{example[given]}: class {name!r}"
        if not name.strip() or not name.isprintable() or "${" in name or name.startswith("#"):
            raise ImportSourceError(
                f"{where}: the name must be text in one line, without ${{, and not begin with #; "
                "rename it, in the source or by `--classes`"
            )
        if name == EXCLUDED:
            raise ImportSourceError(
                f"{where}: reviews use this name for images that are left out; rename it, in the "
                "source or by `--classes`"
            )
        if (folded := name.strip().casefold()) in seen:
            raise ImportSourceError(
                f"the classes {seen[folded]} and {name} are equal except for case; rename one, in "
                "the source or by `--classes`"
            )
        seen[folded] = name
    if len(listed) < 2:
        raise ImportSourceError(
            f"there is one class, {listed[0]}; a dataset needs two or more{source.hint}"
        )
    return shown_names, {name: label for label, name in enumerate(listed)}


def _natural(name: str) -> tuple[int, int, str]:
    """Numbers in their order, before other names."""
    is_number = name.isdecimal() and len(name) < 20
    return (0, int(name), name) if is_number else (1, 0, name)


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more


def _images(source: Source, names: list[str], options: Options) -> np.ndarray:
    """All images in one array."""
    each = depth.even([image for part in source.parts for image in part.images])
    sizes = Counter(image.shape[:2] for image in each)
    if options.size is None and len(sizes) > 1:
        example = {image.shape[:2]: name for image, name in zip(each, names, strict=True)}
        some = [f"{h}x{w} ({n}, such as {example[h, w]})" for (h, w), n in sizes.most_common(FEW)]
        height, width = sizes.most_common(1)[0][0]
        raise ImportSourceError(
            f"the images have {len(sizes)} sizes, height x width: {', '.join(some)}; scale them "
            f"to one size, for example with `--size {height}x{width}`"
        )
    size = options.size or next(iter(sizes))
    colour = any(image.ndim == 3 for image in each) if options.colour is None else options.colour
    shape = (*size, 3) if colour else size
    require_fits(len(each) * int(np.prod(shape)), "all together")
    images = np.empty((len(each), *shape), np.uint8)
    for row, image in enumerate(tqdm(each, desc="converting", disable=None, leave=False)):
        fitted = pictures.fitted(image if colour else pictures.grey(image), size)
        images[row] = fitted[..., None] if colour and fitted.ndim == 2 else fitted
    return images


def _white(source: Source, images: np.ndarray) -> int:
    """The value of white: 255, unless arrays of bytes have only dark pixels, as digits 0 to 16."""
    brightest = int(images.max())
    return brightest if source.is_raw and 0 < brightest < 128 else pictures.WHITE


def read_classes(file: Path) -> dict[str, str]:
    """The names of a table of classes: a row `class` or `class,shown name` for each, in order."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ImportSourceError(
            f"--classes: {shown(file)}: cannot be read: {reason(error)}"
        ) from error
    found: dict[str, str] = {}
    for row in _rows(text):
        name = row[0].strip()
        if len(row) > 2 or name in found:
            raise ImportSourceError(
                f"--classes: {shown(file)}: {','.join(row)}: must be CLASS or CLASS,NAME, each "
                'class once; a name with a comma needs quotes, as "a, b"'
            )
        found[name] = row[-1].strip()
    return found


def _rows(text: str) -> Iterator[list[str]]:
    return (row for row in csv.reader(io.StringIO(text), skipinitialspace=True) if row)

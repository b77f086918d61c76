"""People's decisions about images: `reviews/<dataset>.csv`, one row for each reviewed image.

A row names an image by the sha256 of its pixels, so that it stays true if the order of the images
changes. The rows are sorted by that digest, and `.gitattributes` lets Git keep the rows of both
sides of a merge. `preprocess` applies them.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from kmnist_pipeline.data import npz
from kmnist_pipeline.errors import UserError

COLUMNS = ("sha256", "origin", "old_label", "new_label", "asked_by")
EXCLUDED = "excluded"  # the new label of an image that shows no character of the dataset
LEFT_OUT = -1  # of a test image that is excluded, among corrected labels
CONFLICT = re.compile(r"<<<<<<< |=======$|>>>>>>> |\|\|\|\|\|\|\| ")
KEY = re.compile(r"[0-9a-f]{64}")
FORMULA = re.compile(r"'*[=+\-@\t\r\n]")  # what a spreadsheet reads so, or that escaped


class ReviewError(UserError, ValueError):
    """A file of decisions that cannot be used; the message names the file and the line."""


@dataclass(frozen=True)
class Review:
    """A person's decision about an image.

    sha256: of the pixels; origin: where the image is from; old, new: names of classes, `old` is
    empty for an image that the dataset does not have, and `new` may be EXCLUDED; asked_by: the
    lineage key of the stage whose predictions put the image into a queue; line: in the file.
    """

    sha256: str
    origin: str
    old: str
    new: str
    asked_by: str
    line: int = field(default=0, compare=False)


@dataclass
class Corrected:
    """Images and split after the decisions: all original images, then the new ones.

    images: (N, H, W); labels: (N,); train, test: rows; test_rows, test_labels: the decisions about
    test images, which change nothing here, with LEFT_OUT for an excluded one; counts: the number
    of decisions by their effect.
    """

    images: np.ndarray
    labels: np.ndarray
    train: np.ndarray
    test: np.ndarray
    test_rows: np.ndarray
    test_labels: np.ndarray
    counts: dict[str, int]

    @property
    def of_test(self) -> dict[str, np.ndarray]:
        """The arrays about test images for the npz of the dataset; none without decisions."""
        if not len(self.test_rows):
            return {}
        return {"reviewed_test": self.test_rows, "reviewed_labels": self.test_labels}


def digest(pixels: np.ndarray) -> str:
    """The sha256 of an image's pixels, uint8, row by row."""
    return hashlib.sha256(np.ascontiguousarray(pixels, np.uint8).data).hexdigest()


def cell(text: str) -> str:
    """A text for a table; an apostrophe keeps a spreadsheet from reading it as a formula."""
    return f"'{text}" if FORMULA.match(text) else text


def _text(cell: str) -> str:
    """The text of which `cell` has made this."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def parse(content: bytes, file: str, classes: Sequence[str]) -> tuple[dict[str, Review], list[str]]:
    """The decisions by sha256; of two about one image the later row wins, and a note says so.

    classes: the names of the dataset's classes. Raises ReviewError, with the line number, for
    anything else than such a table: a merge conflict, an unknown label, a row that is not whole.
    """
    try:
        text = content.decode("utf-8-sig")  # spreadsheets begin with a byte order mark
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ReviewError(f"{file}:{line}: is not UTF-8") from error
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    if conflict := next((n for n, line in enumerate(lines, 1) if CONFLICT.match(line)), None):
        raise ReviewError(
            f"{file}:{conflict}: has a merge conflict: keep the rows of both sides, delete the "
            "three lines of markers, and order does not matter"
        )
    if lines[0] != ",".join(COLUMNS):
        raise ReviewError(f"{file}:1: must be the header {','.join(COLUMNS)}")
    if not text.endswith("\n"):
        raise ReviewError(
            f"{file}:{len(lines)}: the last line does not end, so it may be half-written: "
            "complete it, with a line break, or delete it"
        )
    reader, found, notes = csv.reader(io.StringIO(text), strict=True), dict[str, Review](), []
    next(reader)
    try:
        for row in reader:
            review = _review(row, f"{file}:{reader.line_num}", classes, reader.line_num)
            before = found.get(review.sha256)
            if before is not None:
                # Whoever meets an image of the dataset as a new one does not know its old label.
                review = replace(review, old=review.old or before.old)
            if before is not None and before.new != review.new:
                notes.append(
                    f"{file}:{review.line}: {review.new} replaces {before.new} in line "
                    f"{before.line}, for the same image"
                )
            found[review.sha256] = review
    except csv.Error as error:
        raise ReviewError(f"{file}:{reader.line_num}: {error}") from error
    return found, notes


def _review(row: list[str], where: str, classes: Sequence[str], line: int) -> Review:
    if len(row) != len(COLUMNS):
        raise ReviewError(f"{where}: has {len(row)} cells instead of {len(COLUMNS)}")
    for column, value in zip(COLUMNS, row, strict=True):
        if not value.isprintable():
            raise ReviewError(f"{where}: {column}={value!r}: must be printable text")
    sha256, origin, old, new, asked_by = map(_text, row)
    for column, value, optional in (("sha256", sha256, False), ("asked_by", asked_by, True)):
        if not (KEY.fullmatch(value) or (optional and not value)):
            raise ReviewError(f"{where}: {column}={value}: must be 64 hexadecimal digits")
    for column, value, other in (("old_label", old, ""), ("new_label", new, EXCLUDED)):
        if value not in (*classes, other):
            said = other or "empty for a new image"
            raise ReviewError(
                f"{where}: {column}={value}: must be {said} or one of {', '.join(classes)}"
            )
    return Review(sha256, origin, old, new, asked_by, line)


def encode(reviews: Iterable[Review]) -> bytes:
    """The file of these decisions, one for each image; equal decisions give equal bytes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for review in sorted(reviews, key=lambda review: review.sha256):
        row = (review.sha256, review.origin, review.old, review.new, review.asked_by)
        writer.writerow(map(cell, row))
    return text.getvalue().encode()


def images_of(content: bytes, file: str, shape: Sequence[int]) -> np.ndarray:
    """The new images (N, H, W) in an npz that `images_bytes` has made. Raises ReviewError."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            images = arrays["images"]
    except Exception as error:  # a zip file that is broken raises anything
        raise ReviewError(f"{file}: is no npz of images: {error}") from error
    if images.dtype != np.uint8 or (len(images) and images.shape[1:] != tuple(shape)):
        raise ReviewError(
            f"{file}: has images of {images.dtype} and shape {images.shape[1:]}, not of uint8 and "
            f"{tuple(shape)}"
        )
    return images.reshape(-1, *shape)


def images_bytes(images: Sequence[np.ndarray]) -> bytes:
    """The npz of new images, sorted by digest: equal images give equal bytes."""
    ordered = sorted(images, key=digest)
    return npz.encode(images=np.stack(ordered) if ordered else np.zeros((0, 0, 0), np.uint8))


def apply(
    reviews: dict[str, Review],
    file: str,
    images: np.ndarray,
    labels: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    classes: Sequence[str],
    new: np.ndarray,
) -> Corrected:
    """Correct and exclude training images, and add new ones to them; test images stay as they are.

    images, labels, train, test: of the whole dataset; new: images (M, H, W) from people. A new
    image that the dataset already has is not added: the decision is about that image. Raises
    ReviewError, with file and line, if an image is in neither, or its label is not the old one.
    """
    found = Corrected(images, labels.copy(), train, test, np.zeros(0, int), np.zeros(0, int), {})
    if not reviews:
        return found
    rows_of = defaultdict(list)
    for row, pixels in enumerate(images):
        rows_of[digest(pixels)].append(row)
    place_of_new = {digest(pixels): place for place, pixels in enumerate(new)}
    counts, excluded, of_test = Counter[str](reviewed=len(reviews)), set(), {}
    places, labels_of_new = [], []
    in_test = set(test.tolist())
    number = {name: label for label, name in enumerate(classes)} | {EXCLUDED: LEFT_OUT}
    for review in (reviews[key] for key in sorted(reviews)):
        where, decided = f"{file}:{review.line}", number[review.new]
        rows = rows_of.get(review.sha256, [])
        known = {classes[labels[row]] for row in rows}
        if not rows and review.sha256 not in place_of_new:
            raise ReviewError(
                f"{where}: the image {review.sha256[:12]} ({review.origin}) is neither in the "
                "dataset nor among the new images: delete the row, or restore the image "
                "(`dvc pull`, `dvc checkout`)"
            )
        if review.old not in (known or {""}) and not (rows and not review.old):
            raise ReviewError(
                f"{where}: old_label={review.old}, but the image is "
                f"{' and '.join(sorted(known)) or 'a new one, without a label'}"
            )
        if not rows:
            counts["added" if decided >= 0 else "new_excluded"] += 1
            if decided >= 0:
                places.append(place_of_new[review.sha256])
                labels_of_new.append(decided)
        for row in rows:
            if row in in_test:
                of_test[row] = decided
            elif decided < 0:
                excluded.add(row)
            else:
                counts["corrected" if labels[row] != decided else "confirmed"] += 1
                found.labels[row] = decided
    counts |= Counter(excluded=len(excluded), test=len(of_test))
    added = np.arange(len(images), len(images) + len(places))
    found.images = np.concatenate([images, new[places]])
    found.labels = np.concatenate([found.labels, np.array(labels_of_new, labels.dtype)])
    found.train = np.concatenate([train[~np.isin(train, list(excluded))], added])
    found.test_rows = np.array(sorted(of_test), int)
    found.test_labels = np.array([of_test[row] for row in sorted(of_test)], int)
    names = ("reviewed", "corrected", "confirmed", "excluded", "added", "new_excluded", "test")
    found.counts = {name: counts[name] for name in names}
    return found


def labels_of_test(
    processed: Path, index: np.ndarray, labels: np.ndarray, classes: Sequence[int] | None
) -> np.ndarray | None:
    """The corrected labels (N,) of test images, LEFT_OUT for those without one.

    index: their positions in file order; labels: as published, among `classes` (None: all). None
    if people have decided about no test image.
    """
    with np.load(processed) as arrays:
        if "reviewed_test" not in arrays.files:
            return None
        decided = dict(zip(arrays["reviewed_test"], arrays["reviewed_labels"], strict=True))
    position = {label: n for n, label in enumerate(classes)} if classes is not None else None
    corrected = labels.copy()
    for row, place in enumerate(index.tolist()):
        if place in decided:
            label = int(decided[place])
            corrected[row] = label if position is None else position.get(label, LEFT_OUT)
    return corrected

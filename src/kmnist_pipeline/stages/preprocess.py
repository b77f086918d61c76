"""Check the raw files of a dataset, split it, apply what people have reviewed, and draw figures."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from kmnist_pipeline.data import dataset, placement, raw, reviews
from kmnist_pipeline.data.raw import DataError
from kmnist_pipeline.data.reviews import Corrected
from kmnist_pipeline.evidence import paths
from kmnist_pipeline.evidence.stage import Stage
from kmnist_pipeline.figures import canvas
from kmnist_pipeline.figures import data as data_figures
from kmnist_pipeline.stages.frame import entrypoint

Parameters = dict[str, Any]
LIBRARIES = ("numpy", "scikit-learn", *canvas.LIBRARIES)
MATRIX_INDEX = 9  # mnist_logistic 3.2 prints this image
LARGEST_MATRIX = 32  # pixels on each side
WORDS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def preprocess(stage: Stage, params: Parameters) -> None:
    """Write the npz of images, labels and split, its numbers, and the figures of the data."""
    about = params["datasets"][stage.item]
    read = raw.load(Path(paths.raw(stage.item)), about)
    corrected = reviewed(params["reviews"][stage.item], about, *read)
    images, labels = corrected.images, corrected.labels
    train, test = corrected.train, corrected.test
    names = about["classes"]
    counts = {
        part: np.bincount(labels[rows], minlength=len(names))
        for part, rows in (("train", train), ("test", test))
    }
    if not counts["train"].all():
        label = int(counts["train"].argmin())
        raise DataError(f"datasets.{stage.item}: class {names[label]} has no training image")

    with stage.writing(paths.processed(stage.item)) as file:
        dataset.save(file, images, labels, train, test, names, **corrected.of_test)
    per_class = {
        f"{c} {name}" if name != str(c) else name: {part: n[c] for part, n in counts.items()}
        for c, name in enumerate(names)
    }
    sizes = {"n": len(images), "n_train": len(train), "n_test": len(test)}
    details = {**sizes, "per_class": per_class, "overlap": overlap(images, train, test)}
    if corrected.counts:
        details["reviews"] = corrected.counts
    if images.ndim == 3:  # coloured images show more than a character
        measured = placement.measured(images[train] / np.float32(about["pixel_max"]))
        details["placement"] = measured
    stage.write_details(paths.data_numbers(stage.item), details)
    with stage.directory(paths.data_figures(stage.item)) as folder:
        for name, caption, figure in figures(images, labels, train, counts, about):
            text = stage.png_text(f"{about['title']}: {caption}", {"dataset": stage.item})
            (folder / f"{name}.png").write_bytes(canvas.png_bytes(figure, text))


def reviewed(
    files: dict[str, str],
    about: Parameters,
    images: np.ndarray,
    labels: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
) -> Corrected:
    """The images and their split, after the decisions of people in `reviews/`.

    files: the paths of `decisions` and of new `images`. Raises ReviewError, which names the line,
    and DataError if params.yaml does not name new images that are here.
    """
    names, decisions, new = about["classes"], Path(files["decisions"]), Path(files["images"])
    decided, notes = reviews.parse(decisions.read_bytes(), str(decisions), names)
    for note in notes:
        print(note, file=sys.stderr)
    pictures = reviews.images_of(new.read_bytes(), str(new), about["shape"])
    try:
        return reviews.apply(decided, str(decisions), images, labels, train, test, names, pictures)
    except reviews.ReviewError as error:
        own = Path(paths.reviewed(decisions.stem))
        if new == own or not any(Path(f"{own}{ending}").exists() for ending in ("", ".dvc")):
            raise
        raise DataError(
            f"{decisions} has decisions about new images, but params.yaml does not name {own}: "
            "run `kmnist compose`"
        ) from error


def overlap(images: np.ndarray, train: np.ndarray, test: np.ndarray) -> dict[str, int]:
    """The number of images that are in both splits, pixel for pixel."""
    in_train = {_digest(images[row]) for row in train}
    in_test = [_digest(images[row]) for row in test]
    common = [digest for digest in in_test if digest in in_train]
    return {"test_images_in_train": len(common), "distinct_images": len(set(common))}


def _digest(image: np.ndarray) -> bytes:
    return hashlib.sha256(
        np.ascontiguousarray(image).data
    ).digest()  # images themselves would take their memory again


def figures(
    images: np.ndarray,
    labels: np.ndarray,
    train: np.ndarray,
    counts: dict[str, np.ndarray],
    about: Parameters,
) -> Iterator[tuple[str, str, Figure]]:
    """Name, caption and figure of each picture of the data (kmnist_linear 1-4, kmnist_cnn 1-2,
    mnist_logistic 3.1-3.2), from the training split or, if the publication does so, in file order.
    """
    names, top, of_train = about["classes"], about["pixel_max"], labels[train]
    rng = np.random.default_rng(0)
    n = f"{len(train):,} training images"
    drawn = [train[data_figures.sample_per_class(of_train, k, rng)] for k in (1, 10, 6)]
    # A figure has room for images of this many classes.
    one, ten, six = (rows[: canvas.MOST_TILES // rows.shape[1]] for rows in drawn)
    averages = np.stack([images[train[of_train == c]].mean(axis=0) for c in range(len(one))])
    sizes = data_figures.class_table if len(names) <= canvas.MANY else data_figures.class_counts
    yield (
        "classes",
        "the number of training and test images of each class.",
        sizes(names, counts["train"], counts["test"]),
    )
    yield (
        "samples",
        f"{_of_each(one, names)}, drawn at random from the {n}.",
        data_figures.one_per_class(images[one[:, 0]], names[: len(one)], top),
    )
    yield (
        "ten_samples",
        f"{_of_each(ten, names)}, drawn at random from the {n}.",
        data_figures.ten_per_class(images[ten], names[: len(ten)], top),
    )
    yield (
        "averages",
        f"the mean image of {_each(len(one), names)} over the {n}.",
        data_figures.one_per_class(averages, names[: len(one)], top),
    )
    titles = [canvas.short(name) for name in names[: len(six)] for _ in six[0]]
    yield (
        "grid",
        f"{_of_each(six, names)}, drawn at random from the {n}.",
        canvas.labelled_images(images[six.ravel()], titles, 10, top, font_size=8, gap=14),
    )
    components, ratios = data_figures.pca(images[train], top)
    factor = data_figures.reduction(about["shape"])
    size = "x".join(str(-(-side // factor)) for side in about["shape"][:2])
    yield (
        "pca",
        f"the {n}{f', reduced to {size} pixels,' if factor > 1 else ''} on their first two "
        f"principal components, {data_figures.colouring(len(names))}.",
        data_figures.pca_scatter(components, of_train, names, ratios),
    )
    yield (
        "first",
        "the first five images in file order, with their labels as titles.",
        canvas.labelled_images(
            images[:5],
            [f"Training: {canvas.short(names[c])}" for c in labels[:5]],
            5,
            top,
            font_size=10,
        ),
    )
    is_grey = len(about["shape"]) == 2
    if is_grey and max(about["shape"]) <= LARGEST_MATRIX and len(images) > MATRIX_INDEX:
        yield (
            "matrix",
            f"the grey values of image {MATRIX_INDEX}, counted from 0 in file order.",
            data_figures.grey_matrix(images[MATRIX_INDEX], top),
        )


def _of_each(rows: np.ndarray, names: list[str]) -> str:
    """What a figure shows, in words; rows: (shown classes, images of each)."""
    count = rows.shape[1]
    return f"{WORDS[count]} image{'s' * (count > 1)} of {_each(len(rows), names)}"


def _each(shown: int, names: list[str]) -> str:
    if shown == len(names):
        return "each class"
    return f"each of the first {shown} of {len(names):,} classes"


if __name__ == "__main__":
    entrypoint(preprocess, kind="preprocess", items="datasets", libraries=LIBRARIES)

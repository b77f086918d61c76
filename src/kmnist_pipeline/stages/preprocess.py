"""Check the raw files of a dataset, split it into train and test, and draw its figures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from kmnist_pipeline.data import dataset, idx, placement
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import paths
from kmnist_pipeline.evidence.stage import Stage, entrypoint
from kmnist_pipeline.figures import canvas
from kmnist_pipeline.figures import data as data_figures

Parameters = dict[str, Any]
LIBRARIES = ("numpy", "scikit-learn", "matplotlib", "pillow", "noto-cjk-sans-jp-regular")
MATRIX_INDEX = 9  # mnist_logistic 3.2 prints this image


class DataError(UserError):
    """Raw files that do not match the description of the dataset in `conf/dataset/`."""


def preprocess(stage: Stage, params: Parameters) -> None:
    """Write the npz of images, labels and split, its numbers, and the figures of the data."""
    about = params["datasets"][stage.item]
    images, labels = read(Path(paths.raw(stage.item)), about)
    train, test = split(about, len(images))

    content = dataset.encode(images, labels, train, test, about["classes"])
    stage.write(paths.processed(stage.item), content)

    names = about["classes"]
    counts = {
        part: np.bincount(labels[rows], minlength=len(names))
        for part, rows in (("train", train), ("test", test))
    }
    per_class = {
        f"{c} {name}" if name != str(c) else name: {part: n[c] for part, n in counts.items()}
        for c, name in enumerate(names)
    }
    sizes = {"n": len(images), "n_train": len(train), "n_test": len(test)}
    details = {
        **sizes,
        "per_class": per_class,
        "overlap": overlap(images, train, test),
        "placement": placement.measured(images[train] / np.float32(about["pixel_max"])),
    }
    stage.write_details(paths.data_numbers(stage.item), details)
    with stage.directory(paths.data_figures(stage.item)) as folder:
        for name, caption, figure in figures(images, labels, train, counts, about):
            text = stage.png_text(f"{about['title']}: {caption}", {"dataset": stage.item})
            (folder / f"{name}.png").write_bytes(canvas.png_bytes(figure, text))


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


def overlap(images: np.ndarray, train: np.ndarray, test: np.ndarray) -> dict[str, int]:
    """The number of images that are in both splits, pixel for pixel."""
    in_train = {image.tobytes() for image in images[train]}
    in_test = [image.tobytes() for image in images[test]]
    common = [pixels for pixels in in_test if pixels in in_train]
    return {"test_images_in_train": len(common), "distinct_images": len(set(common))}


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
    names, top = about["classes"], about["pixel_max"]
    pixels, of_train = images[train], labels[train]
    rng = np.random.default_rng(0)
    n = f"{len(train):,} training images"
    one, ten, six = (data_figures.sample_per_class(of_train, k, rng) for k in (1, 10, 6))
    averages = np.stack([pixels[of_train == c].mean(axis=0) for c in range(len(names))])
    yield (
        "classes",
        "the number of training and test images of each class.",
        data_figures.class_table(names, counts["train"], counts["test"]),
    )
    yield (
        "samples",
        f"one image of each class, drawn at random from the {n}.",
        data_figures.one_per_class(pixels[one[:, 0]], names, top),
    )
    yield (
        "ten_samples",
        f"ten images of each class, drawn at random from the {n}.",
        data_figures.ten_per_class(pixels[ten], names, top),
    )
    yield (
        "averages",
        f"the mean image of each class over the {n}.",
        data_figures.one_per_class(averages, names, top),
    )
    yield (
        "grid",
        f"six images of each class, drawn at random from the {n}.",
        canvas.labelled_images(
            pixels[six.ravel()], [c for c in names for _ in range(6)], 10, top, font_size=8, gap=14
        ),
    )
    components, ratios = data_figures.pca(pixels, top)
    yield (
        "pca",
        f"the {n} on their first two principal components, coloured by class.",
        data_figures.pca_scatter(components, of_train, names, ratios),
    )
    yield (
        "first",
        "the first five images in file order, with their labels as titles.",
        canvas.labelled_images(
            images[:5], [f"Training: {names[c]}" for c in labels[:5]], 5, top, font_size=10
        ),
    )
    yield (
        "matrix",
        f"the grey values of image {MATRIX_INDEX}, counted from 0 in file order.",
        data_figures.grey_matrix(images[MATRIX_INDEX], top),
    )


if __name__ == "__main__":
    entrypoint(preprocess, kind="preprocess", items="datasets", libraries=LIBRARIES)

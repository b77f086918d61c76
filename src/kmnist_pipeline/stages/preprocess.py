"""Check the raw files of a dataset, split it into train and test, and draw its figures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from kmnist_pipeline.data import dataset, idx
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import paths
from kmnist_pipeline.evidence.stage import Stage, entrypoint
from kmnist_pipeline.figures import canvas
from kmnist_pipeline.figures import data as data_figures

Parameters = dict[str, Any]
MATRIX_INDEX = 9  # mnist_logistic 3.2 prints this image


class DataError(UserError):
    """Raw files that do not match the description of the dataset in `conf/dataset/`."""


def preprocess(stage: Stage, params: Parameters) -> None:
    """Write the npz of images, labels and split, its counts, and the figures of the data."""
    about = params["datasets"][stage.item]
    images, labels, parts = read(Path(paths.raw(stage.item)), about)
    train, test = split(about["split"], parts)

    content = dataset.encode(images, labels, train, test, about["classes"])
    stage.write(paths.processed(stage.item), content)

    names = tuple(about["classes"])
    counts = {
        name: np.bincount(labels[rows], minlength=len(names))
        for name, rows in (("train", train), ("test", test))
    }
    stage.write_details(
        paths.data_numbers(stage.item),
        {
            "n": len(images),
            "n_train": len(train),
            "n_test": len(test),
            "per_class": {
                f"{c} {name}" if name != str(c) else name: {
                    "train": int(counts["train"][c]),
                    "test": int(counts["test"][c]),
                }
                for c, name in enumerate(names)
            },
            "overlap": overlap(images, train, test),
        },
    )
    with stage.directory(paths.data_figures(stage.item)) as folder:
        for name, caption, figure in figures(images, labels, train, counts, about):
            text = stage.png_text(f"{about['title']}: {caption}", {"dataset": stage.item})
            (folder / f"{name}.png").write_bytes(canvas.png_bytes(figure, text))


def read(raw: Path, about: Parameters) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """All images (N, H, W) and labels (N,) in file order, and the rows of each part.

    Raises DataError, which names the file, if a file is not an IDX array, or if its count, shape,
    pixels or labels do not match the configuration.
    """
    images, labels, parts, start = [], [], [], 0
    for part in about["parts"]:
        name = part["name"]
        pixels = _decode(raw / f"{name}-images-idx3-ubyte", (part["count"], *about["shape"]))
        if pixels.max() > about["pixel_max"]:
            raise DataError(
                f"{raw}/{name}-images-idx3-ubyte: has a pixel {pixels.max()}, but pixel_max is "
                f"{about['pixel_max']}"
            )
        of_part = _decode(raw / f"{name}-labels-idx1-ubyte", (part["count"],))
        outside = np.flatnonzero(of_part >= len(about["classes"]))
        if len(outside):
            raise DataError(
                f"{raw}/{name}-labels-idx1-ubyte: label {of_part[outside[0]]} of image {outside[0]}"
                f" is outside the {len(about['classes'])} classes (and {len(outside) - 1} more)"
            )
        images.append(pixels)
        labels.append(of_part.astype(np.int64))
        parts.append(np.arange(start, start + part["count"]))
        start += part["count"]
    return np.concatenate(images), np.concatenate(labels), parts


def _decode(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    try:
        array = idx.decode(path.read_bytes())
    except idx.FormatError as error:
        raise DataError(f"{path}: {error}") from error
    if array.shape != shape:
        raise DataError(f"{path}: has the shape {array.shape}, but the dataset's parts say {shape}")
    return array


def split(about: Parameters, parts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The train and test rows, in the order in which the split returns them."""
    if about["method"] == "files":
        return parts[0], parts[1]
    from sklearn.model_selection import train_test_split  # takes 2 s, only needed here

    everything = np.concatenate(parts)
    train, test = train_test_split(
        everything, train_size=about["train_size"], random_state=about["seed"]
    )
    return train, test


def overlap(images: np.ndarray, train: np.ndarray, test: np.ndarray) -> dict[str, int]:
    """The number of images that are in both splits, pixel for pixel."""
    rows = images.reshape(len(images), -1)
    as_bytes = np.ascontiguousarray(rows).view(f"V{rows.shape[1]}").ravel()
    in_train = {pixels.tobytes() for pixels in as_bytes[train]}
    in_test = [pixels.tobytes() for pixels in as_bytes[test]]
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
        data_figures.average_per_class(pixels, of_train, names, top),
    )
    yield (
        "grid",
        f"six images of each class, drawn at random from the {n}.",
        data_figures.example_grid(pixels[six.ravel()], of_train[six.ravel()], names, top),
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
        data_figures.first_images(images[:5], labels[:5], names, top),
    )
    yield (
        "matrix",
        f"the grey values of image {MATRIX_INDEX}, counted from 0 in file order.",
        data_figures.grey_matrix(images[MATRIX_INDEX], top),
    )


main = entrypoint(preprocess, kind="preprocess", items="datasets")

if __name__ == "__main__":
    main()

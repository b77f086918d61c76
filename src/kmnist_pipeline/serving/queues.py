"""Queues of images that a person should review: suspects of a dataset, and new images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kmnist_pipeline.data import dataset, npz, reviews
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evaluation import suspects as ranked
from kmnist_pipeline.evidence import numbers, outs, paths
from kmnist_pipeline.repository.names import unknown
from kmnist_pipeline.serving.classifier import Classifier
from kmnist_pipeline.serving.inputs import Picture

MOST = 10_000  # new images that wait at the same time: the least confident ones


@dataclass(frozen=True)
class Item:
    """An image to review.

    pixels: (H, W) uint8; label: its class in the data, None for a new image; probabilities: (C,)
    of the dataset's classes; asked_by: the lineage key of the stage whose predictions these are;
    published: the class before people corrected it, empty if the dataset was published without it.
    """

    sha256: str
    origin: str
    pixels: np.ndarray
    label: int | None
    probabilities: np.ndarray
    asked_by: str
    published: str = ""


Entry = tuple[Item, bool]  # a new image, and whether it was routed to review


@dataclass(frozen=True)
class Queue:
    """Images to review, least confident first, with all that a page shows about their dataset.

    averages: the mean training image of each class, (C, H, W).
    """

    title: str
    dataset: str
    classes: tuple[str, ...]
    pixel_max: int
    averages: np.ndarray
    items: list[Item]


def of_suspects(name: str, params: dict[str, Any], experiment: str | None) -> Queue:
    """The training images whose label the models of the other folds contradict, most first.

    name: of the dataset; experiment: whose out-of-fold predictions decide; None for the one that
    `conf/suspects/` names. Raises UserError if there are no such predictions for these data.
    """
    configured = [each for each in params["suspects"].values() if each["dataset"] == name]
    if experiment is None and not configured:
        raise UserError(
            f"conf/suspects/ names no experiment of {name}: `--model NAME` names one with folds"
        )
    experiment = experiment or configured[0]["experiment"]
    if experiment not in params["experiments"]:
        raise unknown(f"there is no experiment {experiment}", experiment, params["experiments"])
    about = params["experiments"][experiment]
    if about["dataset"] != name:
        raise UserError(f"{experiment} is an experiment of {about['dataset']}, not of {name}")
    images, averages = _training(name, params)
    remedy = f"`dvc repro kfold-train@{experiment}` makes it"
    path = Path(paths.out_of_fold(experiment))
    if not path.exists():
        raise UserError(f"{path} does not exist: {remedy}")
    # One-shot models and models of some classes predict other classes than a label has.
    found = ranked.load(path)
    if found.probabilities.shape[1] != len(images.classes) or not len(found.index):
        raise UserError(f"{experiment}: has no predictions for all classes of {name}")
    place = {row: n for n, row in enumerate(images.index.tolist())}
    rows = [place.get(row, -1) for row in found.index.tolist()]
    if min(rows) < 0 or (images.labels[rows] != found.labels).any():
        raise UserError(f"{path}: has predictions for other data than {name} is now: {remedy}")
    lineage = _lineage(about["report"], experiment)
    published = _published(name, params)
    margins = ranked.margins(found.probabilities, found.labels)
    order = ranked.ranking(found.probabilities, found.labels)
    items = [
        Item(
            reviews.digest(images.pixels[rows[n]]),
            f"image {found.index[n]}",
            images.pixels[rows[n]],
            int(found.labels[n]),
            found.probabilities[n],
            lineage,
            published.get(int(found.index[n]), ""),
        )
        for n in order[: (margins < ranked.CONTRADICTED).sum()].tolist()
    ]
    title = f"training images of {name} whose label {experiment} contradicts"
    return _queue(title, name, params, averages, items)


def of_new(name: str, params: dict[str, Any]) -> Queue:
    """The new images of a dataset, those routed to review first. Raises UserError without any."""
    path = Path(paths.queue(name))
    if not path.exists():
        raise UserError(
            f"no new image of {name} waits: `kmnist predict scans/ --dataset {name} --review` "
            "classifies images and queues them"
        )
    items = [item for item, _ in _read(path)]
    averages = _training(name, params)[1]
    return _queue(f"new images of {name}", name, params, averages, items)


class Collected:
    """New images that `kmnist predict` classifies, to be queued when it has ended."""

    def __init__(self, classifier: Classifier, classes: int) -> None:
        """classes: the number of all classes of the dataset."""
        self._classifier, self._classes = classifier, classes
        self._entries: list[Entry] = []

    def __call__(self, pictures: Sequence[Picture], rows: Sequence[dict[str, Any]]) -> None:
        """Take images with their answers; keep only the MOST least confident ones."""
        pixels = np.stack([picture.prepared.pixels for picture in pictures])
        found = self._classifier.probabilities(pixels)
        labels = self._classifier.labels
        probabilities = np.zeros((len(found), self._classes))
        probabilities[:, labels] = found
        for picture, row, each in zip(pictures, rows, probabilities, strict=True):
            item = Item(
                reviews.digest(picture.prepared.pixels),
                picture.name,
                picture.prepared.pixels,
                None,
                each,
                self._classifier.lineage or "",
            )
            self._entries.append((item, row["decision"] == "review"))
        self._entries = _least_sure_first(self._entries)

    def add(self) -> str:
        """Add the images to the queue of their dataset; returns in words how many wait.

        An image that waits already gets the new prediction.
        """
        name = self._classifier.dataset
        path = Path(paths.queue(name))
        kept = _least_sure_first([*_read(path), *self._entries])
        if kept:
            _write(path, kept)
        left_out = f" (at most {MOST}, the surest are left out)" if len(kept) == MOST else ""
        return f"{len(kept)} new images of {name} wait for review{left_out}"


def _least_sure_first(entries: Sequence[Entry]) -> list[Entry]:
    """Those routed to review first, the least confident first; of an image's entries the last."""
    last = {item.sha256: (item, routed) for item, routed in entries}

    def order(entry: Entry) -> tuple[bool, float, str]:
        item, routed = entry
        return not routed, float(item.probabilities.max()), item.sha256

    return sorted(last.values(), key=order)[:MOST]


def _write(path: Path, kept: Sequence[Entry]) -> None:
    content = npz.encode(
        pixels=np.stack([item.pixels for item, _ in kept]),
        origin=np.array([item.origin for item, _ in kept]),
        probabilities=np.stack([item.probabilities for item, _ in kept]),
        asked_by=np.array([item.asked_by for item, _ in kept]),
        routed=np.array([routed for _, routed in kept]),
    )
    outs.write_bytes(path, content)


def _read(path: Path) -> list[Entry]:
    if not path.exists():
        return []
    try:
        with np.load(path, allow_pickle=False) as arrays:
            stored = {name: arrays[name] for name in arrays.files}
        return [
            (
                Item(
                    reviews.digest(stored["pixels"][n]),
                    str(stored["origin"][n]),
                    stored["pixels"][n],
                    None,
                    stored["probabilities"][n],
                    str(stored["asked_by"][n]),
                ),
                bool(stored["routed"][n]),
            )
            for n in range(len(stored["routed"]))
        ]
    except Exception as error:  # a zip file that is broken raises anything
        raise UserError(f"{path}: is damaged: delete it, and queue the images again") from error


def _training(name: str, params: dict[str, Any]) -> tuple[dataset.Images, np.ndarray]:
    """The training images of a dataset, and the mean image of each class."""
    if name not in params["datasets"]:
        raise unknown(f"there is no dataset {name}", name, params["datasets"])
    processed = Path(paths.processed(name))
    if not processed.exists():
        raise UserError(f"{processed} does not exist: `dvc repro preprocess@{name}` makes it")
    images = dataset.load(processed, "train")
    classes = range(len(images.classes))
    means = [images.pixels[images.labels == label].mean(axis=0) for label in classes]
    return images, np.stack(means)


def _published(name: str, params: dict[str, Any]) -> dict[int, str]:
    """The published class of each image of a dataset, by its position in the original files."""
    from kmnist_pipeline.stages import preprocess  # imports Matplotlib, which takes a second

    about, raw = params["datasets"][name], Path(paths.raw(name))
    if not raw.exists():
        raise UserError(f"{raw} does not exist: `dvc repro download@{name}` makes it")
    labels = preprocess.load(raw, about)[1]
    return {row: about["classes"][label] for row, label in enumerate(labels.tolist())}


def _queue(
    title: str, name: str, params: dict[str, Any], averages: np.ndarray, items: list[Item]
) -> Queue:
    about = params["datasets"][name]
    return Queue(title, name, tuple(about["classes"]), about["pixel_max"], averages, items)


def _lineage(report: str, experiment: str) -> str:
    """The lineage key of the training; empty if it was trained by hand."""
    file = Path(paths.numbers(report, experiment, "validation.json"))
    try:
        return numbers.read(file)["made_by"]["lineage"] or ""
    except (FileNotFoundError, KeyError) as error:
        raise UserError(f"{file}: `dvc repro kfold-train@{experiment}` makes it") from error

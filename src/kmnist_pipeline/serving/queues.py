"""Queues of images that a person should review: suspects of a dataset, and new images."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kmnist_pipeline.data import dataset, npz, reviews
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evaluation import out_of_fold
from kmnist_pipeline.evaluation import suspects as ranked
from kmnist_pipeline.evidence import lineage, numbers, outs, paths
from kmnist_pipeline.repository.names import printable, unknown
from kmnist_pipeline.serving.classifier import Classifier
from kmnist_pipeline.serving.inputs import STDIN, Picture

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


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Keep other threads and processes out of the queue and the decisions of a dataset."""
    lock = Path(paths.queue(name)).with_suffix(".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


Queued = tuple[Item, bool]  # a new image, and whether it was routed to review


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
    suspects = params.get("suspects") or {}
    configured = [each for each in suspects.values() if each["dataset"] == name]
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
    found = out_of_fold.load(path)
    if found.probabilities.shape[1] != len(images.classes) or not len(found.index):
        raise UserError(f"{experiment}: has no predictions for all classes of {name}")
    place = {row: n for n, row in enumerate(images.index.tolist())}
    rows = [place.get(row, -1) for row in found.index.tolist()]
    if min(rows) < 0 or (images.labels[rows] != found.labels).any():
        raise UserError(f"{path}: has predictions for other data than {name} is now: {remedy}")
    asked_by = _lineage(about["report"], experiment)
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
            asked_by,
            published.get(int(found.index[n]), ""),
        )
        for n in order[: (margins < ranked.CONTRADICTED).sum()].tolist()
    ]
    title = f"training images of {name} whose label {experiment} contradicts"
    return _queue(title, name, params, averages, items)


def of_new(name: str, params: dict[str, Any]) -> Queue:
    """The new images of a dataset, those routed to review first.

    Raises UserError if there are none, or if they were predicted for other classes or sizes.
    """
    path = Path(paths.queue(name))
    if not path.exists():
        raise UserError(
            f"no new image of {name} waits: `kmnist predict scans/ --dataset {name} --review` "
            "classifies images and queues them"
        )
    about = params["datasets"][name]
    items = [item for item, _ in _read(path, about)]
    averages = _training(name, params)[1]
    return _queue(f"new images of {name}", name, params, averages, items)


class Collected:
    """New images that `kmnist predict` classifies, to be queued when it has ended."""

    def __init__(
        self, classifier: Classifier, about: dict[str, Any], places: Sequence[str]
    ) -> None:
        """For the images of these places, as `kmnist predict` gets them; about: the dataset.

        Raises UserError if the dataset has other classes or sizes than the model was trained with,
        and ReviewError if the file of the decisions cannot be used.
        """
        self._classifier, self._places, self._project = classifier, places, Path.cwd()
        self._about, form = about, classifier.form
        if was := _other(classifier.classes, form.shape, form.pixel_max, about):
            raise UserError(
                f"--review: {classifier.name} was trained when {classifier.dataset} had {was}: "
                f"`dvc repro evaluate@{classifier.name}` trains it again"
            )
        self._decided = self._decisions()
        self._entries: list[Queued] = []

    def __call__(self, pictures: Sequence[Picture], rows: Sequence[dict[str, Any]]) -> None:
        """Take images with their answers; keep only the MOST least confident undecided ones."""
        pixels = np.stack([picture.prepared.pixels for picture in pictures])
        found = self._classifier.probabilities(pixels)
        probabilities = _placed(found, self._classifier.classes, self._about["classes"])
        for picture, row, each in zip(pictures, rows, probabilities, strict=True):
            item = Item(
                reviews.digest(picture.prepared.pixels),
                _origin(picture.name, self._places, self._project),
                picture.prepared.pixels,
                None,
                each,
                self._classifier.lineage or "",
            )
            self._entries.append((item, row["decision"] == "review"))
        self._entries = _least_confident_first(self._entries, self._decided)

    def add(self) -> str:
        """Add the images to the queue of their dataset; returns in words how many wait.

        An image that is already queued gets the new prediction. Decided images leave the queue. A
        queue that cannot be used is renamed, and standard error says why and to what.
        """
        name = self._classifier.dataset
        path = Path(paths.queue(name))
        with alone(name):
            waiting = self._waiting(path)
            kept = _least_confident_first([*waiting, *self._entries], self._decisions())
            if kept:
                _write(path, kept, self._about)
            else:
                path.unlink(missing_ok=True)
        left_out = f" (at most {MOST}; most confident left out)" if len(kept) == MOST else ""
        return f"{len(kept)} new images of {name} wait for review{left_out}"

    def _waiting(self, path: Path) -> list[Queued]:
        if not path.exists():
            return []
        try:
            return _read(path, self._about)
        except UserError as error:
            digest = lineage.digest_of_bytes(path.read_bytes())
            aside = path.with_stem(f"{path.stem}-{digest[:12]}")
            os.replace(path, aside)
            print(printable(f"{error}; this file is now {aside}"), file=sys.stderr)
            return []

    def _decisions(self) -> Collection[str]:
        """The digests of the images that people have decided about."""
        file = Path(paths.decisions(self._classifier.dataset))
        if not file.exists():
            return ()
        return reviews.parse(file.read_bytes(), str(file), self._about["classes"])[0].keys()


def _placed(found: np.ndarray, names: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Probabilities (N, C) of `classes` from those (N, M) of `names`, which are among them."""
    probabilities = np.zeros((len(found), len(classes)))
    probabilities[:, [classes.index(name) for name in names]] = found
    return probabilities


def _origin(name: str, places: Sequence[str], project: Path) -> str:
    """A picture's name as its path in the project, or else relative to the folder of its place.

    So nothing about this machine is committed, such as the name of a user.
    """
    if STDIN in places and name.partition("[")[0] == "stdin":
        return name

    def absolute(place: str) -> Path:
        return Path(printable(os.path.abspath(place)))

    path, within = absolute(name), Path(printable(str(project)))
    beside = [path.parent, *(absolute(place).parent for place in places)]
    if not path.is_relative_to(within):
        above = [folder for folder in beside if path.is_relative_to(folder)]
        within = min(above, key=lambda folder: len(folder.parts))
    return str(path.relative_to(within))


def _least_confident_first(entries: Sequence[Queued], decided: Collection[str]) -> list[Queued]:
    """Those routed to review first, the least confident first; of an image's entries the last.

    decided: the digests of images that are left out.
    """
    last = {item.sha256: (item, routed) for item, routed in entries if item.sha256 not in decided}

    def order(entry: Queued) -> tuple[bool, float, str]:
        item, routed = entry
        return not routed, float(item.probabilities.max()), item.sha256

    return sorted(last.values(), key=order)[:MOST]


def _write(path: Path, kept: Sequence[Queued], about: dict[str, Any]) -> None:
    content = npz.encode(
        pixels=np.stack([item.pixels for item, _ in kept]),
        origin=np.array([item.origin for item, _ in kept]),
        classes=np.array(about["classes"]),
        pixel_max=np.array(about["pixel_max"]),
        probabilities=np.stack([item.probabilities for item, _ in kept]),
        asked_by=np.array([item.asked_by for item, _ in kept]),
        routed=np.array([routed for _, routed in kept]),
    )
    outs.write_bytes(path, content)


def _read(path: Path, about: dict[str, Any]) -> list[Queued]:
    """The entries of a queue, with probabilities of the classes that the dataset has now.

    about: the dataset. Raises UserError if the file is broken, or if the dataset was another one
    when the images were predicted: see `_other`.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            stored = {name: arrays[name] for name in arrays.files}
        names, pixels = stored["classes"].tolist(), stored["pixels"]
        was = _other(names, pixels.shape[1:], int(stored["pixel_max"]), about)
        probabilities = () if was else _placed(stored["probabilities"], names, about["classes"])
        entries = [
            (
                Item(
                    reviews.digest(pixels[n]),
                    str(stored["origin"][n]),
                    pixels[n],
                    None,
                    each,
                    str(stored["asked_by"][n]),
                ),
                bool(stored["routed"][n]),
            )
            for n, each in enumerate(probabilities)
        ]
    except Exception as error:  # a zip file that is broken raises anything
        raise UserError(f"{path}: is damaged: delete it, and queue the images again") from error
    if was:
        raise UserError(
            f"{path}: its {len(pixels)} images were predicted when {path.stem} had {was}: predict "
            f"them again with `kmnist predict scans/ --dataset {path.stem} --review`"
        )
    return entries


def _other(
    classes: Sequence[str], shape: Sequence[int], pixel_max: int, about: dict[str, Any]
) -> str:
    """What the dataset no longer has, in words; empty if each class is still there."""
    if missing := [name for name in classes if name not in about["classes"]]:
        return f"the class {missing[0]}"
    if (*shape, pixel_max) != (*about["shape"], about["pixel_max"]):
        return f"images of {'x'.join(map(str, shape))} with pixels of 0 to {pixel_max}"
    return ""


def _training(name: str, params: dict[str, Any]) -> tuple[dataset.Images, np.ndarray]:
    """The training images of a dataset, and the mean image of each class."""
    processed = Path(paths.processed(name))
    if not processed.exists():
        raise UserError(
            f"{processed} does not exist: `dvc repro preprocess@{name}` makes it, and "
            f"`dvc checkout {processed}` restores the last one"
        )
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

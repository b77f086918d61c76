"""The trainings of readings: groups of them are tasks of the pool of fits, stored by key like fits.

The key of a group has all that its result depends on.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kmnist_pipeline.data import splits
from kmnist_pipeline.data.dataset import Images
from kmnist_pipeline.families import file
from kmnist_pipeline.families.base import Checkpoint, Data, Progress
from kmnist_pipeline.fits import key, pool
from kmnist_pipeline.fits.store import Store
from kmnist_pipeline.fits.tasks import Task
from kmnist_pipeline.readings import trajectories
from kmnist_pipeline.readings.multiverse import Configuration, Course
from kmnist_pipeline.readings.trajectories import MEASURES, Column, Group

FAMILY = "linear"  # of the models that readings train
Classes = tuple[int, ...] | None


class Work(NamedTuple):
    """A group, with the classes of its images and the number of folds."""

    group: Group
    classes: Classes
    folds: int

    def courses(self) -> Iterator[tuple[int, Course]]:
        """The courses that it trains a fold of, by the position of its columns."""
        group = self.group
        for position, (lr, scaling, loss) in enumerate(group.columns):
            of = Configuration(group.kind, self.classes, lr, group.batch_size)
            either = None if group.batch_size == 1 else loss
            yield position, Course(of, scaling, either, self.folds, group.seed)

    @property
    def cost(self) -> float:
        """Roughly its duration, in any unit."""
        group = self.group
        outputs = group.classes if group.kind == "softmax" else 1
        each = 1e-6 * outputs + 7e-6 / group.batch_size
        return len(group.training) * group.epochs * (2e-6 + each * len(group.columns))


class Shown(NamedTuple):
    """The images of some classes, training before test images, and the number of the former."""

    pixels: np.ndarray
    labels: np.ndarray
    training: int
    classes: int


def shown(train: Images, test: Images) -> Shown:
    """The images as `works` takes them."""
    pixels = np.concatenate([train.flat, test.flat])
    labels = np.concatenate([train.labels, test.labels])
    return Shown(pixels, labels, len(train), len(train.classes))


def works(courses: Mapping[Course, int], images: Mapping[Classes, Shown]) -> list[Work]:
    """The groups that train these courses for so many epochs."""
    together = defaultdict(set)
    for course, epochs in courses.items():
        of = course.configuration
        alike = (of.kind, of.classes, of.batch_size, epochs, course.folds, course.seed)
        together[alike].add(Column(of.lr, course.scaling, course.loss or "mean"))
    found = []
    for (kind, classes, batch, epochs, folds, seed), members in together.items():
        of_classes = images[classes]
        test = np.arange(of_classes.training, len(of_classes.labels))
        cut = splits.kfold(of_classes.training, folds, seed)
        columns = tuple(sorted(members))
        for fold, (training, validation) in enumerate(cut):
            rows = (training, validation, test)
            group = Group(kind, of_classes.classes, columns, batch, epochs, seed, fold, *rows)
            found.append(Work(group, classes, folds))
    return found


@dataclass(frozen=True)
class GroupTask(Task):
    """A group; images: their digest in its key. It keeps no checkpoint and reports no progress."""

    work: Work
    images: str

    @property
    def about(self) -> dict[str, Any]:
        """As `Task.about`."""
        return {"family": FAMILY}

    @property
    def kind(self) -> tuple[str, dict[str, Any]]:
        """As `Task.kind`."""
        return FAMILY, {}

    def surroundings(self) -> dict[str, Any]:
        """As `Task.surroundings`, with the code that follows trainings."""
        return _with_code(super().surroundings())

    def key_in(self, around: dict[str, Any]) -> str:
        """As `Task.key_in`."""
        return key_of(self.work.group, self.images, around)

    def train(self, data: Data, checkpoint: Checkpoint, progress: Progress) -> bytes:
        """As `Task.train`."""
        tensors = trajectories.follow(self.work.group, data.flat, data.labels)
        return file.encode(tensors, {"measures": MEASURES})


class Groups:
    """The groups on the images of some classes, for the pool."""

    def __init__(self, label: str, classes: Classes, images: Shown, wanted: Iterable[Work]) -> None:
        """label: names the groups in the store; wanted: the groups on these and other images."""
        self.label = f"{label} {' vs '.join(map(str, classes))}" if classes else label
        self.data = Data(images.pixels, images.labels, images.classes)
        self.digest = key.digest(self.data)
        digest = key.digest_of_array(images.pixels) + key.digest_of_array(images.labels)
        self._tasks = [
            self._task(label, work, digest) for work in wanted if work.classes == classes
        ]

    def tasks(self) -> Iterator[GroupTask]:
        """All groups."""
        return iter(self._tasks)

    def advance(self, store: Store) -> bool:
        """As `Tasks.advance`: no group depends on another."""
        return False

    def _task(self, label: str, work: Work, digest: str) -> GroupTask:
        group, name = work.group, key_of(work.group, digest)
        about = f"{label} {group.kind} seed {group.seed} fold {group.fold}"
        return GroupTask(name, name, self.digest, about, work.cost, work, digest)


def train(
    label: str,
    courses: Mapping[Course, int],
    images: Mapping[Classes, Shown],
    store: Store,
) -> dict[Course, np.ndarray]:
    """Train what the store lacks; returns each course as (folds, len(MEASURES), epochs).

    label: names the groups in the store; courses: with the number of their epochs.
    """
    wanted = works(courses, images)
    plans = [Groups(label, *pair, wanted) for pair in images.items()]

    def read() -> dict[Course, np.ndarray]:
        by_course: dict[Course, list[np.ndarray]] = defaultdict(list)
        for task in itertools.chain.from_iterable(plan.tasks() for plan in plans):
            tensors, _ = file.decode(store.take(task.key, task.label))
            for position, course in task.work.courses():  # its folds follow one another
                by_course[course].append(np.stack([tensors[m][position] for m in MEASURES]))
        return {course: np.stack(folds) for course, folds in by_course.items()}

    return pool.trained(plans, store, read)


def key_of(group: Group, digest: str, around: dict[str, Any] | None = None) -> str:
    """The key of a group's result.

    digest: of its images and labels; around: its surroundings, by default the current ones.
    """
    about = asdict(group)
    arrays = {name: key.digest_of_array(about.pop(name)) for name in ("training", "validation",
                                                                     "test")}  # fmt: skip
    around = around or _with_code(key.surroundings(FAMILY, {}))
    content = {"images": digest, "arrays": arrays, "group": about, **around}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _with_code(around: dict[str, Any]) -> dict[str, Any]:
    return {**around, "code": {**around["code"], "readings/trajectories.py": _code()}}


@functools.cache
def _code() -> str:
    """The digest of the code that follows trainings, without comments."""
    tree = ast.parse(Path(trajectories.__file__).read_bytes())
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()

"""The trainings of readings: in groups, in parallel, and stored by key like fits.

The key of a group has all that its result depends on. Groups are trained on all cores, or on the
Dask cluster that KMNIST_SCHEDULER names. Each result is stored as soon as it arrives, so a command
that was killed goes on where it ended.
"""

from __future__ import annotations

import ast
import ctypes
import functools
import hashlib
import json
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import loky
import numpy as np
from tqdm import tqdm

from kmnist_pipeline import arithmetic
from kmnist_pipeline.data import splits
from kmnist_pipeline.data.dataset import Images
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.families import file
from kmnist_pipeline.fits import key
from kmnist_pipeline.fits.address import checked
from kmnist_pipeline.fits.store import Store
from kmnist_pipeline.fits.workers import SCHEDULER, say
from kmnist_pipeline.readings import trajectories
from kmnist_pipeline.readings.multiverse import Configuration, Course
from kmnist_pipeline.readings.trajectories import MEASURES, Column, Group

BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
CONNECT = 10.0  # seconds for the scheduler's first answer
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


def train(
    label: str,
    courses: Mapping[Course, int],
    images: Mapping[Classes, Shown],
    store: Store,
) -> dict[Course, np.ndarray]:
    """Train what the store lacks; returns each course as (folds, len(MEASURES), epochs).

    label: names the groups in the store; courses: with the number of their epochs.
    """
    digests = {classes: _digest(of) for classes, of in images.items()}
    wanted = works(courses, images)
    named = {key_of(work.group, digests[work.classes]): work for work in wanted}
    known = {name: content for name in named if (content := store.read(name)) is not None}
    missing = {name: work for name, work in named.items() if name not in known}
    if missing:
        say(f"{label}: {len(known)} groups of trainings known, {len(missing)} to go")
        known |= _compute(label, missing, images, digests, store)
    by_course: dict[Course, list[np.ndarray]] = defaultdict(list)
    for name, work in named.items():  # the folds of a course follow one another
        tensors, _ = file.decode(known[name])
        for position, course in work.courses():
            by_course[course].append(np.stack([tensors[m][position] for m in MEASURES]))
    return {course: np.stack(folds) for course, folds in by_course.items()}


def _compute(
    label: str,
    missing: Mapping[str, Work],
    images: Mapping[Classes, Shown],
    digests: Mapping[Classes, str],
    store: Store,
) -> dict[str, bytes]:
    """Train groups, the most costly first, and store each result; returns them by key."""
    found: dict[str, bytes] = {}
    with (
        tqdm(total=sum(w.cost for w in missing.values()), desc=label, bar_format=BAR, disable=None)
        as bar,
        _workers() as (start, ended),
    ):  # fmt: skip
        running = {}
        for name, work in sorted(missing.items(), key=lambda item: -item[1].cost):
            of = images[work.classes]
            call = (name, digests[work.classes], work.group, of.pixels, of.labels)
            running[start(follow, *call)] = name
        for future in ended(running):
            name = running.pop(future)
            found[name], seconds = future.result()
            group = missing[name].group
            about = {"label": f"{label} {group.kind} seed {group.seed} fold {group.fold}"}
            store.write(name, found[name], {**about, "family": FAMILY, "seconds": seconds})
            bar.update(missing[name].cost)
    return found


def key_of(group: Group, digest: str) -> str:
    """The key of a group's result; digest: of its images and labels."""
    about = asdict(group)
    arrays = {name: key.digest_of_array(about.pop(name)) for name in ("training", "validation",
                                                                     "test")}  # fmt: skip
    around = key.surroundings(FAMILY, {})
    around["code"] |= {"readings/trajectories.py": _code()}
    content = {"images": digest, "arrays": arrays, "group": about, **around}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def follow(
    name: str, digest: str, group: Group, pixels: np.ndarray, labels: np.ndarray
) -> tuple[bytes, float]:
    """Train a group in a worker; returns the encoded result, and the seconds that it took.

    Raises UserError if this process would store it under another key than `name`.
    """
    arithmetic.require()
    if key_of(group, digest) != name:
        raise UserError("a worker has other code, libraries or arithmetic: start it again")
    began = time.monotonic()
    tensors = trajectories.follow(group, pixels, labels)
    return file.encode(tensors, {"measures": MEASURES}), round(time.monotonic() - began, 3)


@functools.cache
def _code() -> str:
    """The digest of the code that follows trainings, without comments."""
    tree = ast.parse(Path(trajectories.__file__).read_bytes())
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()


def _digest(images: Shown) -> str:
    return key.digest_of_array(images.pixels) + key.digest_of_array(images.labels)


@contextmanager
def _workers() -> Iterator[tuple[Callable[..., Any], Callable[..., Any]]]:
    """What starts a call in a worker, a process here or of a Dask cluster, and returns its future;
    and what yields futures as they end."""
    if address := os.environ.get(SCHEDULER):
        import distributed

        try:
            client = distributed.Client(checked(address), timeout=CONNECT)
        except OSError as error:
            raise UserError(f"{SCHEDULER}={address}: no scheduler answers there") from error
        sent: dict[int, Any] = {}  # images on the cluster

        def start(*call: Any) -> Any:
            for array in call:
                if isinstance(array, np.ndarray) and id(array) not in sent:
                    sent[id(array)] = client.scatter(array)
            return client.submit(*(sent.get(id(part), part) for part in call), pure=False)

        with client:
            yield start, distributed.as_completed
        return
    executor = loky.ProcessPoolExecutor(loky.cpu_count(), initializer=_begin)
    try:
        yield executor.submit, as_completed
    finally:
        executor.shutdown(wait=True, kill_workers=True)


def _begin() -> None:
    """Make this process a worker that ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the parent ends its workers
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # prctl(2)
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)

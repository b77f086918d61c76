"""One pool for all fits: workers train the fits that the store lacks, the most costly first.

Workers are processes on this machine (`local`) or on the Dask cluster that KMNIST_SCHEDULER names
(`remote`). They only compute. Only this process writes results to the store, as soon as they
arrive, so that a failure never costs a finished fit.
"""

from __future__ import annotations

import heapq
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from tqdm import tqdm

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.families.base import Data, TrainingError
from kmnist_pipeline.fits import work
from kmnist_pipeline.fits.plan import LostError, Plan, Task
from kmnist_pipeline.fits.store import Store

SCHEDULER = "KMNIST_SCHEDULER"
DEATHS = 3  # so many workers lost with the same fit are an error
POLL = 0.2  # seconds between two polls of the workers
BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"


class RefusingWorkerError(RuntimeError):
    """A worker's code, libraries or arithmetic differ; another worker may train the fit."""


class WorkerLostError(RuntimeError):
    """A worker was lost with its fit; the message says how."""


@dataclass(frozen=True)
class Outcome:
    """How a fit ended: with its result, or with an error.

    After WorkerLostError and RefusingWorkerError it is tried again; other errors are the fit's own.
    """

    task: Task
    result: bytes = b""
    seconds: float = 0
    error: Exception | None = None


class Watch:
    """Measures time, but not the time in which this process was stopped or busy."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def step(self) -> float:
        """The seconds since the last step, at most a few polls."""
        passed, self._last = time.monotonic() - self._last, time.monotonic()
        return min(passed, 5 * POLL)


class Workers(Protocol):
    """Processes that train fits."""

    def free(self) -> bool:
        """Whether a worker is idle."""

    def start(self, task: Task, data: Data) -> None:
        """Give a fit to a free worker."""

    def wait(self) -> list[Outcome]:
        """The outcomes since the last call; waits for a moment if there are none."""

    def progress(self) -> Iterator[tuple[Task, float]]:
        """The running fits, each with its finished share from 0 to 1."""

    def close(self) -> None:
        """End the workers at once."""


def train(plans: Sequence[Plan], store: Store, stop_after: int | None = None) -> None:
    """Train the fits of the plans, in all waves, that the store lacks.

    stop_after: the last epoch to train, None for all.
    Raises the error of a fit, with the fit's label; finished fits are kept, the others are
    abandoned.
    """
    queue = _Queue(plans, store)
    if not queue.waiting:
        return
    say(f"fits: {len(queue.done)} known, {len(queue.waiting)} to train")
    bar = tqdm(total=queue.cost, bar_format=BAR, smoothing=0, disable=None)
    with _orderly_end(), bar, closing(_workers(queue, store, stop_after)) as workers:
        deaths: Counter[str] = Counter()
        while queue.is_open():
            while queue.waiting and workers.free():
                task = queue.next()
                workers.start(task, queue.data[task.data])
            # Errors come last, so that the results that arrived with them are kept.
            for outcome in sorted(workers.wait(), key=lambda outcome: outcome.error is not None):
                task = outcome.task
                if isinstance(outcome.error, WorkerLostError):
                    deaths[task.key] += 1
                    _check_deaths(deaths[task.key], outcome)
                    queue.again(task)
                elif isinstance(outcome.error, RefusingWorkerError):
                    queue.again(task)
                elif outcome.error is not None:
                    error = _named(outcome.error, task)
                    raise error from (None if error is outcome.error else outcome.error)
                else:
                    store.write(task.key, outcome.result, _about(outcome))
                    for plan in queue.finish(task):
                        say(f"{plan.label}: trained")
            _show(bar, queue, workers)


class _Queue:
    """The fits of the plans that must be trained."""

    def __init__(self, plans: Sequence[Plan], store: Store) -> None:
        self.data = {plan.digest: plan.data for plan in plans}
        self.waiting: list[tuple[float, str, Task]] = []  # a heap, the most costly fit first
        self.done: set[str] = set()
        self.cost = 0.0  # of all fits that were ever missing
        self.trained, self.cost_trained = 0, 0.0
        self._store, self._plans = store, list(plans)
        self._queued: set[str] = set()  # waiting or running
        self._missing: dict[int, set[str]] = {}  # by unfinished plan, in its last wave
        self._lost: set[int] = set()
        for number in range(len(self._plans)):
            self._enter(number)

    def is_open(self) -> bool:
        """Whether a fit is waiting or running."""
        return bool(self._queued)

    def count(self) -> int:
        """The number of fits that were ever missing."""
        return self.trained + len(self._queued)

    def next(self) -> Task:
        """Take the most costly waiting fit."""
        return heapq.heappop(self.waiting)[2]

    def again(self, task: Task) -> None:
        """Return a fit to the waiting ones."""
        heapq.heappush(self.waiting, (-task.cost, task.key, task))

    def finish(self, task: Task) -> list[Plan]:
        """Mark a fit as done and continue the plans that waited for it; returns the ended plans."""
        self._queued.remove(task.key)
        self.done.add(task.key)
        self.trained += 1
        self.cost_trained += task.cost
        ended = []
        for number, missing in list(self._missing.items()):
            missing.discard(task.key)
            if not missing:
                del self._missing[number]
                if self._advance(number):
                    self._enter(number)
                if number not in self._missing:
                    ended.append(self._plans[number])
        return ended

    def _enter(self, number: int) -> None:
        """Queue the missing fits of a plan's last wave, or of the next wave if none is missing."""
        while True:
            missing = [t for t in self._plans[number].tasks() if not self._has(t.key)]
            for task in missing:
                if task.key not in self._queued:
                    self._queued.add(task.key)
                    self.cost += task.cost
                    self.again(task)
            if missing:
                self._missing[number] = {task.key for task in missing}
                return
            if not self._advance(number):
                return

    def _has(self, name: str) -> bool:
        """Whether a fit is done; asks the store only once for each fit."""
        if name not in self.done and name not in self._queued and name in self._store:
            self.done.add(name)
        return name in self.done

    def _advance(self, number: int) -> bool:
        """Whether a plan has a wave to queue: a new one, or one that lost a fit."""
        plan = self._plans[number]
        try:
            return plan.advance(self._store)
        except LostError:
            # A file was damaged after it was read. A second time would not be an accident.
            if number in self._lost:
                raise
            self._lost.add(number)
            self.done -= {task.key for task in plan.tasks()}
            return True


@contextmanager
def _orderly_end() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise SystemExit, so that the process cleans up when it ends."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    ours = []
    if threading.current_thread() is threading.main_thread():
        deadly = (signal.SIGTERM, signal.SIGHUP)
        ours = [number for number in deadly if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _workers(queue: _Queue, store: Store, stop_after: int | None) -> Workers:
    address = os.environ.get(SCHEDULER)
    if address:
        from kmnist_pipeline.fits.remote import RemoteWorkers

        return RemoteWorkers(address, [task for *_, task in queue.waiting], stop_after)
    from kmnist_pipeline.fits.local import LocalWorkers

    return LocalWorkers(store, len(queue.waiting), stop_after)


def _about(outcome: Outcome) -> dict[str, Any]:
    """The description of a finished fit for the store."""
    fit = outcome.task.fit
    return {
        "label": outcome.task.label,
        "family": fit.family,
        "settings": fit.settings,
        "seed": fit.seed,
        "fold": fit.fold,
        "seconds": outcome.seconds,
    }


def _check_deaths(number: int, outcome: Outcome) -> None:
    """Report that a worker was lost. Raises UserError if the fit is the likely cause."""
    label = outcome.task.label
    if number < DEATHS:
        say(f"{label}: {outcome.error}; another worker trains it")
        return
    raise UserError(
        f"{label}: {outcome.error}, for the {number}rd time. There is probably too little "
        "memory for so many workers; finished fits are kept"
    )


def _named(error: Exception, task: Task) -> Exception:
    """The error of a fit, with the fit's label."""
    if isinstance(error, work.RefusedError):
        return UserError(
            f"{task.label}: a worker refuses it, because its result would differ: "
            f"{work.reasons(task.fit, error)}. Run the command again; finished fits are kept"
        )
    if isinstance(error, UserError):
        kind = TrainingError if isinstance(error, TrainingError) else UserError
        return kind(f"{task.label}: {error}")
    error.add_note(f"This happened in the fit {task.label}.")
    return error


def _show(bar: tqdm, queue: _Queue, workers: Workers) -> None:
    """Update the progress bar."""
    partly = sum(task.cost * fraction for task, fraction in workers.progress())
    bar.total = queue.cost
    bar.set_description_str(f"{queue.trained} of {queue.count()} fits", refresh=False)
    bar.update(queue.cost_trained + partly - bar.n)


def say(text: str) -> None:
    """Print a message above the progress bar."""
    tqdm.write(text, file=sys.stderr)

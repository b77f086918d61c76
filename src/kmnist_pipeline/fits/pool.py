"""One pool for all fits: workers train the fits that the store lacks, the most costly first.

A fit is here any task, such as a group of trainings for readings: see `tasks`.

Workers are processes on this machine (`local`) or on the Dask cluster that KMNIST_SCHEDULER names
(`remote`). They only compute. Only this process writes results to the store, as soon as they
arrive, so that a failure never costs a finished fit.
"""

from __future__ import annotations

import heapq
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import NoReturn, TypeVar

from tqdm import tqdm

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.fits import work
from kmnist_pipeline.fits.store import LostError, Store
from kmnist_pipeline.fits.tasks import Task, Tasks
from kmnist_pipeline.fits.workers import SCHEDULER, WorkerLostError, Workers, say

DEATHS = 3  # a fit ends with an error after it has lost this many workers
ATTEMPTS = 3  # if files vanish from the store between writing and reading
BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"


T = TypeVar("T")


def trained(plans: Sequence[Tasks], store: Store, read: Callable[[], T]) -> T:
    """Train as `train` does; returns what `read` then makes of the results in the store.

    Trains again if `read` raises LostError.
    """
    for _ in range(1, ATTEMPTS):
        train(plans, store)
        with suppress(LostError):
            return read()
    train(plans, store)
    return read()


def train(plans: Sequence[Tasks], store: Store) -> None:
    """Train the fits of the plans, in all waves, that the store lacks.

    Raises the error of a fit, with the fit's label; finished fits are kept, the others are
    abandoned.
    """
    queue = _Queue(plans, store)
    if not queue.waiting:
        return
    say(f"fits: {len(queue.done)} stored, {len(queue.waiting)} to train")
    bar = tqdm(total=1, bar_format=BAR, smoothing=0, disable=None)
    with _orderly_end(), bar, closing(_workers(queue, store)) as workers:
        deaths: Counter[str] = Counter()
        while queue.missing.keys() - queue.done:
            while queue.waiting and workers.free():
                *_, task = heapq.heappop(queue.waiting)
                workers.start(task, queue.data[task.data])
            # Errors come last, so that the results that arrived with them are kept.
            for outcome in sorted(workers.wait(), key=lambda outcome: outcome.error is not None):
                task, error = outcome.task, outcome.error
                if outcome.result:
                    about = {**task.about, "label": task.label, "seconds": outcome.seconds}
                    store.write(task.key, outcome.result, about)
                    for plan in queue.finish(task):
                        say(f"{plan.label}: trained")
                    continue
                if isinstance(error, WorkerLostError):
                    deaths[task.key] += 1
                    _check_deaths(deaths[task.key], task, error)
                elif error is not None:
                    _fail(task, error)
                queue.again(task)
            _show(bar, queue, workers)


class _Queue:
    """The fits of the plans that must be trained."""

    def __init__(self, plans: Sequence[Tasks], store: Store) -> None:
        self.data = {plan.digest: plan.data for plan in plans}
        self.missing: dict[str, Task] = {}  # all that the store lacked at first, by key
        self.waiting: list[tuple[float, str, Task]] = []  # a heap, the most costly fit first
        self.done: set[str] = set()
        self._store = store
        self._waits: dict[Tasks, set[str]] = {}  # for these fits, by unfinished plan
        self._lost: set[Tasks] = set()
        for plan in plans:
            self._enter(plan)

    def again(self, task: Task) -> None:
        """Return a fit to the waiting ones."""
        heapq.heappush(self.waiting, (-task.cost, task.key, task))

    def finish(self, task: Task) -> list[Tasks]:
        """Mark a fit as done and continue the plans that waited for it; returns the ended plans."""
        self.done.add(task.key)
        for missing in self._waits.values():
            missing.discard(task.key)
        waited = [plan for plan, missing in self._waits.items() if not missing]
        return [plan for plan in waited if not self._enter(plan)]

    def _enter(self, plan: Tasks) -> bool:
        """Queue what a plan's last wave lacks, or the next wave; returns whether there is any."""
        while not (missing := [task for task in plan.tasks() if not self._has(task.key)]):
            if not self._advance(plan):
                self._waits.pop(plan, None)
                return False
        for task in missing:
            if task.key not in self.missing:
                self.missing[task.key] = task
                self.again(task)
        self._waits[plan] = {task.key for task in missing}
        return True

    def _has(self, name: str) -> bool:
        """Whether a fit is done; asks the store only once for each fit."""
        if name not in self.done and name not in self.missing and name in self._store:
            self.done.add(name)
        return name in self.done

    def _advance(self, plan: Tasks) -> bool:
        """Whether a plan has a wave to queue: a new one, or one that lost a fit."""
        try:
            return plan.advance(self._store)
        except LostError:
            # A file was damaged after it was read. A second time would not be an accident.
            if plan in self._lost:
                raise
            self._lost.add(plan)
            for task in plan.tasks():
                self.done.discard(task.key)
                self.missing.pop(task.key, None)
            return True


@contextmanager
def _orderly_end() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise SystemExit, so that the process cleans up when it ends."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    deadly = (signal.SIGTERM, signal.SIGHUP)
    ours = [number for number in deadly if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _workers(queue: _Queue, store: Store) -> Workers:
    if address := os.environ.get(SCHEDULER):
        from kmnist_pipeline.fits.remote import RemoteWorkers

        return RemoteWorkers(address, [task for *_, task in queue.waiting])
    from kmnist_pipeline.fits.local import LocalWorkers

    return LocalWorkers(store, len(queue.waiting))


def _check_deaths(number: int, task: Task, error: WorkerLostError) -> None:
    """Report that a worker was lost. Raises UserError if the fit is the likely cause."""
    if number >= DEATHS:
        raise UserError(
            f"{task.label}: {error}, for the {number}rd time. There is probably too little "
            "memory for so many workers; finished fits are kept"
        )
    say(f"{task.label}: {error}; another worker trains it")


def _fail(task: Task, error: Exception) -> NoReturn:
    """Raise the error of a fit, with the fit's label."""
    if isinstance(error, work.RefusedError):
        raise UserError(
            f"{task.label}: a worker refuses it, because its result would differ: "
            f"{work.reasons(task, error)}. Run the command again; finished fits are kept"
        ) from error
    if isinstance(error, UserError):
        raise UserError(f"{task.label}: {error}") from error
    error.add_note(f"This happened in the fit {task.label}.")
    raise error


def _show(bar: tqdm, queue: _Queue, workers: Workers) -> None:
    trained = [task.cost for key, task in queue.missing.items() if key in queue.done]
    partly = sum(task.cost * fraction for task, fraction in workers.progress())
    bar.total = sum(task.cost for task in queue.missing.values())
    bar.set_description_str(f"{len(trained)} of {len(queue.missing)} fits", refresh=False)
    bar.update(sum(trained) + partly - bar.n)

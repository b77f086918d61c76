"""Workers on this machine: processes of loky, each of which trains one fit at a time.

Each worker has its own loky executor: when it dies, the others go on, and we know its fit. Files in
a temporary folder carry fits and results, because a process that is killed while it writes to a
pipe would leave the reader waiting forever.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path

import loky
import numpy as np
from loky.process_executor import BrokenProcessPool, ShutdownExecutorError

from kmnist_pipeline import arithmetic
from kmnist_pipeline.families.base import Data
from kmnist_pipeline.fits import local_worker, work
from kmnist_pipeline.fits.store import Store
from kmnist_pipeline.fits.tasks import Task
from kmnist_pipeline.fits.workers import POLL, Outcome, Watch, WorkerLostError

SILENCE = 60.0  # seconds without a heartbeat after which a worker is killed
START = 60.0  # the same, before the first heartbeat
PREFIX = "kmnist-fits-"  # of the temporary folders


@dataclass
class _Worker:
    """A worker and its current fit.

    number: its row of the board; beat: its last heartbeat; silent: the seconds since then.
    """

    number: int
    executor: loky.ProcessPoolExecutor
    task: Task | None = None
    future: Future | None = None
    beat: float = 0.0
    silent: float = 0.0


class LocalWorkers:
    """Workers on the cores of this machine, started when they are needed."""

    def __init__(self, store: Store, fits: int) -> None:
        """fits: the number of fits to train that is known now."""
        self._store = store.folder.resolve()
        self._most, self._environment = _share(loky.cpu_count(), fits)
        self._workers: list[_Worker] = []
        self._watch = Watch()
        self._folder, self._lock = _folder()
        # Heartbeat and progress, one row for each worker: memory without locks, because a
        # killed worker would not release a lock.
        shape = (self._most, 2)
        self._board = np.lib.format.open_memmap(self._folder / "board.npy", "w+", float, shape)
        # loky gives this warning when it replaces a worker whose memory has grown.
        warnings.filterwarnings("ignore", "A worker was restarted", UserWarning)

    def free(self) -> bool:
        """Whether a worker is idle, or another can be started."""
        return len(self._workers) < self._most or any(w.task is None for w in self._workers)

    def start(self, task: Task, data: Data) -> None:
        """Give a fit to a free worker."""
        if not (pixels := self._folder / f"{task.data}.pixels.npy").exists():
            np.save(pixels, data.pixels)
            np.save(self._folder / f"{task.data}.labels.npy", data.labels)
        (self._folder / task.key).write_bytes(work.encode(task))
        if not (worker := next((w for w in self._workers if w.task is None), None)):
            number = len(self._workers)
            worker = _Worker(number, self._executor(number))
            self._workers.append(worker)
        self._board[worker.number] = worker.beat = worker.silent = 0
        worker.task = task
        call = (local_worker.train, task.key, data.classes)
        try:
            worker.future = worker.executor.submit(*call)
        except (BrokenProcessPool, ShutdownExecutorError):  # it died while it was idle
            worker.executor.shutdown(wait=True, kill_workers=True)
            worker.executor = self._executor(worker.number)
            worker.future = worker.executor.submit(*call)

    def wait(self) -> list[Outcome]:
        """The fits that ended; kills workers without a heartbeat."""
        busy = {w.future: w for w in self._workers if w.future is not None}
        ended = wait(busy, POLL, FIRST_COMPLETED).done
        self._kill_silent(busy[future] for future in busy.keys() - ended)
        return [self._outcome(busy[future]) for future in ended]

    def progress(self) -> Iterator[tuple[Task, float]]:
        """The running fits, each with its finished share."""
        for worker in self._workers:
            if worker.task is not None:
                yield worker.task, float(self._board[worker.number, 1])

    def close(self) -> None:
        """Kill the workers and remove the folder."""
        for worker in self._workers:
            worker.executor.shutdown(wait=False, kill_workers=True)
        for worker in self._workers:
            worker.executor.shutdown(wait=True, kill_workers=True)
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._lock)

    def _executor(self, number: int) -> loky.ProcessPoolExecutor:
        # A worker ends with the thread that starts it, so this thread must start it.
        home = (os.getpid(), self._folder, self._store, number)
        return loky.ProcessPoolExecutor(
            max_workers=1, initializer=local_worker.begin, initargs=home, env=self._environment
        )

    def _kill_silent(self, workers: Iterable[_Worker]) -> None:
        """Kill workers that have given no heartbeat for too long."""
        step = self._watch.step()
        for worker in workers:
            beat = float(self._board[worker.number, 0])
            worker.silent = 0 if beat != worker.beat else worker.silent + step
            worker.beat = beat
            if worker.silent > (SILENCE if beat else START):
                worker.executor.shutdown(wait=False, kill_workers=True)

    def _outcome(self, worker: _Worker) -> Outcome:
        """The outcome of a worker's fit; the worker is idle again."""
        task, future = worker.task, worker.future
        assert task is not None and future is not None
        worker.task = worker.future = None
        result = self._folder / f"{task.key}.result"
        try:
            error = future.exception()
            if isinstance(error, BrokenProcessPool | ShutdownExecutorError):
                worker.executor.shutdown(wait=True, kill_workers=True)
                worker.executor = self._executor(worker.number)
                return Outcome(task, error=WorkerLostError(_loss(error)))
            if isinstance(error, Exception):
                return Outcome(task, error=error)
            return Outcome(task, result.read_bytes(), future.result())
        finally:
            (self._folder / task.key).unlink(missing_ok=True)
            result.unlink(missing_ok=True)


def _share(cores: int, fits: int) -> tuple[int, dict[str, str] | None]:
    """The number of workers, and the environment variables that set the threads of each."""
    if arithmetic.name() != arithmetic.NATIVE:
        return cores, None
    import torch

    workers = 1 if torch.cuda.is_available() else min(cores, fits)
    return workers, dict.fromkeys(arithmetic.THREADS, str(cores // workers))


def _loss(error: BaseException) -> str:
    if isinstance(error, ShutdownExecutorError):
        return f"its worker gave no heartbeat for {SILENCE:g} s and was killed"
    how = re.search(r"SIG[A-Z]+", str(error))
    return f"its worker died{f' by {how.group()}' if how else ''}"


def _folder() -> tuple[Path, int]:
    """A new temporary folder, and its lock, which ends with this process.

    Removes the folders of killed processes, which are no longer locked.
    """
    base = Path(tempfile.gettempdir())
    for other in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # locked, or another user's
            lock = os.open(other, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(other)
            finally:
                os.close(lock)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        with contextlib.suppress(FileNotFoundError):  # another process removed the unlocked folder
            lock = os.open(folder, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return folder, lock
            os.close(lock)

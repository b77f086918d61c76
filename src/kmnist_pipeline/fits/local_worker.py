"""The code of a worker process of `local`; it imports little, so that it starts quickly."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np

from kmnist_pipeline.evidence import reads
from kmnist_pipeline.families.base import Data, TrainingError
from kmnist_pipeline.fits import work
from kmnist_pipeline.fits.store import Store

BEAT = 0.5  # seconds between two heartbeats


class _Home:
    """The files of this worker, set when it starts."""

    folder: Path
    store: Store
    row: np.ndarray  # of the board: heartbeat, and the finished share of the fit


_data: dict[str, Data] = {}  # by digest


def begin(parent: int, folder: Path, store: Path, number: int) -> None:
    """Make this process a worker that gives a heartbeat and ends with its parent."""
    reads.watch()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the parent kills its workers
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # prctl(2)
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # it died before that
        os._exit(1)
    _Home.folder, _Home.store = folder, Store(store)
    _Home.row = np.lib.format.open_memmap(folder / "board.npy", "r+")[number]
    threading.Thread(target=_beat, args=(parent,), daemon=True).start()


def train(name: str, classes: int) -> float:
    """Train the task in the file `name` on data of so many classes; returns the seconds."""
    folder = _Home.folder
    task = work.decode((folder / name).read_bytes())
    digest = task.data
    if digest not in _data:
        # Mapped, so that workers share the memory; "c", because torch needs writable arrays.
        files = (folder / f"{digest}.{part}.npy" for part in ("pixels", "labels"))
        pixels, labels = (np.asarray(np.load(file, "c")) for file in files)
        _data[digest] = work.verified(Data(pixels, labels, classes), digest)
    kept = _Home.store.checkpoint(task.whole)
    result, seconds = work.train(task, _data[digest], kept, _progress)
    if found := reads.undeclared(["src"]):  # the key has the code
        raise TrainingError(f"the fit reads {', '.join(found)}, which its key does not contain")
    (folder / f"{name}.result").write_bytes(result)
    return seconds


def _progress(fraction: float) -> None:
    _Home.row[1] = fraction


def _beat(parent: int) -> None:
    while os.getppid() == parent:
        _Home.row[0] += 1
        time.sleep(BEAT)
    os._exit(1)  # on systems without prctl

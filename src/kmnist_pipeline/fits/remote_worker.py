"""The code that a Dask worker runs for `remote`."""

from __future__ import annotations

import time
import weakref
from typing import Any

from distributed import get_worker

from kmnist_pipeline import arithmetic
from kmnist_pipeline.families.base import Data, Progress
from kmnist_pipeline.fits import store, tasks, work

REPORT = 1.0  # seconds between two reports of progress

_verified: dict[str, weakref.ref[Data]] = {}


class AbandonedError(RuntimeError):
    """The client no longer waits for the result."""


def identity(kinds: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """The surroundings of this worker for fits of these families and settings.

    Raises UserError if the arithmetic is not selected, ImportError if a library is missing.
    """
    found = [tasks.surroundings(family, settings) for family, settings in kinds]
    arithmetic.require()
    return found


def train(content: bytes, data: Data, topic: str) -> tuple[bytes, float]:
    """Train an encoded task; topic: the topic of Dask's events for progress."""
    task = work.decode(content)
    known = _verified.get(task.data)
    if known is None or known() is not data:
        _verified[task.data] = weakref.ref(work.verified(data, task.data))
    kept = store.default().checkpoint(task.whole)
    result = work.train(task, data, kept, _progress(task.key, topic))
    if task.key == task.whole:  # otherwise a longer training continues it
        # The client keeps the result, and its store may be another one.
        kept.drop()
    return result


def _progress(name: str, topic: str) -> Progress:
    """Reports the finished share of a fit, and ends the fit if the client no longer waits."""
    worker, last = get_worker(), 0.0
    own = worker.get_current_task()

    def report(fraction: float) -> None:
        nonlocal last
        if time.monotonic() - last < REPORT:
            return
        last = time.monotonic()
        worker.log_event(topic, [name, fraction])
        # Dask forgets a task that was cancelled or whose client died, but cannot stop its thread.
        task = worker.state.tasks.get(own)
        if task is None or task.state == "cancelled":
            raise AbandonedError(own)

    return report

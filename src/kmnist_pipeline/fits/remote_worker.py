"""The code that a Dask worker runs for `remote`."""

from __future__ import annotations

import time
import weakref
from typing import Any

from distributed import get_worker

from kmnist_pipeline import arithmetic
from kmnist_pipeline.families.base import Data, Progress
from kmnist_pipeline.fits import store, work

REPORT = 1.0  # seconds between two reports of progress

_verified: dict[str, weakref.ref[Data]] = {}


class AbandonedError(RuntimeError):
    """The client no longer waits for the result."""


def identity(kinds: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """The surroundings of this worker for fits of these families and settings.

    Raises UserError if the arithmetic is not selected, ImportError if a library is missing.
    """
    found = [work.surroundings(family, settings) for family, settings in kinds]
    arithmetic.require()
    return found


def train(
    content: bytes,
    name: str,
    whole: str,
    data: Data,
    digest: str,
    topic: str,
    stop_after: int | None,
) -> tuple[bytes, float]:
    """Train an encoded fit.

    name: the key of its result; whole: of the fit with all epochs; topic: the topic of Dask's
    events for progress.
    """
    known = _verified.get(digest)
    if known is None or known() is not data:
        _verified[digest] = weakref.ref(work.verified(data, digest))
    own = store.default()
    progress = _progress(name, topic)
    result = work.train(content, whole, data, digest, own.checkpoint(whole), progress, stop_after)
    if name == whole:  # otherwise a longer training continues it
        # The client keeps the result, and its store may be another one.
        own.checkpoint(whole).drop()
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

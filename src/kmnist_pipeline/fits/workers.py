"""What the pool of fits and its workers share."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from tqdm import tqdm

from kmnist_pipeline.families.base import Data
from kmnist_pipeline.fits.tasks import Task

SCHEDULER = "KMNIST_SCHEDULER"  # the variable with the address of a Dask scheduler
POLL = 0.2  # seconds between two polls of the workers


class WorkerLostError(RuntimeError):
    """A worker was lost with its fit; the message says how."""


@dataclass(frozen=True)
class Outcome:
    """How a fit ended: with its result, or with an error.

    It is tried again after WorkerLostError, and without both, which means that the worker refuses
    it because its code, libraries or arithmetic differ. Other errors are the fit's own.
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
    """Workers on this machine (`local`) or on others (`remote`)."""

    def free(self) -> bool:
        """Whether a worker is idle."""

    def start(self, task: Task, data: Data) -> None:
        """Give a fit to a free worker."""

    def wait(self) -> list[Outcome]:
        """The fits that ended since the last call; waits for a poll at most."""

    def progress(self) -> Iterable[tuple[Task, float]]:
        """The running fits, each with its finished share."""

    def close(self) -> None:
        """End the workers."""


def say(text: str) -> None:
    """Print a message above the progress bar."""
    tqdm.write(text, file=sys.stderr)

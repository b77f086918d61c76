"""Workers of the Dask cluster that KMNIST_SCHEDULER names.

Each fit is sent to an idle worker with the same code, libraries and arithmetic as this process.
Dask lists the workers, and carries data, results and progress. A fit whose worker is lost goes to
another worker.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import logging
import socket
import uuid
from collections.abc import Coroutine, Iterator
from concurrent.futures import FIRST_COMPLETED, Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import distributed

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.families.base import Data
from kmnist_pipeline.fits import key, remote_worker, work
from kmnist_pipeline.fits.address import checked
from kmnist_pipeline.fits.tasks import Task
from kmnist_pipeline.fits.workers import POLL, SCHEDULER, Outcome, Watch, WorkerLostError, say

CONNECT = 10.0  # seconds for the scheduler's first answer
SILENCE = 60.0  # seconds without an answer after which the scheduler counts as gone
WITHOUT = 60.0  # seconds without a usable worker after which the run ends
ASK = 1.0  # seconds between an answer of the scheduler and the next question
KEPT = "Finished fits are kept; run the command again to train the rest"
CANCELLED = (concurrent.futures.CancelledError, asyncio.CancelledError)


@dataclass
class _Worker:
    """A worker that the scheduler knows.

    identity: its surroundings; accepted: whether they are ours; refused: why not, in words;
    data: what it has received, by digest.
    """

    address: str
    identity: Future
    accepted: bool = False
    refused: str = ""
    data: dict[str, asyncio.Future] = field(default_factory=dict)


@dataclass
class _Running:
    """A fit that a worker trains.

    lost: 0, or if the scheduler or the worker was lost, the number of the last question to the
    scheduler before that; the answer to a later question shows which of the two was lost.
    """

    task: Task
    worker: _Worker
    future: Future
    done: float = 0.0
    lost: int = 0


class RemoteWorkers:
    """Workers of the Dask cluster at `address`."""

    def __init__(self, address: str, tasks: list[Task]) -> None:
        """tasks: the known tasks.

        Raises UserError if the address cannot be used or nothing answers there.
        """
        self._address = checked(address)
        # This module reports the state of scheduler and workers in fewer words.
        for handler in logging.getLogger("distributed").handlers:
            handler.setLevel(logging.CRITICAL)
        self._client = _connected(self._address)
        kinds = {json.dumps(task.kind, sort_keys=True): task.kind for task in tasks}
        self._kinds = list(kinds.values())
        self._mine = [key.surroundings(family, settings) for family, settings in self._kinds]
        self._workers: dict[str, _Worker] = {}  # by address
        self._running: dict[str, _Running] = {}  # by key
        self._topic = f"kmnist-{uuid.uuid4().hex}"
        self._client.subscribe_topic(self._topic, self._hear)
        self._watch, self._unanswered, self._without = Watch(), 0.0, 0.0
        self._questions = 0  # to the scheduler, until now
        self._answer = self._run(self._ask(after=0))

    def free(self) -> bool:
        """Whether a usable worker is idle."""
        return self._client.status == "running" and self._idle() is not None

    def start(self, task: Task, data: Data) -> None:
        """Give a fit to a free worker."""
        worker = self._idle()
        assert worker is not None
        future = self._run(self._train(worker, task, data))
        self._running[task.key] = _Running(task, worker, future)

    def wait(self) -> list[Outcome]:
        """The fits that ended. Raises UserError if the scheduler or all workers are gone."""
        running = {r.future: r for r in self._running.values() if not r.lost}
        done = concurrent.futures.wait([*running, self._answer], POLL, FIRST_COMPLETED).done
        outcomes = [o for future in running.keys() & done if (o := self._outcome(running[future]))]
        try:
            return outcomes + self._look()
        except UserError:
            if not outcomes:  # they are kept first; the next call finds the same
                raise
            return outcomes

    def progress(self) -> Iterator[tuple[Task, float]]:
        """The running fits, each with its finished share."""
        for running in list(self._running.values()):
            yield running.task, running.done

    def close(self) -> None:
        """Abandon the running fits: they end on the workers by `remote_worker.AbandonedError`."""
        self._answer.cancel()
        with suppress(Exception):  # also if the scheduler is gone
            self._client.close(timeout=5)

    def _run(self, coroutine: Coroutine) -> Future:
        loop: Any = self._client.loop
        return asyncio.run_coroutine_threadsafe(coroutine, loop.asyncio_loop)

    async def _ask(self, after: float) -> dict[str, Any]:
        """The scheduler's workers by address; after: seconds to wait before this question."""
        await asyncio.sleep(after)
        self._questions += 1
        scheduler: Any = self._client.scheduler
        return (await scheduler.identity(n_workers=-1))["workers"]

    def _idle(self) -> _Worker | None:
        busy = {running.worker.address for running in self._running.values()}
        free = (w for w in self._workers.values() if w.accepted and w.address not in busy)
        return next(free, None)

    async def _train(self, worker: _Worker, task: Task, data: Data) -> tuple[bytes, float]:
        """Send a fit, and its data if the worker lacks them; returns the result and the seconds."""
        if task.data not in worker.data:
            name = f"{self._topic}-{task.data}-{worker.address}"
            worker.data[task.data] = asyncio.ensure_future(
                self._client.scatter({name: data}, workers=[worker.address], hash=False)
            )
        try:
            (sent,) = (await worker.data[task.data]).values()
        except OSError as error:
            raise WorkerLostError(worker.address) from error
        return await self._client.submit(
            remote_worker.train,
            work.encode(task),
            sent,
            self._topic,
            key=f"{task.label} {uuid.uuid4().hex}",
            workers=[worker.address],
            pure=False,
        )

    async def _identify(self, address: str) -> list[dict[str, Any]]:
        return await self._client.submit(
            remote_worker.identity, self._kinds, workers=[address], pure=False, priority=1
        )

    def _hear(self, event: tuple[float, Any]) -> None:
        name, done = event[1]
        if running := self._running.get(name):
            running.done = done

    def _outcome(self, running: _Running) -> Outcome | None:
        """The outcome of a fit; None if it is unknown until the scheduler answers."""
        task, worker = running.task, running.worker
        try:
            outcome = Outcome(task, *running.future.result())
        except (*CANCELLED, distributed.KilledWorker, WorkerLostError):
            running.lost = self._questions
            return None
        except work.RefusedError as error:
            self._refuse(worker, work.reasons(task, error))
            outcome = Outcome(task)
        except Exception as error:
            outcome = Outcome(task, error=error)
        del self._running[task.key]
        return outcome

    def _look(self) -> list[Outcome]:
        """Read the scheduler's list of workers; returns the outcomes of lost workers' fits."""
        self._unanswered += self._watch.step()
        if self._client.status != "running":
            raise self._gone("is gone")
        if not self._answer.done():
            if self._unanswered > SILENCE:
                raise self._gone(f"gives no answer for {SILENCE:g} s")
            return []
        try:
            known = self._answer.result()
        except (OSError, *CANCELLED) as error:
            raise self._gone("is gone") from error
        for address in self._workers.keys() - known.keys():
            self._workers.pop(address).identity.cancel()
        for address in known.keys() - self._workers.keys():
            # One fit for each process, because its threads share torch's random stream.
            self._workers[address] = _Worker(address, self._run(self._identify(address)))
        for worker in self._workers.values():
            if worker.identity.done() and not worker.accepted and not worker.refused:
                self._judge(worker)
        self._check_workers()
        outcomes = []
        for running in list(self._running.values()):
            address = running.worker.address
            if address not in known or 0 < running.lost < self._questions:
                del self._running[running.task.key]
                running.future.cancel()
                running.worker.data.clear()
                lost = WorkerLostError(f"its worker {address} was lost")
                outcomes.append(Outcome(running.task, error=lost))
        self._answer, self._unanswered = self._run(self._ask(ASK)), 0.0
        return outcomes

    def _judge(self, worker: _Worker) -> None:
        try:
            theirs = worker.identity.result()
        except CANCELLED:
            return
        except Exception as error:
            self._refuse(worker, str(error) or type(error).__name__)
            return
        pairs = zip(self._mine, theirs, strict=True)
        differs = dict.fromkeys(text for pair in pairs for text in work.differences(*pair))
        if differs:
            self._refuse(worker, ", ".join(differs))
        else:
            worker.accepted = True

    def _refuse(self, worker: _Worker, why: str) -> None:
        worker.accepted, worker.refused = False, why
        say(f"{SCHEDULER}: the worker {worker.address} is not used: {why}")

    def _check_workers(self) -> None:
        """Raise UserError if no worker can be used: at once if all workers are refused."""
        workers = self._workers.values()
        if any(worker.accepted for worker in workers):
            self._without = 0.0
            return
        if self._without == 0.0 and not workers:
            say(f"{SCHEDULER}={self._address}: waiting for workers")
        self._without += ASK  # the seconds since the last answer
        hopeless = workers and all(worker.refused for worker in workers)
        if hopeless or self._without > WITHOUT:
            why = "; ".join(f"{w.address}: {w.refused}" for w in workers if w.refused)
            raise UserError(
                f"{SCHEDULER}={self._address}: no worker can be used: "
                f"{why or f'none has connected within {WITHOUT:g} s'}. Start workers with this "
                f"project's code: python -m kmnist_pipeline.fits.worker {self._address}. {KEPT}"
            )

    def _gone(self, how: str) -> UserError:
        return UserError(f"{SCHEDULER}={self._address}: the scheduler {how}. {KEPT}")


def _connected(address: str) -> distributed.Client:
    """A client of the scheduler. Raises UserError."""
    parts = urlsplit(address)
    security = distributed.Security()
    if parts.scheme == "tls" and not security.get_connection_args("client").get("ssl_context"):
        raise UserError(
            f"{SCHEDULER}={address}: tls:// needs certificates, but Dask's configuration names "
            "none; see docs/cluster.md"
        )
    try:
        # Dask would retry for a long time if nothing listens.
        socket.create_connection((parts.hostname, parts.port), CONNECT).close()
        return distributed.Client(address, timeout=CONNECT, set_as_default=False, name="kmnist")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{SCHEDULER}={address}: no scheduler answers: {error}. Start one (`make cluster` "
            "starts one on this machine), or unset the variable to train without a cluster"
        ) from error

"""A stage's side of MLflow: start a child, hand it the stage's record, follow its heartbeat.

A stage's results are on disk first. Because importing MLflow takes longer than many stages, and
because a server may hang, a child process (`runs`) does the talking: it starts with the stage,
makes itself ready while the stage computes, and then reads one record from its standard input. Its
heartbeat is a byte after each answer of the store. A child that falls silent is killed; whatever
goes wrong is one warning, and the stage is as good. Nothing heavy is imported here.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from kmnist_pipeline.tracking import store
from kmnist_pipeline.tracking.record import Record

ANSWER_SECONDS = 8  # two attempts of MLFLOW_HTTP_REQUEST_TIMEOUT, and some air
READY_SECONDS = 60  # the same for the first answer of SQLite: migrations take up to 15 s


@contextmanager
def publisher() -> Iterator[Publisher]:
    """Start the child that will log a stage's results, and end it with the block.

    Enter it as early as possible: the child needs about two seconds before it can log. A block
    that raises logs nothing.
    """
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(
            [sys.executable, "-m", "kmnist_pipeline.tracking.runs"],
            bufsize=0,  # closing a buffered pipe to a dead child raises
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env={**store.BOUNDS, **os.environ, **store.QUIET},
            start_new_session=True,  # an interrupt of the stage is the parent's to handle
        ) as child,
    ):
        try:
            yield Publisher(child, complaints)
        finally:
            child.kill()


class Publisher:
    """The parent's end of the child that logs."""

    def __init__(self, child: subprocess.Popen[bytes], complaints: IO[bytes]) -> None:
        self._child = child
        self._complaints = complaints

    def hand_over(self, record: Record) -> None:
        """Have a stage logged whose outs are all on disk; on any failure print one warning."""
        if problem := self._problem(json.dumps(record, default=str).encode() + b"\n"):
            address = record["address"]
            later = f": `kmnist publish {address}` shows them later" if record["lineage"] else ""
            print(
                f"warning: MLflow did not take {address} ({problem}); "
                f"the results are on disk and complete{later}",
                file=sys.stderr,
            )

    def _problem(self, record: bytes) -> str | None:
        """Send the record and follow the heartbeat to the end; the problem, if any."""
        heartbeat = self._child.stdout
        assert heartbeat is not None
        # A child that is not ready does not read, and a pipe may be smaller than the record.
        threading.Thread(target=self._send, args=[record], daemon=True).start()
        patience = READY_SECONDS if store.database() else ANSWER_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(heartbeat, selectors.EVENT_READ)
            while selector.select(patience):
                if not os.read(heartbeat.fileno(), 1 << 12):
                    return self._verdict(self._child.wait())
                patience = ANSWER_SECONDS
        return f"no answer for {patience} s"

    def _send(self, record: bytes) -> None:
        pipe = self._child.stdin
        assert pipe is not None
        with contextlib.suppress(OSError), pipe:
            pipe.write(record)

    def _verdict(self, status: int) -> str | None:
        if status <= 0:
            return f"its process was ended by signal {-status}" if status else None
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").strip().splitlines()
        return store.without_credentials(lines[-1] if lines else f"exit status {status}")

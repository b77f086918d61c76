"""Publishing from a stage: send its record to a child process, and watch its heartbeat.

A stage first writes its results to disk. Importing MLflow takes longer than many stages, and a
server may hang. So a child process (`runs`) talks to MLflow: it starts with the stage
(`stages/frame.py`), imports MLflow while the stage computes, and then reads one record from its
standard input. Its heartbeat is a byte after each answer of the store. A child without a heartbeat
is killed. Every failure is only a warning; the stage has still succeeded. This module imports
nothing slow.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import IO

from kmnist_pipeline.tracking import store
from kmnist_pipeline.tracking.record import Record

ANSWER_SECONDS = 8  # two attempts of MLFLOW_HTTP_REQUEST_TIMEOUT, and a margin
READY_SECONDS = 60  # the same for the first answer of SQLite: migrations take up to 15 s


@dataclass(frozen=True)
class Publisher:
    """The parent's connection to the child that publishes, and the file of its standard error."""

    _child: subprocess.Popen[bytes]
    _complaints: IO[bytes]

    def hand_over(self, record: Record) -> None:
        """Publish a stage whose outs are all on disk; on any failure print one warning."""
        if problem := self._problem(json.dumps(record, default=str).encode() + b"\n"):
            address = record["address"]
            later = f": `kmnist publish {address}` shows them later" if record["lineage"] else ""
            print(
                f"warning: {address} was not published to MLflow ({problem}); "
                f"its results on disk are complete{later}",
                file=sys.stderr,
            )

    def _problem(self, record: bytes) -> str | None:
        """Send the record and watch the heartbeat to the end; returns the problem, if any."""
        heartbeat = self._child.stdout
        assert heartbeat is not None
        # A child that is not ready does not read, and a record may be larger than a pipe's buffer.
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
            return f"signal {-status} ended its process" if status else None
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").strip().splitlines()
        return store.without_credentials(lines[-1] if lines else f"exit status {status}")

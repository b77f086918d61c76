"""A champion served over HTTP, as `make serve` does, for a test to ask."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any

from support.fit_program import PATIENCE, wait_until
from support.project import Project
from support.stores import free_port


@dataclass
class Scoring:
    """The server of a dataset's champion; output: what it printed, when it has ended."""

    port: int
    output: str = field(default="", init=False)

    def ask(self, inputs: Any, as_is: bool = False, **headers: str) -> tuple[int, Any]:
        """The status and the answer for a list of images."""
        asked = {"inputs": inputs, "params": {"as_is": as_is}}
        return self.post(json.dumps(asked).encode(), **headers)

    def post(self, body: bytes, **headers: str) -> tuple[int, Any]:
        """The status and the answer for any body; an answer that is no JSON is text."""
        connection = HTTPConnection("127.0.0.1", self.port)
        headers = {"Content-Type": "application/json", **headers}
        with contextlib.closing(connection):
            connection.request("POST", "/invocations", body, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        return answer.status, json.loads(text) if text.startswith("{") else text


@contextmanager
def serving(project: Project, dataset: str, **environment: str) -> Iterator[Scoring]:
    """Serve the champion; afterwards the server stops cleanly."""
    scoring = Scoring(free_port())
    process = subprocess.Popen(
        [sys.executable, "-m", "kmnist_pipeline.serving.serve", dataset, str(scoring.port)],
        cwd=project.folder, env=project.environment(**environment),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        wait_until(lambda: _answers(f"http://127.0.0.1:{scoring.port}/ping", process), "an answer")
        yield scoring
    finally:
        process.send_signal(signal.SIGTERM)
        scoring.output = process.communicate(timeout=PATIENCE)[0]


def _answers(url: str, process: subprocess.Popen[str]) -> bool:
    assert process.poll() is None, process.communicate()[0]
    with contextlib.suppress(OSError), urllib.request.urlopen(url):
        return True
    return False

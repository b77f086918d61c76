"""A request that is too large for the scoring server: its sender reads why, as far as it can be."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from support.threads import serving

from kmnist_pipeline.serving import scoring


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a server without a model."""
    schema = SimpleNamespace(inputs=[SimpleNamespace(shape=(-1, -1, -1))])
    model: Any = SimpleNamespace(metadata=SimpleNamespace(get_input_schema=lambda: schema))
    app = scoring.drained(scoring.checked(model))
    with serving(app, http=scoring.Impatient) as number:
        yield number


@pytest.mark.parametrize("size", [scoring.LARGEST + 1, 40 << 20, scoring.REST])
def test_who_sends_too_much_reads_why(size, port):
    """It sends all before it reads, and asks for the end of the connection."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", b" " * size, headers=headers
    )
    with pytest.raises(urllib.error.HTTPError, match="413"):
        urllib.request.urlopen(request)


@pytest.mark.parametrize("header", ["Expect: 100-continue", "X: "])
def test_who_sends_nothing_more_gets_an_answer_too(header, port, monkeypatch):
    monkeypatch.setattr(scoring, "REST_SECONDS", 0.1 if header == "X: " else 600)
    head = f"POST /invocations HTTP/1.1\r\nHost: x\r\n{header}\r\nContent-Length: {1 << 30}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(head.encode())
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 413 ")

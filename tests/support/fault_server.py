"""A web server on the loopback whose faults a test chooses."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FaultServer:
    """Serves `content` by path; each request takes the next of `faults`, and the last one stays.

    Faults: ok, truncate (half of what is left, then the connection ends), cut (the same, without
    a Content-Length), chunked, stall (half, then silence), silent (no answer at all), flip (one
    bit), html, empty, elsewhere (a redirect to /elsewhere/), endless, restart (a Range answered
    with all), other-range (206 for other bytes than asked), overrun (a Range answered with 416),
    or a status code.
    """

    content: dict[str, bytes] = field(default_factory=dict)
    faults: list[str] = field(default_factory=lambda: ["ok"])
    requests: list[tuple[str, int]] = field(default_factory=list)
    sent: int = 0
    port: int = 0
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def next_fault(self) -> str:
        return self.faults.pop(0) if len(self.faults) > 1 else self.faults[0]


class Handler(BaseHTTPRequestHandler):
    server: LoopbackServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        state = self.server.state
        asked = re.fullmatch("bytes=([0-9]+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        state.requests.append((self.path, start))
        fault = state.next_fault()
        body = state.content.get(self.path.replace("/elsewhere/", "/"))
        if body is None:
            fault = "404"
        elif fault == "flip":
            body = body[:-100] + bytes([body[-100] ^ 4]) + body[-99:]
        with suppress(ConnectionError):  # the client has seen enough
            self.answer(fault, body or b"", start)

    def answer(self, fault: str, body: bytes, start: int) -> None:
        closing = self.server.state.closing
        if fault == "silent":
            closing.wait(10)
        elif fault.isdigit():
            self.head(int(fault), {"Content-Length": "9"})
            self.send(b"Not here.")
        elif fault == "html":
            page = b"<!doctype html><title>Log in</title>"
            self.head(200, {"Content-Type": "text/html", "Content-Length": str(len(page))})
            self.send(page)
        elif fault == "empty":
            self.head(200, {"Content-Length": "0"})
        elif fault == "elsewhere":
            self.head(302, {"Location": f"/elsewhere{self.path}", "Content-Length": "0"})
        elif fault == "endless":
            self.head(200, {})
            self.send(body)
            while not closing.is_set():
                self.send(bytes(1 << 16))
        elif start and fault == "overrun":
            self.head(416, {"Content-Range": f"bytes */{len(body)}", "Content-Length": "0"})
        elif fault == "other-range":
            self.partial(body, max(start - 7, 0), "ok")
        elif start and fault != "restart":
            self.partial(body, start, fault)
        else:
            self.whole(body, fault)

    def whole(self, body: bytes, fault: str) -> None:
        if fault == "chunked":
            self.protocol_version = "HTTP/1.1"
            self.head(200, {"Transfer-Encoding": "chunked"})
            for at in range(0, len(body), 5000):
                piece = body[at : at + 5000]
                self.send(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.send(b"0\r\n\r\n")
        else:
            self.head(200, {} if fault == "cut" else {"Content-Length": str(len(body))})
            self.body(body, fault)

    def partial(self, body: bytes, start: int, fault: str) -> None:
        rest = body[start:]
        where = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self.head(206, {"Content-Range": where, "Content-Length": str(len(rest))})
        self.body(rest, fault)

    def body(self, body: bytes, fault: str) -> None:
        half = fault in ("truncate", "cut", "stall")
        self.send(body[: len(body) // 2] if half else body)
        if fault == "stall":
            self.server.state.closing.wait(10)

    def head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True

    def send(self, content: bytes) -> None:
        self.wfile.write(content)
        self.server.state.sent += len(content)


class LoopbackServer(ThreadingHTTPServer):
    daemon_threads = True
    state: FaultServer


@contextmanager
def serving() -> Iterator[FaultServer]:
    """A running server that has nothing yet."""
    with LoopbackServer(("127.0.0.1", 0), Handler) as server:
        server.state = FaultServer(port=server.server_port)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.state
        finally:
            server.state.closing.set()
            server.shutdown()
            thread.join()

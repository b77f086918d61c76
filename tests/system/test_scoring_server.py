"""The scoring server of `make serve`, asked over HTTP: what it answers, refuses and ends."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.fit_program import PATIENCE
from support.project import Project, copied
from support.scoring import Scoring, serving

from kmnist_pipeline.serving import scoring

TIMEOUT = 5  # seconds


@pytest.fixture(scope="module")
def owner(
    digits_run: Project, empty_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Project:
    """The project after `make demo`, with a champion of the digits."""
    project = copied(digits_run, tmp_path_factory.mktemp("scoring") / "project")
    shutil.copy(empty_store, project.folder / "mlflow.db")
    done = project.run("kmnist", "promote", "--dataset", "digits")
    assert done.returncode == 0, done.stderr
    return project


@pytest.fixture(scope="module")
def scorer(owner: Project) -> Iterator[Scoring]:
    """Its server, with a short time for a request."""
    with serving(owner, "digits", MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT=str(TIMEOUT)) as found:
        yield found


@pytest.fixture(scope="module")
def pictures(owner: Project) -> np.ndarray:
    with np.load(owner.folder / "data/processed/digits.npz") as arrays:
        return arrays["images"]


def test_as_many_images_as_allowed_are_answered_as_predict_answers_them(owner, scorer, pictures):
    most = np.concatenate([pictures, pictures])[: scoring.MOST]
    status, answer = scorer.ask(most.tolist(), as_is=True)
    np.savez(owner.folder / "most.npz", most)
    command = ["kmnist", "predict", "most.npz", "--dataset", "digits", "--output", "json"]
    done = owner.run(*command, "--as-is")
    rows = json.loads(done.stdout)
    assert status == 200 and len(answer["predictions"]) == len(rows) == scoring.MOST
    for one, row in zip(answer["predictions"], rows, strict=True):
        assert {**one, "probability": float(f"{one['probability']:.6g}")} == {
            name: row[name] for name in one
        }


def test_whole_numbers_may_be_written_as_fractions(scorer, pictures):
    assert scorer.ask(pictures[:9].astype(float).tolist()) == scorer.ask(pictures[:9].tolist())


@pytest.mark.parametrize("as_is", [False, True])
def test_sheets_are_prepared_and_blank_ones_doubted_as_predict_does_it(
    as_is, owner, scorer, pictures
):
    sheets = 255 - 15 * pictures[:30]
    if not as_is:
        sheets = np.pad(sheets, ((0, 0), (9, 4), (3, 6)), constant_values=255)
    sheets[7] = 200
    status, answer = scorer.ask(sheets.tolist(), as_is)
    np.savez(owner.folder / "sheets.npz", sheets)
    command = ["kmnist", "predict", "sheets.npz", "--dataset", "digits", "--output", "json"]
    rows = json.loads(owner.run(*command, *["--as-is"] * as_is).stdout)
    assert status == 200 and len(rows) == 30
    for one, row in zip(answer["predictions"], rows, strict=True):
        assert {**one, "probability": float(f"{one['probability']:.6g}")} == {
            name: row[name] for name in one
        }
    assert rows[7]["prepared"] == "review: no character"
    assert ("inverted" in rows[0]["prepared"]) == (not as_is)


WRONG: dict[str, tuple[Any, str]] = {
    "fractions": ([[[0.5] * 8] * 8], "[0][0][0]: Input should be a valid integer, got a number"),
    "negative": ([[[-1] * 8] * 8], "[0][0][0]: Input should be greater than or equal to 0"),
    "no byte": ([[[256] * 8] * 8], "[0][0][0]: Input should be less than or equal to 255"),
    "not a number": ([[[float("nan")] * 8] * 8], "[0][0][0]: Input should be a finite number"),
    "no rows": ([[]], "[0]: List should have at least 1 item"),
    "an empty row": ([[[]]], "[0][0]: List should have at least 1 item"),
    "too long a row": ([[[1] * 8] * 7 + [[1] * 9]], "inputs[0]: must be 8 rows of 8 numbers, as "),
    "another size": ([[[1] * 8] * 8, [[1] * 8] * 7], "inputs[1]: must be 8 rows of 8 numbers, as "),
    "one image": ([[1] * 8] * 8, "[0][0]: Input should be a valid list"),
    "no image": ([], "List should have at least 1 item"),
    "many images": (
        [[[1] * 8] * 8] * (scoring.MOST + 1),
        f"List should have at most {scoring.MOST} items",
    ),
    "a map": ({"a": 1}, "Input should be a valid list"),
    "nothing": (None, "Input should be a valid list"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_images_are_refused_with_their_place(what, scorer):
    asked, words = WRONG[what]
    status, answer = scorer.ask(asked)
    assert status == 400
    assert words in answer["message"]
    assert len(answer["message"]) < 200  # the images are not repeated


def test_another_size_as_it_is_is_refused(scorer):
    status, answer = scorer.ask([[[1] * 9] * 9], as_is=True)
    assert status == 400
    assert "must be 8x8, " in answer["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"\xff", b'{"\\ud800": 1}', b"[" * 100_000,
        b'{"inputs": ' + b"[" * 100_000, b'{"inputs": [[[' + b"9" * 5000 + b"]]]}",
        b'{"instances": []}', b'{"inputs": [], "params": {}}',
        b'{"inputs": [[[1]]], "params": {"as": true}}', b'{"inputs": [[[1]]], "params": []}',
    ],
)  # fmt: skip
def test_a_wrong_body_is_refused(body, scorer):
    status, answer = scorer.post(body)
    assert status == 400 and ("message" in answer or "detail" in answer)


@pytest.mark.parametrize("kind", ["text/csv", "application/vnd.apache.parquet", "x", ""])
def test_only_json_is_read(kind, scorer, pictures):
    body = json.dumps({"inputs": pictures[:1].tolist()}).encode()
    assert scorer.post(body)[0] == 200
    assert scorer.post(body, **{"Content-Type": kind})[0] == 400


def test_a_body_has_at_most_16_mb(scorer):
    assert scoring.LARGEST == 16 << 20
    assert scorer.post(b" " * scoring.LARGEST)[0] == 400
    assert scorer.post(b" " * (scoring.LARGEST + 1)) == (413, "Content Too Large")
    chunk = b"%x\r\n%b\r\n" % (1 << 20, b" " * (1 << 20))
    head = f"{HEAD.format(scorer.port)}Transfer-Encoding: chunked\r\n\r\n".encode()
    assert answered(scorer, head + 17 * chunk).startswith(b"HTTP/1.1 413 ")


HEAD = "POST /invocations HTTP/1.1\r\nHost: localhost:{}\r\nContent-Type: application/json\r\n"


def answered(scorer: Scoring, sent: bytes) -> bytes:
    """The answer until the server ends the connection."""
    with socket.create_connection(("127.0.0.1", scorer.port), timeout=PATIENCE) as here:
        here.sendall(sent)
        return b"".join(iter(lambda: here.recv(1 << 16), b""))


SLOW = {  # requests that never end, with the begin of the answer
    "": b"",
    "POST /invoc": b"",
    f"{HEAD}X: ": b"",
    f"{HEAD}Content-Length: 9\r\n\r\n{{{{": b"HTTP/1.1 504 ",
    "GET /ping HTTP/1.1\r\nHost: localhost:{}\r\n\r\nGET": b"HTTP/1.1 200 ",
}


def test_slow_requests_are_ended(scorer, pictures):
    def seconds(sent: str) -> float:
        start = time.monotonic()
        found = answered(scorer, sent.format(scorer.port).encode())
        assert found.startswith(SLOW[sent]) and bool(found) == bool(SLOW[sent])
        return time.monotonic() - start

    with ThreadPoolExecutor() as threads:
        took = list(threads.map(seconds, SLOW))
    assert min(took) >= TIMEOUT
    assert scorer.ask(pictures[:1].tolist())[0] == 200


def test_a_crowd_is_refused_until_it_is_gone(scorer, pictures):
    with ExitStack() as crowd:
        for _ in range(scoring.CONNECTIONS - 1):
            crowd.enter_context(socket.create_connection(("127.0.0.1", scorer.port)))
        assert scorer.ask(pictures[:1].tolist())[0] == 200
        crowd.enter_context(socket.create_connection(("127.0.0.1", scorer.port)))
        assert scorer.ask(pictures[:1].tolist()) == (503, "Service Unavailable")
    assert scorer.ask(pictures[:1].tolist())[0] == 200

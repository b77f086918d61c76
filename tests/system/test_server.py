"""`make server` and `make ui`: the real thing over both drivers of the store, and its outages."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.project import Project, copied
from support.stores import (
    NEEDS_POSTGRESQL,
    OF_DIGITS,
    TRAINED,
    Running,
    free_port,
    published,
    table,
)

from kmnist_pipeline.tracking import runs, views
from kmnist_pipeline.tracking import store as stores

START_SECONDS = 120
LATER = f"`kmnist publish {TRAINED}` shows them later"
OUTS = [f"metrics/digits/digits_softmax/{name}" for name in ("curves.csv", "validation.json")]


@pytest.fixture(scope="module")
def served(digits_run: Project, place: Path) -> Project:
    return copied(digits_run, place / "project")


@pytest.fixture(scope="module")
def tracker(served: Project) -> Iterator[Running]:
    """`make server`, over PostgreSQL."""
    running = Running(served, served.folder)
    yield running
    if running.process.poll() is None:
        running.end()


def publish(served: Project, uri: str, *stages: str) -> str:
    done = served.run("kmnist", "publish", *stages, MLFLOW_TRACKING_URI=uri)
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout


@NEEDS_POSTGRESQL
def test_it_keeps_what_it_has_shown_and_ends_cleanly(live, served, tracker):
    assert publish(served, tracker.uri, *OF_DIGITS) == published(len(OF_DIGITS), 0)
    assert table(tracker.client()) == live
    used = served.folder / ".kmnist/server"
    assert (used / "postgres").stat().st_mode & 0o777 == 0o700
    sockets = [c for p in tracker.processes("postgres") for c in p.net_connections("inet")]
    assert sockets == []
    addresses = {c.laddr.ip for p in tracker.processes("mlflow") for c in p.net_connections("inet")}
    assert addresses == {"127.0.0.1"}
    assert not [p for p in tracker.processes("mlflow") if "job" in " ".join(p.cmdline())]

    inside = tracker.processes("mlflow") + tracker.processes("postgres")
    words = " ".join(word for process in inside for word in process.cmdline())
    (sockets_in,) = re.findall(r"unix_socket_directories=(\S+)", words)
    assert Path(sockets_in).exists()
    assert tracker.end() == 0
    assert not [process for process in inside if process.is_running()]
    assert not Path(sockets_in).exists()
    tracker.start()
    assert table(tracker.client()) == live
    digits = tracker.client().get_experiment_by_name("digits").experiment_id
    greeting = tracker.log.read_text()
    assert f"digits: {tracker.uri}/{views.url(digits, views.MODELS)}\n" in greeting
    assert "data: " not in greeting
    assert "postgresql" not in greeting


@NEEDS_POSTGRESQL
@pytest.mark.parametrize(
    ("header", "status"),
    [
        (("Host", "evil.example"), 403),
        (("Host", "10.0.0.1:{port}"), 403),
        (("Host", "localhost:{port}"), 200),
        (("Origin", "http://evil.example"), 403),
        (("Origin", "http://127.0.0.1:{port}"), 200),
    ],
)
def test_it_answers_to_its_own_name_alone(header, status, tracker):
    name, value = header[0], header[1].format(port=tracker.port)
    request = urllib.request.Request(
        f"{tracker.uri}/api/2.0/mlflow/experiments/search",
        b'{"max_results": 1}',
        {"Content-Type": "application/json", name: value},
    )
    try:
        with urllib.request.urlopen(request) as answer:
            assert answer.status == status
    except urllib.error.HTTPError as error:
        assert error.code == status


def test_a_port_that_is_taken_and_a_store_that_is_a_server(served):
    module = [sys.executable, "-m", "kmnist_pipeline.tracking.server", "--port"]
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        done = served.run(*module, str(other.getsockname()[1]))
    assert (done.stdout, done.returncode) == ("", 1)
    assert done.stderr.endswith("Address already in use; choose another: PORT=...\n")
    done = served.run(*module, str(free_port()), "--store", "http://someone:secret@127.0.0.1")
    assert done.returncode == 1
    assert "secret" not in done.stderr


def test_a_store_that_was_copied_shows_its_own_artifacts(clone, empty_store, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    shutil.copy(empty_store, old / "mlflow.db")
    with contextlib.chdir(old):
        stores.connect().create_experiment("digits", stores.artifacts("digits"))
    shutil.copytree(old, new)
    tracker = Running(clone, new, "--store", "sqlite:///mlflow.db")
    try:
        (found,) = tracker.client().search_experiments(filter_string="name = 'digits'")
    finally:
        tracker.end()
    assert found.artifact_location == (new / "mlartifacts/digits").as_uri()


# --- outages -------------------------------------------------------------------------------------


def forget(client: Any) -> None:
    group = client.get_experiment_by_name("digits")
    if group:
        for run in client.search_runs([group.experiment_id], f"tags.`kmnist.stage` = '{TRAINED}'"):
            runs.delete(client, run)


def train(served: Project, uri: str, trouble: Callable[[], None]) -> str:
    """Run a stage as DVC does, with trouble in one of its epochs; what it has printed.

    It ends well, with the bytes of the evidence.
    """
    folder = served.folder
    before = [(folder / out).read_bytes() for out in OUTS]
    command = [sys.executable, "-m", "kmnist_pipeline.stages.kfold_train", "name=digits_softmax"]
    environment = served.environment(DVC_STAGE=TRAINED, MLFLOW_TRACKING_URI=uri)
    shutil.rmtree(folder / ".kmnist/fits", ignore_errors=True)
    with subprocess.Popen(
        command, cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as stage:  # fmt: skip
        while not list(folder.glob(".kmnist/fits/*/*.fit")):
            assert stage.poll() is None, stage.stdout and stage.stdout.read()
            time.sleep(0.01)
        trouble()
        printed = "".join(map(told_of_mlflow, stage.communicate()[0].splitlines(keepends=True)))
    assert stage.returncode == 0, printed
    assert [(folder / out).read_bytes() for out in OUTS] == before
    return printed


def told_of_mlflow(line: str) -> str:
    return "" if line.startswith("fits: ") or line.endswith(": trained\n") else line


def assert_warned(printed: str) -> None:
    (line,) = printed.splitlines()
    assert line.startswith(f"warning: {TRAINED} ") and line.endswith(LATER)


@NEEDS_POSTGRESQL
def test_a_stage_logs_there(live, served, tracker):
    forget(tracker.client())
    assert train(served, tracker.uri, lambda: None) == ""
    assert without_times(table(tracker.client())[TRAINED]) == without_times(live[TRAINED])


def without_times(run: dict[str, Any]) -> dict[str, Any]:
    """A run without what the commit of a copy has made of it."""
    dropped = {"mlflow.source.git.commit", "kmnist.dirty", "mlflow.note.content"}
    return run | {"tags": {k: v for k, v in run["tags"].items() if k not in dropped}}


def test_a_server_that_is_down_at_the_start(served):
    assert_warned(train(served, f"http://127.0.0.1:{free_port()}", lambda: None))


def stop_the_database(tracker: Running) -> None:
    tracker.process.send_signal(signal.SIGSTOP)  # or it would end the server too
    tracker.processes("postgres")[0].send_signal(signal.SIGINT)


def restart(tracker: Running) -> None:
    tracker.end()
    tracker.start()


OUTAGES: dict[str, tuple[Callable[[Running], None], Callable[[Running], None]]] = {
    "the server hangs": (
        lambda tracker: tracker.send(signal.SIGSTOP, "mlflow"),
        lambda tracker: tracker.send(signal.SIGCONT, "mlflow"),
    ),
    "the server is killed": (
        lambda tracker: tracker.send(signal.SIGKILL, "mlflow"),
        restart,
    ),
    "the database is stopped": (stop_the_database, restart),
}


@NEEDS_POSTGRESQL
@pytest.mark.parametrize("outage", OUTAGES)
def test_an_outage_in_an_epoch(outage, live, served, tracker):
    begin, end = OUTAGES[outage]
    forget(tracker.client())
    try:
        printed = train(served, tracker.uri, functools.partial(begin, tracker))
    finally:
        end(tracker)
    assert_warned(printed)
    assert publish(served, tracker.uri, TRAINED) == published(1, 0)
    assert table(tracker.client())[TRAINED] == live[TRAINED]


@pytest.mark.parametrize(
    ("driver", "room"),
    [("sqlite", "12m"), pytest.param("postgresql", "250m", marks=NEEDS_POSTGRESQL)],
)
def test_a_disk_of_the_store_that_is_full(driver, room, live, served, place):
    if driver == "postgresql" and os.geteuid():
        pytest.skip("only root may mount a file system for PostgreSQL to fill")
    folder = place / driver
    folder.mkdir()
    store = ["--store", "sqlite:///mlflow.db"] if driver == "sqlite" else []
    tracker = Running(served, folder, *store, room=room)
    filler = Path(f"/proc/{tracker.process.pid}/root{folder}/filler")
    try:
        assert_warned(train(served, tracker.uri, functools.partial(fill, filler)))
        filler.unlink()
        assert publish(served, tracker.uri, TRAINED) == published(1, 0)
        assert table(tracker.client())[TRAINED] == live[TRAINED]
    finally:
        tracker.end()


def fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    assert file.write(b"x" * size) > 0

"""Logging a stage never costs more than a warning, and a server takes it too."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sqlite3
import threading
from pathlib import Path

import pytest
from support import wording
from support.logged import (
    FOLDS,
    SEEDS,
    artifacts,
    children,
    history,
    log,
    record_of,
    runs,
    trained,
)
from support.stores import attempts, free_port

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.serving import registry
from kmnist_pipeline.stages.frame import publishing
from kmnist_pipeline.tracking import store as stores
from kmnist_pipeline.tracking.publisher import Publisher

SRC = Path(stores.__file__).parents[2]


def only_warning(capfd) -> str:
    """The one line that a stage has printed."""
    out, err = capfd.readouterr()
    (line,) = (out + err).splitlines()
    assert line.startswith(f"warning: kfold-train@digits_softmax {wording.NOT_PUBLISHED}")
    later = "`kmnist publish kfold-train@digits_softmax` shows them later"
    assert line.endswith(f"); its results on disk are complete: {later}")
    return line


def test_a_stage_that_fails_logs_nothing(store, capfd):
    with pytest.raises(ZeroDivisionError), publishing() as (child, _):
        _ = 1 / 0
    assert child.returncode is not None
    assert runs(store) == []
    assert capfd.readouterr() == ("", "")


def test_without_mlflow_a_stage_runs(workspace, monkeypatch, capfd):
    broken = workspace / "broken/mlflow"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ModuleNotFoundError('no mlflow here')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(broken.parent), str(SRC)]))
    log(trained())
    assert "ModuleNotFoundError: no mlflow here" in only_warning(capfd)


def test_a_fault_is_shortened_between_words_and_a_remedy_never():
    fault = stores.reason(OSError("//someone:secret@host " + "word " * 100))
    assert fault.endswith(" word …")
    assert "secret" not in fault
    assert stores.reason(UserError("word " * 100 + "\n`mend it`")).endswith(" word `mend it`")


def test_a_store_of_another_version_of_mlflow(store, workspace, capfd):
    with contextlib.closing(sqlite3.connect(workspace / "mlflow.db")) as database:
        database.execute("update alembic_version set version_num = 'older'")
        database.commit()
    log(trained())
    assert (
        f"`mlflow db upgrade sqlite:///{workspace}/mlflow.db` upgrades a store of an older"
        in only_warning(capfd)
    )


# A server.


def test_an_unreachable_server_costs_a_warning_without_its_password(workspace, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://someone:secret@127.0.0.1:{free_port()}")
    log(trained())
    warning = only_warning(capfd)
    assert "Connection refused" in warning
    assert "someone" not in warning
    assert "secret" not in warning


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("mysql://me:secret@host/name", "mysql://host/name: its driver is not installed here"),
        ("postgresql+none://host/name", "postgresql+none://host/name: its driver is not installed"),
        ("sqlite:///{here}", "{here} is a folder, not a file"),
        ("sqlite:///:memory:", "sqlite:///:memory:: names no file"),
        ("sqlite://", "sqlite://: names no file"),
        ("sqlite:///", "sqlite:///: names no file"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_with_those_that_can(
    uri, words, workspace, monkeypatch
):
    here = Path.cwd()
    before = {*here.iterdir()}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(here=here))
    for ask in (stores.connect, lambda: registry.champion("digits")):
        with pytest.raises(UserError, match=re.escape(words.format(here=here))) as refused:
            ask()
        assert "addresses that work: sqlite:///FILE, http://HOST:PORT" in str(refused.value)
        assert "secret" not in str(refused.value)
    assert {*here.iterdir()} == before


def test_no_warning_quotes_credentials():
    text = "no //someone:sec/r@t@host/path, or https://token@host"
    assert stores.without_credentials(text) == "no //host/path, or https://host"


@pytest.mark.system
def test_a_server_takes_a_stage(workspace, server, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    log(trained())
    assert capfd.readouterr() == ("", "")
    client = server.client()
    (run,) = runs(client)
    assert run.info.status == "FINISHED"
    assert len(children(client, run)) == SEEDS * FOLDS
    assert sorted(history(client, run, "validation/loss")) == [1, 2, 3, 4]
    assert artifacts(client, run) == {
        *("metrics/curves.csv", "metrics/validation.json", "metrics/validation_details.json"),
        "models/digits_softmax.safetensors",
    }
    assert not (workspace / "mlflow.db").exists()


@pytest.mark.system
def test_a_server_that_hangs_costs_a_warning_and_two_attempts(workspace, monkeypatch, capfd):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        log(trained())
        assert attempts(silent) <= 2
    assert re.search("timed out|no answer for 8 s", only_warning(capfd))


@pytest.mark.system
def test_a_server_that_dies_half_way_costs_a_warning(workspace, server, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    stage = trained("4" * 64)
    client = server.client()
    with publishing() as child:
        logging = threading.Thread(target=Publisher(*child).hand_over, args=[record_of(stage)])
        logging.start()
        while not runs(client, "digits", f"tags.`kmnist.lineage` = '{'4' * 64}'"):
            assert logging.is_alive()
        server.send(signal.SIGKILL)
        logging.join()
    only_warning(capfd)

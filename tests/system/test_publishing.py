"""`kmnist publish` of commits and experiments, with a real server, and killed half way."""

from __future__ import annotations

import contextlib
import shutil
import socket
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from support import wording
from support.project import Project, copied
from support.stores import (
    OF_DIGITS,
    Table,
    artifacts,
    attempts,
    client_of,
    published,
    shown,
    table,
)

EVALUATED = "evaluate@digits_softmax"
TEST_JSON = "metrics/digits/digits_softmax/test.json"


def without(tags: set[str], runs: Table) -> Table:
    return {
        name: run | {"tags": {k: v for k, v in run["tags"].items() if k not in tags}}
        for name, run in runs.items()
    }


# --- commits and experiments ---------------------------------------------------------------------

NAME = "fewer"


@pytest.fixture(scope="module")
def branched(digits_run: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with an experiment beside its workspace; `live.db` is what its stage has logged."""
    project = copied(digits_run, tmp_path_factory.mktemp("tried") / "project")
    project.commit("evidence")
    shutil.copytree(digits_run.folder / "mlartifacts", project.folder / "mlartifacts")
    shutil.copy(digits_run.folder / "mlflow.db", project.folder / "mlflow.db")
    change = ["-S", "evaluation.samples=9"]
    done = project.run("dvc", "exp", "run", "--temp", "--name", NAME, *change, EVALUATED)
    assert done.returncode == 0, done.stdout + done.stderr
    (project.folder / "mlflow.db").rename(project.folder / "live.db")
    return project


def evaluations(store: Path) -> dict[str, Any]:
    """The runs of the stage that the experiment has unlogged, by one of its parameters."""
    client = client_of(store)
    (group,) = [e.experiment_id for e in client.search_experiments() if e.name == "digits"]
    runs = client.search_runs([group], f"tags.`kmnist.stage` = '{EVALUATED}'")
    by_samples = {run.data.params["evaluation.samples"]: run for run in runs}
    assert len(by_samples) == len(runs)
    return by_samples


def standings(store: Path) -> dict[str, tuple[str | None, str | None]]:
    names = ("kmnist.experiment", "kmnist.superseded")
    return {
        samples: tuple(run.data.tags.get(name) for name in names)
        for samples, run in evaluations(store).items()
    }


def test_an_experiment_that_runs_supersedes_nothing(branched):
    assert standings(branched.folder / "live.db") == {"10": (None, None), "9": (NAME, None)}


def test_an_experiment_is_published_as_it_was_logged(branched, own_store, publish):
    done = publish(branched, own_store, EVALUATED, "--rev", NAME)
    assert (done.out, done.err, done.status) == (published(1, 0), "", 0)
    (run,) = evaluations(own_store).values()
    tags = run.data.tags
    commit = branched.run("dvc", "exp", "list", "--sha-only").stdout.split()[-1]
    assert tags["mlflow.source.git.commit"] == commit
    assert tags["kmnist.dirty"] == "false"
    client = client_of(branched.folder / "live.db")
    logged = evaluations(branched.folder / "live.db")["9"]
    dropped = {"mlflow.source.git.commit", "kmnist.dirty", "mlflow.note.content"}
    one, other = (
        shown(c, r) | {"artifacts": artifacts(c, r)}
        for c, r in ((client_of(own_store), run), (client, logged))
    )
    assert without(dropped, {"": one}) == without(dropped, {"": other})

    publish(branched, own_store, EVALUATED)
    assert standings(own_store) == {"10": (None, None), "9": (NAME, None)}
    assert publish(branched, own_store, EVALUATED, "--rev", commit).out == published(0, 1)


def test_commits_beside_the_workspace(branched, own_store, publish):
    branched.run("dvc", "exp", "apply", NAME)
    branched.git("commit", "--quiet", "--all", "--message", "fewer samples")
    try:
        done = publish(branched, own_store, EVALUATED, "--rev", "HEAD~1", "--rev", "HEAD")
        assert (done.out, done.err) == (published(2, 0), "")
        commits = branched.run("git", "log", "--format=%H", "-2").stdout.split()
        shown = evaluations(own_store)
        tagged = [shown[name].data.tags["mlflow.source.git.commit"] for name in ("9", "10")]
        assert tagged == commits
        assert standings(own_store) == {"10": (None, "true"), "9": (None, None)}
        assert publish(branched, own_store, EVALUATED, "--rev", "HEAD~1").out == published(0, 1)
        assert standings(own_store) == {"10": (None, "true"), "9": (None, None)}

        (branched.folder / TEST_JSON).write_text("{}")  # the workspace is not asked
        assert publish(branched, own_store, EVALUATED, "--rev", "HEAD").status == 0
    finally:
        branched.run("git", "reset", "--hard", "--quiet", "HEAD~1")
    publish(branched, own_store, EVALUATED)
    assert standings(own_store) == {"10": (None, None), "9": (None, "true")}
    publish(branched, own_store, EVALUATED, "--rev", NAME)
    assert standings(own_store) == {"10": (None, None), "9": (NAME, None)}


def test_an_applied_experiment_is_one_no_more(branched, publish):
    store = Path(shutil.copy(branched.folder / "live.db", branched.folder / "applied.db"))
    branched.run("dvc", "exp", "apply", NAME)
    try:
        assert publish(branched, store, EVALUATED).out == published(0, 1)
    finally:
        branched.run("git", "reset", "--hard", "--quiet")
    assert standings(store) == {"10": (None, "true"), "9": (None, None)}


def test_evidence_that_was_committed_wrong(unlogged, own_store, publish):
    unlogged.replace(TEST_JSON, '"accuracy": 0.9', '"accuracy": 1.9')
    unlogged.commit("better")
    unlogged.run("git", "revert", "--no-edit", "HEAD")
    done = publish(unlogged, own_store, EVALUATED, "--rev", "HEAD~1")
    assert done.err.startswith(f"refused: {EVALUATED} at HEAD~1: {TEST_JSON} ")
    assert done.status == 1
    assert publish(unlogged, own_store, EVALUATED).status == 0


# --- faults --------------------------------------------------------------------------------------


def test_killed_half_way_and_again(live, unlogged, empty_store, own_store, publish):
    shutil.copy(empty_store, unlogged.folder / "mlflow.db")
    database = unlogged.folder / "mlflow.db"
    with subprocess.Popen(
        ["kmnist", "publish", *OF_DIGITS], cwd=unlogged.folder, env=unlogged.environment()
    ) as running:
        with contextlib.closing(sqlite3.connect(database)) as rows:
            inside = "select count(*) from tags where key = 'mlflow.parentRunId'"
            while rows.execute(inside).fetchone()[0] < 4:
                assert running.poll() is None
                time.sleep(0.01)
        running.kill()
    states = "select distinct status from runs"
    with contextlib.closing(sqlite3.connect(database)) as rows:
        assert ("RUNNING",) in rows.execute(states).fetchall()

    assert publish(unlogged, database, *OF_DIGITS).status == 0
    assert table(client_of(database)) == live
    with contextlib.closing(sqlite3.connect(database)) as rows:
        active = rows.execute(f"{states} where lifecycle_stage = 'active'").fetchall()
    assert active == [("FINISHED",)]


def test_a_server_shows_the_same(live, unlogged, server, publish):
    done = publish(unlogged, server.uri, *OF_DIGITS)
    assert (done.out, done.err, done.status) == (published(len(OF_DIGITS), 0), "", 0)
    assert table(server.client()) == live
    assert publish(unlogged, server.uri, *OF_DIGITS).out == published(0, len(OF_DIGITS))


def test_a_server_that_hangs_is_asked_twice(unlogged):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        hung = unlogged.run("kmnist", "publish", *OF_DIGITS, MLFLOW_TRACKING_URI=uri)
        assert attempts(silent) == 2
    assert (hung.stdout, hung.returncode, hung.stderr.count("\n")) == ("", 1, 1)
    assert hung.stderr.startswith(f"error: download@digits {wording.NOT_PUBLISHED}")

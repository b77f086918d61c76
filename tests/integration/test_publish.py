"""`kmnist publish`: a store made from the evidence is the one that live logging makes."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from support.project import Project, copied, replaced
from support.stores import (
    OF_DIGITS,
    TRAINED,
    Table,
    artifacts,
    attempts,
    client_of,
    free_port,
    published,
    shown,
    table,
)

from kmnist_pipeline import cli
from kmnist_pipeline.evidence import numbers
from kmnist_pipeline.repository import locks

EVALUATED = "evaluate@digits_softmax"
MODEL = "models/digits_softmax.safetensors"
TEST_JSON = "metrics/digits/digits_softmax/test.json"
VALIDATION = "metrics/digits/digits_softmax/validation.json"
ORIGIN = {"mlflow.source.git.commit", "kmnist.dirty", "kmnist.experiment", "kmnist.superseded"}


def without(tags: set[str], runs: Table) -> Table:
    return {
        name: run | {"tags": {k: v for k, v in run["tags"].items() if k not in tags}}
        for name, run in runs.items()
    }


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(empty_store, tmp_path / "store.db"))


@pytest.fixture(scope="module")
def project(digits_run: tuple[Project, str], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose tests leave its files as they were."""
    return copied(digits_run, tmp_path_factory.mktemp("publish") / "project")


@pytest.fixture
def publish(capsys: pytest.CaptureFixture[str]) -> Callable[..., SimpleNamespace]:
    """Run the command in this process: importing MLflow takes seconds."""

    def run(project: Project, store: Path | str, *arguments: str) -> SimpleNamespace:
        uri = store if isinstance(store, str) else f"sqlite:///{store}"
        with contextlib.chdir(project.folder), mock.patch.dict(os.environ):
            os.environ["MLFLOW_TRACKING_URI"] = uri
            status = cli.main(["publish", *arguments])
        out, err = capsys.readouterr()
        return SimpleNamespace(status=status, out=out, err=err)

    return run


# --- the workspace -------------------------------------------------------------------------------


def test_a_store_that_was_lost_comes_back_as_it_was(live, unlogged):
    done = unlogged.run("kmnist", "publish", *OF_DIGITS)
    assert (done.stdout, done.stderr, done.returncode) == (published(len(OF_DIGITS), 0), "", 0)
    again = client_of(unlogged.folder / "mlflow.db")
    assert table(again) == live
    (group,) = [e for e in again.search_experiments() if e.name == "digits"]
    assert group.artifact_location == (unlogged.folder / "mlartifacts/digits").as_uri()


def test_all_stages_and_then_nothing_more(project, store, publish):
    stages = locks.parse((project.folder / "dvc.lock").read_text()).stages
    first = publish(project, store, *stages)
    assert (first.out, first.status) == (published(len(stages), 0), 0)
    absent = [
        f"note: {address}: {path} is not in DVC's cache: the run lacks it"
        for address, stage in stages.items()
        for path in stage.outs
        if path.startswith("models/") and "digits" not in path
    ]
    assert sorted(first.err.splitlines()) == sorted(absent)

    def ids() -> set[str]:
        with contextlib.closing(sqlite3.connect(store)) as database:
            return {row[0] for row in database.execute("select run_uuid from runs")}

    before = ids()
    second = publish(project, store, *stages)
    assert (second.out, second.status) == (published(0, len(stages)), 0)
    assert ids() == before


def test_stages_that_dvc_restored_without_running_them(live, unlogged, store, publish):
    for path in (MODEL, "metrics/digits/digits_softmax/validation.json"):
        (unlogged.folder / path).unlink()
    done = unlogged.run("dvc", "repro", TRAINED)
    assert "is cached - skipping run, checking out outputs" in done.stdout, done.stderr
    shutil.rmtree(unlogged.folder / "data")
    assert unlogged.run("dvc", "checkout", "preprocess@digits").returncode == 0
    assert not (unlogged.folder / "mlflow.db").exists()

    stages = [TRAINED, "preprocess@digits"]
    assert publish(unlogged, store, *stages).status == 0
    assert table(client_of(store)) == {name: live[name] for name in stages}


def test_a_model_that_only_the_cache_has(live, unlogged, store, publish):
    (unlogged.folder / MODEL).unlink()
    assert publish(unlogged, store, TRAINED).err == ""
    assert table(client_of(store))[TRAINED] == live[TRAINED]


def test_a_model_that_comes_back_later(live, unlogged, store, publish):
    kept = unlogged.folder / ".kmnist/kept"
    (unlogged.folder / MODEL).rename(kept)
    shutil.rmtree(unlogged.folder / ".dvc/cache")
    done = publish(unlogged, store, TRAINED)
    assert (done.status, done.err.count(MODEL)) == (0, 1)
    run = table(client_of(store))[TRAINED]
    assert run["tags"].pop("kmnist.missing") == MODEL
    assert live[TRAINED]["artifacts"].keys() - run["artifacts"] == {"models/" + Path(MODEL).name}
    assert run == live[TRAINED] | {"artifacts": run["artifacts"]}
    assert publish(unlogged, store, TRAINED).out == published(0, 1)

    kept.rename(unlogged.folder / MODEL)
    assert publish(unlogged, store, TRAINED).out == published(1, 0)
    assert table(client_of(store))[TRAINED] == live[TRAINED]


# --- what is refused -----------------------------------------------------------------------------

WRONG = "is not as dvc.lock says; `kmnist check` says more"


@pytest.mark.parametrize(
    ("file", "change", "problem"),
    [
        (TEST_JSON, "edit", f"{TEST_JSON} {WRONG}"),
        (TEST_JSON, "remove", f"{TEST_JSON} is missing"),
        (VALIDATION, "edit", f"{VALIDATION} {WRONG}"),
        ("figures/digits/digits_softmax/confusion.png", "edit", WRONG),
        ("predictions/digits_softmax.npz", "edit", WRONG),
    ],
)
def test_a_stage_whose_files_are_not_the_locks(file, change, problem, project, store, publish):
    kept = (project.folder / file).read_bytes()
    edited = kept[:-20] + b"9" + kept[-19:] if change == "edit" else None
    with replaced(project.folder / file, edited):
        done = publish(project, store, EVALUATED, "report@digits", "download@digits")
    refused = done.err.splitlines()
    assert refused[0].startswith(f"refused: {EVALUATED}: ")
    assert refused[0].endswith(problem)
    assert len(refused) == 1
    assert (done.out, done.status) == (published(2, 0, 1), 1)
    assert sorted(table(client_of(store))) == ["download@digits", "report@digits"]


def test_a_stage_whose_dependency_was_edited_while_it_ran(unlogged, store, publish):
    stage = locks.parse((unlogged.folder / "dvc.lock").read_text()).stages[EVALUATED]
    md5 = stage.deps["src/kmnist_pipeline/stages/evaluate.py"]
    lock = unlogged.folder / "dvc.lock"
    lock.write_text(lock.read_text().replace(md5, "a" * 32))
    done = publish(unlogged, store, EVALUATED)
    details = numbers.beside(TEST_JSON)
    assert done.err == (
        f"refused: {EVALUATED}: {details} was made by another command, or from other "
        "dependencies or parameters, than dvc.lock says; "
        f"`dvc repro --force --single-item {EVALUATED}` makes it again\n"
    )
    assert (done.status, table(client_of(store))) == (1, {})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate@digit_softmax"], f"did you mean {EVALUATED}?"),
        (["--rev", "nowhere"], "nowhere is neither a commit nor an experiment"),
    ],
)
def test_an_unknown_stage_or_revision(arguments, words, project, store, publish):
    done = publish(project, store, *arguments)
    assert (done.out, done.status) == ("", 1)
    assert words in done.err


def test_a_lock_is_read_as_dvc_writes_it():
    from dvc.utils.serialize import dumps_yaml

    values: list[Any] = [1e-5, 2.5e-07, 1e20, 0.1, -3, 10**30, True, None]
    values += ["1e-05", "no", "on", "y", "1:30", "0x1f", "017", "1_000", "true", "null", "", "1."]
    again = locks.load(dumps_yaml({"values": values}), "a lock")["values"]
    assert [(type(v), v) for v in again] == [(type(v), v) for v in values]


# --- commits and experiments ---------------------------------------------------------------------

NAME = "fewer"


@pytest.fixture(scope="module")
def tried(digits_run: tuple[Project, str], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with an experiment beside its workspace; `live.db` is what its stage has logged."""
    project = copied(digits_run, tmp_path_factory.mktemp("tried") / "project")
    project.commit("evidence")
    shutil.copytree(digits_run[0].folder / "mlartifacts", project.folder / "mlartifacts")
    shutil.copy(digits_run[0].folder / "mlflow.db", project.folder / "mlflow.db")
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


def test_an_experiment_that_runs_supersedes_nothing(tried):
    assert standings(tried.folder / "live.db") == {"10": (None, None), "9": (NAME, None)}


def test_an_experiment_is_published_as_it_was_logged(tried, store, publish):
    done = publish(tried, store, EVALUATED, "--rev", NAME)
    assert (done.out, done.err, done.status) == (published(1, 0), "", 0)
    (run,) = evaluations(store).values()
    tags = run.data.tags
    commit = tried.run("dvc", "exp", "list", "--sha-only").stdout.split()[-1]
    assert tags["mlflow.source.git.commit"] == commit
    assert tags["kmnist.dirty"] == "false"
    client = client_of(tried.folder / "live.db")
    logged = evaluations(tried.folder / "live.db")["9"]
    dropped = {"mlflow.source.git.commit", "kmnist.dirty", "mlflow.note.content"}
    one, other = (
        shown(c, r) | {"artifacts": artifacts(c, r)}
        for c, r in ((client_of(store), run), (client, logged))
    )
    assert without(dropped, {"": one}) == without(dropped, {"": other})

    publish(tried, store, EVALUATED)
    assert standings(store) == {"10": (None, None), "9": (NAME, None)}
    assert publish(tried, store, EVALUATED, "--rev", commit).out == published(0, 1)


def test_commits_beside_the_workspace(tried, store, publish):
    tried.run("dvc", "exp", "apply", NAME)
    tried.git("commit", "--quiet", "--all", "--message", "fewer samples")
    try:
        done = publish(tried, store, EVALUATED, "--rev", "HEAD~1", "--rev", "HEAD")
        assert (done.out, done.err) == (published(2, 0), "")
        commits = tried.run("git", "log", "--format=%H", "-2").stdout.split()
        shown = evaluations(store)
        tagged = [shown[name].data.tags["mlflow.source.git.commit"] for name in ("9", "10")]
        assert tagged == commits
        assert standings(store) == {"10": (None, "true"), "9": (None, None)}
        assert publish(tried, store, EVALUATED, "--rev", "HEAD~1").out == published(0, 1)
        assert standings(store) == {"10": (None, "true"), "9": (None, None)}

        (tried.folder / TEST_JSON).write_text("{}")  # the workspace is not asked
        assert publish(tried, store, EVALUATED, "--rev", "HEAD").status == 0
    finally:
        tried.run("git", "reset", "--hard", "--quiet", "HEAD~1")
    publish(tried, store, EVALUATED)
    assert standings(store) == {"10": (None, None), "9": (None, "true")}
    publish(tried, store, EVALUATED, "--rev", NAME)
    assert standings(store) == {"10": (None, None), "9": (NAME, None)}


def test_an_applied_experiment_is_one_no_more(tried, publish):
    store = Path(shutil.copy(tried.folder / "live.db", tried.folder / "applied.db"))
    tried.run("dvc", "exp", "apply", NAME)
    try:
        assert publish(tried, store, EVALUATED).out == published(0, 1)
    finally:
        tried.run("git", "reset", "--hard", "--quiet")
    assert standings(store) == {"10": (None, "true"), "9": (None, None)}


def test_evidence_that_was_committed_wrong(unlogged, store, publish):
    unlogged.replace(TEST_JSON, '"accuracy": 0.9', '"accuracy": 1.9')
    unlogged.commit("better")
    unlogged.run("git", "revert", "--no-edit", "HEAD")
    done = publish(unlogged, store, EVALUATED, "--rev", "HEAD~1")
    assert done.err == f"refused: {EVALUATED} at HEAD~1: {TEST_JSON} {WRONG}\n"
    assert done.status == 1
    assert publish(unlogged, store, EVALUATED).status == 0


# --- faults --------------------------------------------------------------------------------------


def test_killed_half_way_and_again(live, unlogged, empty_store, store, publish):
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


def test_a_server_shows_the_same(live, project, server, publish):
    done = publish(project, server.uri, *OF_DIGITS)
    assert (done.out, done.err, done.status) == (published(len(OF_DIGITS), 0), "", 0)
    assert table(server.client()) == live
    assert publish(project, server.uri, *OF_DIGITS).out == published(0, len(OF_DIGITS))


def test_a_server_that_hangs_is_asked_twice(project):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        hung = project.run("kmnist", "publish", *OF_DIGITS, MLFLOW_TRACKING_URI=uri)
        assert attempts(silent) == 2
    assert (hung.stdout, hung.returncode, hung.stderr.count("\n")) == ("", 1, 1)
    assert hung.stderr.startswith("error: download@digits was not published to MLflow (")


@pytest.mark.parametrize("scheme", ["http", "postgresql+psycopg"])
def test_a_server_that_is_down(scheme, project, publish):
    done = publish(project, f"{scheme}://someone:secret@127.0.0.1:{free_port()}/")
    assert (done.out, done.status, done.err.count("\n")) == ("", 1, 1)
    assert "Connection refused" in done.err
    assert "someone" not in done.err
    assert "secret" not in done.err
    if scheme != "http":
        from mlflow.store.db import utils

        assert utils.MAX_RETRY_COUNT == 1

"""`kmnist publish`: a store made from the evidence is the one that live logging makes."""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from support import wording
from support.project import Project, copied, replaced
from support.stores import (
    OF_DIGITS,
    TRAINED,
    client_of,
    free_port,
    published,
    table,
)

from kmnist_pipeline.evidence import numbers
from kmnist_pipeline.repository import locks

pytestmark = pytest.mark.system
EVALUATED = "evaluate@digits_softmax"
MODEL = "models/digits_softmax.safetensors"
TEST_JSON = "metrics/digits/digits_softmax/test.json"
VALIDATION = "metrics/digits/digits_softmax/validation.json"


@pytest.fixture(scope="module")
def logged(digits_run: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose tests leave its files as they were."""
    return copied(digits_run, tmp_path_factory.mktemp("publish") / "project")


# --- the workspace -------------------------------------------------------------------------------


def test_a_store_that_was_lost_comes_back_as_it_was(live, unlogged):
    done = unlogged.run("kmnist", "publish", *OF_DIGITS)
    assert (done.stdout, done.stderr, done.returncode) == (published(len(OF_DIGITS), 0), "", 0)
    again = client_of(unlogged.folder / "mlflow.db")
    assert table(again) == live
    (group,) = [e for e in again.search_experiments() if e.name == "digits"]
    assert group.artifact_location == (unlogged.folder / "mlartifacts/digits").as_uri()


def test_all_stages_and_then_nothing_more(full_run, own_store, publish):
    stages = locks.parse((full_run.folder / "dvc.lock").read_text()).stages
    first = publish(full_run, own_store, *stages)
    assert (first.out, first.status) == (published(len(stages), 0), 0)
    absent = [
        f"note: {address}: {path} is not in DVC's cache: the run lacks it"
        for address, stage in stages.items()
        for path in stage.outs
        if path.startswith("models/") and "digits" not in path
    ]
    *named, more = first.err.splitlines()
    assert named == absent[: len(named)]
    assert f"and {len(absent) - len(named)} more" in more

    def ids() -> set[str]:
        with contextlib.closing(sqlite3.connect(own_store)) as database:
            return {row[0] for row in database.execute("select run_uuid from runs")}

    before = ids()
    second = publish(full_run, own_store, *stages)
    assert (second.out, second.status) == (published(0, len(stages)), 0)
    assert ids() == before


def test_stages_that_dvc_restored_without_running_them(live, unlogged, own_store, publish):
    for path in (MODEL, "metrics/digits/digits_softmax/validation.json"):
        (unlogged.folder / path).unlink()
    done = unlogged.run("dvc", "repro", TRAINED)
    assert "is cached - skipping run, checking out outputs" in done.stdout, done.stderr
    shutil.rmtree(unlogged.folder / "data")
    assert unlogged.run("dvc", "checkout", "preprocess@digits").returncode == 0
    assert not (unlogged.folder / "mlflow.db").exists()

    stages = [TRAINED, "preprocess@digits"]
    assert publish(unlogged, own_store, *stages).status == 0
    assert table(client_of(own_store)) == {name: live[name] for name in stages}


def test_a_model_that_only_the_cache_has(live, unlogged, own_store, publish):
    (unlogged.folder / MODEL).unlink()
    assert publish(unlogged, own_store, TRAINED).err == ""
    assert table(client_of(own_store))[TRAINED] == live[TRAINED]


def test_a_model_that_comes_back_later(live, unlogged, own_store, publish):
    kept = unlogged.folder / ".kmnist/kept"
    (unlogged.folder / MODEL).rename(kept)
    shutil.rmtree(unlogged.folder / ".dvc/cache")
    done = publish(unlogged, own_store, TRAINED)
    assert (done.status, done.err.count(MODEL)) == (0, 1)
    run = table(client_of(own_store))[TRAINED]
    assert run["tags"].pop("kmnist.missing") == MODEL
    assert live[TRAINED]["artifacts"].keys() - run["artifacts"] == {"models/" + Path(MODEL).name}
    assert run == live[TRAINED] | {"artifacts": run["artifacts"]}
    assert publish(unlogged, own_store, TRAINED).out == published(0, 1)

    kept.rename(unlogged.folder / MODEL)
    assert publish(unlogged, own_store, TRAINED).out == published(1, 0)
    assert table(client_of(own_store))[TRAINED] == live[TRAINED]


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
def test_a_stage_whose_files_are_not_the_locks(file, change, problem, logged, own_store, publish):
    kept = (logged.folder / file).read_bytes()
    edited = kept[:-20] + b"9" + kept[-19:] if change == "edit" else None
    with replaced(logged.folder / file, edited):
        done = publish(logged, own_store, EVALUATED, "report@digits", "download@digits")
    refused = done.err.splitlines()
    assert refused[0].startswith(f"refused: {EVALUATED}: ")
    assert refused[0].endswith(problem)
    assert len(refused) == 1
    assert (done.out, done.status) == (published(2, 0, 1), 1)
    assert sorted(table(client_of(own_store))) == ["download@digits", "report@digits"]


def test_a_stage_whose_dependency_was_edited_while_it_ran(unlogged, own_store, publish):
    stage = locks.parse((unlogged.folder / "dvc.lock").read_text()).stages[EVALUATED]
    md5 = stage.deps["src/kmnist_pipeline/stages/evaluate.py"]
    lock = unlogged.folder / "dvc.lock"
    lock.write_text(lock.read_text().replace(md5, "a" * 32))
    done = publish(unlogged, own_store, EVALUATED)
    assert done.err.startswith(f"refused: {EVALUATED}: {numbers.beside(TEST_JSON)} was made by ")
    assert done.err.endswith(f"`dvc repro --force --single-item {EVALUATED}` makes it again\n")
    assert (done.status, table(client_of(own_store))) == (1, {})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate@digit_softmax"], f"did you mean {EVALUATED}?"),
        (["--rev", "nowhere"], f"nowhere {wording.NO_REVISION}"),
    ],
)
def test_an_unknown_stage_or_revision(arguments, words, logged, own_store, publish):
    done = publish(logged, own_store, *arguments)
    assert (done.out, done.status) == ("", 1)
    assert words in done.err


def test_a_lock_is_read_as_dvc_writes_it():
    from dvc.utils.serialize import dumps_yaml

    values: list[Any] = [1e-5, 2.5e-07, 1e20, 0.1, -3, 10**30, True, None]
    values += ["1e-05", "no", "on", "y", "1:30", "0x1f", "017", "1_000", "true", "null", "", "1."]
    again = locks.load(dumps_yaml({"values": values}), "a lock")["values"]
    assert [(type(v), v) for v in again] == [(type(v), v) for v in values]


@pytest.mark.parametrize("scheme", ["http", "postgresql+psycopg"])
def test_a_server_that_is_down(scheme, logged, publish):
    done = publish(logged, f"{scheme}://someone:secret@127.0.0.1:{free_port()}/")
    assert (done.out, done.status, done.err.count("\n")) == ("", 1, 1)
    assert "Connection refused" in done.err
    assert "someone" not in done.err
    assert "secret" not in done.err
    if scheme != "http":
        from mlflow.store.db import utils

        assert utils.MAX_RETRY_COUNT == 1


# --- a commit of somebody else -------------------------------------------------------------------


@pytest.mark.parametrize("out", ["models/../../../victim", "/tmp/victim", "models/../../x"])
def test_a_commit_whose_lock_names_places_outside_is_refused(out, project, own_store, publish):
    with (project.folder / "dvc.lock").open("a") as lock:
        listed = f"    - path: {out}\n      md5: {'f' * 32}\n"
        lock.write(f"  kfold-train@gone:\n    cmd: x\n    outs:\n{listed}")
    project.commit()
    project.git("tag", "theirs")
    project.git("checkout", "--quiet", "HEAD~1")
    done = publish(project, own_store, "--rev", "theirs")
    assert done.status == 1
    assert f"dvc.lock at theirs: kfold-train@gone: {out} is not a path" in done.err


@pytest.mark.parametrize("report", ["../../victim", "..", "''"])
def test_a_commit_whose_report_names_a_place_outside_is_refused(
    report, project, own_store, publish, tmp_path
):
    """The artifacts of an MLflow experiment are in a folder of its name."""
    params = project.folder / "params.yaml"
    text = re.sub(
        r"(?ms)^(models:.*?^  digits_softmax:.*?^    report: )digits$",
        lambda found: f"{found[1]}{report}",
        params.read_text(),
        count=1,
    )
    assert text != params.read_text()
    params.write_text(text)
    project.commit()
    before = {path.name for path in tmp_path.iterdir()}
    done = publish(project, own_store, EVALUATED, "--rev", "HEAD")
    assert done.status == 1
    assert f"{report.strip(chr(39))!r} is not the name of a report" in done.err
    assert {path.name for path in tmp_path.iterdir()} == before

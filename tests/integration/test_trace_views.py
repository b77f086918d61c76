"""What `kmnist trace` shows: a tree, JSON and pictures, with receipts and runs in MLflow."""

from __future__ import annotations

import json
import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pydot
import pytest
from support.stores import Server
from support.tracing import (
    EVALUATE,
    FIGURE,
    PAGE,
    RAW,
    UNKNOWN,
    of,
)
from voluptuous import All, Any, Datetime, Length, Match, Optional, Schema

from kmnist_pipeline.commands import receipts
from kmnist_pipeline.commands.trace.runs import SECONDS
from kmnist_pipeline.repository import locks
from kmnist_pipeline.repository.compare import Difference, Verdict

# --- what is shown -------------------------------------------------------------------------------


def test_the_tree_shows_all(trace, history, archive):
    status, output, _ = trace(history[2] / FIGURE)
    found = of(history[2] / FIGURE)
    match = found.files[0].matches[0]
    assert status == 0
    assert f"recorded in dvc.lock as what {EVALUATE} made as {FIGURE} (md5 " in output
    assert "no longer in dvc.lock of this folder" in output
    assert history[1][0][:12] in output
    for step in found.behind(match.stage.key):
        assert output.count(f"{step.stage.address}  lineage key {step.stage.key}") == 1
        assert step.stage.cmd in output
        for path, md5 in step.code.items():
            assert output.count(f"{path}  md5 {md5}") == 1  # a file of two stages once
        for original in step.originals:
            assert f"licence: {original.licence}" in output
            assert f"from: {', '.join(original.sources)}" in output
            for name, sha256 in original.files.items():
                assert f"{name}  sha256 {sha256}" in output
    assert "evaluation.samples: 10" in output
    assert "experiments.digits_softmax.optimizer.lr: 0.5" in output


@pytest.fixture
def receipt(archive) -> Iterator[Path]:
    """Of a verification of the first commit's stage; that of the later commits has another key."""
    lock = locks.parse(archive.git("show", "HEAD~2:dvc.lock"))
    stage = lock.stages[EVALUATE]
    found = [Difference(out, Verdict.IDENTICAL, "") for out in stage.outs]
    made = receipts.statement("c" * 40, EVALUATE, None, [(stage, found)])
    path = receipts.leave(made, None)
    yield path
    path.unlink()


def test_a_verification_that_ran_the_stage_is_shown(receipt, trace, history):
    told = f"run again by `kmnist verify {EVALUATE}` on "
    _, output, _ = trace(history[2] / FIGURE)
    assert re.search(f"{told}.*: identical \\(not signed\\)", output)
    _, output, _ = trace(FIGURE)  # of a later commit
    assert told not in output
    assert "no receipt of `kmnist verify` says that this stage was run again" in output
    _, output, _ = trace("--json", history[2] / FIGURE)
    content = json.loads(output)
    SCHEMA(content)
    key = content["files"][0]["made"][0]["lineage"]
    verified = {each["receipt"]: each for each in content["stages"][key]["verified"]}
    told = verified[receipt.as_posix()]
    assert (told["verdict"], told["signature"]) == ("identical", "not signed")


KEY, ID, MD5 = All(str, Match("^[0-9a-f]{64}$")), Match("^[0-9a-f]{40}$"), Match("^[0-9a-f]{32}$")
TEXT = All(str, Length(min=1))
DATE = Datetime("%Y-%m-%dT%H:%M:%S%z")
ORIGINAL = {
    "dataset": TEXT,
    "title": TEXT,
    "licence": TEXT,
    "sources": [TEXT],
    "files": All({TEXT: KEY}, Length(min=2)),
}
FILE = {
    "file": TEXT,
    "md5": MD5,
    "status": Any("exact", "altered", "unknown"),
    "remark": str,
    "whole": bool,
    "made": [
        {
            "stage": TEXT,
            "lineage": KEY,
            "path": TEXT,
            "here": bool,
            "commits": [{"id": ID, "date": DATE, "subject": TEXT}],
        }
    ],
    "behind": [KEY],
    "originals": [ORIGINAL],
}
STAGE = {
    "stage": TEXT,
    "cmd": TEXT,
    "params": All({TEXT: object}, Length(min=1)),
    "code": All({TEXT: TEXT}, Length(min=1)),
    "inputs": [{"path": TEXT, "md5": TEXT, "makers": [KEY], "exact": bool}],
    "outs": All({TEXT: TEXT}, Length(min=1)),
    "files": [TEXT],
    "originals": [ORIGINAL],
    "run": Any(None, {"id": TEXT, "name": TEXT, "experiment": TEXT, "experiment_id": TEXT}),
    "verified": [
        {"command": TEXT, "commit": ID, "machine": TEXT, "receipt": TEXT}
        | {"signature": TEXT, "verdict": Any("identical", "equal", "different")}
    ],
}
SCHEMA = Schema({"files": [FILE], "stages": {Optional(KEY): STAGE}, "mlflow": TEXT}, required=True)


def test_json_has_a_schema(trace, history, tmp_path):
    (tmp_path / "unknown").write_bytes(b"x")
    for asked in ([FIGURE, history[2] / PAGE, RAW], [tmp_path / "unknown"], []):
        status, output, _ = trace("--json", *asked)
        content = json.loads(output)
        SCHEMA(content)
        assert status == (1 if tmp_path / "unknown" in asked else 0)
        assert len(content["files"]) == len(asked)
        for file in content["files"]:
            assert set(file["behind"]) <= content["stages"].keys()
            assert file["whole"] == bool(file["originals"])
    files = content["stages"][of(FIGURE).files[0].matches[0].stage.key]["files"]
    assert FIGURE in files


@pytest.mark.parametrize("asked", ["a page", "a file", "two versions", "all"])
def test_pictures_hold_every_stage(asked, trace, history, archive):
    files = {
        "a page": [history[2] / PAGE],
        "a file": [FIGURE],
        "two versions": [history[2] / FIGURE, FIGURE],
        "all": [],
    }[asked]
    found = of(*files)
    versions = Counter(step.stage.address for step in found.steps.values())
    stages = {
        (f"{s.kind} {s.key[:7]}" if versions[s.address] > 1 else s.kind, s.item)
        for s in (step.stage for step in found.steps.values())
    }
    assert versions[EVALUATE] == (2 if asked == "two versions" else 1)
    arrows = {
        (maker, key)
        for key, step in found.steps.items()
        for source in step.inputs
        for maker in source.makers
    }
    count = len(arrows) + sum(len(step.originals) for step in found.steps.values()) + len(files)
    assert len(stages) >= 4

    status, output, _ = trace("--dot", *files)
    (graphviz,) = pydot.graph_from_dot_data(output) or []
    labels = {tuple(node.get("label").strip('"').split("\\n")) for node in graphviz.get_nodes()}
    assert status == 0
    assert stages <= labels
    assert len(graphviz.get_edges()) == count
    known = {node.get_name() for node in graphviz.get_nodes()}
    ends = {(edge.get_source(), edge.get_destination()) for edge in graphviz.get_edges()}
    assert {end for pair in ends for end in pair} <= known

    status, output, _ = trace("--svg", *files)
    svg = "{http://www.w3.org/2000/svg}"
    picture = ElementTree.fromstring(output)
    drawn = {tuple(box.itertext())[1:] for box in picture.iter(f"{svg}a")}
    assert status == 0
    assert stages <= drawn
    assert ("original data", "scikit-learn's bundled digits") in drawn
    assert len([part for part in picture.iter(f"{svg}g")]) == count
    width, height = float(picture.get("width", 0)), float(picture.get("height", 0))
    rows = [tuple(map(float, (r.get("x", 0), r.get("y", 0)))) for r in picture.iter(f"{svg}rect")]
    assert all(0 <= x < width and 0 <= y < height for x, y in rows)
    assert len(set(rows)) == len(rows)  # no box on another
    assert trace("--svg", *files)[1] == output

    status, output, _ = trace("--html", *files)
    assert status == 0
    for step in found.steps.values():
        title = f'id="stage-{step.stage.key[:12]}">\n<summary><b>{step.stage.address}</b>'
        assert output.count(title) == 1
        assert set(step.code.values()) <= set(re.findall(r"[0-9a-f]{32}(?:\.dir)?", output))
    assert FIGURE.removeprefix("figures/digits/digits_softmax/") in output
    assert not re.search(r'(?:src|href)="(?!#)|url\(|@import', output)  # stands alone
    targets = set(re.findall(r'href="#([^"]+)"', output))
    sections = set(re.findall(r' id="([^"]+)"', output))
    assert {target for target in targets if not target.startswith("data-")} <= sections


def test_a_picture_of_an_unknown_file(trace, tmp_path):
    (tmp_path / "un<known>.txt").write_bytes(b"x")
    for form in ("--dot", "--svg", "--html"):
        status, output, message = trace(form, tmp_path / "un<known>.txt")
        assert status == 1
        assert UNKNOWN in message
        assert "known" in output


# --- MLflow --------------------------------------------------------------------------------------


def test_the_run_that_shows_a_stage(trace, archive):
    """The stages of the fixture logged themselves to mlflow.db."""
    from mlflow import MlflowClient

    found = of(FIGURE)
    client = MlflowClient(f"sqlite:///{archive.folder / 'mlflow.db'}")
    for key, step in found.steps.items():
        logged = client.get_run(found.runs.by_key[key].id)
        assert logged.data.tags["kmnist.lineage"] == key
        assert logged.data.tags["kmnist.stage"] == step.stage.address
        experiment = client.get_experiment(logged.info.experiment_id).name
        assert found.runs.by_key[key].experiment == experiment
    assert f"run {found.runs.by_key[key].id} of experiment {experiment}" in trace(FIGURE)[1]


@pytest.mark.system
def test_a_server_is_asked_as_a_file_is(trace, archive, tmp_path, monkeypatch):
    in_file = of(FIGURE).runs
    server = Server(tmp_path, archive.folder / "mlflow.db")
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri.replace("//", "//name:word@"))
        of_server = of(FIGURE).runs
        assert in_file.by_key
        assert (of_server.by_key, str(of_server)) == (in_file.by_key, server.uri)

        server.send(signal.SIGSTOP)
        status, output, message = trace(FIGURE)
        assert (status, message) == (0, "")
        problem = f"no complete answer within {SECONDS} s"
        assert output.endswith(f"\nMLflow store: {server.uri} ({problem})\n")
    finally:
        server.send(signal.SIGKILL)
        server.process.wait()


@pytest.mark.parametrize(
    ("uri", "store"),
    [
        (
            "http://name:word@127.0.0.1:9",
            "http://127.0.0.1:9 (ConnectionRefusedError: [Errno 111] Connection refused)",
        ),
        (
            "postgresql+psycopg://name:word@127.0.0.1:9/runs",
            "postgresql+psycopg://127.0.0.1:9/runs ",
        ),
        ("postgresql://name:word@127.0.0.1:9/runs?a=word", "postgresql://127.0.0.1:9/runs (Prog"),
        ("file:///runs", "file:///runs (not asked: neither a server nor SQLite nor PostgreSQL)"),
        ("databricks", "databricks (not asked: neither a server nor SQLite nor PostgreSQL)"),
        ("sqlite:///none.db", "none.db (does not exist)"),
        ("sqlite:///params.yaml", "params.yaml (DatabaseError: file is not a database; "),
    ],
)
def test_a_store_that_cannot_answer_costs_nothing(uri, store, trace, archive, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    status, output, message = trace("--json", FIGURE)
    assert (status, message) == (0, "")
    told = json.loads(output)["mlflow"]
    assert told.startswith(store)
    assert "word" not in told

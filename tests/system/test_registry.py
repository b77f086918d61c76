"""`kmnist promote` and the champion: in a real store, through a real server, scored by MLflow."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import load_model
from support.project import Project, files_under, flipped, replaced, with_run
from support.scoring import serving

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evaluation import metrics
from kmnist_pipeline.evidence import lineage
from kmnist_pipeline.repository import locks
from kmnist_pipeline.serving import candidates, character, fingerprint, predict, registry, scoring
from kmnist_pipeline.tracking.store import connect

SOFTMAX, GRID = "digits_softmax", "digits_softmax_grid"
BUNDLE, CODE = "artifacts/bundle", "code/*/serving/classifier.py"  # in the files of a version
FILES = ("model.safetensors", "about.json", "test.json", "validation.json")


@pytest.fixture(scope="module")
def made(
    full_clone: Project,
    digits_run: Project,
    empty_store: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Project:
    """The project with all data sets after `make demo`, with an empty store of its own."""
    project = with_run(full_clone, digits_run, tmp_path_factory.mktemp("registry") / "my ü")
    shutil.copy(empty_store, project.folder / "mlflow.db")
    return project


@pytest.fixture
def alone(made: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """In that project, with no other store."""
    for name in list(os.environ):
        if name.startswith("MLFLOW_"):
            monkeypatch.delenv(name)
    with contextlib.chdir(made.folder):
        yield made.folder


@pytest.fixture(scope="module")
def promoted(made: Project) -> str:
    """What `kmnist promote` says of the best model of the digits."""
    done = made.run("kmnist", "promote", "--dataset", "digits")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def versions() -> list[Any]:
    found = connect().search_model_versions("name = 'digits'")
    return sorted(found, key=lambda version: int(version.version))


def key_of(name: str) -> str:
    return locks.parse(Path("dvc.lock").read_text()).stages[f"evaluate@{name}"].key


def files_of(version: Any) -> Path:
    uri = connect().get_model_version_download_uri(version.name, version.version)
    return Path(urllib.parse.unquote(uri.removeprefix("file://")))


# --- promoting -----------------------------------------------------------------------------------


def test_a_version_stands_alone(promoted, alone):
    assert promoted == f"digits version 1, {SOFTMAX}, is the champion\n"
    assert list(alone.parent.iterdir()) == [alone]  # MLflow may make a folder with another name
    version = connect().get_model_version_by_alias("digits", "champion")
    validation, test = (
        json.loads(Path(f"metrics/digits/{SOFTMAX}/{part}.json").read_text())
        for part in ("validation", "test")
    )
    assert version.tags == {
        "kmnist.model": SOFTMAX,
        "kmnist.lineage": key_of(SOFTMAX),
        "kmnist.files": fingerprint.of(files_of(version)),
        "validation_accuracy": f"{validation['accuracy']:.6g}",
        "test_accuracy": f"{test['accuracy']:.6g}",
        "test_f1": f"{test['f1']:.6g}",
    }
    assert version.run_id and version.description
    run = connect().get_run(version.run_id)
    assert run.data.tags["kmnist.stage"] == f"evaluate@{SOFTMAX}"
    assert run.info.status == "FINISHED"
    assert run.outputs
    assert [f"models:/{o.model_id}" for o in run.outputs.model_outputs] == [version.source]
    for words in ("Intended use", "Limits", "CC BY 4.0", key_of(SOFTMAX), "| 9 | "):
        assert words in version.description

    files = [path for path in files_of(version).rglob("*") if path.is_file()]
    plain = {".py", ".json", ".md", ".txt", ".yaml", ""}  # nothing pickled
    assert {path.suffix for path in files} == {*plain, ".safetensors"}
    assert "__pycache__" not in {path.parent.name for path in files}
    about = yaml.safe_load((files_of(version) / "MLmodel").read_text())
    assert about["metadata"] == {
        "kmnist.lineage": key_of(SOFTMAX),
        "kmnist.bundle": fingerprint.of(files_of(version) / BUNDLE),
    }
    assert json.loads(about["signature"]["inputs"])[0]["tensor-spec"]["shape"] == [-1, -1, -1]
    weights = files_of(version) / "artifacts/bundle/model.safetensors"
    assert lineage.digest(weights) == lineage.digest(Path(f"models/{SOFTMAX}.safetensors"))
    requirements = (files_of(version) / "requirements.txt").read_text()
    assert f"numpy=={np.__version__}" in requirements and "torch" not in requirements


def test_the_same_evidence_makes_no_new_version(promoted, alone):
    said = list(registry.promote(candidates.read(SOFTMAX), force=False))
    assert said == [f"digits version 1, {SOFTMAX}, is already the champion"]
    assert len(versions()) == 1


def test_every_data_set_gets_its_best_and_one_that_cannot_stops_no_other(promoted, made):
    done = made.run("kmnist", "promote")
    assert done.stdout == f"digits version 1, {SOFTMAX}, is already the champion\n"
    assert done.returncode == 1
    errors = done.stderr.splitlines()
    assert [error.split("/")[1].split("_")[0] for error in errors] == ["kmnist", "mnist"]
    assert all("does not exist: `dvc repro evaluate@" in error for error in errors)


def test_the_champion_is_used_with_the_registered_weights(promoted, alone):
    with np.load("data/processed/digits.npz") as arrays:
        images = arrays["images"][arrays["test"]]
    by_name, _ = predict.choose(SOFTMAX, "kmnist")
    hidden = Path(f"models/{SOFTMAX}.safetensors")
    hidden.rename("hidden")
    try:
        found, why = predict.choose(None, "digits")
    finally:
        Path("hidden").rename(hidden)
    assert why == "champion of digits, version 1"
    assert found.answers(images) == by_name.answers(images)
    assert registry.champion("mnist") is None


def test_a_model_that_is_no_worse_takes_over_and_gives_back(promoted, alone):
    try:
        said = list(registry.promote(candidates.read(GRID), force=False))
        assert "sampling error" in said[0] and "McNemar" in said[1]
        assert said[2] == f"digits version 2, {GRID}, is the champion"
        said = list(registry.promote(candidates.read(SOFTMAX), force=False))
        assert said[2] == f"digits version 1, {SOFTMAX}, is the champion"  # no third version
        assert len(versions()) == 2
    finally:
        connect().set_registered_model_alias("digits", "champion", "1")


def test_stale_evidence_is_refused_with_its_reason_unless_forced(promoted, alone):
    code = Path("src/kmnist_pipeline/families/linear/model.py")
    before, count = code.read_text(), len(versions())
    code.write_text(f"{before}\n# changed\n")
    try:
        with pytest.raises(UserError) as refused:
            list(registry.promote(candidates.read(GRID), force=False))
        assert f"{GRID} is not promoted (--force promotes it anyway)" in str(refused.value)
        assert f"stale: evaluate@{GRID}: dependency {code.parent}" in str(refused.value)
        assert "kmnist_softmax" not in str(refused.value)  # stale too, and of no concern here
        assert registry.champion("digits").classifier.name == SOFTMAX  # type: ignore[union-attr]

        model = candidates.read(GRID)
        worse = {**model.test, "right": metrics.pack_bits(np.zeros(model.test["n"], bool))}
        said = list(registry.promote(replace(model, test=worse), force=True))
        assert any(line.startswith("forced, although it is worse") for line in said)
        assert any(line.startswith("forced, although its evidence is stale") for line in said)
    finally:
        code.write_text(before)
        connect().set_registered_model_alias("digits", "champion", "1")
    if len(versions()) > count:  # not where another test has registered the model before
        assert "is stale" in versions()[-1].tags["kmnist.forced"]


def test_altered_weights_are_not_promoted(promoted, alone):
    path = Path(f"models/{GRID}.safetensors")
    with (
        replaced(path, flipped(path, -1)),
        pytest.raises(UserError, match=r"is not as dvc\.lock says"),
    ):
        list(registry.promote(candidates.read(GRID), force=True))


@pytest.mark.parametrize("file", [*(f"{BUNDLE}/{name}" for name in FILES), CODE, "MLmodel"])
def test_an_altered_file_of_a_version_is_noticed(file, promoted, alone):
    (path,) = files_of(connect().get_model_version_by_alias("digits", "champion")).glob(file)
    problem = f"digits version 1 do not have the digest of .*`kmnist promote {SOFTMAX}` registers"
    with replaced(path, flipped(path, -1)), pytest.raises(UserError, match=problem):
        registry.champion("digits")


@pytest.mark.parametrize("name", FILES)
def test_a_version_itself_notices_an_altered_bundle(name, promoted, alone):
    """As `mlflow models serve` loads it, without this project."""
    whole = files_of(connect().get_model_version_by_alias("digits", "champion"))
    path = whole / BUNDLE / name
    with (
        replaced(path, flipped(path, -1)),
        pytest.raises(MlflowException, match="are not those that"),
    ):
        load_model(str(whole))


def test_what_python_and_mlflow_add_to_a_version_is_not_its_content(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code/a.py").write_text("1")
    known = fingerprint.of(tmp_path)
    (tmp_path / "code/__pycache__").mkdir()
    (tmp_path / "code/__pycache__/a.pyc").write_text("1")
    (tmp_path / "registered_model_meta").write_text("model_name: digits")
    assert fingerprint.of(tmp_path) == known
    (tmp_path / "code/a.py").rename(tmp_path / "code/b.py")
    assert fingerprint.of(tmp_path) != known


def test_altered_weights_in_the_store_are_not_used_and_registered_again(promoted, made, alone):
    client = connect()
    version = client.get_model_version_by_alias("digits", "champion")
    weights = files_of(version) / BUNDLE / FILES[0]
    remedy = f"`kmnist promote {SOFTMAX}` registers the model again"
    server = [sys.executable, "-m", "kmnist_pipeline.serving.serve", "digits", "5001"]
    try:
        with replaced(weights, flipped(weights, -1)):
            for command in (["kmnist", "predict", "README.md", "--dataset", "digits"], server):
                done = made.run(*command)
                assert done.returncode == 1 and remedy in done.stderr, done.stderr
            with pytest.raises(UserError, match="it cannot be compared with the champion: the fil"):
                list(registry.promote(candidates.read(GRID), force=False))
            said = list(registry.promote(candidates.read(SOFTMAX), force=False))
            newest = versions()[-1]
            assert said == [f"digits version {newest.version}, {SOFTMAX}, is the champion"]
            assert newest.version != version.version
            assert registry.champion("digits").version == str(newest.version)  # type: ignore[union-attr]
    finally:
        client.set_registered_model_alias("digits", "champion", version.version)


def test_a_version_without_a_digest_is_registered_again(promoted, alone):
    client = connect()
    version = client.get_model_version_by_alias("digits", "champion")
    client.delete_model_version_tag("digits", version.version, "kmnist.files")
    client.set_model_version_tag("digits", version.version, "kmnist.weights", "0" * 32)
    remedy = f"has no digest of its files .*`kmnist promote {SOFTMAX}` registers the model"
    try:
        with pytest.raises(UserError, match=remedy):
            registry.champion("digits")
        assert "is the champion" in next(registry.promote(candidates.read(SOFTMAX), force=False))
    finally:
        client.delete_model_version_tag("digits", version.version, "kmnist.weights")
        known = fingerprint.of(files_of(version))
        client.set_model_version_tag("digits", version.version, "kmnist.files", known)
        client.set_registered_model_alias("digits", "champion", version.version)


def test_a_version_without_a_placement_is_registered_again(promoted, alone):
    version = connect().get_model_version_by_alias("digits", "champion")
    path = files_of(version) / BUNDLE / "about.json"
    about = json.loads(path.read_text())
    del about["dataset"]["placement"]
    remedy = f"has no placement of characters, .*`kmnist promote {SOFTMAX}` registers the model"
    client, known = connect(), version.tags["kmnist.files"]
    try:
        with replaced(path, json.dumps(about).encode()):
            changed = fingerprint.of(files_of(version))
            client.set_model_version_tag("digits", version.version, "kmnist.files", changed)
            with pytest.raises(UserError, match=remedy):
                registry.champion("digits")
    finally:
        client.set_model_version_tag("digits", version.version, "kmnist.files", known)


def test_the_server_itself_compares_the_files(promoted, made):
    command = [sys.executable, "-P", scoring.__file__, "models:/digits/1", "0" * 32, "localhost"]
    done = made.run(*command, "5001", MLFLOW_TRACKING_URI="sqlite:///mlflow.db")
    assert done.returncode == 1
    assert "error: models:/digits/1: its files are not those that were" in done.stderr


def test_native_arithmetic_makes_no_evidence_to_promote(promoted, alone):
    path, lock = Path(f"metrics/digits/{GRID}/validation_details.json"), Path("dvc.lock")
    measured, locked, md5 = path.read_text(), lock.read_text(), lineage.digest(path)
    path.write_text(measured.replace('"x86-64-v3"', '"native"'))
    lock.write_text(locked.replace(md5, lineage.digest(path)))
    try:
        with pytest.raises(UserError, match=f"stale: tune@{GRID}: out {path} was made in native"):
            list(registry.promote(candidates.read(GRID), force=False))
    finally:
        path.write_text(measured)
        lock.write_text(locked)


def test_a_champion_of_others_is_not_run(promoted, alone):
    client = connect()
    client.create_registered_model("mnist")
    client.create_model_version("mnist", files_of(versions()[0]).as_uri())
    client.set_registered_model_alias("mnist", "champion", "1")
    try:
        with pytest.raises(UserError, match="not registered by `kmnist promote`"):
            registry.champion("mnist")
    finally:
        client.delete_registered_model("mnist")


def test_a_store_that_is_gone_is_one_line_without_its_credentials(made):
    uri = "http://user:secret@127.0.0.1:9"
    done = made.run("kmnist", "predict", "README.md", MLFLOW_TRACKING_URI=uri)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the MLflow store fails: ConnectionRefusedError")
    assert "`--model NAME`" in done.stderr and done.stderr.count("\n") == 1
    assert "secret" not in done.stdout + done.stderr


def test_a_version_whose_files_are_lost_is_registered_again(promoted, made, tmp_path, monkeypatch):
    """In a copy of the project, which leaves the original as it is."""
    copy, original = tmp_path / "copy", files_under(made.folder / "mlartifacts")
    shutil.copytree(made.folder, copy, ignore=shutil.ignore_patterns(".dvc"))
    monkeypatch.chdir(copy)
    # As in a process of its own: MLflow remembers the places of artifacts.
    monkeypatch.setattr(
        "mlflow.tracking._tracking_service.utils._artifact_repos_cache", OrderedDict()
    )
    assert registry.champion("digits").classifier.name == SOFTMAX  # type: ignore[union-attr]
    place, count = files_of(versions()[0]), len(versions())
    assert place.is_relative_to(copy)
    kept = files_under(place)
    shutil.rmtree(copy / "mlartifacts")
    connect().delete_logged_model(str(versions()[0].source).rpartition("/")[2])
    remedy = f"version 1 of digits has lost its files in the store: `kmnist promote {SOFTMAX}`"
    with pytest.raises(UserError, match=remedy):
        registry.champion("digits")
    with pytest.raises(UserError, match=f"cannot be compared with the champion: {remedy}"):
        list(registry.promote(candidates.read(GRID), force=False))
    for words in ("is the champion", "is already the champion"):
        said = list(registry.promote(candidates.read(SOFTMAX), force=False))
        assert said == [f"digits version {count + 1}, {SOFTMAX}, {words}"]
    assert registry.champion("digits").classifier.name == SOFTMAX  # type: ignore[union-attr]
    # MLflow writes the other file when somebody loads the version.
    mended = files_under(files_of(versions()[-1])).keys()
    assert mended == kept.keys() - {"registered_model_meta"}
    assert files_under(made.folder / "mlartifacts") == original


# --- serving -------------------------------------------------------------------------------------

USE = """
import json, sys
import mlflow.pyfunc, numpy as np
model = mlflow.pyfunc.load_model(sys.argv[1])
with np.load(sys.argv[2]) as arrays:
    model.predict(arrays["images"][:1])
    table = model.predict(arrays["images"][:20], params={"as_is": True})
    sheets = np.pad(255 - 15 * arrays["images"][:20], ((0, 0), (9, 4), (3, 6)), constant_values=255)
    placed = model.predict(sheets)
files = [m.__file__ for n, m in sys.modules.items() if n.startswith("kmnist_pipeline")]
placed = placed.to_dict("records")
print(json.dumps({"rows": table.to_dict("records"), "placed": placed, "files": files}))
"""


def test_a_version_brings_its_own_code(promoted, made, alone, tmp_path):
    place = files_of(versions()[0])
    data = alone / "data/processed/digits.npz"
    done = subprocess.run(
        [sys.executable, "-c", USE, str(place), str(data)],
        cwd=tmp_path, env=made.environment(PYTHONPATH=""), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    used = json.loads(done.stdout)
    assert done.stderr.count("to about six digits") == 1
    assert len(used["files"]) > 5
    assert all(Path(file).is_relative_to(place / "code") for file in used["files"])
    classifier = predict.choose(SOFTMAX, "")[0]
    with np.load(data) as arrays:
        images = arrays["images"][:20]
    sheets = np.pad(255 - 15 * images, ((0, 0), (9, 4), (3, 6)), constant_values=255)
    prepared = [character.prepare(sheet / 255, classifier.form) for sheet in sheets]
    pixels, doubts = np.stack([p.pixels for p in prepared]), [p.doubt for p in prepared]
    assert "inverted" in prepared[0].steps
    for rows, answers, said in (
        (used["rows"], classifier.answers(images), [""] * 20),
        (used["placed"], classifier.answers(pixels, doubts), list(map(str, prepared))),
    ):
        for row, answer, text in zip(rows, answers, said, strict=True):
            assert row == {"prepared": text} | {
                name: pytest.approx(value, rel=1e-6) if isinstance(value, float) else value
                for name, value in vars(answer).items()
            }


def test_a_served_champion_comes_through_a_server_and_stops_cleanly(
    made, alone, server, monkeypatch
):  # fmt: skip
    """Promoted on a tracking server, served by MLflow's scoring server, stopped by its id."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    said = list(registry.promote(candidates.read(SOFTMAX), force=False))
    assert said == [f"digits version 1, {SOFTMAX}, is the champion"]
    version = server.client().get_model_version_by_alias("digits", "champion")
    run = server.client().get_run(version.run_id)  # published: the server did not know the stage
    assert run.data.tags["kmnist.lineage"] == key_of(SOFTMAX)

    with serving(made, "digits", MLFLOW_TRACKING_URI=server.uri) as served:
        with np.load("data/processed/digits.npz") as arrays:
            images = arrays["images"][:3]
        status, answer = served.ask(images.tolist(), True)
        expected = predict.choose(SOFTMAX, "")[0].answers(images)
        rows = [{**vars(one), "prepared": ""} for one in expected]
        assert (status, answer["predictions"]) == (200, rows)
        own, port = f"127.0.0.1:{served.port}", served.port
        for header, status in (
            ({"Host": "evil.example"}, 403),
            ({"Host": f"localhost:{port}"}, 200),
            ({"Origin": "http://evil.example"}, 403),
            ({"Origin": f"http://{own}"}, 200),
        ):
            assert served.ask(images.tolist(), True, **header)[0] == status
        with pytest.raises(OSError, match="refused"), socket.socket() as elsewhere:
            elsewhere.connect(("127.0.0.2", port))  # which a server on all addresses would answer
    assert f"{SOFTMAX}, version 1 of digits: http://127.0.0.1:{port}/invocations" in served.output
    assert "Finished server process" in served.output
    socket.create_server(("127.0.0.1", port)).close()  # the port is free again


def test_nothing_is_served_without_weights(made):
    command = [sys.executable, "-m", "kmnist_pipeline.serving.serve", "mnist", "5001"]
    done = made.run(*command, MLFLOW_TRACKING_URI="sqlite:///none.db")
    assert done.returncode == 1
    assert "mnist is registered: the best model here becomes the champion" in done.stdout
    assert "safetensors does not exist: `dvc repro evaluate@mnist_" in done.stderr

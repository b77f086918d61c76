"""The weights that Git tracks: a clone predicts with them at once, and commands know them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import wording
from support.checking import commands, findings, reasons, remedies
from support.project import Project, replaced
from support.tampering import change_lock

from kmnist_pipeline import cli
from kmnist_pipeline.commands import diff, export, impact
from kmnist_pipeline.families import file
from kmnist_pipeline.serving import candidates

NAME = "digits_cnn"
WHOLE, PART = f"models/{NAME}.safetensors", f"weights/{NAME}.safetensors"
STAGE = f"weights@{NAME}"


@pytest.fixture
def clone_here(bare_one: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A clone without models, data and caches, with an image; the current folder."""
    monkeypatch.chdir(bare_one.folder)
    assert not Path("models").exists() and not Path("data").exists()
    draw()
    return bare_one


def draw() -> None:
    """Save an image in the current folder."""
    image = np.zeros((8, 8), np.uint8)
    image[1:7, 3:5] = 255
    Image.fromarray(image).save("one.png")


def altered(path: Path) -> bytes:
    """A model file with one other weight, which is as valid as before."""
    tensors, about = file.read(path)
    name = min(name for name in tensors if ".network." in name)
    changed = tensors[name].copy()
    changed.flat[0] += 1
    return file.encode({**tensors, name: changed}, about)


# --- predicting ----------------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", [["--model", NAME], ["--dataset", "digits"]])
def test_a_clone_predicts_what_the_trained_model_predicts(
    clone_here, evidence, chosen, tmp_path, monkeypatch, capsys
):
    command = ["predict", "one.png", "--output", "json"]
    assert cli.main([*command, *chosen]) == 0
    here = capsys.readouterr()
    assert f"model: {NAME} (" in here.err
    assert not list(clone_here.folder.glob("*.db"))  # no store is made to be asked
    trained = evidence.copy(tmp_path / "trained")
    shutil.copy("one.png", trained.folder)
    (trained.folder / PART).unlink()
    monkeypatch.chdir(trained.folder)
    assert cli.main([*command, "--model", NAME]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(here.out)


def test_the_model_file_is_used_if_it_is_here(evidence, monkeypatch):
    monkeypatch.chdir(evidence.folder)
    assert Path(PART).exists()
    assert candidates.read(NAME).weights == Path(WHOLE)
    assert candidates.best("digits").accuracy is not None
    assert candidates.best("digits").name != NAME


def test_altered_weights_are_refused_until_they_are_restored(clone_here, capsys):
    content = altered(Path(PART))
    Path(PART).write_bytes(content)
    command = ["predict", "one.png", "--model", NAME]
    assert cli.main(command) == 1
    said = capsys.readouterr()
    assert said.out == "" and f"{PART} is not as dvc.lock says: " in said.err
    assert cli.main(["promote", NAME, "--force"]) == 1
    assert f"{PART} is not as dvc.lock says: " in capsys.readouterr().err
    remedy = said.err.split("`")[1]
    assert remedy == f"git checkout HEAD -- {PART}"
    assert clone_here.run(*remedy.split()).returncode == 0
    assert cli.main(command) == 0


def test_weights_of_another_training_than_was_measured_are_refused(clone_here, capsys):
    change_lock(clone_here, f"kfold-train@{NAME}", **{WHOLE: "0" * 32})
    assert cli.main(["predict", "one.png", "--model", NAME]) == 1
    said = capsys.readouterr().err
    assert f"{PART} was cut from another {WHOLE} than dvc.lock says: `dvc repro {STAGE}`" in said


def test_a_model_without_weights_names_its_training_time(full_project, monkeypatch, capsys):
    monkeypatch.chdir(full_project.folder)
    draw()
    assert cli.main(["predict", "one.png", "--model", "kmnist_softmax"]) == 1
    way = "`dvc repro evaluate@kmnist_softmax` trains it in about 35 minutes on one core"
    assert f"models/kmnist_softmax.safetensors does not exist: {way}" in capsys.readouterr().err


# --- the other commands --------------------------------------------------------------------------


def test_edited_weights_are_found_also_if_they_were_recorded(clone_here, capsys):
    content = altered(Path(PART))
    Path(PART).write_bytes(content)
    assert f"{STAGE}: out {PART} {wording.NOT_MADE}: md5 " in "\n".join(reasons(clone_here))
    assert f"git checkout HEAD -- {PART}" in commands(clone_here, STAGE)
    assert cli.main(["trace", PART]) == 3
    assert f"{STAGE} {wording.OTHER_VERSION} this file" in capsys.readouterr().out
    change_lock(clone_here, STAGE, **{PART: "now"})  # as `dvc commit` does
    found = reasons(clone_here)
    assert any(line.startswith(f"{STAGE}: {PART}: the weights of fold ") for line in found), found
    assert remedies(clone_here, STAGE)[-1] == f"dvc repro --force --single-item {STAGE}"


def test_edited_weights_are_compared_with_the_model_file(bare, monkeypatch):
    monkeypatch.chdir(bare.folder)
    assert not [each for each in findings(bare) if each.where == STAGE]
    Path(PART).write_bytes(altered(Path(PART)))
    change_lock(bare, STAGE, **{PART: "now"})
    said = f"{STAGE}: {PART}: differs from the weights of the first seed in {WHOLE}"
    assert said in reasons(bare)


def test_weights_are_traced_to_the_data(clone_here, capsys):
    assert cli.main(["trace", PART]) == 0
    shown = capsys.readouterr().out
    for word in (STAGE, f"kfold-train@{NAME}", "download@digits"):
        assert word in shown


def test_a_change_names_the_weights_that_it_makes_stale(clone_here):
    change = impact.of_change([f"experiments.{NAME}.trainer.epochs=3"])
    assert change.weights == [PART]
    assert STAGE in {stage.address for stage in change.stages}


def test_a_difference_of_weights_is_shown(clone_here, capsys):
    Path(PART).write_bytes(altered(Path(PART)))
    (found,) = diff.between("HEAD").weights
    assert found.file == PART and "differs by up to 1 " in found.what
    assert cli.main(["diff", "HEAD"]) == 0
    assert "Different: 1 weights file." in capsys.readouterr().out


def test_a_crate_has_the_weights_of_its_models(clone_here):
    export.export("digits", Path("crates/digits"))
    assert Path("crates/digits", PART).read_bytes() == Path(PART).read_bytes()
    graph = json.loads(Path("crates/digits/ro-crate-metadata.json").read_text())["@graph"]
    whole = next(entity for entity in graph if entity["@id"] == "#run")
    assert whole["name"] == f"dvc repro report@digits {STAGE}"


def test_pruned_models_take_their_weights_along(clone_here):
    assert cli.main(["prune", "--yes", NAME]) == 0
    assert not Path("weights").exists()
    assert "\nweights: {}\n" in Path("conf/config.yaml").read_text()
    assert STAGE not in Path("dvc.lock").read_text()
    assert cli.main(["compose", "--check"]) == 0


def test_the_stage_by_hand_makes_the_same_bytes(without_mlflow):
    with replaced(without_mlflow.folder / WHOLE, b"no model"):
        done = without_mlflow.stage("weights", f"name={NAME}")
    assert done.returncode == 1
    assert done.stderr.startswith("error in weights: not a model file of this project: ")
    done = without_mlflow.stage("weights", f"name={NAME}")
    assert done.returncode == 0, done.stderr
    made = without_mlflow.folder / f"multirun/weights/{NAME}/unchanged/{PART}"
    assert made.read_bytes() == (without_mlflow.folder / PART).read_bytes()

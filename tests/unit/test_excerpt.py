"""The weights for Git: one model of a model file, rounded where its experiment says so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.project import ROOT
from support.small_fits import SETTINGS, a_fit, experiment, images, run

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.families import excerpt, file
from kmnist_pipeline.families.trained import TrainedModel
from kmnist_pipeline.fits import plan, results
from kmnist_pipeline.fits.results import TrainedTrial
from kmnist_pipeline.serving import costs

PART = "weights/m.safetensors"
SMALL: dict[str, Any] = {"validation": {"method": "kfold", "folds": 2}, "seeds": [4, 5]}


def model_file(family: str, **changes: Any) -> bytes:
    """A model file of two trials and two seeds with two folds each, of which the second won."""
    data, about = images(), experiment(family, **SMALL | changes)
    trials = {
        name: TrainedTrial(
            about, [[run(a_fit(family, data, seed=seed + at, fold=fold), data) for fold in (0, 1)]
                    for seed in about["seeds"]],
        )
        for at, name in ((0, "one"), (7, "two"))
    }  # fmt: skip
    return results.model_bytes("m", trials, "two", data.classes)


def load(path: Path, content: bytes) -> TrainedModel:
    path.write_bytes(content)
    return TrainedModel.load(path, "m", "d")


@pytest.mark.parametrize("ensemble", [None, True])
@pytest.mark.parametrize("family", ["linear", "cnn"])
def test_the_part_predicts_what_the_winners_first_seed_predicts(family, ensemble, tmp_path):
    validation = {"method": "kfold", "folds": 2, "ensemble": ensemble}
    content = model_file(family, validation=validation)
    part = excerpt.of(content, PART)
    assert 2 * len(part) < len(content)
    whole, cut = load(tmp_path / "whole", content), load(tmp_path / "cut", part)
    pixels = images().pixels
    assert np.array_equal(whole.probabilities(pixels), cut.probabilities(pixels))
    assert cut.parameters == whole.parameters and cut.best.fold == whole.best.fold
    assert (cut.about["seeds"], len(cut.about["trials"])) == ([4], 1)
    assert excerpt.of(part, PART) == part


def test_a_part_that_is_too_large_says_what_helps(monkeypatch):
    content = model_file("linear")
    size = len(excerpt.of(content, PART))
    monkeypatch.setattr(excerpt, "LIMIT", size)
    excerpt.of(content, PART)
    monkeypatch.setattr(excerpt, "LIMIT", size - 1)
    said = f"{PART} would have {size:,} bytes, and at most {size - 1:,} go into Git: set `trainer."
    with pytest.raises(UserError, match=re.escape(said)):
        excerpt.of(content, PART)


def test_other_bytes_are_no_model_file():
    with pytest.raises(file.ModelFileError):
        excerpt.of(b"weights", PART)


# --- rounding ------------------------------------------------------------------------------------


def test_numbers_are_rounded_to_what_the_experiment_says(tmp_path):
    exact, _ = file.decode(model_file("cnn"))
    trainer = SETTINGS["cnn"]["trainer"] | {"stored": "float16"}
    content = model_file("cnn", trainer=trainer)
    tensors, about = file.decode(content)
    assert about["trials"][0]["trainer"]["stored"] == "float16"
    for name, tensor in tensors.items():
        if exact[name].dtype.kind == "f":
            assert tensor.dtype == np.float16
            assert np.array_equal(tensor, exact[name].astype(np.float16))
        else:
            assert np.array_equal(tensor, exact[name])
    # Predictions are computed from the rounded numbers, also where these are kept exactly.
    pixels = images().pixels
    rounded = load(tmp_path / "rounded", content).probabilities(pixels)
    again = {n: t.astype(exact[n].dtype) for n, t in tensors.items()}
    widened = load(tmp_path / "widened", file.encode(again, about)).probabilities(pixels)
    assert np.array_equal(rounded, widened)
    unrounded = load(tmp_path / "exact", file.encode(exact, about)).probabilities(pixels)
    assert 0 < np.abs(rounded - unrounded).max() < 0.01


def test_without_the_setting_nothing_is_rounded():
    tensor = np.array([1 / 3], np.float32)
    assert results.stored(tensor, None, "w") is tensor


def test_a_number_that_would_become_infinite_is_refused():
    with pytest.raises(UserError, match=r"float16: w has numbers of up to 7e\+04, and the largest"):
        results.stored(np.array([7e4, 0.0], np.float32), "float16", "w")
    assert np.isinf(results.stored(np.array([np.inf], np.float32), "float16", "w")).all()


def test_how_weights_are_stored_trains_nothing_again():
    rounded = SETTINGS["cnn"]["trainer"] | {"stored": "float16"}
    keys = [
        [task.key for task in plan.of_experiment("m", one, images()).tasks()]
        for one in (experiment("cnn"), experiment("cnn", trainer=rounded))
    ]
    assert keys[0] == keys[1]


# --- what the other models cost ------------------------------------------------------------------


def test_the_page_and_the_messages_name_the_same_training_times():
    page = (ROOT / "docs/predict.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([\d.]+) \|$", page, re.MULTILINE)
    assert {name: float(minutes) for name, minutes in rows} == costs.MINUTES
    assert costs.said("kmnist_softmax") == " in about 35 minutes on one core"
    assert costs.said("digits_cnn") == " in less than a minute"
    assert costs.said("a_model_of_your_own") == ""

"""Trained models: read from their file, and asked for probabilities of raw images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kmnist_pipeline.families import file, trained
from kmnist_pipeline.families.linear import model as linear
from kmnist_pipeline.families.trained import MismatchError, TrainedModel

D, RNG = 6, np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (20, 2, 3)).astype(np.uint8)
SETTINGS = {"family": "linear", "kind": "softmax"}
SCALER = {"shift": np.full(D, 99.0), "scale": np.linspace(50, 80, D)}
WEIGHTS = {(trial, seed): RNG.normal(size=(D + 1, 3)) for trial in (0, 1) for seed in (0, 1)}
ABOUT = {
    "name": "m",
    "dataset": "d",
    "classes": [4, 2, 7],
    "class_names": ["four", "two", "seven"],
    "seeds": [10, 11],
    "trials": [
        {"name": name, "model": SETTINGS, "validation": {"method": "kfold", "folds": 3}}
        for name in ("lr=0.1", "lr=0.2")
    ],
    "kept_folds": [[0, 0], [0, 0]],
    "winner": 1,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A model file of two trials and two seeds, of which the second trial won."""
    tensors = {
        file.name(trial, seed, name): tensor
        for (trial, seed), weights in WEIGHTS.items()
        for name, tensor in {**SCALER, "weights": weights}.items()
    }
    (tmp_path / "m.safetensors").write_bytes(file.encode(tensors, ABOUT))
    return tmp_path / "m.safetensors"


def expected(trial: int, seed: int) -> np.ndarray:
    return linear.probabilities(
        SETTINGS, {**SCALER, "weights": WEIGHTS[trial, seed]}, PIXELS, classes=3
    )


def test_the_winners_first_seed_is_the_default_and_other_fits_can_be_loaded(path: Path):
    model = TrainedModel.load(path, "m", "d")
    assert (model.parameters["name"], model.classes) == ("lr=0.2", ("four", "two", "seven"))
    assert (model.labels, model.size, model.is_one_shot) == ([4, 2, 7], D, False)
    assert np.array_equal(model.probabilities(PIXELS), expected(1, 0))
    for trial, seed in WEIGHTS:
        found = model.of(trial, seed).probabilities(PIXELS)
        assert np.array_equal(found, expected(trial, seed))


def test_an_ensemble_predicts_with_the_mean_of_its_members(tmp_path: Path):
    weights = {(seed, fold): RNG.normal(size=(D + 1, 3)) for seed in (0, 1) for fold in (0, 1, 2)}
    tensors = {
        file.name(0, seed, name, fold): tensor
        for (seed, fold), own in weights.items()
        for name, tensor in {**SCALER, "weights": own}.items()
    }
    validation = {"method": "kfold", "folds": 3, "ensemble": True}
    trial = {"name": "t", "model": SETTINGS, "validation": validation}
    about = {"trials": [trial], "winner": 0}
    content = file.encode(tensors, {**ABOUT, **about, "kept_folds": [[1, 2]]})
    (tmp_path / "m.safetensors").write_bytes(content)
    for seed, best in ((0, 1), (1, 2)):
        model = TrainedModel.load(tmp_path / "m.safetensors", "m", "d").of(0, seed)
        alone = [
            linear.probabilities(SETTINGS, {**SCALER, "weights": weights[seed, n]}, PIXELS, 3)
            for n in range(3)
        ]
        assert np.array_equal(model.probabilities(PIXELS), np.mean(alone, axis=0))
        assert [member.fold for member in model.members] == [0, 1, 2]
        for member, own in zip(model.members, alone, strict=True):
            assert np.array_equal(member.probabilities(PIXELS), own)
            assert member.members == [member] and member.best is member
        assert np.array_equal(model.best.probabilities(PIXELS), alone[best])
        assert np.array_equal(model.tensors["weights"], weights[seed, best])


def test_images_come_in_batches(path: Path, monkeypatch):
    model = TrainedModel.load(path, "m", "d")
    sizes = []

    def probabilities(settings: dict, tensors: dict, pixels: np.ndarray, classes: int):
        sizes.append(len(pixels))
        return linear.softmax(pixels.reshape(len(pixels), -1)[:, :classes].astype(float))

    whole = linear.softmax(PIXELS.reshape(20, -1)[:, :3].astype(float))
    monkeypatch.setattr(trained, "BATCH", 8)
    monkeypatch.setattr(linear, "probabilities", probabilities)
    assert np.array_equal(model.probabilities(PIXELS), whole)
    assert sizes == [8, 8, 4]


def test_another_model_data_set_or_size_of_images_is_refused(path: Path):
    for name, dataset in (("other", "d"), ("m", "other")):
        with pytest.raises(MismatchError, match=f"holds m trained on d, not {name} on {dataset}"):
            TrainedModel.load(path, name, dataset)
    with pytest.raises(MismatchError, match=r"m.safetensors takes images of 6 pixels, .* have 4"):
        TrainedModel.load(path, "m", "d").probabilities(np.zeros((1, 2, 2), np.uint8))


def test_a_linear_model_loads_no_other_family(path: Path):
    code = (
        "import sys; from pathlib import Path; import kmnist_pipeline.families.registry\n"
        "assert 'numpy' not in sys.modules\n"
        "from kmnist_pipeline import arithmetic; arithmetic.select()\n"
        "from kmnist_pipeline.families.trained import TrainedModel; import numpy as np\n"
        f"model = TrainedModel.load(Path({str(path)!r}), 'm', 'd')\n"
        "model.probabilities(np.zeros((1, 2, 3), np.uint8)), model.class_weights()\n"
        "assert not {'torch', 'sklearn'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

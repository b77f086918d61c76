"""A registered version runs its own code, also beside another version in one process."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kmnist_pipeline.evidence import numbers, outs
from kmnist_pipeline.families import file
from kmnist_pipeline.serving import bundle
from kmnist_pipeline.serving.candidates import Candidate

NAMES = ["zero", "one"]
DATASET = {"name": "d", "classes": NAMES, "shape": [2, 3], "pixel_max": 255}
ABOUT = {
    "name": "m", "dataset": "d", "classes": [0, 1], "class_names": NAMES, "seeds": [0],
    "trials": [
        {"name": "only", "model": {"family": "linear", "kind": "softmax"}, "validation": {}},
    ],
    "kept_folds": [[0]], "winner": 0,
}  # fmt: skip


@pytest.fixture
def model_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model."""
    monkeypatch.chdir(tmp_path)
    tensors = {"shift": np.zeros(6), "scale": np.ones(6), "weights": np.ones((7, 2))}
    named = {file.name(0, 0, name): tensor for name, tensor in tensors.items()}
    (tmp_path / "models").mkdir()
    (tmp_path / "models/m.safetensors").write_bytes(file.encode(named, ABOUT))
    (tmp_path / "metrics/data").mkdir(parents=True)
    placed = {"made_by": {}, "placement": {"dark_on_light": False}}
    (tmp_path / "metrics/data/d.json").write_bytes(outs.json_bytes(numbers.encode(placed)))
    return tmp_path


def saved(folder: Path) -> Path:
    """The files of a version of the model."""
    test = {"routing": {"temperature": 1.0, "threshold": 0.1}}
    model = Candidate({}, test, name="m", report="r", family="linear", dataset=DATASET)
    folder.mkdir()
    logged: Any = SimpleNamespace(source_run_id="0" * 32, model_id="m-0")
    return bundle.saved(folder, model, "key", "a model", logged)


def test_two_versions_in_one_process_run_their_own_code(model_folder, monkeypatch):
    from mlflow.pyfunc import load_model

    first = saved(model_folder / "first")
    changed = Path(shutil.copytree(bundle.PACKAGE, model_folder / "changed/kmnist_pipeline"))
    code = changed / "serving/classifier.py"
    code.write_text(code.read_text().replace('"accept" if', '"surely" if'))
    with monkeypatch.context() as patch:
        patch.setattr(bundle, "PACKAGE", changed)
        second = saved(model_folder / "second")
    same = saved(model_folder / "same")

    images = np.eye(2, 3, dtype=np.uint8)[None]
    path = [*sys.path]
    models: list[Any] = [load_model(str(place)) for place in (first, second, same)]
    try:
        answers = [model.predict(images, {"as_is": True}) for model in models]
    finally:
        sys.path[:] = path
    decisions = [table["decision"].tolist() for table in answers]
    assert decisions == [["accept"], ["surely"], ["accept"]]
    packages = {name.split(".")[0] for name in sys.modules if name.startswith("kmnist_pipeline_")}
    assert len(packages) == 2

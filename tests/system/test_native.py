"""Native arithmetic: what it makes says so, and none of it passes for evidence."""

from __future__ import annotations

import sys

import pytest
from PIL import Image
from support.project import Project

from kmnist_pipeline.evidence import numbers

NATIVE = {"KMNIST_ARITHMETIC": "native"}
SKLEARN = "digits_sklearn_logistic"
VALIDATION = f"metrics/digits/{SKLEARN}/validation.json"
DETAILS = f"metrics/digits/{SKLEARN}/validation_details.json"


def test_a_run_by_hand_says_so(digits: Project):
    done = digits.stage("kfold_train", f"name={SKLEARN}", **NATIVE)
    assert done.returncode == 0, done.stderr
    made = numbers.read(digits.folder / f"multirun/kfold-train/{SKLEARN}/unchanged" / VALIDATION)
    assert made["made_by"]["arithmetic"] == made["environment"]["arithmetic"] == "native"
    assert digits.json(VALIDATION)["made_by"]["arithmetic"] != "native"
    done = digits.stage("evaluate", f"name={SKLEARN}", **NATIVE)
    assert done.returncode == 0, done.stderr
    folder = digits.folder / f"multirun/evaluate/{SKLEARN}/unchanged/figures/digits/{SKLEARN}"
    with Image.open(folder / "confusion.png") as picture:
        assert picture.info["Arithmetic"] == "native"


def test_check_and_promote_refuse_what_native_arithmetic_made(digits: Project):
    stage = f"kfold-train@{SKLEARN}"
    done = digits.run("dvc", "repro", "--force", "--single-item", stage, **NATIVE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"out {DETAILS} was made in native" in " ".join(told_by_check(digits))
    refused = digits.run("kmnist", "promote", SKLEARN)
    assert refused.returncode == 1 and "native arithmetic" in refused.stderr
    digits.run("dvc", "repro", "--force", "--single-item", stage)
    assert "native" not in told_by_check(digits)


def told_by_check(project: Project) -> list[str]:
    return project.run("kmnist", "check").stdout.split()


@pytest.mark.parametrize("command", ["stage", "fit", "predict"])
def test_another_value_is_refused(command: str, digits: Project):
    variables = {"KMNIST_ARITHMETIC": "fast"}
    if command == "stage":
        done = digits.stage("kfold_train", f"name={SKLEARN}", **variables)
    else:
        done = digits.run("kmnist", command, *(["-"] if command == "predict" else []), **variables)
    assert done.returncode == 1
    assert "KMNIST_ARITHMETIC=fast" in done.stderr
    assert "Traceback" not in done.stderr


LOAD = """
import numpy
import mlflow

model = mlflow.pyfunc.load_model("models:/digits@champion")
image = numpy.zeros((2, 8, 8), numpy.uint8)
print(len(model.predict(image)) + len(model.predict(image)))
"""


def test_a_registered_model_predicts_in_a_process_that_is_not_ours_and_says_so_once(
    digits: Project,
):
    done = digits.run("kmnist", "promote", "--dataset", "digits")
    assert done.returncode == 0, done.stdout + done.stderr
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{digits.folder}/mlflow.db"}
    done = digits.run(sys.executable, "-c", LOAD, PYTHONPATH="", **store)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "4"
    assert done.stderr.count("to about six digits") == 1

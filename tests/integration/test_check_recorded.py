"""Numbers and pages that were edited and recorded in dvc.lock contradict what they come from."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.checking import md5_of, remedies
from support.tampering import DETAILS, SOFTMAX, VALIDATION

from kmnist_pipeline.commands import derived, status

TEST = VALIDATION.replace("validation", "test")


def params() -> dict[str, Any]:
    """The parameters of the project that is the working directory."""
    return yaml.safe_load(Path("params.yaml").read_text())


@pytest.mark.parametrize(
    ("path", "old", "new", "stage", "words"),
    [
        (TEST, '"correct": 349', '"correct": 350', "evaluate@digits_softmax", "correct is 350"),
        (TEST, '"f1": 0.97', '"f1": 0.98', "evaluate@digits_softmax", "f1 is 0.98"),
        (VALIDATION, '"accuracy": 0.97', '"accuracy": 0.98', SOFTMAX, "accuracy is 0.98"),
        (DETAILS, '"loss": 0.0896998', '"loss": 0.0796998', SOFTMAX, "loss of seed 0, fold 0 is"),
        (DETAILS, '"sd": ', '"sd": 1', SOFTMAX, "seeds.sd is 1"),
        (DETAILS, '"kept_epoch": 60', '"kept_epoch": 70', SOFTMAX, "cannot be computed again"),
    ],
)
def test_numbers_that_were_edited_and_recorded_contradict_others(
    check, bare, path, old, new, stage, words
):
    def entry() -> str:
        return f"path: {path}\n      hash: md5\n      md5: {md5_of(bare.folder / path)}"

    before = entry()
    bare.replace(path, old, new)
    bare.replace("dvc.lock", before, entry())  # as `dvc commit` does
    assert any(line.startswith(f"{stage}: ") and words in line for line in check())
    (command,) = remedies(bare, stage)
    assert command == f"dvc repro --force --single-item {stage}"


def test_a_verdict_that_was_edited_and_recorded_contradicts_the_numbers(full_project, monkeypatch):
    monkeypatch.chdir(full_project.folder)
    path = "reports/mnist_logistic/claims.json"
    full_project.replace(path, '"verdict": "', '"verdict": "very ')
    lock = status.locked_here()
    stage = lock.stages["report@mnist_logistic"]
    found = derived.contradictions([stage], params())
    assert f"{path}: claim " in str(found[stage.address][0])


def swapped(page: str) -> str:
    """A page with its first two pictures exchanged."""
    one, other = derived.PICTURE.findall(page)[:2]
    return page.replace(one, "...").replace(other, one).replace("...", other)


@pytest.mark.parametrize(
    ("file", "edit", "words"),
    [
        ("README.md", lambda page: page.replace("0.9", "0.8", 1), "is not what"),
        ("index.html", lambda page: page.replace("</h1>", "!</h1>", 1), "is not what"),
        ("index.html", swapped, "does not show figures/data/mnist/"),
    ],
)
def test_a_page_that_was_edited_and_recorded_contradicts_its_inputs(
    full_project, monkeypatch, file, edit, words
):
    monkeypatch.chdir(full_project.folder)
    path = Path("reports/mnist_logistic", file)
    stage = status.locked_here().stages["report@mnist_logistic"]
    assert not derived.contradictions([stage], params())
    before = path.read_text()
    path.write_text(edit(before))
    assert path.read_text() != before
    found = derived.contradictions([stage], params())[stage.address]
    assert found
    assert all(f"{path}: {words}" in str(change) for change in found)


def test_a_confusion_matrix_has_the_order_of_the_configured_classes(full_project, monkeypatch):
    monkeypatch.chdir(full_project.folder)
    model = "kmnist_logistic_2_6"
    path = Path(f"metrics/kmnist_linear/{model}/test_details.json")
    content = json.loads(path.read_bytes())
    content["confusion"] = [row[::-1] for row in content["confusion"][::-1]]
    path.write_text(json.dumps(content))
    stage, configured = status.locked_here().stages[f"evaluate@{model}"], params()
    assert derived.contradictions([stage], configured)
    configured["experiments"][model]["classes"].reverse()
    assert not derived.contradictions([stage], configured)

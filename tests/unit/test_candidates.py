"""Which model `kmnist promote` chooses, and when a champion keeps its place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import yaml
from support.project import ROOT

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evaluation import metrics
from kmnist_pipeline.serving import candidates, registry
from kmnist_pipeline.serving.candidates import Candidate, Measured


def test_the_best_by_validation_of_those_that_know_all_classes_is_chosen(monkeypatch):
    monkeypatch.chdir(ROOT)
    with (ROOT / "params.yaml").open() as file:
        models = yaml.safe_load(file)["models"]
    of_kmnist = [candidates.read(n) for n, about in models.items() if about["dataset"] == "kmnist"]
    best = candidates.best("kmnist")
    rivals = [m for m in of_kmnist if m.knows_all_classes and m.accuracy is not None]
    assert len(rivals) > 1
    whole = [m for m in of_kmnist if m.knows_all_classes]
    here = [m for m in whole if m.weights.exists()] or whole  # those of others come first
    scores = [m.accuracy for m in here if m.accuracy is not None]
    assert best in here and best.accuracy == max(scores, default=None)
    pairs = [m for m in of_kmnist if not m.knows_all_classes]
    assert any(m.accuracy > best.accuracy for m in pairs if m.accuracy and best.accuracy)
    for pair in pairs:
        with pytest.raises(UserError, match="the champion of kmnist, which has 10 classes"):
            list(registry.promote(pair, force=True))


def test_pairs_of_images_are_no_validation_of_classes():
    assert Measured({"accuracy": 0.9}, {}).accuracy == 0.9
    assert Measured({"accuracy": 0.9}, {"draws": {}}).accuracy is None


# --- comparing with the champion -----------------------------------------------------------------


def measured(
    validation: float | None, right: np.ndarray, n: int = 10_000, data: str = "a"
) -> dict[str, Any]:
    return {
        "validation": {"accuracy": validation, "n": n},
        "test": {
            "right": metrics.pack_bits(right),
            "n": len(right),
            "made_by": {"data": {"data/processed/digits.npz": data}},
        },
    }


def candidate(**numbers: Any) -> Candidate:
    return Candidate(**numbers, name="new", report="digits", family="linear", dataset={})


def champion(**numbers: Any) -> registry.Champion:
    class Old:
        name = "old"

    return registry.Champion(**numbers, version="7", digest="", classifier=Old())  # type: ignore[arg-type]


HALF = np.arange(1000) % 2 == 0


@pytest.mark.parametrize(
    ("accuracy", "worse"),
    # The error of 0.9 and 0.89 on 10,000 images each is 1.96 * 0.00433.
    [(0.95, False), (0.9, False), (0.8916, False), (0.8914, True), (0.5, True)],
)
def test_validation_accuracy_may_be_lower_by_the_sampling_error(accuracy, worse):
    notes, objections = registry.compared(
        candidate(**measured(accuracy, HALF)), champion(**measured(0.9, HALF))
    )
    assert bool(objections) == worse
    assert f"validation accuracy is {accuracy:.4f} (10000 images)" in notes[0]
    assert "champion, version 7 (old) 0.9000" in notes[0]


def test_fewer_images_allow_a_larger_difference():
    few = candidate(**measured(0.85, HALF, n=100))
    assert not registry.compared(few, champion(**measured(0.9, HALF)))[1]


@pytest.mark.parametrize(
    ("lost", "gained", "worse"),
    [(5, 0, False), (6, 0, True), (12, 3, True), (11, 3, False), (0, 400, False)],
)
def test_the_test_set_refuses_and_never_chooses(lost, gained, worse):
    right = HALF.copy()
    right[np.flatnonzero(HALF)[:lost]] = False
    right[np.flatnonzero(~HALF)[:gained]] = True
    old = champion(**measured(0.9, HALF))
    notes, objections = registry.compared(candidate(**measured(0.9, right)), old)
    assert bool(objections) == worse
    assert f" {gained} are classified correctly only by it" in notes[1]
    # However well it does on the test set, a model that is worse on validation is refused.
    assert registry.compared(candidate(**measured(0.5, right)), old)[1]


def test_where_nothing_was_validated_the_test_set_still_refuses():
    notes, objections = registry.compared(
        candidate(**measured(None, ~HALF & False)), champion(**measured(0.9, HALF))
    )
    assert "new has no validation accuracy" in notes[0]
    assert len(objections) == 1 and "McNemar" in objections[0]


def test_measurements_on_other_data_are_not_compared():
    notes, objections = registry.compared(
        candidate(**measured(0.99, HALF, data="b")), champion(**measured(0.9, HALF))
    )
    assert not notes
    assert len(objections) == 1 and "other test images" in objections[0]

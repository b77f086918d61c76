"""Which evidence lets a model be compared with the champion."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from kmnist_pipeline.evaluation import metrics
from kmnist_pipeline.serving import registry


def measured(data: str, right: list[int], **test: Any) -> Any:
    """A model or champion, with the test predictions that are right."""
    packed = metrics.pack_bits(np.array(right, bool))
    about = {"made_by": {"data": {"data/processed/x.npz": data}}, "right": packed, "n": len(right)}
    return SimpleNamespace(
        name="x", version="1", accuracy=0.9, validation={"n": 100}, test=about | test,
        classifier=SimpleNamespace(name="y"),
    )  # fmt: skip


def test_a_review_of_training_images_leaves_models_comparable():
    before = measured("old", [1, 0, 1], test_images="a")
    after = measured("new", [1, 1, 1], test_images="a")
    notes, worse = registry.compared(after, before)
    assert not worse and any("McNemar" in note for note in notes)


def test_other_test_images_and_versions_that_name_none_are_not_compared():
    after = measured("new", [1, 1, 1], test_images="a")
    for rival in (measured("new", [1, 0, 1], test_images="b"), measured("old", [1, 0, 1])):
        notes, (objection,) = registry.compared(after, rival)
        assert not notes and "measured on other test images than the champion" in objection
    assert registry.compared(measured("old", [1, 1]), measured("old", [1, 1]))[1] == []

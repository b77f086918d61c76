"""Scores of many classes, and metrics that a user has added."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kmnist_pipeline import own
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evaluation import metrics, scoring
from kmnist_pipeline.evidence import outs

SQUARE = st.integers(2, 80).map(lambda classes: (classes, classes))


@given(arrays.arrays(np.int64, SQUARE, elements=st.sampled_from([0] * 9 + [1, 7, 12345])))
def test_a_confusion_matrix_comes_back_as_it_was(counts: np.ndarray) -> None:
    rows = metrics.pack_confusion(counts)
    np.testing.assert_array_equal(metrics.unpack_confusion(rows), counts)


def test_the_confusion_matrix_of_many_classes_is_a_small_file() -> None:
    rng, classes = np.random.default_rng(0), 1000
    labels, predicted = rng.integers(classes, size=(2, 10_000))
    rows = metrics.pack_confusion(metrics.confusion(labels, predicted, classes))
    assert len(outs.json_bytes({"confusion": rows})) < 150_000


def test_a_metric_of_our_own_is_among_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, probabilities = np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    plain = scoring.scores(labels, probabilities, ("a", "b"))
    assert scoring.compared(plain).keys() == {*metrics.SCORES, "n", "correct"}

    monkeypatch.setitem(scoring.OWN, "surest", lambda y, p: p.max())
    found = scoring.scores(labels, probabilities, ("a", "b"))
    assert found["surest"] == 0.9 and found["accuracy"] == plain["accuracy"] == 2 / 3
    assert scoring.compared(found)["surest"] == 0.9

    monkeypatch.setitem(scoring.OWN, "surest", lambda y, p: float("nan"))
    with pytest.raises(
        UserError, match=r"own/metrics\.py: surest gives nan, which is not a finite num"
    ):
        scoring.scores(labels, probabilities, ("a", "b"))


def test_only_public_functions_of_the_module_itself_count() -> None:
    assert list(own.functions(metrics))[:2] == ["confusion", "pack_confusion"]
    assert {"bdtr", "np", "SCORES", "Any"}.isdisjoint(own.functions(metrics))
    assert own.functions(own) == {"functions": own.functions}

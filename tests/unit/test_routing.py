"""Confidence routing, and the test of two models on the same images."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import log_softmax, softmax

from kmnist_pipeline.evaluation import metrics, routing


def predictions(n: int, sharper: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from calibrated probabilities, and those probabilities made `sharper`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, 5))
    p = softmax(logits, axis=1)
    labels = (p.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return softmax(logits * sharper, axis=1), labels


@pytest.mark.parametrize("sharper", [0.5, 1.0, 3.0])
def test_temperature_undoes_what_made_the_model_over_or_underconfident(sharper):
    p, labels = predictions(20_000, sharper)
    t = routing.temperature(p, labels)
    assert t == pytest.approx(sharper, rel=0.05)
    after = routing.calibrated(p, t)
    assert (after.argmax(axis=1) == p.argmax(axis=1)).all()
    assert routing.nll(after, labels) <= routing.nll(p, labels) + 1e-9
    assert routing.calibration_error(after, labels) < 0.02


def test_calibration_of_certain_predictions_stays_finite():
    p = np.eye(3)[[0, 1, 2, 0]]
    labels = np.array([0, 1, 2, 1])
    assert np.isfinite(routing.nll(p, labels))
    assert np.isfinite(routing.calibrated(p, routing.temperature(p, labels))).all()


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=30),
    st.sampled_from([0.5, 0.8, 0.95, 1.0]),
)
def test_the_threshold_accepts_as_many_as_keep_the_promise(pairs, promise):
    sure = np.array([level / 6 for level, _ in pairs])
    right = np.array([hit for _, hit in pairs])
    chosen = routing.threshold(sure, right, promise)
    kept = {t: right[sure >= t].mean() >= promise for t in set(sure.tolist())}
    best = [t for t, keeps in kept.items() if keeps]
    assert chosen == (min(best) if best else None)


def test_risk_and_coverage_end_at_the_error_rate():
    p, labels = predictions(500, 1.0)
    right = p.argmax(axis=1) == labels
    coverage, risk = routing.risk_coverage(p.max(axis=1), right)
    assert coverage[-1] == 1 and risk[-1] == pytest.approx(1 - right.mean())
    assert len(coverage) == 500 and (np.diff(coverage) > 0).all()


def test_bins_hold_every_prediction_once():
    p, labels = predictions(1000, 1.0)
    p[0] = [1, 0, 0, 0, 0]
    mean, accuracy, count = routing.bins(p, labels)
    assert count.sum() == 1000
    assert (mean * count).sum() == pytest.approx(p.max(axis=1).sum())
    assert (accuracy * count).sum() == (p.argmax(axis=1) == labels).sum()


def test_routing_is_decided_by_validation_alone():
    validation, labels = predictions(4000, 2.0)
    test, test_labels = predictions(3000, 2.0, seed=1)
    splits = {"validation": (validation, labels), "test": (test, test_labels)}
    routed = routing.route(splits, 0.9)
    shuffled = np.random.default_rng(0).permutation(test_labels)
    again = routing.route(splits | {"test": (test, shuffled)}, 0.9)
    for key in ("temperature", "threshold", "validation", "promise"):
        assert routed[key] == again[key]
    outcome = routed["test"]
    assert outcome["accepted"] + outcome["review"] == outcome["n"] == 3000
    low, high = outcome["interval"]
    assert low < outcome["accuracy"] == outcome["correct"] / outcome["accepted"] < high
    assert routed["validation"]["accuracy"] >= 0.9 and routed["validation"]["target"] == "met"
    assert again["test"]["target"] == "not met"


def test_a_promise_that_nothing_keeps_sends_all_to_review():
    p, _ = predictions(50, 1.0)
    wrong = (p.argmax(axis=1) + 1) % 5
    routed = routing.route(dict.fromkeys(("validation", "test"), (p, wrong)), 0.9)
    assert routed["threshold"] is None
    assert routed["test"] == {
        "n": 50, "accepted": 0, "review": 50, "correct": 0,
        "accuracy": None, "interval": None, "target": "none accepted",
    }  # fmt: skip


def test_calibrated_is_the_softmax_of_scaled_logits():
    logits = np.random.default_rng(0).normal(0, 5, (20, 4))
    expected = np.exp(log_softmax(logits / 1.7, axis=1))
    np.testing.assert_allclose(routing.calibrated(softmax(logits, axis=1), 1.7), expected)


def test_mcnemar_counts_what_one_model_alone_gets_right():
    right = np.array([True] * 60 + [False] * 40)
    other = np.array([True] * 50 + [False] * 10 + [True] * 2 + [False] * 38)
    tested = metrics.mcnemar(right, other)
    assert (tested["only"], tested["only_other"]) == (10, 2)
    # Two-sided binomial: P(X <= 2) + P(X >= 10) of 12 tosses.
    assert tested["p"] == pytest.approx(2 * (1 + 12 + 66) / 2**12)
    assert metrics.mcnemar(right, right) == {"only": 0, "only_other": 0, "p": 1.0}


def test_clopper_and_pearsons_interval_and_the_exact_test_are_scipys():
    for k, n in ((0, 10), (3, 10), (10, 10), (9950, 10_000)):
        right = np.arange(n) < k
        low, high = routing._outcome(np.ones(n, bool), right, 0.9)["interval"]
        expected = stats.binomtest(k, n).proportion_ci(0.95, "exact")
        assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-9)
        tested = metrics.mcnemar(right, ~right)
        assert tested["p"] == pytest.approx(stats.binomtest(k, n).pvalue, rel=1e-9)


def test_holms_correction():
    assert metrics.holm([]) == []
    assert metrics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert metrics.holm([0.5, 0.9]) == [1.0, 1.0]


def test_a_probability_below_the_smallest_float_is_a_bound():
    right = np.arange(6000) < 5000
    assert metrics.mcnemar(right, ~right)["p"] == 0
    assert metrics.in_words(0.0) == "< 1e-300" and metrics.in_words(0.0123) == "0.012"


def test_the_spread_over_trainings_and_draws_is_that_of_the_analysis_of_variance():
    values = [[0.7, 0.8, 0.75], [0.6, 0.62, 0.58]]
    found, table = metrics.nested(values), np.array(values)
    within = table.var(axis=1, ddof=1).mean()
    means = table.mean(axis=1).var(ddof=1)
    assert found["sd"] ** 2 == pytest.approx(means + within * 2 / 3)
    assert found["se"] ** 2 == pytest.approx(means / 2)
    assert 1 <= found["df"] <= 5 and found["first"] == [0.7, 0.6]
    alone = metrics.nested(values[:1])
    assert alone["sd"] == pytest.approx(table[0].std(ddof=1)) and alone["df"] == 2

"""Numbers that were rounded contradict nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kmnist_pipeline.commands import derived
from kmnist_pipeline.evaluation import metrics

RATES, LOSSES = st.floats(0, 1), st.floats(1e-6, 1e4)
FOLDS = st.integers(1, 5).flatmap(
    lambda folds: st.lists(
        st.lists(st.tuples(RATES, LOSSES), min_size=folds, max_size=folds), min_size=1, max_size=5
    )
)


def stored(value: Any) -> Any:
    """As files have it, with six digits."""
    if isinstance(value, dict):
        return {key: stored(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [stored(inner) for inner in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


@given(FOLDS)
def test_means_and_spreads_of_rounded_numbers_follow_from_them(seeds):
    means = [sum(rate for rate, _ in folds) / len(folds) for folds in seeds]
    loss = sum(loss for _, loss in seeds[0]) / len(seeds[0])
    stated = {"accuracy": means[0], "loss": loss, "n": 10 * len(seeds[0])}
    stated["seeds"] = metrics.spread(means)
    rows = {
        seed: [stored({"accuracy": a, "loss": b, "n_validation": 10}) for a, b in folds]
        for seed, folds in enumerate(seeds)
    }
    found = derived._apart(Path("x"), derived._stated(stored(stated)), derived._over_folds(rows))
    assert not list(found)

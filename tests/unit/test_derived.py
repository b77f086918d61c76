"""Numbers that were rounded contradict nothing."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import odd_report

from kmnist_pipeline.commands import derived
from kmnist_pipeline.evaluation import metrics
from kmnist_pipeline.evidence import numbers, outs
from kmnist_pipeline.repository.locks import LockedStage

LOOP = {
    "saved": 100.0,
    "rounds": [
        {"labels": labels, "accuracy": {
            "least_sure_first": metrics.spread([high, high + 0.1]),
            "at_random": metrics.spread([low, low + 0.1]),
        }} for labels, high, low in ((100, 0.5, 0.5), (200, 0.6, 0.55), (300, 0.7, 0.6))
    ],
}  # fmt: skip

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


def test_altered_counts_means_and_saved_labels_of_reviewing_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, content, edit in (
        ("suspects", odd_report.SUSPECTS, ("share", "0.75", "0.85")),
        ("loop", LOOP, ("mean", '"mean": 0.55,', '"mean": 0.56,')),
        ("loop", LOOP, ("saved", '"labels": 200', '"labels": 220')),
    ):
        file = Path(f"metrics/odd/{name}.json")
        odd_report.write(file, f"{name}@odd", content)
        stage = LockedStage(f"{name}@odd", "", {}, {}, {str(file): "", "figures/odd/x": ""})
        assert derived.contradictions([stage], {}) == {}
        part, old, new = edit
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))
        (found,) = derived.contradictions([stage], {}).values()
        assert part in found[0].name


@pytest.mark.parametrize(
    ("key", "value", "follows"),
    [
        ("accuracy", 0.76, "0.75"),
        ("accepted_accuracy", 0.99, "0.75"),
        ("keeps", True, "0.0"),
        ("correct", 151, None),  # then the accuracy does not follow
        (None, None, None),
    ],
)
def test_rates_under_other_conditions_follow_from_counts(tmp_path, key, value, follows):
    content = copy.deepcopy(odd_report.CONDITIONS)
    if key:
        content["conditions"][1][key] = value
    path = tmp_path / "conditions.json"
    path.write_bytes(outs.json_bytes(numbers.encode({"made_by": {}, **content})))
    assert json.loads(path.read_bytes())
    stage: Any = SimpleNamespace(outs={str(path): ""})
    found = list(derived._of_conditions(stage, {}))
    if key is None:
        assert not found
    elif follows:
        assert found == [
            f"{path}: a <dark> sheet.{key} is {value}, but {follows} follows from the rest"
        ]
    else:
        assert len(found) == 1 and "a <dark> sheet.accuracy is 0.75" in found[0]

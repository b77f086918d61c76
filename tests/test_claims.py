"""Verdicts follow from what a report leaves unknown, and from nothing else."""

import json

import pytest
from scipy import stats

from kmnist_pipeline.evidence import claims

SEEDS = {"n": 5, "mean": 0.9, "sd": 0.01, "values": [0.9] * 5}


def claim(**changes):
    blank = dict.fromkeys(claims.COLUMNS, "")
    known = {"id": "c", "reported": "0.901", "file": "m/test.json", "value": "accuracy"}
    return {**blank, **known, "unknown": "seed", **changes}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "m").mkdir()
    content = {
        "accuracy": 0.9, "n": 1000, "correct": 900, "seeds": SEEDS,
        "confusion": [[9, 1], [0, 10]], "misclassified": [4, 8, 15, 16],
        "trials": [{"name": "lr=0.1", "accuracy": 0.5, "n": 10, "correct": 5, "seeds": SEEDS}],
    }  # fmt: skip
    (tmp_path / "m/test.json").write_text(json.dumps(content))
    return tmp_path


def test_tolerance_is_a_prediction_interval_of_one_more_seed():
    expected = stats.t.ppf(0.975, 4) * 0.01 * (1 + 1 / 5) ** 0.5
    assert claims.tolerance("seed", 0.9, 1000, SEEDS, 0.95) == pytest.approx(expected)
    sampling = 1.959964 * (0.9 * 0.1 / 1000) ** 0.5
    both = claims.tolerance("seed and split", 0.9, 1000, SEEDS, 0.95)
    assert both == pytest.approx(expected + sampling, rel=1e-6)
    assert claims.tolerance("nothing", 0.9, 1000, SEEDS, 0.95) == 0


def test_verdicts(folder):
    assert claims.judge(claim(reported="0.900"), folder, 0.95)["verdict"] == "exact"
    near = claims.judge(claim(reported="0.92"), folder, 0.95)
    assert near["verdict"] == "reproduced" and near["note"] == (
        "900 of 1000 right; 0.9000 ± 0.0100 over 5 seeds"
    )
    assert claims.judge(claim(reported="0.99"), folder, 0.95)["verdict"] == "differs"
    assert claims.judge(claim(unknown="nothing"), folder, 0.95)["verdict"] == "differs"
    assert claims.judge(claim(file=""), folder, 0.95)["verdict"] == "context"
    of_trial = claims.judge(claim(trial="lr=0.1", reported="0.5"), folder, 0.95)
    assert of_trial["verdict"] == "exact" and of_trial["obtained"] == 0.5


def test_counts_are_compared_one_by_one(folder):
    exact = claims.judge(claim(value="confusion", reported="9 1; 0 10"), folder, 0.95)
    assert exact["verdict"] == "exact" and exact["note"] == "4 of 4 numbers are equal"
    other = claims.judge(claim(value="confusion", reported="9 1; 1 9"), folder, 0.95)
    assert other["verdict"] == "differs" and other["note"] == "2 of 4 numbers are equal"
    first = claims.judge(claim(value="misclassified", reported="4, 8"), folder, 0.95)
    assert first["verdict"] == "exact" and first["obtained"] == "4, 8"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file": "other/test.json"}, "other/test.json is not there"),
        ({"trial": "lr=9"}, r"no trial lr=9 \(lr=0.1\)"),
        ({"value": "acuracy"}, "no value acuracy"),
    ],
)
def test_a_claim_about_nothing_is_an_error_that_names_it(folder, changes, message):
    with pytest.raises(claims.ClaimError, match=message):
        claims.judge(claim(**changes), folder, 0.95)


def test_a_claims_file_with_other_columns_or_unknowns_is_refused(tmp_path):
    path = tmp_path / "claims.csv"
    path.write_text("id,reported\n")
    with pytest.raises(claims.ClaimError, match="columns must be id,where"):
        claims.read(path)
    path.write_text(",".join(claims.COLUMNS) + "\nc,,,,0.1,f,,accuracy,luck\n")
    with pytest.raises(claims.ClaimError, match="unknown='luck'"):
        claims.read(path)

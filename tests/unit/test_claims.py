"""Verdicts follow from what a report leaves unknown, and from nothing else."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from kmnist_pipeline.evaluation import claims, metrics
from kmnist_pipeline.evidence import numbers

SEEDS = {"n": 5, "mean": 0.91, "sd": 0.01, "values": [0.9] * 5}
CONFIDENCE, MARGIN = 0.95, 0.05


def claim(**changes):
    blank = dict.fromkeys(claims.COLUMNS, "")
    known = {"id": "c", "reported": "0.901", "file": "m/test.json", "value": "accuracy"}
    return {**blank, **known, "unknown": "seed", **changes}


@pytest.fixture
def metrics_in(tmp_path):
    content = {
        "seeds": {"accuracy": SEEDS},
        "confusion": [[9, 1], [0, 10]], "misclassified": [4, 8, 15, 16],
        "trials": [
            {"name": "lr=0.1", "accuracy": 0.5, "n": 10, "correct": 5,
             "seeds": {"accuracy": SEEDS}},
        ],
        "draws": {"accuracy": {"mean": 0.7, "sd": 0.06, "df": 3.5, "se": 0.02}},
    }  # fmt: skip
    write(tmp_path / "m", content)
    few = {"n": 2, "mean": 0.8, "sd": 0.02, "values": [0.78, 0.82]}
    write(tmp_path / "few", {"seeds": {"accuracy": few}})
    write(tmp_path / "old", {"seeds": few, "f1": 0.5})
    write(tmp_path / "one", {"seeds": {"accuracy": {"n": 1, "mean": 0.9, "sd": None}}})
    return tmp_path


def write(metrics_in, details):
    metrics_in.mkdir(exist_ok=True)
    compared = {"accuracy": 0.9, "n": 1000, "correct": 900}
    (metrics_in / "test.json").write_text(json.dumps(compared))
    details = numbers.encode({"made_by": {}, **details})
    (metrics_in / "test_details.json").write_text(json.dumps(details))


def judge(known, metrics_in):
    return claims.judge(known, metrics_in, CONFIDENCE, MARGIN)


def test_the_interval_is_that_of_one_more_seed_around_the_mean(metrics_in):
    half = stats.t.ppf(0.975, 4) * 0.01 * (1 + 1 / 5) ** 0.5
    seen = judge(claim(), metrics_in)
    assert (seen["obtained"], seen["mean"]) == (0.9, 0.91)
    assert seen["interval"] == pytest.approx([0.91 - half, 0.91 + half])
    assert seen["tolerance"] == pytest.approx(half)
    sampling = 1.959964 * (0.91 * 0.09 / 1000) ** 0.5
    both = judge(claim(unknown="seed and split"), metrics_in)
    assert both["tolerance"] == pytest.approx(np.hypot(half, sampling), rel=1e-6)
    assert judge(claim(unknown="nothing"), metrics_in)["interval"] is None


def test_standard_deviations_are_pooled_with_their_degrees_of_freedom(metrics_in):
    pooled = judge(claim(file="one/test.json", spread="m few one"), metrics_in)
    sd = ((4 * 0.01**2 + 1 * 0.02**2) / 5) ** 0.5
    half = stats.t.ppf(0.975, 5) * sd * (1 + 1 / 1) ** 0.5  # of a model with one seed
    assert pooled["interval"] == pytest.approx([0.9 - half, 0.9 + half])
    assert claims.files(claim(file="one/test.json", spread="m")) == {
        "one/test.json", "one/test_details.json", "m/test.json", "m/test_details.json",
    }  # fmt: skip


def test_an_interval_over_trainings_and_draws(metrics_in):
    seen = judge(claim(spread="draws", reported="0.75"), metrics_in)
    half = stats.t.ppf(0.975, 3.5) * (0.06**2 + 0.02**2) ** 0.5
    assert seen["tolerance"] == pytest.approx(half) and seen["mean"] == 0.7
    assert seen["verdict"] == "inconclusive"


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_interval_of_seeds_holds_one_more_with_the_confidence_that_it_states(seeds):
    rng = np.random.default_rng(0)
    draws = rng.normal(0.9, 0.01, (20_000, seeds + 1))
    held = 0
    for *own, other in draws.tolist():
        known = metrics.spread(own)
        spread = claims.Spread(known["mean"], known["sd"], seeds - 1, known["sd"] / seeds**0.5)
        held += abs(other - spread.mean) <= spread.half_width(0.95)
    assert held / len(draws) == pytest.approx(0.95, abs=0.006)


@pytest.mark.parametrize("sd", [0.0, 0.0005, 0.003, 0.01])
@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_holds_one_more_run_on_the_same_or_other_images(seeds: int, sd: float):
    """At least 95 of 100, but for the error of this simulation."""
    rng = np.random.default_rng(2)
    n, repeats, held = 10_000, 4_000, Counter[str]()
    for _ in range(repeats):
        rates = rng.normal(0.95, sd, seeds + 1)
        known = metrics.spread(rates[:seeds].tolist())
        spread = claims.Spread(known["mean"], known["sd"], seeds - 1, known["sd"] / seeds**0.5)
        half = spread.half_width(0.95, (known["mean"] * (1 - known["mean"]) / n) ** 0.5)
        held["same"] += abs(rates[-1] - spread.mean) <= half
        held["other"] += abs(rng.binomial(n, rates[-1]) / n - spread.mean) <= half
    assert min(held.values()) / repeats >= 0.943


@pytest.mark.parametrize("between", [0.0, 0.02, 0.05, 0.1])
def test_the_interval_over_groups_and_draws_holds_one_more_training(between: float):
    """Satterthwaite's degrees of freedom are an approximation: it holds 92 to 97 of 100."""
    rng = np.random.default_rng(1)
    held, repeats = 0, 4_000
    for _ in range(repeats):
        group = rng.normal(0, between, 4)
        values = 0.7 + group[:, None] + rng.normal(0, 0.05, (4, 20))
        known = metrics.nested(values[:3].tolist())
        spread = claims.Spread(known["mean"], known["sd"], known["df"], known["se"])
        held += abs(values[3, 0] - spread.mean) <= spread.half_width(0.95)
    assert 0.92 <= held / repeats <= 0.97


def test_verdicts(metrics_in):
    assert judge(claim(reported="0.900"), metrics_in)["verdict"] == "exact"
    near = judge(claim(reported="0.92"), metrics_in)
    assert near["verdict"] == "reproduced" and near["note"] == (
        "900 of 1000 correct; mean 0.9100, standard deviation 0.01 (4 df)"
    )
    assert judge(claim(reported="0.99"), metrics_in)["verdict"] == "differs"
    assert judge(claim(unknown="nothing"), metrics_in)["verdict"] == "differs"
    assert judge(claim(file=""), metrics_in)["verdict"] == "context"
    of_trial = judge(claim(trial="lr=0.1", reported="0.5"), metrics_in)
    assert of_trial["verdict"] == "exact" and of_trial["obtained"] == 0.5


@pytest.mark.parametrize(("reported", "verdict"), [("0.89", "beaten"), ("0.9", "missed")])
def test_a_bound_is_beaten_or_missed(metrics_in, reported, verdict):
    assert judge(claim(unknown="bound", reported=reported), metrics_in)["verdict"] == verdict


def test_counts_are_compared_one_by_one(metrics_in):
    exact = claims.judge(
        claim(value="confusion", reported="9 1; 0 10"), metrics_in, CONFIDENCE, MARGIN
    )
    assert exact["verdict"] == "exact" and exact["note"] == "4 of 4 numbers are equal"
    other = claims.judge(
        claim(value="confusion", reported="9 1; 1 9"), metrics_in, CONFIDENCE, MARGIN
    )
    assert other["verdict"] == "differs" and other["note"] == "2 of 4 numbers are equal"
    first = claims.judge(
        claim(value="misclassified", reported="4, 8"), metrics_in, CONFIDENCE, MARGIN
    )
    assert first["verdict"] == "exact" and first["obtained"] == "4, 8"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file": "other/test.json"}, "other/test.json does not exist"),
        ({"trial": "lr=9"}, r"no trial lr=9 \(lr=0.1\)"),
        ({"value": "acuracy"}, "no value acuracy"),
        ({"reported": "abc"}, "reported=abc: must be a number, as accuracy is"),
        ({"file": "few/test.json", "spread": "draws"}, "few/test.json has no draws of accuracy"),
        ({"file": "old/test.json", "value": "f1"}, "has no spread of f1 over seeds"),
    ],
)
def test_a_claim_about_nothing_is_an_error_that_names_it(metrics_in, changes, message):
    with pytest.raises(claims.ClaimError, match=message):
        claims.judge(claim(**changes), metrics_in, CONFIDENCE, MARGIN)


@pytest.mark.parametrize("file", ["test.json", "test_details.json"])
@pytest.mark.parametrize(
    ("model", "changes"), [("m", {}), ("few", {"unknown": "seed", "spread": "m few"})]
)
def test_a_claim_never_reads_through_a_link_out_of_the_metrics(
    model, changes, file, metrics_in, tmp_path_factory
):
    link, outside = metrics_in / model / file, tmp_path_factory.mktemp("outside") / "numbers.json"
    shutil.copy(metrics_in / "m" / file, outside)
    link.unlink(missing_ok=True)
    link.symlink_to(outside)
    with pytest.raises(claims.ClaimError, match=rf"{model}/{file} is a link out of "):
        claims.judge(claim(**changes), metrics_in, CONFIDENCE, MARGIN)


def test_a_claims_file_with_other_columns_or_unknowns_is_refused(tmp_path):
    path = tmp_path / "claims.csv"
    path.write_text("id,reported\n")
    with pytest.raises(claims.ClaimError, match="columns must be id,where"):
        claims.read(path)
    path.write_text(",".join(claims.COLUMNS) + "\nc,,,,,0.1,f,,accuracy,luck,,\n")
    with pytest.raises(claims.ClaimError, match="unknown='luck'"):
        claims.read(path)
    path.write_text(",".join(claims.COLUMNS) + "\nc,,,,,0.1,f,,accuracy\n")
    with pytest.raises(claims.ClaimError, match="c: must have 12 cells"):
        claims.read(path)
    for same in ("c", "d", "e"):
        rows = f"c,,,,,0.1,f,,accuracy,seed,,{same}\nd,,,,,0.2,f,,accuracy,seed,,\n"
        path.write_text(",".join(claims.COLUMNS) + "\n" + rows)
        with pytest.raises(claims.ClaimError, match=f"c: same_as={same}: must be another claim"):
            claims.read(path)


ROW = "c,,,,,{reported},{file},,accuracy,{unknown},,\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reported": '"0,95"'}, "line 2: c: reported='0,95': must be a number such as 0.95"),
        ({"reported": ""}, "line 2: c: reported='': must be a number"),
        ({"reported": "nan", "unknown": "bound"}, "line 2: c: reported='nan': must be a number"),
        ({"file": "../other/test.json"}, "file=../other/test.json: must be a path in"),
        ({"file": "/etc/passwd"}, "file=/etc/passwd: must be a path in"),
    ],
)
def test_a_cell_that_cannot_be_judged_is_named(tmp_path, changes, message):
    path = tmp_path / "claims.csv"
    row = ROW.format(**{"reported": "0.95", "file": "f", "unknown": "seed"} | changes)
    path.write_text(",".join(claims.COLUMNS) + "\n" + row)
    with pytest.raises(claims.ClaimError, match=message):
        claims.read(path)


def test_a_claims_file_is_read_as_spreadsheets_save_it(tmp_path):
    path, row = tmp_path / "claims.csv", ROW.format(reported="0.95", file="f", unknown="seed")
    text = ",".join(claims.COLUMNS) + "\n" + row
    path.write_text(text)
    plain = claims.read(path)
    path.write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
    assert claims.read(path) == plain
    path.write_text(text + row)
    with pytest.raises(claims.ClaimError, match="line 3: c: id='c': must be a name that no other"):
        claims.read(path)
    path.write_bytes(text.encode() + b"\xff")
    with pytest.raises(claims.ClaimError, match=r"claims\.csv: is not UTF-8"):
        claims.read(path)

"""The committed evidence: what it claims, what it shows, and that the test set chose nothing."""

import csv
import itertools
import json
import re
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.stats import norm, t
from support.project import ROOT

from kmnist_pipeline.config import grid
from kmnist_pipeline.evaluation import metrics
from kmnist_pipeline.evidence import lineage
from kmnist_pipeline.evidence import numbers as evidence
from kmnist_pipeline.families import excerpt

REPORTS = ("digits", "kmnist_cnn", "kmnist_linear", "mnist_logistic")

# The figures of the published reports, by their own numbers.
PUBLISHED = {
    "kmnist_cnn": ["1", "2", "3", "4a", "4b", "5a", "5b", "6", "7"],
    "kmnist_linear": ["1", "2", "3", "4", "5", "6", "7", "8"],
    "mnist_logistic": ["3.1", "3.2", "4.7", "4.9.1", "4.9.2"],
}

# The same set of data figures stands on the demo's page.
DATA_FIGURES = {"classes", "samples", "ten_samples", "averages", "grid", "pca", "first", "matrix"}


@cache
def params():
    return yaml.safe_load((ROOT / "params.yaml").read_text())


def claims(report):
    return {
        claim["id"]: claim for claim in json.loads(read(f"reports/{report}/claims.json"))["claims"]
    }


def read(path):
    return (ROOT / path).read_text()


def tracked():
    listing = subprocess.run(
        ["git", "ls-files", "-z", "metrics", "figures", "reports", "dvc.lock", "params.yaml"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return [ROOT / file for file in listing.split("\0") if file]


@pytest.mark.parametrize(
    ("report", "number"), [(report, n) for report, ns in PUBLISHED.items() for n in ns]
)
def test_every_published_figure_is_a_real_picture_on_the_page(report, number):
    file = params()["reports"][report]["figures"][number]
    with Image.open(ROOT / "figures" / file) as image:
        assert image.height >= 300
        assert len(np.unique(np.asarray(image.convert("L")))) > 10
    page = read(f"reports/{report}/index.html")
    assert f"<b>Figure {number}.</b>" in page
    assert f"../../figures/{file}" in read(f"reports/{report}/README.md")


@pytest.mark.parametrize("dataset", ["digits", "kmnist", "mnist"])
def test_every_data_set_is_drawn_the_same_way(dataset):
    assert {file.stem for file in (ROOT / "figures/data" / dataset).glob("*.png")} == DATA_FIGURES


@pytest.mark.parametrize("report", REPORTS)
def test_every_figure_on_a_page_says_where_it_comes_from(report):
    page = read(f"reports/{report}/index.html")
    dataset = params()["reports"][report]["dataset"]
    shown = [
        *(ROOT / f"figures/{report}").rglob("*.png"),
        *(ROOT / f"figures/data/{dataset}").iterdir(),
    ]
    linked = {path for path in shown if f'href="../../{path.relative_to(ROOT).as_posix()}"' in page}
    assert page.count("<figure") == len(shown) - len(linked)
    claimed = {Path(claim["source"]).parent.name for claim in claims(report).values()}
    assert not claimed & {path.parent.name for path in linked}
    for path in shown:
        with Image.open(path) as image:
            text = image.info
        for part in (text["Stage"], text["Lineage"], *json.loads(text["Data"]).values()):
            assert part in page
        assert text["Caption"] and json.loads(text["Parameters"])
    assert "http-equiv" not in page and "<script" not in page


@pytest.mark.parametrize("report", REPORTS)
def test_every_number_obtained_leads_to_where_it_comes_from(report):
    page = read(f"reports/{report}/index.html")
    targets = re.findall(r'href="#([^"]+)"', page)
    anchors = re.findall(r'<details id="([^"]+)"', page)
    rows = re.findall(r'<tr id="([^"]+)"', page)
    headings = re.findall(r'<h2 id="([^"]+)"', page)
    known = [*anchors, *rows, *headings]
    assert set(targets) <= set(known) and len(known) == len(set(known))
    for path in anchors:
        made_by = evidence.read(ROOT / path)["made_by"]
        line = next(line for line in page.splitlines() if f'<details id="{path}"' in line)
        for part in (made_by["stage"], made_by["lineage"][:12]):
            assert part in line
        assert f"kmnist trace {path}" in page
        for module, md5 in made_by["code"].items():
            assert f'<a href="../../{module}">' in page and md5[:8] in page
            assert (ROOT / module).exists()
    judged = [claim for claim in claims(report).values() if claim["source"]]
    assert len(targets) > len(judged)
    for claim in judged:
        assert claim["source"].partition(":")[0] in targets


def test_mnist_logistic_is_exact():
    judged = claims("mnist_logistic")
    for name in ("accuracy", "confusion-matrix", "misclassified"):
        assert judged[name]["verdict"] == "exact"
    assert "100 of 100" in judged["confusion-matrix"]["note"]
    test = numbers("mnist_sklearn_logistic", "test", "mnist_logistic")
    assert test["correct"] / test["n"] == 0.9172142857142858
    assert test["misclassified"][:5] == [4, 5, 18, 61, 78]


def test_a_cnn_beats_the_human_benchmark_of_mnist_logistic():
    judged = claims("mnist_logistic")["human-benchmark"]
    test = numbers("mnist_simple_cnn", "test", "mnist_logistic")
    assert judged["verdict"] == "beaten" and test["seeds"]["accuracy"]["n"] == 3
    assert judged["obtained"] == test["accuracy"] > float(judged["reported"])


@pytest.mark.parametrize("ending", ["README.md", "index.html"])
def test_a_page_says_what_validation_images_have_chosen(ending):
    served = {
        "digits": "when to stop, the epoch whose weights are kept",
        "kmnist_cnn": "one of 12 trials",
        "mnist_logistic": "nothing",
    }
    for report, chosen in served.items():
        page = read(f"reports/{report}/{ending}")
        assert "Validation also chose" in page
        assert f"| {chosen} |" in page or f"<td>{chosen}</td>" in page


def test_kmnist_linear_judges_all_24_claims():
    judged = claims("kmnist_linear")
    assert len(judged) == 24
    assert {claim["verdict"] for claim in judged.values()} <= {"exact", "reproduced", "differs"}
    for claim in judged.values():
        assert "(4 df)" in claim["note"]  # five seeds


@pytest.mark.parametrize("report", PUBLISHED)
def test_verdicts_follow_from_the_committed_numbers(report):
    """Recomputed from the metrics, by other code."""
    judged, about = claims(report), params()["reports"][report]
    stated = csv.DictReader((ROOT / f"conf/claims/{report}.csv").open())
    for claim in (row for row in stated if row["file"]):
        told = evidence.read(ROOT / "metrics" / report / claim["file"])
        model = {t["name"]: t for t in told.get("trials", [])}.get(claim["trial"], told)
        value = claim["value"]
        if isinstance(model[value], list | str):
            found = list(map(float, re.findall(r"[\d.]+", str(model[value]))))
            theirs = list(map(float, re.findall(r"[\d.]+", claim["reported"])))
            same = theirs == (found if value != "misclassified" else found[: len(theirs)])
            assert judged[claim["id"]]["verdict"] == ("exact" if same else "differs")
            continue
        counted = value == "accuracy" and "correct" in model  # all digits, not six
        ours = model["correct"] / model["n"] if counted else model[value]
        reported, mean, half = float(claim["reported"]), ours, 0.0
        seeds = (model["seeds"] or {}).get(value, model["seeds"])
        if claim["spread"] == "draws":
            draws = told["draws"][value]
            mean = draws["mean"]
            half = t.ppf(0.975, draws["df"]) * np.hypot(draws["sd"], draws["se"])
        elif "seed" in claim["unknown"]:
            pooled = [
                evidence.read(ROOT / "metrics" / report / name / "test.json")["seeds"][value]
                for name in claim["spread"].split()
            ] or [seeds]
            df = sum(each["n"] - 1 for each in pooled)
            squares = sum((each["n"] - 1) * each["sd"] ** 2 for each in pooled)
            mean = seeds["mean"]
            half = t.ppf(0.975, df) * np.sqrt(squares / df * (1 + 1 / seeds["n"]))
        if "split" in claim["unknown"]:
            half = np.hypot(half, norm.ppf(0.975) * np.sqrt(mean * (1 - mean) / told["n"]))
        digits = len(claim["reported"].partition(".")[2])
        if claim["unknown"] == "bound":
            expected = "beaten" if ours > reported else "missed"
        elif round(ours, digits) == reported:
            expected = "exact"
        elif abs(mean - reported) > half:
            expected = "differs"
        else:
            expected = "reproduced" if half <= about["margin"] else "inconclusive"
        assert judged[claim["id"]]["verdict"] == expected, claim["id"]
        if half and claim["unknown"] != "bound":
            np.testing.assert_allclose(
                judged[claim["id"]]["interval"], [mean - half, mean + half], rtol=1e-4
            )


@pytest.mark.parametrize("report", PUBLISHED)
def test_every_claim_quotes_its_report(report):
    text = ROOT.parent / "shared/references" / f"{report}.txt"
    if not text.exists():
        pytest.skip("the published reports are not here")
    words = " ".join(text.read_text().split())
    for row in csv.DictReader((ROOT / f"conf/claims/{report}.csv").open()):
        assert row["quote"] and all(part in words for part in row["quote"].split(" […] ")), row
        assert re.match(r"(Section|Table|Page) ", row["where"]), row["id"]


def test_numbers_that_are_the_same_by_construction_count_once():
    judged = claims("kmnist_cnn")
    same = {name: claim["same_as"] for name, claim in judged.items() if claim["same_as"]}
    assert len(same) == 6
    for name, other in same.items():
        assert judged[name]["obtained"] == pytest.approx(judged[other]["obtained"], abs=1e-6)
        assert judged[name]["reported"] == judged[other]["reported"]
    assert "19 published numbers" in read("reports/kmnist_cnn/README.md")


# --- kmnist_cnn ----------------------------------------------------------------------------------

CNNS = ("kmnist_simple_cnn", "kmnist_resnet_like", "kmnist_improved_cnn", "kmnist_tuned_cnn")
TABLE_I = ("kmnist_sklearn_logistic", *CNNS)


def numbers(model, part, report="kmnist_cnn"):
    return evidence.read(ROOT / f"metrics/{report}/{model}/{part}.json")


def test_kmnist_cnn_judges_all_25_claims():
    judged = claims("kmnist_cnn")
    assert len(judged) == 25
    for name, claim in judged.items():
        model = claim["source"].split("/")[2]
        if name == "tuned-winner":
            assert claim["obtained"] == numbers(model, "validation")["winner"]
            continue
        value = claim["source"].rpartition(": ")[2]
        assert claim["obtained"] == pytest.approx(numbers(model, "test")[value], abs=1e-6)


def test_the_networks_are_those_that_the_report_describes():
    epochs = {"simple_cnn": 5, "resnet_like": 10, "improved_cnn": 10, "siamese": 10}
    for name, count in epochs.items():
        experiment = params()["experiments"][f"kmnist_{name}"]
        (first, *_) = folds = numbers(f"kmnist_{name}", "validation")["folds"]
        kept = {fold["kept_epoch"] for fold in folds}
        assert {fold["epochs"] for fold in folds} == kept
        assert (first["epochs"], first["n_train"], first["n_validation"]) == (count, 48000, 12000)
        assert experiment["optimizer"] == {"name": "adam", "lr": 0.001, "batch_size": 64}
        assert len(folds) == len(experiment["seeds"])
    assert params()["experiments"]["kmnist_improved_cnn"]["model"]["dropout"] == 0.4


def test_the_tuned_network_won_by_validation_and_was_trained_again():
    validation, test = (numbers("kmnist_tuned_cnn", part) for part in ("validation", "test"))
    trials = validation["trials"]
    keys = ("optimizer.lr", "model.dropout", "optimizer.batch_size")
    points = {tuple(trial["parameters"][key] for key in keys) for trial in trials}
    assert points == set(itertools.product((0.001, 0.0005), (0.3, 0.4, 0.5), (64, 128)))
    best = max(trials, key=lambda trial: trial["accuracy"])
    assert validation["winner"] == best["name"]
    epochs = {fold["trial"]: fold["epochs"] for fold in validation["folds"]}
    assert epochs == {**{trial["name"]: 3 for trial in trials}, "retrained": 10}
    assert [trial["name"] for trial in test["trials"]] == ["retrained"]


def test_the_residual_network_has_the_settings_that_the_search_has_chosen():
    study = params()["studies"]["kmnist_residual_search"]
    used = {
        key: lineage.value(params()["experiments"], f"{study['base']}.{key}")
        for key in study["search"]["space"]
    }
    found = json.loads(read("metrics/kmnist_beyond/kmnist_residual_search/validation.json"))
    assert found["winner"] == grid.name(used)


def test_rows_of_table_i_are_compared_by_mcnemars_test():
    page = read("reports/kmnist_cnn/README.md")
    for one, other in itertools.pairwise(TABLE_I):
        right = [
            metrics.unpack_bits(numbers(model, "test")["right"], 10_000) for model in (one, other)
        ]
        found = metrics.mcnemar(*right)
        cells = f"| `{one}` | `{other}` | {found['only']} | {found['only_other']} |"
        assert cells in page


@pytest.mark.parametrize("model", CNNS)
def test_confidence_routing_is_chosen_by_validation_and_says_what_it_kept(model):
    routed = numbers(model, "test")["routing"]
    chosen, kept = routed["validation"], routed["test"]
    assert routed["promise"] == 0.995 <= chosen["accuracy"]
    assert (chosen["n"], kept["n"]) == (12_000, 10_000)
    assert kept["accepted"] + kept["review"] == kept["n"]
    assert kept["accuracy"] == pytest.approx(kept["correct"] / kept["accepted"], abs=1e-6)
    assert kept["interval"][0] < kept["accuracy"] < kept["interval"][1]
    assert (kept["target"] == "met") == (kept["accuracy"] >= 0.995)
    # Temperature is fitted by likelihood, so it cannot make that of validation images worse.
    before, after = (routed["calibration"]["validation"][when] for when in ("before", "after"))
    assert after["nll"] <= before["nll"]
    row = next(
        line
        for line in read("reports/kmnist_cnn/README.md")
        .partition("Confidence routing")[2]
        .split("\n")
        if line.startswith(f"| `{model}`")
    )
    assert f"{kept['accepted']} / 10000" in row
    assert row.endswith(f"| {kept['target']} |")


def test_one_shot_recognition_tells_the_spread_of_its_draws():
    test = numbers("kmnist_siamese", "test")
    draws = test["draws"]["accuracy"]
    assert (draws["groups"], draws["draws"]) == (3, 100)
    assert draws["first"][0] == pytest.approx(test["accuracy"], abs=1e-6)
    assert "over 3 trainings and 100 draws" in read("reports/kmnist_cnn/README.md")


def test_the_protocol_of_kmnist_linear_stands_in_one_place_and_won_by_validation():
    chosen = yaml.safe_load(read("conf/protocol/kmnist_linear.yaml"))
    table = read("metrics/kmnist_linear/kmnist_linear_protocol/trials.csv").splitlines()
    rows = list(csv.DictReader(table))
    best = max(rows, key=lambda row: float(row["mean"]))
    assert best["winner"] == "True" and best["model.scaling"] == chosen["model"]["scaling"]
    assert not [column for column in rows[0] if "test" in column]
    for path in (ROOT / "conf/experiment").glob("kmnist_*.yaml"):
        experiment = yaml.safe_load(path.read_text())
        if experiment["report"] == "kmnist_linear":
            assert not {"validation", "trainer", "seeds"} & experiment.keys()
            assert "model" not in experiment
            assert {"/protocol@_here_": "kmnist_linear"} in experiment["defaults"]


@pytest.mark.parametrize("report", REPORTS)
def test_numbers_agree_with_each_other(report):
    for path in (ROOT / "metrics" / report).glob("*/test.json"):
        test = numbers(path.parent.name, "test", report)
        counts = np.array(test["confusion"])
        assert counts.sum() == test["n"] and np.trace(counts) == test["correct"]
        assert metrics.unpack_bits(test["right"], test["n"]).sum() == test["correct"]
        wrong = np.flatnonzero(~metrics.unpack_bits(test["right"], test["n"]))[:10]
        assert test["misclassified"] == wrong.tolist()
        for score in metrics.SCORES:
            first = test["seeds"][score]["values"][0]
            assert first == pytest.approx(test[score], abs=1e-6)


def test_evidence_is_small_and_carries_no_noise():
    files = tracked()
    assert files
    for path in (ROOT / "weights").iterdir():
        assert path.stat().st_size <= excerpt.LIMIT <= 3_000_000, path
    assert sum(file.stat().st_size for file in files) < 15_000_000
    noise = re.compile(rb"20\d\d-\d\d-\d\dT|/(work|root|home|tmp)/|localhost|127\.0\.0\.1")
    for file in files:
        content = file.read_bytes()
        if file.suffix == ".png":
            assert len(content) < 60_000, file
            assert b"Software" not in content and b"tIME" not in content
        else:
            assert not noise.search(content), (file, noise.search(content))
        if file.suffix == ".html":
            assert len(content) < 1_500_000, file


@pytest.mark.parametrize("path", sorted(ROOT.glob("metrics/*/readings.json")), ids=str)
def test_our_protocol_is_one_of_the_readings_and_has_the_reports_numbers(path):
    obtained = {name: claim["obtained"] for name, claim in claims(path.parent.name).items()}
    for name, claim in evidence.read(path)["claims"].items():
        # The weights of a model file have half the digits, which may turn one image.
        assert claim["ours"] == pytest.approx(obtained[name], abs=6e-4), name


def test_every_fault_of_the_catalogues_was_tried_on_a_model():
    """Not in every report: a fault that changes nothing of a model is not tried on it."""
    tried: set[str] = set()
    known: set[str] = set()
    for report, about in params()["faults"].items():
        content = evidence.read(ROOT / "metrics" / report / "faults.json")
        says = {name: fault["says"] for name, fault in about["catalogue"].items()}
        assert content["catalogue"] == says
        known |= says.keys()
        for trials in content["measured"].values():
            for faults in trials.values():
                assert "none" in faults and faults.keys() - {"none"} <= says.keys()
                tried |= faults.keys()
    assert tried == {"none", *known}

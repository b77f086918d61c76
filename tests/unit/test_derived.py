"""Evidence that agrees with itself contradicts nothing; each altered part contradicts the rest."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmnist_pipeline.commands import derived
from kmnist_pipeline.commands import derived_results as results
from kmnist_pipeline.commands import derived_training as training
from kmnist_pipeline.commands.apart import apart
from kmnist_pipeline.evaluation import metrics, out_of_fold, suspects
from kmnist_pipeline.evidence import lineage
from kmnist_pipeline.repository import locks

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
    stated, expected = training._stated(stored(stated)), training._over_folds(rows)
    assert not list(apart(Path("x"), stated, expected))


ROOT = Path(__file__).parents[2]
DIGITS, GRID = "metrics/digits/digits_cnn", "metrics/digits/digits_softmax_grid"
CONDITIONS = f"{DIGITS}/conditions.json"
TABLE, CURVES = f"{GRID}/trials.csv", f"{DIGITS}/curves.csv"


@pytest.fixture(scope="module")
def digits_files(tmp_path_factory):
    """A copy of the committed evidence of `digits`, its locked stages, and the parameters."""
    folder = tmp_path_factory.mktemp("evidence")
    for part in ("metrics/digits", "metrics/data", "reports/digits"):
        shutil.copytree(ROOT / part, folder / part)
    for part in ("conf", "figures"):
        (folder / part).symlink_to(ROOT / part)
    stages = locks.parse((ROOT / "dvc.lock").read_bytes()).stages
    return folder, stages, locks.load((ROOT / "params.yaml").read_text(), "params.yaml")


@pytest.fixture
def contradicted(digits_files, monkeypatch):
    """Edits files of the copy while a function says what the stage with these outs contradicts."""
    folder, stages, params = digits_files
    monkeypatch.chdir(folder)

    def of(address: str, file: str, edit) -> list[str]:
        path = Path(file)
        before = path.read_bytes()
        path.write_text(edit(before.decode()))
        assert path.read_bytes() != before
        try:
            found = derived.contradictions([stages[address]], params)
        finally:
            path.write_bytes(before)
        return [change.name for changes in found.values() for change in changes]

    return of


@pytest.mark.parametrize("report", ["digits", "kmnist_linear", "mnist_logistic", "kmnist_cnn"])
def test_the_committed_evidence_contradicts_nothing(report, monkeypatch):
    monkeypatch.chdir(ROOT)
    graph = locks.parse(Path("dvc.lock").read_bytes())
    params = locks.load(Path("params.yaml").read_text(), "params.yaml")
    stages = [
        stage
        for stage in graph.upstream(f"report@{report}")
        if all(  # those made by other code are stale
            lineage.digest(Path(path)) == md5
            for path, md5 in stage.deps.items()
            if path.startswith("src/")
        )
    ]
    assert stages
    assert derived.contradictions(stages, params) == {}


def changed(*keys: Any):
    """An edit of JSON: sets the value at the place that the other keys give."""
    *place, last, value = keys

    def edit(text: str) -> str:
        content = part = json.loads(text)
        for key in place:
            part = part[key]
        part[last] = value(part.get(last)) if callable(value) else value
        return json.dumps(content)

    return edit


def more(value: Any) -> Any:
    return value + 1


def cell(column: int, value: str, line: int = 1):
    """An edit of a CSV file, whose first cell may have commas in quotes."""

    def edit(text: str) -> str:
        lines = text.splitlines(keepends=True)
        cells = re.findall(r'"[^"]*"|[^,\n]+|(?<=,)(?=[,\n])|^(?=,)', lines[line])
        cells[column] = value
        lines[line] = ",".join(cells) + "\n"
        return "".join(lines)

    return edit


def without_line(text: str) -> str:
    return text.rpartition("\n")[0].rpartition("\n")[0] + "\n"


TEST = f"{DIGITS}/test_details.json"
VALIDATION, SEARCHED = f"{DIGITS}/validation_details.json", f"{GRID}/validation_details.json"
DATA, SUSPECTS, LOOP = (
    f"metrics/{x}.json" for x in ("data/digits", "digits/suspects", "digits/loop")
)
TRAIN, TUNE = "kfold-train@digits_cnn", "tune@digits_softmax_grid"


@pytest.mark.parametrize(
    ("stage", "file", "edit", "says"),
    [
        # the table of trials
        *(
            (TUNE, TABLE, cell(column, value), "trials.csv")
            for column, value in enumerate(
                ["lr=0.2", "0.2", "64", "0.96", "0.96", "0.1", "4", "1438", "True"]
            )
        ),
        (TUNE, TABLE, without_line, "trials.csv"),
        (TUNE, SEARCHED, changed("winner", "lr=0.1,batch_size=32"), "winner is lr=0.1"),
        (TUNE, SEARCHED, changed("trials", "#1", "parameters", "optimizer.lr", 0.4), "parameters"),
        (TUNE, SEARCHED, changed("trials", "#1", "seeds", "sd", 0.1), "seeds.sd is 0.1"),
        # epochs and folds
        (TRAIN, CURVES, without_line, "rows for validation, but"),
        (TRAIN, CURVES, cell(6, "0.999", line=2), "kept_epoch of seed 0, fold 0"),
        (TRAIN, VALIDATION, changed("folds", "#0", "train_accuracy", 0.5), "train_accuracy of"),
        (TRAIN, VALIDATION, changed("folds", "#0", "train_loss", 0.5), "train_loss of seed 0"),
        (TRAIN, VALIDATION, changed("folds", "#0", "epochs", more), "epochs follow from"),
        (TRAIN, VALIDATION, changed("folds", "#0", "kept_epoch", 2), "kept_epoch of seed 0"),
        (TRAIN, VALIDATION, changed("folds", "#0", "kept", lambda kept: not kept), "keeps fold"),
        (TRAIN, VALIDATION, changed("folds", "#0", "n_train", more), "training and validation"),
        (TRAIN, VALIDATION, changed("folds", "#0", "seed", 7), "seeds is [7"),
        (TRAIN, VALIDATION, changed("folds", "#0", "weights", lambda w: w[1:]), "number of"),
        # data
        ("preprocess@digits", DATA, changed("n", more), "n is 1798, but 1797"),
        ("preprocess@digits", DATA, changed("n_train", more), "n_train is 1438, but 1437"),
        ("preprocess@digits", DATA, changed("n_test", more), "n_test is 361, but 360"),
        ("preprocess@digits", DATA, changed("per_class", "3", "train", more), "the sum of train"),
        ("preprocess@digits", DATA, changed("per_class", "3", "test", more), "the sum of test"),
        ("preprocess@digits", DATA, changed("overlap", "distinct_images", 1), "distinct_images"),
        (
            "preprocess@digits",
            DATA,
            changed("overlap", "test_images_in_train", 361),
            "test_images_in_train is 361, but the rest allows 0 to 360",
        ),
        # a model on test images
        ("evaluate@digits_cnn", TEST, changed("misclassified", lambda m: [m[0] + 1, *m[1:]]), ""),
        ("evaluate@digits_cnn", TEST, changed("routing", "test", "correct", 299), "test.accuracy"),
        ("evaluate@digits_cnn", TEST, changed("routing", "test", "review", more), "test.review"),
        ("evaluate@digits_cnn", TEST, changed("routing", "test", "target", "met~"), "test.target"),
        (
            "evaluate@digits_softmax_grid",
            f"{GRID}/test_details.json",
            changed("winner", "lr=0.1,batch_size=32"),
            "accuracy is",
        ),
        (
            "evaluate@digits_softmax_grid",
            f"{GRID}/test_details.json",
            changed("trials", "#1", "name", "lr=0.9"),
            "trials is ",
        ),
        # other pictures
        *(
            ("conditions@digits_cnn", CONDITIONS, changed(*keys), says)
            for keys, says in {
                ("conditions", "#2", "accuracy", 0.5): "shifted by a tenth.accuracy is 0.5",
                ("conditions", "#2", "accepted_accuracy", 0.5): "accepted_accuracy is 0.5",
                ("conditions", "#2", "target", "other"): "target is",
                ("conditions", "#2", "correct", more): "shifted by a tenth.accuracy",
                ("conditions", "#2", "doubts", "several characters", 99): "accepted is 293",
                ("conditions", "#2", "name", "shifted"): "conditions is",
                ("unanswerable", "#0", "n", 359): "side by side.n is 359, but 360",
                ("unanswerable", "#0", "accepted", 1): "accepted is 1, but the rest allows 0 to 0",
                ("unanswerable", "#0", "doubts", "several characters", 361): "doubts is 361",
                ("promise", 0.99): "promise is 0.99",
            }.items()
        ),
        # suspects
        *(
            ("suspects@digits", SUSPECTS, changed(*keys), says)
            for keys, says in {
                ("n", 1436): "n is 1436, but 1437",
                ("contradicted", 1438): "contradicted is 1438, but the rest allows 0 to 1437",
                ("first", lambda rows: rows[1:]): "number of first is 29, but 30",
                ("first", lambda rows: [rows[1], *rows[1:]]): "number of first is 29, but 30",
                ("swapped", "n", 31): "swapped is 31, but 30",
                ("swapped", "of", 1436): "of is 1436, but 1437",
                ("swapped", "ranks", "#0", "rank", 31): "ranks is [31",
                ("swapped", "ranks", "#0", "found", 25): "share of 30 is 0.8",
                ("swapped", "ranks", "#0", "share", 0.85): "share of 30 is 0.85, but 0.8",
            }.items()
        ),
        # rounds of reviewing
        *(
            ("loop@digits", LOOP, changed(*keys), says)
            for keys, says in {
                ("held_out", 501): "held_out is 501, but 500",
                ("saved", 73.0): "saved is 73.0, but 72.72",
                ("rounds", "#1", "labels", 160): "labels is [100, 160",
                ("rounds", "#1", "accuracy", "at_random", "mean", 0.9): "at_random.mean is 0.9",
                ("rounds", "#0", "accuracy", "at_random", "values", lambda v: v[::-1]): "at_random",
            }.items()
        ),
        # where numbers come from
        *(
            ("loop@digits", LOOP, changed("made_by", *keys), f"{keys[0]} of made_by is not what")
            for keys in (
                ("stage", "loop@other"),
                ("data", "data/processed/digits.npz", "0" * 32),
                ("code", "src/kmnist_pipeline/errors.py", "0" * 32),
                ("parameters", "loops.digits", "rounds", 9),
            )
        ),
        (
            "report@digits",
            "reports/digits/claims.json",
            changed("proof", "complete"),
            "claims.json: has proof, which no report has",
        ),
    ],
)  # fmt: skip
def test_each_altered_part_contradicts_the_rest(contradicted, stage, file, edit, says):
    found = contradicted(stage, file, edit)
    assert any(says in line for line in found), found
    assert all(file.rpartition("/")[0] in line for line in found)


FAULTS = "metrics/mnist_logistic/faults.json"
LEAK = ("measured", "mnist_sklearn_logistic", "", "test_in_training")


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ((*LEAK, "test", "accuracy", 0.95), "under test_in_training.accuracy is 0.95, but 0.91"),
        ((*LEAK, "test", "f1", 0.95), "test_in_training.f1 is 0.95, but 0.91"),
        ((*LEAK, "test", "confusion", lambda rows: rows[::-1]), "test_in_training.accuracy is"),
        ((*LEAK[:3], "other", {}), "mnist_sklearn_logistic has other, which is not configured"),
        (("measured", "other", {}), "models is ['mnist_sklearn_logistic', 'other'], but"),
        (("catalogue", "test_in_training", "nothing"), "catalogue is"),
        (("budget", "a tenth"), "budget is a tenth"),
    ],
)
def test_scores_under_faults_follow_from_their_confusion_matrices(
    digits_files, tmp_path, monkeypatch, keys, says
):
    _, stages, params = digits_files
    path = tmp_path / FAULTS
    path.parent.mkdir(parents=True)
    text = (ROOT / FAULTS).read_text()
    path.write_text(text)
    monkeypatch.chdir(tmp_path)
    stage = stages["faults@mnist_logistic"]
    assert not list(results.of_faults(stage, params))
    path.write_text(changed(*keys)(text))
    assert any(says in line for line in results.of_faults(stage, params))


READINGS = "metrics/kmnist_linear/readings.json"
CLAIM = ("claims", "softmax-test")


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ((*CLAIM, "low", 0.1), "low is 0.1, but"),
        ((*CLAIM, "high", 0.99), "high is 0.99, but"),
        ((*CLAIM, "ours", 0.7), "ours is 0.7, but"),
        ((*CLAIM, "moves", "epochs", 0.5), "moves.epochs is 0.5, but"),
        ((*CLAIM, "reported", 0.9), "reported is 0.9, but"),
        ((*CLAIM, "agree", 649), "the rest allows 0 to 648"),
        ((*CLAIM, "agree", 0), "is there only if readings agree"),
        (("claims", "other", {}), "claims is"),
        (("seeds", 4), "seeds is 4, but 5"),
        (("best", "#9", "agrees", 24), "must begin with the reading that agrees with most"),
    ],
)
def test_what_readings_explain_follows_from_their_numbers(
    digits_files, tmp_path, monkeypatch, keys, says
):
    _, stages, params = digits_files
    for file in (READINGS, "conf/claims/kmnist_linear.csv"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text((ROOT / file).read_text())
    monkeypatch.chdir(tmp_path)
    stage = stages["readings@kmnist_linear"]
    assert not list(results.of_readings(stage, params))
    (tmp_path / READINGS).write_text(changed(*keys)((ROOT / READINGS).read_text()))
    assert any(says in line for line in results.of_readings(stage, params))


@pytest.mark.parametrize(
    ("file", "keys"),
    [
        (LOOP, ("rounds",)),  # a template takes its first element
        (CONDITIONS, ("conditions",)),
        (SUSPECTS, ("swapped", "ranks")),
        (SUSPECTS, ("first",)),
        (f"{GRID}/validation_details.json", ("trials", "#0", "seeds")),
        (TEST, ("routing", "test")),
    ],
)
def test_a_page_of_damaged_numbers_names_their_folder(contradicted, file, keys):
    (found,) = contradicted("report@digits", file, changed(*keys, 0.5))
    assert found.startswith("its outs cannot be computed again: metrics/digits/ or metrics/data/: ")
    assert "`git checkout HEAD -- metrics` restores the committed ones" in found


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: derived.PICTURE.sub("", text),
        lambda text: derived.PICTURE.sub("", text, count=1),
        lambda text: text.replace('"data:image', '"" title="data:image', 1),
        lambda text: text.replace("</p>", derived.EMBEDDED + "AAAA</p>", 1),
    ],
    ids=["no pictures", "one less", "another attribute", "one more"],
)
def test_a_page_that_does_not_show_its_pictures_contradicts_the_figures(contradicted, edit):
    assert contradicted("report@digits", "reports/digits/index.html", edit)


@pytest.mark.parametrize("key", ["n", "contradicted", "first"])
def test_suspects_follow_from_predictions_if_they_are_here(tmp_path, key):
    rng = np.random.default_rng(0)
    predicted = out_of_fold.Predictions(
        rng.dirichlet(np.ones(3), 40), np.arange(40), np.arange(40) % 3
    )
    given = predicted.probabilities, predicted.labels
    content = {
        "n": 40,
        "contradicted": int((suspects.margins(*given) < 0.5).sum()),
        "first": suspects.ranking(*given)[:5].tolist(),
    }
    path = tmp_path / "suspects.json"
    assert not list(results._of_predictions(path, content, predicted))
    content[key] = content[key][::-1] if key == "first" else content[key] + 1
    (found,) = results._of_predictions(path, content, predicted)
    assert f"{key} is" in found

"""Faults on purpose: what each changes, and which claims detect it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kmnist_pipeline.data.dataset import Images
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evaluation import winning
from kmnist_pipeline.faults import detection, tampering
from kmnist_pipeline.faults import training as trained
from kmnist_pipeline.fits import plan, store
from kmnist_pipeline.reporting import extras

N, TEST = 300, 100


@pytest.fixture(scope="module")
def parts() -> tuple[Images, Images]:
    """Training and test images of three classes; the test images are darker."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, N + TEST)
    pixels = np.clip(60 * labels[:, None] + rng.normal(60, 40, (N + TEST, 9)), 0, 255)
    pixels[N:] /= 2
    whole = Images(
        pixels.astype(np.uint8).reshape(-1, 3, 3), labels, np.arange(N + TEST), ("a", "b", "c")
    )
    return whole.take(np.arange(N)), whole.take(np.arange(N, N + TEST))


def experiment(**changes: Any) -> dict[str, Any]:
    return {
        "report": "r", "dataset": "d", "classes": None, "subset": None,
        "model": {"family": "linear", "kind": "softmax", "scaling": "zscore"},
        "optimizer": {"name": "sgd", "lr": 0.1, "batch_size": 32},
        "validation": {"method": "holdout", "fraction": 0.2},
        "trainer": {"epochs": 3, "patience": None, "keep": "best_accuracy", "loss": "mean",
                    "precision": "float64"},
        "seeds": [0],
        **changes,
    }  # fmt: skip


def faulty(
    parts: tuple[Images, Images], fault: dict[str, Any], **changes: Any
) -> tampering.Faulty | None:
    return tampering.tampered(experiment(**changes), tampering.together(*parts), N, fault)


def made(parts: tuple[Images, Images], act: str, **values: Any) -> tampering.Faulty:
    found = faulty(parts, {"act": act, **values})
    assert found is not None
    return found


@pytest.fixture(scope="module")
def clean(parts: tuple[Images, Images]) -> tampering.Faulty:
    found = faulty(parts, tampering.NONE)
    assert found is not None
    return found


def test_without_a_fault_the_fit_is_the_experiments(parts, clean):
    (task,) = plan.of_experiment("m", experiment(), parts[0]).tasks()
    for name in ("training", "validation", "shift", "scale", "settings", "seed", "fold"):
        assert np.array_equal(getattr(clean.fit, name), getattr(task.fit, name)), name
    assert clean.measured["test"].tolist() == list(range(N, N + TEST))


def test_test_images_leak_into_training(parts, clean):
    found = made(parts, "leak", share=0.1)
    leaked = np.setdiff1d(found.fit.training, clean.fit.training)
    assert len(leaked) == TEST // 10 and leaked.min() >= N
    assert found.measured["test"].tolist() == clean.measured["test"].tolist()


def test_labels_are_swapped_in_training_alone(parts, clean):
    found = made(parts, "swap", classes=[0, 2])
    apart = np.flatnonzero(found.images.labels != clean.images.labels)
    rows = clean.fit.training
    assert apart.tolist() == rows[clean.images.labels[rows] != 1].tolist()
    assert (found.images.labels[apart] == 2 - clean.images.labels[apart]).all()


def test_the_scaling_is_estimated_on_the_test_images(parts, clean):
    found = made(parts, "scale_by_test")
    assert (found.fit.shift < clean.fit.shift).all()
    assert found.fit.training.tolist() == clean.fit.training.tolist()
    model = {"family": "linear", "kind": "softmax", "scaling": "none"}
    assert faulty(parts, {"act": "scale_by_test"}, model=model) is None


def test_images_are_missing(parts, clean):
    found = made(parts, "keep", share=0.5)
    assert len(found.fit.training) == len(clean.fit.training) // 2
    assert np.isin(found.fit.training, clean.fit.training).all()


@pytest.mark.parametrize("act", ["leak", "keep"])
def test_a_share_that_is_no_image_is_refused(parts, act):
    with pytest.raises(UserError, match=r"^share=1e-07 of the fault “few”: must be l"):
        made(parts, act, share=1e-7, says="few")


@pytest.mark.parametrize(
    ("fault", "part", "name", "after"),
    [
        ({"act": "multiply", "settings": ["optimizer.lr"], "factor": 10}, "optimizer", "lr", 1.0),
        ({"act": "add", "settings": ["trainer.epochs"], "amount": -1}, "trainer", "epochs", 2),
        ({"act": "add", "settings": ["model.max_iter", "trainer.epochs"], "amount": -1},
         "trainer", "epochs", 2),
    ],
)  # fmt: skip
def test_a_setting_changes_and_no_other(parts, clean, fault, part, name, after):
    found = made(parts, **fault)
    assert found.fit.settings[part][name] == after
    found.fit.settings[part][name] = clean.fit.settings[part][name]
    assert found.fit.settings == clean.fit.settings


def test_a_fault_that_changes_nothing_does_not_apply(parts):
    left_out: dict[str, Any] = {"act": "change", "settings": ["model.scaling"], "value": "none"}
    assert made(parts, **left_out).fit.shift.tolist() == [0] * 9
    model = {"family": "linear", "kind": "softmax", "scaling": "none"}
    assert faulty(parts, left_out, model=model) is None
    rate = {"act": "multiply", "settings": ["optimizer.lr"], "factor": 10}
    sklearn = {"family": "sklearn", "scaling": "none", "solver": "lbfgs", "max_iter": 100}
    assert faulty(parts, rate, model=sklearn, optimizer=None) is None
    nothing = {"validation": {"method": "none"}}
    assert faulty(parts, {"act": "measure_validation"}, **nothing) is None


def test_the_test_numbers_are_measured_on_validation(parts, clean):
    found = made(parts, "measure_validation")
    assert found.measured["test"].tolist() == clean.measured["validation"].tolist()


def test_faults_never_touch_evidence_outside_their_study(
    parts, clean, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Their fits have keys of their own, also without a fault: a fit of the evidence does not
    have test images. They write into the store alone, and change no array that they share."""
    monkeypatch.chdir(tmp_path)
    before = clean.images.labels.copy(), parts[0].labels.copy()
    several = {"clean": clean, "swap": made(parts, "swap", classes=[0, 1]),
               "leak": made(parts, "leak", share=0.1)}  # fmt: skip
    found = dict(trained.measured(several))
    accuracies = {name: each["validation"]["accuracy"] for name, each in found.items()}
    assert accuracies["clean"] > accuracies["swap"] + 0.2
    assert np.array_equal(before[0], clean.images.labels)
    assert np.array_equal(before[1], parts[0].labels)

    own = {task.key for task in plan.of_experiment("m", experiment(), parts[0]).tasks()}
    stored = {entry.key for entry in store.default().entries()}
    assert len(stored) == 3 and not stored & own
    outside = [path for path in tmp_path.rglob("*") if ".kmnist" not in path.parts]
    assert outside == []


# What claims detect


def claim(**changes: Any) -> dict[str, Any]:
    return {"id": "c", "reported": "0.900", "verdict": "reproduced", "obtained": 0.905,
            "mean": 0.903, "tolerance": 0.01, "same_as": "", **changes}  # fmt: skip


@pytest.mark.parametrize(
    ("stated", "clean_number", "faulty_number", "detected"),
    [
        (claim(), 0.8, 0.8, False),
        (claim(), 0.8, 0.805, False),  # our mean would be 0.908
        (claim(), 0.8, 0.809, True),  # 0.912: outside
        (claim(), 0.8, 0.7, True),
        (claim(verdict="differs"), 0.8, 0.1, False),
        (claim(verdict="missed"), 0.8, 0.1, False),
        (claim(verdict="beaten", mean=None, tolerance=0.0), 0.905, 0.899, True),
        (claim(verdict="beaten", mean=None, tolerance=0.0), 0.905, 0.904, False),
        (claim(verdict="exact", obtained=0.9, mean=None, tolerance=0.0), 0.9, 0.8998, False),
        (claim(verdict="exact", obtained=0.9, mean=None, tolerance=0.0), 0.9, 0.898, True),
        (claim(verdict="exact", reported="5 1; 0 6"), [[5, 1], [0, 6]], [[5, 1], [0, 6]], False),
        (claim(verdict="exact", reported="5 1; 0 6"), [[5, 1], [0, 6]], [[4, 2], [0, 6]], True),
        (claim(verdict="exact", reported="4, 5"), [4, 5, 18, 61], [4, 5, 18, 99], False),
        (claim(verdict="exact", reported="4, 5"), [4, 5, 18, 61], [4, 18, 61], True),
        (claim(verdict="exact", reported="4, 5"), [4, 5, 18, 61], [4], True),
        (claim(verdict="exact", reported="4, 5"), [4, 7, 18], [4, 7, 61], False),  # a small budget
        (claim(verdict="exact", reported="rate=1"), "lr=1", "lr=1", False),
        (claim(verdict="exact", reported="rate=1"), "lr=1", "lr=2", True),
    ],
)
def test_a_claim_detects_what_turns_its_verdict(stated, clean_number, faulty_number, detected):
    assert detection.detects(stated, clean_number, faulty_number) is detected


def test_the_matrix_has_the_claims_of_the_study_and_the_faults_that_apply():
    def numbers(accuracy: float) -> dict[str, Any]:
        return {"test": {"accuracy": accuracy}, "validation": {"accuracy": 0.5}}

    study = {"measured": {"m": {"": {"none": numbers(0.9), "big": numbers(0.5),
                                     "small": numbers(0.9001)}}}}  # fmt: skip
    rows = [
        {"file": "m/test.json", "trial": "", "value": "accuracy"},
        {"file": "m/validation.json", "trial": "", "value": "accuracy"},
        {"file": "other/test.json", "trial": "", "value": "accuracy"},
        {"file": "", "trial": "", "value": ""},
    ]
    claims = [claim(id=name) for name in "abcd"]
    found = detection.matrix(claims, rows, study)
    assert found == {"a": {"big": True, "small": False}, "b": {"big": False, "small": False}}
    assert detection.summary(found) == {"big": ["a"], "small": []}


def test_the_page_says_which_claims_are_uninformative_and_how_many_faults_are_found():
    content = {"catalogue": {"small": "s", "unused": "u", "big": "b", "apart": "a"}}
    detected = {"a": {"big": True, "small": False}, "b": {"big": False, "apart": False}}
    claims = [claim(id=name) for name in ("a", "outside", "b")]
    shown = extras.faults(content, detected, claims)
    assert shown is not None and shown["left_out"] == ["unused"]
    assert [(row["claim"]["id"], row["uninformative"]) for row in shown["rows"]] == [
        ("a", False),
        ("b", True),
    ]
    columns = [(column["name"], column["says"], column["detected"]) for column in shown["columns"]]
    assert columns == [("small", "s", 0), ("big", "b", 1), ("apart", "a", 0)]
    assert [row["cells"] for row in shown["rows"]] == [[False, True, None], [None, False, False]]
    assert shown["found"] == 1
    assert extras.faults(content, {}, claims) is None


# How trials win


def test_a_trial_wins_the_seeds_in_which_it_is_best():
    values = np.array([[0.7, 0.6, 0.9, 0.5], [0.8, 0.9, 0.7, 0.5], [0.6, 0.5, 0.8, 0.4]])
    assert winning.wins(values) == [2, 2, 0]  # of equal ones the first
    trials: list[dict[str, Any]] = [
        {"name": f"lr={lr}", "seeds": {"values": of}} for lr, of in enumerate(values)
    ]
    claims = [claim(source="x: winner", reported="rate=1"), claim(source=None, reported="lr=2")]
    shown = extras.with_wins(trials, claims)
    assert [trial["wins"] for trial in shown] == [2, 2, 0]
    assert [trial["published"] for trial in shown] == [False, True, False]
    assert shown[1]["chance"] > shown[0]["chance"] > shown[2]["chance"]


def test_equal_trials_win_equally_often():
    values = np.array([[0.9, 0.8, 0.7], [0.8, 0.7, 0.9], [0.7, 0.9, 0.8]])
    assert winning.wins(values) == [1, 1, 1]
    assert winning.chances(values) == pytest.approx([1 / 3] * 3)


def test_chances_follow_the_distance_of_two_trials():
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 0.05, 40)  # what a seed does to all trials cancels out
    values = np.array([0.80, 0.81])[:, None] + shared + rng.normal(0, 0.01, (2, 40))
    chances = winning.chances(values)
    assert sum(chances) == pytest.approx(1)
    apart = values[1] - values[0]
    from scipy.special import ndtr

    expected = ndtr(apart.mean() / apart.std(ddof=1) / np.sqrt(1 + 1 / 40))
    assert chances[1] == pytest.approx(expected, abs=1e-3)


def test_without_spread_the_best_wins():
    assert winning.chances(np.array([[0.5, 0.5], [0.6, 0.6]])) == [0.0, 1.0]

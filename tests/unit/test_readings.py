"""Readings: trajectories agree with the training, and the hidden reading of a report is found."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kmnist_pipeline.data import dataset, scaling, splits
from kmnist_pipeline.evaluation import claims as judging
from kmnist_pipeline.evidence import numbers, outs
from kmnist_pipeline.evidence.stage import Stage
from kmnist_pipeline.families.base import Checkpoint, Data, Fit, Fitted, TrainingError
from kmnist_pipeline.families.linear import train
from kmnist_pipeline.fits import results
from kmnist_pipeline.fits.store import Store
from kmnist_pipeline.readings import explanation, multiverse, training, trajectories
from kmnist_pipeline.readings.multiverse import Configuration, Reading
from kmnist_pipeline.readings.trajectories import MEASURES, Column, Group
from kmnist_pipeline.reporting import extras
from kmnist_pipeline.stages import readings as stage

EPOCHS, FOLDS = 4, 3
CHOICES: dict[str, list[Any]] = {
    "scaling": ["minmax", "zscore", "zscore_pixel"],
    "loss": ["mean", "sum"],
    "folds": [2, FOLDS],
    "epochs": [2, EPOCHS],
    "keep": ["last", "best_accuracy", "best_loss"],
    "value": ["mean", "best", "mean_best"],
}


def shown(classes: int, n: int = 400, seed: int = 0) -> training.Shown:
    """Overlapping classes of random images, of which a quarter is for the test."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    centres = rng.uniform(90, 150, (classes, 9))
    pixels = np.clip(centres[labels] + rng.normal(0, 60, (n, 9)), 0, 255).astype(np.uint8)
    return training.Shown(pixels, labels, n - n // 4, classes)


def fit(images: training.Shown, group: Group, column: Column, keep: str, epochs: int) -> Fitted:
    """The same training by the family itself."""
    shift, scale = scaling.estimate(column.scaling, images.pixels[group.training])
    settings = {
        "model": {"kind": group.kind},
        "optimizer": {"lr": column.lr, "batch_size": group.batch_size},
        "trainer": {"epochs": epochs, "patience": None, "keep": keep, "loss": column.loss,
                    "precision": "float64"},
    }  # fmt: skip
    rows = (group.training, group.validation)
    one = Fit("linear", settings, group.seed, group.fold, *rows, shift, scale)
    data = Data(images.pixels, images.labels, images.classes)
    return train.fit(one, data, Checkpoint(), lambda _: None)


def group_of(kind: str, images: training.Shown, batch: int, fold: int = 0) -> Group:
    losses = ["mean"] if batch == 1 else CHOICES["loss"]
    columns = tuple(
        Column(lr, method, loss)
        for lr in (0.01, 0.3)
        for method in CHOICES["scaling"]
        for loss in losses
    )
    cut = list(splits.kfold(images.training, FOLDS, 0))[fold]
    test = np.arange(images.training, len(images.labels))
    return Group(kind, images.classes, columns, batch, EPOCHS, 0, fold, *cut, test)


@pytest.mark.parametrize("batch", [1, 32])
@pytest.mark.parametrize(("kind", "classes"), [("logistic", 2), ("softmax", 3)])
def test_trajectories_agree_with_the_training_to_rounding(kind, classes, batch):
    images = shown(classes)
    group = group_of(kind, images, batch)
    found = trajectories.follow(group, images.pixels, images.labels)
    for position, column in enumerate(group.columns):
        fitted = fit(images, group, column, "last", EPOCHS)
        held = [epoch for epoch in fitted.history if epoch.split == "validation"]
        accuracy, loss, test = (found[name][position] for name in MEASURES)
        assert accuracy.tolist() == [epoch.accuracy for epoch in held]
        np.testing.assert_allclose(loss, [epoch.loss for epoch in held], rtol=1e-12)
        from kmnist_pipeline.families.linear import model

        pixels = images.pixels[group.test]
        predicted = model.probabilities({"kind": kind}, fitted.tensors, pixels, classes).argmax(1)
        assert test[-1] == (predicted == images.labels[group.test]).mean()


def test_a_training_that_diverges_names_itself():
    images = shown(3)
    group = group_of("softmax", images, 32)
    wild = Column(1e308, "zscore", "sum")
    with pytest.raises(TrainingError, match=r"epoch 1 of Column\(lr=1e\+308"):
        trajectories.follow(group.__class__(**{**vars(group), "columns": (wild,)}),
                            images.pixels, images.labels)  # fmt: skip


@pytest.mark.parametrize("keep", CHOICES["keep"])
@pytest.mark.parametrize("epochs", CHOICES["epochs"])
def test_a_reading_is_what_the_report_would_state(keep, epochs):
    """Our protocol's reading is the mean over folds, and the best fold's model on the test."""
    images, column = shown(2), Column(0.3, "zscore", "mean")
    fits, folds = [], []
    for fold in range(FOLDS):
        group = group_of("logistic", images, 32, fold)
        fits.append(fit(images, group, column, keep, epochs))
        found = trajectories.follow(group, images.pixels, images.labels)
        at = group.columns.index(column)
        folds.append(np.stack([found[name][at] for name in MEASURES]))
    reading = Reading("zscore", "mean", FOLDS, epochs, keep, "mean_best")
    validation = multiverse.value(reading, np.stack(folds), "validation")
    stated, _ = results.validation_accuracy(results.TrainedTrial({}, [fits]))
    assert validation == pytest.approx(stated["accuracy"], abs=1e-12)
    best = results.kept_fold(fits)
    test = multiverse.value(reading, np.stack(folds), "test")
    assert test == folds[best][MEASURES.index("test_accuracy"), fits[best].kept_epoch - 1]


# A synthetic report

HIDDEN = Reading("zscore_pixel", "sum", FOLDS, EPOCHS, "best_loss", "best")
OWN: dict[str, Any] = {
    "report": "r", "dataset": "blobs", "classes": None, "subset": None,
    "model": {"family": "linear", "kind": "softmax", "scaling": "zscore"},
    "optimizer": {"name": "sgd", "lr": 0.01, "batch_size": 32},
    "validation": {"method": "kfold", "folds": FOLDS},
    "trainer": {"epochs": EPOCHS, "patience": None, "keep": "best_accuracy", "loss": "mean",
                "precision": "float64"},
    "seeds": [0, 1],
}  # fmt: skip
STUDY: dict[str, Any] = {
    "base": "m", "points": [{"optimizer.lr": lr} for lr in (0.02, 0.05, 0.1)], "product": {},
    "trial": {}, "seeds": None,
}  # fmt: skip


def about(seeds: list[int]) -> dict[str, Any]:
    return {
        "confidence": 0.95, "experiments": {"m": OWN}, "studies": {"g": STUDY},
        "choices": CHOICES, "seeds": seeds, "best": 2,
    }  # fmt: skip


EVERY = multiverse.all_readings(CHOICES)
MINE = multiverse.ours(OWN)


@pytest.fixture(scope="module")
def images() -> dict[Any, training.Shown]:
    return {None: shown(4, n=900)}


@pytest.fixture(scope="module")
def fits(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("fits"))


@pytest.fixture(scope="module")
def courses(images: dict[Any, training.Shown], fits: Store) -> multiverse.Courses:
    known = multiverse.configurations(about([0])).values()
    return training.train("x", multiverse.courses(EVERY, known, [0]), images, fits)


def claims(courses: multiverse.Courses, reading: Reading) -> list[dict[str, str]]:
    """The claims of a report that was made with this reading."""
    rows = []
    for (model, trial), of in multiverse.configurations(about([0])).items():
        for split in multiverse.SPLITS:
            number = multiverse.value(reading, courses[multiverse.course(reading, of, 0)], split)
            rows.append({"id": f"{model}-{trial}-{split}", "file": f"{model}/{split}.json",
                         "trial": trial, "value": "accuracy", "unknown": "seed",
                         "reported": f"{number:.6f}"})  # fmt: skip
    return rows


def explained(courses: multiverse.Courses, rows: list[dict[str, str]]) -> explanation.Explanation:
    stated = multiverse.stated(rows, multiverse.configurations(about([0])), {None: 675})
    assert len(stated) == len(rows) == 8
    return explanation.Explanation(about([0]), stated, EVERY, MINE, courses)


def test_a_report_made_with_a_hidden_reading_is_explained_by_exactly_that_reading(courses):
    found = explained(courses, claims(courses, HIDDEN))
    of_all = np.flatnonzero(found.agreement.all(axis=0))
    assert [EVERY[position] for position in of_all] == [HIDDEN]
    assert found.best(1) == [HIDDEN]
    content = found.content([HIDDEN], courses)
    assert content["best"][0] == {**HIDDEN._asdict(), "agrees": 8, "agrees_over_seeds": 8}
    for claim in content["claims"].values():
        assert claim["agree"] >= 1 and claim["simplest"] is not None
        assert (
            claim["low"] <= claim["reported"] + 1e-6 and claim["reported"] <= claim["high"] + 1e-6
        )


def test_our_own_numbers_are_explained_by_our_protocol(courses):
    content = explained(courses, claims(courses, MINE)).content([MINE], courses)
    assert {str(claim["simplest"]) for claim in content["claims"].values()} == {str(MINE._asdict())}
    assert content["ours_agrees"] == 8


def test_the_choice_that_alone_decides_a_number_moves_it():
    numbers = np.array([0.9 if reading.epochs == EPOCHS else 0.8 for reading in EVERY])
    moved = multiverse.moves(CHOICES, numbers)
    assert moved.pop("epochs") == pytest.approx(0.1)
    assert set(moved.values()) == {0.0}


def test_the_interval_of_a_reading_grows_with_spread_and_unknown_images():
    of = Configuration("softmax", None, 0.1, 32)
    claim = multiverse.Stated("c", of, "validation", "0.9", 0)
    over = multiverse.spread([0.90, 0.91, 0.92])
    alone = multiverse.half_width(claim, MINE, 0.9, over, 0.95)
    assert alone == pytest.approx(4.302653 * 0.01 * 2**0.5)
    assert multiverse.half_width(claim, MINE, 0.9, None, 0.95) == 0
    others = claim._replace(images=300)  # or 100 of a fold: standard errors 0.01732 and 0.03
    one_fold = MINE._replace(value="best")
    for reading, error in ((MINE, (0.9 * 0.1 / 300) ** 0.5), (one_fold, 0.03)):
        sampling = 1.959964 * error
        assert multiverse.half_width(others, reading, 0.9, None, 0.95) == pytest.approx(sampling)
        whole = multiverse.half_width(others, reading, 0.9, over, 0.95)
        assert whole == pytest.approx(np.hypot(alone, sampling))


def test_a_damaged_result_is_trained_again(images, tmp_path: Path):
    kept = Store(tmp_path)
    known = [next(iter(multiverse.configurations(about([0])).values()))]
    wanted = multiverse.courses([MINE], known, [0])
    first = training.train("x", wanted, images, kept)
    entries = list(kept.entries())
    assert len(entries) == FOLDS
    entries[0].path.write_bytes(b"nothing")
    second = training.train("x", wanted, images, kept)
    assert all(np.array_equal(first[course], second[course]) for course in wanted)
    assert len(list(kept.entries())) == FOLDS


def test_a_course_is_trained_for_the_longest_of_its_readings_alone(courses, images, tmp_path: Path):
    known = multiverse.configurations(about([0])).values()
    short = MINE._replace(epochs=min(CHOICES["epochs"]))
    wanted = multiverse.courses([short], known, [0])
    assert set(wanted.values()) == {short.epochs} and short.epochs < EPOCHS
    for course, trained in training.train("x", wanted, images, Store(tmp_path)).items():
        assert np.array_equal(trained, courses[course][..., : short.epochs])
    both = multiverse.courses([short, MINE._replace(epochs=EPOCHS)], known, [0])
    assert both == dict.fromkeys(wanted, EPOCHS)


def test_readings_share_trainings_where_epochs_kept_epoch_and_value_alone_differ():
    alike = multiverse.sharing(EVERY, MINE)
    assert {reading._replace(epochs=1, keep="last", value="mean") for reading in alike} == {
        MINE._replace(epochs=1, keep="last", value="mean")
    }
    assert len(alike) == np.prod([len(CHOICES[name]) for name in ("epochs", "keep", "value")])


# Four readings, whose numbers are written down: the weights of epoch 1 or 2, and mean or sum

FEW: dict[str, Any] = {
    "scaling": ["zscore"], "loss": ["mean", "sum"], "folds": [2], "epochs": [1, 2],
    "keep": ["last"], "value": ["mean_best"],
}  # fmt: skip
OURS = Reading("zscore", "mean", 2, 2, "last", "mean_best")
SOFTMAX = Configuration("softmax", None, 0.01, 32)
SINGLE = 4.302653 * 0.01 * 2**0.5  # t of 2 degrees of freedom; ours is 0.80, 0.81, 0.82 over seeds
MEAN = 4.302653 * 0.01 * (4 / 3) ** 0.5  # the same around the mean of three seeds


def of_few(*reported: str, images: int = 0) -> dict[str, Any]:
    """What four readings explain of published validation accuracies; ours is the second reading."""
    both = {
        multiverse.Course(SOFTMAX, "zscore", loss, 2, seed): np.array(
            [[accuracy, [1, 1], accuracy]] * 2
        )
        for seed in range(3)
        for loss, accuracy in {"mean": [0.70, 0.80 + seed / 100], "sum": [0.50, 0.60]}.items()
    }
    stated = [
        multiverse.Stated(number, SOFTMAX, "validation", number, images) for number in reported
    ]
    about = {"confidence": 0.95, "experiments": {"m": OWN}, "studies": {}, "choices": FEW,
             "seeds": [0, 1, 2]}  # fmt: skip
    every = multiverse.all_readings(FEW)
    assert every.index(OURS) == 1
    return explanation.Explanation(about, stated, every, OURS, both).content([OURS], both)


def test_our_number_is_that_of_our_protocol():
    content = of_few("0.8000")
    (claim,) = content["claims"].values()
    stated = [claim[name] for name in ("ours", "low", "high")]
    assert stated == pytest.approx([0.80, 0.50, 0.80])
    assert (claim["agree"], claim["simplest"], content["ours_agrees"]) == (1, OURS._asdict(), 1)


def test_a_number_just_beyond_all_readings_and_their_intervals_is_unexplained():
    assert 0.0608 < SINGLE < 0.0609
    inside, outside = ["0.8608", "0.4392"], ["0.8609", "0.4391"]
    found = of_few(*inside, *outside)["claims"]
    assert [found[number]["agree"] for number in inside] == [1, 1]
    assert found["0.8608"]["simplest"] == OURS._asdict()
    assert found["0.4392"]["simplest"] == OURS._replace(loss="sum", epochs=1)._asdict()
    for number in outside:
        assert (found[number]["agree"], found[number]["simplest"]) == (0, None)


def test_unknown_images_explain_numbers_that_the_spread_alone_does_not():
    """Of 300 other images, 0.80 has the standard error 0.0231, and 1.96 of these are 0.0453."""
    assert 0.0758 < np.hypot(SINGLE, 0.0452634) < 0.0759
    for images, agree in ((300, [1, 0]), (0, [0, 0])):
        found = of_few("0.8758", "0.8759", images=images)["claims"]
        assert [found[number]["agree"] for number in ("0.8758", "0.8759")] == agree


@pytest.mark.parametrize(
    ("reported", "agrees"),
    [
        ("0.8595", 1),  # 0.0495 from the mean, 0.0595 from the first seed
        ("0.8600", 0),  # 0.0500 from the mean: one seed more would reach it, their mean does not
        ("0.7605", 1),
        ("0.7600", 0),  # 0.0400 from the first seed
        ("0.8000", 1),
    ],
)
def test_over_seeds_a_reading_agrees_around_its_mean(reported, agrees):
    assert 0.0495 < MEAN < 0.0500 < SINGLE
    assert of_few(reported)["best"] == [
        {**OURS._asdict(), "agrees": 1, "agrees_over_seeds": agrees}
    ]


def test_only_a_number_whose_images_are_unknown_has_other_images():
    row = {"id": "c", "file": "m/validation.json", "trial": "", "value": "accuracy",
           "reported": "0.9"}  # fmt: skip
    rows = [{**row, "unknown": unknown} for unknown in ("seed", "seed and split", "split")]
    found = multiverse.stated(rows, {("m", ""): SOFTMAX}, {None: 675})
    assert [claim.images for claim in found] == [0, 675, 675]


def test_the_page_says_what_is_explained_and_the_choice_that_moves_most():
    def claim(agree: int, **moves: float) -> dict[str, Any]:
        of = OURS._replace(loss="sum")._asdict() if agree else None
        return {"agree": agree, "simplest": of, "moves": moves, "low": 0.5, "high": 0.8,
                "ours": 0.8, "reported": 0.6}  # fmt: skip

    content = {
        "ours": OURS._asdict(), "order": Reading._fields, "choices": FEW, "best": [],
        "claims": {"a": claim(0, loss=0.1, epochs=0.3, keep=0), "b": claim(2, loss=0.2, folds=0.1)},
    }  # fmt: skip
    assert extras.readings(content, ["other"]) is None
    shown = extras.readings(content, ["b", "other", "a"])
    assert shown is not None
    assert list(shown["claims"]) == ["b", "a"]
    a, b = shown["claims"]["a"], shown["claims"]["b"]
    assert (a["explained"], b["explained"], shown["explained"]) == (False, True, 1)
    assert (a["by"], b["by"]) == (None, "loss sum")
    assert (a["mover"], b["mover"]) == (("epochs", 0.3), ("loss", 0.2))


# The stage


def prepared(of: training.Shown, rows: list[dict[str, str]]) -> dict[str, Any]:
    """Write the images and claims of a report into the working directory; its settings."""
    pixels, known = of.pixels.reshape(-1, 3, 3), np.arange(len(of.labels))
    names = [str(label) for label in range(of.classes)]
    parts = known[: of.training], known[of.training :]
    outs.write_bytes(
        Path("data/processed/blobs.npz"), dataset.encode(pixels, of.labels, *parts, names)
    )
    table = [dict.fromkeys(judging.COLUMNS, "") | row for row in rows]
    cells = [[row[name] for name in judging.COLUMNS] for row in table]
    outs.write_bytes(Path("conf/claims/r.csv"), outs.csv_bytes(judging.COLUMNS, cells))
    return {**about([0]), "dataset": "blobs", "claims": "r"}


def test_permuted_published_values_change_no_training_of_the_first_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, courses, images
):
    """The numbers of all readings stay the same, and so do the keys of their trainings.

    The best readings may be others, and they alone train further seeds: those may change.
    """
    rows = claims(courses, HIDDEN)
    turned = [{**row, "reported": other["reported"]}
              for row, other in zip(rows, rows[3:] + rows[:3], strict=True)]  # fmt: skip
    found = []
    for name, each in {"as published": rows, "permuted": turned}.items():
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        made = Stage("readings", "r", Path("out"), None)
        settings = {**prepared(images[None], each), "seeds": [0, 1]}
        stage.readings(made, {"readings": {"r": settings}})
        entries = Store(Path(".kmnist/fits")).entries()
        trained = {entry.key for entry in entries if "seed 0" in entry.about["label"]}
        found.append((trained, numbers.read(Path("out/metrics/r/readings.json"))))
    (before, published), (after, permuted) = found
    assert len(before) == 2 + FOLDS and after == before
    assert permuted["numbers"] == published["numbers"]
    agree = [[claim["agree"] for claim in of["claims"].values()] for of in (published, permuted)]
    assert agree[0] != agree[1]


def test_the_stage_writes_what_the_readings_explain(tmp_path: Path, monkeypatch, courses, images):
    """By hand, on a report that was made with the hidden reading; the page finds it simplest."""
    monkeypatch.chdir(tmp_path)
    rows = claims(courses, HIDDEN)
    settings = prepared(images[None], rows)
    made = Stage("readings", "r", Path("out"), None)
    stage.readings(made, {"readings": {"r": settings}})
    assert made.written == ["metrics/r/readings.json", "figures/r/readings"]
    written = numbers.read(Path("out/metrics/r/readings.json"))
    assert written["best"][0]["agrees"] == 8
    assert {name: written["best"][0][name] for name in Reading._fields} == HIDDEN._asdict()
    drawn = Path("out/figures/r/readings/specification_curve.png")
    assert 5_000 < drawn.stat().st_size < 60_000
    page = extras.readings(written, [row["id"] for row in rows])
    assert page is not None and page["explained"] == 8
    assert page["best"][0]["words"] == extras.in_words(HIDDEN._asdict(), MINE._asdict())
    for claim in page["claims"].values():
        ends = claim["strip"]["low"], claim["strip"]["high"]
        assert all(0 <= x <= extras.WIDTH for x in claim["strip"].values()) and ends[0] <= ends[1]

    # The other seeds are of ours and of the best readings alone.
    stage.readings(made, {"readings": {"r": {**settings, "seeds": [0, 1]}}})
    labels = [entry.about["label"] for entry in Store(Path(".kmnist/fits")).entries()]
    assert sum("seed 0" in label for label in labels) == 2 + FOLDS
    assert 0 < sum("seed 1" in label for label in labels) <= 3 * (2 + FOLDS)

"""`kmnist new`: the files of a report or an experiment, with their menu lines, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from support import wording

from kmnist_pipeline.commands import new

MENU = Path("conf/config.yaml")
pytestmark = pytest.mark.usefixtures("project_here")
# YAML and Hydra read these as something else than a name, and some are files for all items.
NO_NAMES = {
    **dict.fromkeys(("1", "007", "1_0", "1e3"), "joined by '_' that begin with a letter"),
    **dict.fromkeys(
        ("null", "true", "yes", "none", "base", "suspects", "data"), wording.NAME_TAKEN
    ),
}


def params() -> dict:
    return yaml.safe_load(Path("params.yaml").read_text())


def test_a_report_gets_models_a_study_and_menu_lines(kmnist, project):
    before = MENU.read_text().splitlines()
    status, out, err = kmnist("new", "report", "signs", "--dataset", "digits")
    assert (status, err) == (0, "")
    files = [
        *("conf/experiment/signs_softmax.yaml", "conf/experiment/signs_simple_cnn.yaml"),
        *("conf/study/signs_softmax_rates.yaml", "conf/report/signs.yaml"),
    ]
    assert out.splitlines() == [
        *(f"written: {file}" for file in (*files, "conf/config.yaml", "params.yaml")),
        "next: `dvc repro report@signs`",
    ]
    assert {line[3:] for line in project.changed().splitlines()} == {
        *files,
        "conf/config.yaml",
        "params.yaml",
    }
    after = MENU.read_text().splitlines()
    assert [line for line in after if "signs" not in line] == before  # comments and order stay
    for line, above in {
        "  - experiment@experiments.signs_softmax: signs_softmax": "digits_cnn",
        "  - study@studies.signs_softmax_rates: signs_softmax_rates": "digits_softmax_grid",
        "  - report@reports.signs: signs": "digits",
    }.items():
        assert after[after.index(line) - 1].endswith(above)
    composed = params()
    assert {name for name, model in composed["models"].items() if model["report"] == "signs"} == {
        *("signs_softmax", "signs_simple_cnn", "signs_softmax_rates")
    }
    base = composed["experiments"]["signs_softmax"]["optimizer"]["lr"]
    rates = [
        point["optimizer.lr"] for point in composed["studies"]["signs_softmax_rates"]["points"]
    ]
    assert base in rates and len(rates) == 3
    assert kmnist("compose", "--check")[0] == 0


@pytest.mark.parametrize("model", ["sklearn_logistic", "improved_cnn", "residual", "siamese"])
def test_models_of_every_family(model, kmnist):
    assert kmnist("new", "report", "signs", "--dataset", "digits", "--models", model)[0] == 0
    assert f"signs_{model}" in params()["experiments"]
    assert bool([s for s in params()["studies"] if "signs" in s]) == (model != "sklearn_logistic")


def test_every_family_can_be_trained():
    from kmnist_pipeline.config import training

    assert new.TRAINING.keys() == training.SETTING_TYPES.keys()


def test_an_experiment_has_the_values_of_another_one(kmnist):
    values = ("optimizer.lr=0.01", "seeds=[3]", "trainer.epochs=5", "classes=[1,7]")
    status, out, err = kmnist(
        "new", "experiment", "digits_slow", "--like", "digits_softmax", *values
    )
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "written: conf/experiment/digits_slow.yaml",
        "written: conf/config.yaml",
        "written: params.yaml",
        "next: `dvc repro report@digits`",
    ]
    like, slow = (params()["experiments"][name] for name in ("digits_softmax", "digits_slow"))
    assert slow["optimizer"] == {**like["optimizer"], "lr": 0.01}
    assert slow["trainer"] == {**like["trainer"], "epochs": 5}
    assert (slow["seeds"], slow["classes"]) == ([3], [1, 7])
    assert kmnist("new", "experiment", "digits_slower", "--like", "digits_slow")[0] == 0
    assert params()["experiments"]["digits_slower"] == slow


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("report digits --dataset digits", "conf/report/digits.yaml exists already"),
        ("report Signs --dataset digits", "the name of a report must be lower-case words"),
        *((f"report {name} --dataset digits", words) for name, words in NO_NAMES.items()),
        *((f"experiment {name} --like digits_softmax", w) for name, w in NO_NAMES.items()),
        ("report signs --dataset digit", "conf/ has no such dataset; did you mean digits?"),
        ("report signs --dataset digits --models soft", "has no soft.yaml; did you mean softmax?"),
        (
            "report signs --dataset digits --models logistic",
            "experiments.signs_logistic.model.kind=logistic: must be softmax",
        ),
        ("report kmnist --dataset digits", "conf/experiment/kmnist_softmax.yaml exists already"),
        ("experiment digits_cnn --like digits_softmax", "digits_cnn.yaml exists already"),
        (
            "experiment digits_softmax_grid --like digits_softmax",
            "conf/study/digits_softmax_grid.yaml exists already",
        ),
        (
            "experiment signs --like digits_softma",
            "no such experiment; did you mean digits_softmax?",
        ),
        (
            "experiment signs --like digits_softmax optimizer.lr=-1",
            "experiments.signs.optimizer.lr=-1: must be greater than 0",
        ),
        (
            "experiment signs --like digits_softmax optimizer.rate=1",
            f"experiments.signs.optimizer.rate=1: {wording.NO_KEY}",
        ),
        ("experiment signs --like digits_softmax lr", "lr: must be KEY=VALUE"),
        ("experiment signs --like digits_softmax seeds=1,2", "with one value"),
        ("experiment signs --like digits_softmax +a=1", "must be KEY=VALUE"),
        (
            "experiment signs --like digits_softmax optimizer=1 optimizer.lr=1",
            "optimizer.lr=1: optimizer is set already",
        ),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_a_clean_tree(arguments, words, kmnist, project):
    status, out, err = kmnist("new", *arguments.split())
    assert (status, out) == (1, "")
    assert words in err
    assert "/tmp/" not in err
    assert project.changed() == ""

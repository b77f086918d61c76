"""The configuration: composed alike by everyone, and refused in words before anything runs."""

import copy
import cProfile
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.project import ROOT, Project

from kmnist_pipeline import cli
from kmnist_pipeline.config import code, node, rules, training
from kmnist_pipeline.data import reviews
from kmnist_pipeline.families import registry

LR = "experiments.digits_softmax.optimizer.lr"
SMALL = ["experiments.digits_softmax.trainer.epochs=2", "experiments.digits_softmax.seeds=[0]"]

COMMITTED = yaml.safe_load((ROOT / "params.yaml").read_text())
NETWORK_GRID = yaml.safe_load("""
{dataset: digits, family: cnn, report: digits, base: digits_cnn, trial: {trainer.epochs: 3},
points: [], product: {optimizer.lr: [0.001, 0.0005], model.dropout: [0.3, 0.4]}, retrain: true,
seeds: null}
""")
CONTENT = COMMITTED | {"studies": COMMITTED["studies"] | {"digits_cnn_grid": NETWORK_GRID}}


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """What `kmnist compose` reads and writes, for a test to change, in the current folder."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    for file in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / file, tmp_path)
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


# --- composing -----------------------------------------------------------------------------------


def test_params_are_up_to_date_with_conf(conf, capsys):
    assert cli.main(["compose", "--check"]) == 0
    assert capsys.readouterr().out == "params.yaml is up to date with conf/\n"


def test_compose_writes_what_check_missed(conf, capsys):
    conf.replace("conf/experiment/digits_softmax.yaml", "lr: 0.5", "lr: 0.4")
    assert cli.main(["compose", "--check"]) == 1
    shown = capsys.readouterr()
    assert "-      lr: 0.5\n+      lr: 0.4\n" in shown.out
    assert "run `kmnist compose`" in shown.err
    assert (conf.folder / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()

    assert cli.main(["compose"]) == 0
    assert cli.main(["compose", "--check"]) == 0
    changed = yaml.safe_load((conf.folder / "params.yaml").read_text())
    assert changed["experiments"]["digits_softmax"]["optimizer"]["lr"] == 0.4


def test_files_that_the_menu_does_not_lead_to_are_pointed_out(conf, capsys):
    line = "  - experiment@experiments.digits_sklearn_logistic: digits_sklearn_logistic\n"
    conf.replace("conf/config.yaml", line, "")
    conf.replace("conf/experiment/digits_softmax.yaml", "  - base\n", "  - shared\n")
    (conf.folder / "conf/experiment/shared.yaml").write_text("defaults: [base]\n")
    (conf.folder / "conf/claims/mine.csv").write_text("id\n")
    assert cli.main(["compose"]) == 0
    said = capsys.readouterr().err
    assert said.startswith("note: conf/config.yaml leads to none of these files of conf/: ")
    for file in ("experiment/digits_sklearn_logistic.yaml", "claims/mine.csv"):
        assert file in said
    for used in ("shared", "base", "none.csv", "softmax", "model/", "protocol", "kmnist_linear"):
        assert used not in said


def test_show_prints_one_experiment(conf, capsys):
    assert cli.main(["compose", "--show", "digits_softmax", f"{LR}=0.4"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("# experiments.digits_softmax\n")
    wanted = copy.deepcopy(CONTENT["experiments"]["digits_softmax"])
    wanted["optimizer"]["lr"] = 0.4
    assert yaml.safe_load(shown) == wanted


def test_show_suggests_a_name(conf, capsys):
    assert cli.main(["compose", "--show", "digit_softmax"]) == 1
    message = capsys.readouterr().err
    assert "there is no digit_softmax in conf/; did you mean digits_softmax?" in message


def test_outside_a_project(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compose"]) == 1
    assert "a folder with dvc.yaml and conf/" in capsys.readouterr().err


# --- mistakes in conf/ ---------------------------------------------------------------------------

KMNIST, DIGITS = "conf/experiment/kmnist_softmax.yaml", "conf/experiment/digits_softmax.yaml"
MATRIX = "conf/claims/mnist_logistic.csv"
NETWORK = "conf/experiment/digits_cnn.yaml"
GRID, MENU = "conf/study/digits_softmax_grid.yaml", "conf/config.yaml"
REPORT, CLAIMS = "conf/report/kmnist_linear.yaml", "conf/claims/kmnist_linear.csv"
MISTAKES = [
    # file, text, its replacement, what the message must say
    (KMNIST, "lr: 0.075", "lrr: 0.075", "kmnist_softmax.optimizer.lrr=0.075: ", "lr, batch_size"),
    (KMNIST, "lr: 0.075", "lr: [1", KMNIST, "line 11"),
    (KMNIST, "report: kmnist_linear", "", "kmnist_softmax.report: is missing", "dataset, classes"),
    (
        KMNIST,
        "model: softmax",
        "model: sofmax",
        "'model/sofmax'",
        "siamese, simple_cnn, sklearn_logistic, so",
    ),
    (NETWORK, "/optimizer: adam", "/optimizer: sgd", "digits_cnn.optimizer.name=sgd: ", "of adam"),
    (
        NETWORK,
        "keep: best_accuracy",
        "schedule: cosine",
        "experiments.digits_cnn.trainer.schedule=cosine: must be one of constant",
    ),
    (DIGITS, "epochs: 60", "threads: 1", "digits_softmax.trainer.threads=1: ", "epochs, patience"),
    (KMNIST, "- base", "- bass", "In 'experiment/kmnist_softmax'", "'experiment/bass'"),
    ("conf/validation/kfold.yaml", "folds: 5", "folds: 1", "validation.folds=1: ", "at least 2"),
    (
        GRID,
        "base: digits",
        "base: digit",
        "digits_softmax_grid.base=digit_softmax: ",
        "digits_softm",
    ),
    (GRID, "optimizer.lr:", "optimizer.lrr:", "points[0]: ", "'optimizer.lrr'", "optimizer.lr, "),
    (
        GRID,
        "{optimizer.lr: 0.1, optimizer.batch_size: 32}",
        "{}",
        "points[0]={}: must change a key",
    ),
    (
        MENU,
        "digits_softmax: digits",
        "Digits: digits",
        "experiments.Digits: the name must be lower-case",
    ),
    (MENU, ": mnist\n", ": emnist\n", "'dataset/emnist'", "digits, kmnist, mnist"),
    (
        MENU,
        "evaluation:",
        "evalution:",
        'evalution={"samples": 10, "promise": 0.995}: ',
        "reports, readings, faults, evaluation",
    ),
    (MENU, "models: ${kmnist.models:}", "", "models", "must be ${kmnist.models:}"),
    (
        MENU,
        "  - experiment@experiments.digits_cnn: digits_cnn\n",
        "<<<<<<< HEAD\n  - a: b\n=======\n  - c: d\n>>>>>>> other\n",
        f"{MENU}: line ",
        "a merge conflict is not resolved",
    ),
    (
        CLAIMS,
        ",0.9954,k",
        ',"0,9954",k',
        f"{CLAIMS}: line 2: ",
        "reported='0,9954': must be a number",
    ),
    (CLAIMS, ",0.9954,k", ",,k", f"{CLAIMS}: line 2: ", "reported='': must be a number"),
    (
        "conf/claims/mnist_logistic.csv",
        ",0.9172142857142858,mnist",
        ",91.7%,mnist",
        "line 2: accuracy: reported='91.7%': must be a number",  # nothing is unknown about it
    ),
    (
        CLAIMS,
        ",0.9954,k",
        ",0_9954,k",
        f"{CLAIMS}: line 2: ",
        "reported='0_9954': must be a number",
    ),
    (CLAIMS, "seed and split,,\n", "seed and split,../x,\n", "line 2: ", "spread=../x: must be"),
    (
        CLAIMS,
        "0.9954,kmnist_logistic_0_6/validation.json,",
        "0.9954,kmnist_logistic_0_6/validation.json/,",
        f"{CLAIMS}: line 2: logistic-0-6-val: file=kmnist_logistic_0_6/validation.json/: must be ",
    ),
    (CLAIMS, "0_6/validation.json,,acc", "0_6/curves.csv,,acc", "line 2: logistic-0-6-val: file="),
    (CLAIMS, "validation.json,,accuracy", "validation.json,,acuracy", "value=acuracy: must be one"),
    (
        CLAIMS,
        "validation.json,,accuracy",
        "validation.json,,f1",
        "accuracy, loss, n, winner, which",
    ),
    (
        CLAIMS,
        'validation.json,"lr=0.001,batch_size=128",accuracy',
        'validation.json,"lr=0.001,batch_size=128",winner',
        "line 4: logistic-0-6-lr0.001-bs128-val: value=winner: must be one of accuracy, loss, n",
    ),
    (
        CLAIMS,
        "\nlogistic-0-6-test,",
        f"\nlogistic-0-6-test,{'long' * 40_000}",
        f"{CLAIMS}: line 3: logistic-0-6-test: field larger",
        "is a quotation mark missing?",
    ),
    *(
        (MATRIX, "1348 0 3 2 2 11 14 1 6 0; ", wrong, "line 3: confusion-matrix: reported=", words)
        for wrong, words in {
            "1348 0 x; ": "must be rows of whole numbers such as `9 1; 0 10`, as confusion is",
            "0.95 2; ": "must be rows of whole numbers",
            "1348 0 3 2; ": "must have as many rows as columns",
        }.items()
    ),
    (MATRIX, '"4, 5, 18, 61, 78"', "vier", "line 4: misclassified: reported='vier': must be whole"),
    (MATRIX, '"4, 5, 18, 61, 78"', "4 5", "line 4: misclassified: reported='4 5': must be whole"),
    (
        "conf/claims/kmnist_cnn.csv",
        '"lr=0.001, dropout=0.4, batch=128"',
        "lr=0.001; dropout is high",
        "reported='lr=0.001; dropout is high': must be a point such as `lr=0.1, batch=64`",
    ),
    (
        REPORT,
        "claims: kmnist_linear",
        "claims: letters",
        "reports.kmnist_linear.claims=letters: conf/claims",
    ),
]


@pytest.mark.parametrize(
    ("file", "old", "new", "words"), [(f, o, n, w) for f, o, n, *w in MISTAKES]
)
def test_a_mistake_in_conf_is_named(file, old, new, words, conf, capsys):
    conf.replace(file, old, new)
    assert cli.main(["compose"]) == 1
    message = capsys.readouterr().err
    for word in words:
        assert word in message
    assert message.startswith("error: ")
    assert "Traceback" not in message
    assert (conf.folder / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_claims_that_were_deleted_are_named_with_the_way_back(conf, capsys):
    (conf.folder / CLAIMS).unlink()
    assert cli.main(["compose"]) == 1
    assert f"`git checkout HEAD -- {CLAIMS}` restores it" in capsys.readouterr().err


def test_a_byte_order_mark_before_decisions_is_named_with_its_removal(conf, capsys):
    file = "reviews/digits.csv"
    (conf.folder / "reviews").mkdir()
    (conf.folder / file).write_text(",".join(reviews.COLUMNS) + "\n", "utf-8-sig")
    assert cli.main(["compose"]) == 1
    message = capsys.readouterr().err
    assert f"error: {file}:1: begins with a byte order mark" in message
    subprocess.run(message.split("`")[1], shell=True, check=True, cwd=conf.folder)
    assert cli.main(["compose"]) == 0


@pytest.mark.parametrize("file", [KMNIST, CLAIMS])
def test_text_that_is_not_utf_8_is_named(file, conf, capsys):
    path = conf.folder / file
    path.write_bytes(path.read_bytes() + b"# Schl\xfcssel\n")
    assert cli.main(["compose"]) == 1
    assert f"error: {file}: is not UTF-8: " in capsys.readouterr().err


OVERRIDES = [
    ("experimens.digits_softmax.optimizer.lr=1", "experimens.digits_soft", "datasets, experiments"),
    ("+typo=1", "typo=1: there is no such key", "datasets, experiments, studies"),
    (f"++{LR}=-1", f"{LR}=-1: must be greater than 0"),
    ("experiments.digits_softmax=5", "experiments.digits_softmax=5: must be a map of report, "),
    ("experiments.digits_softmax.report=${reports.no}", "digits_softmax.report: ", "'reports.no'"),
    ("studies=5", "studies=5: must be a map"),
    ("~experiments", "studies.digits_softmax_grid.base=digits_softmax: must be one of"),
    ("models=5", "models: is composed"),
    (f"{LR}=1,2", f"'{LR}=1,2'"),
    ("abc", "must be KEY=VALUE"),
    ("=3", "=3: must be KEY=VALUE"),
    ("a b=3", "a b=3: must be KEY=VALUE"),
    ("dataset=3", "dataset=3: ", "must be a string"),
]


@pytest.mark.parametrize(("override", "words"), [(o, w) for o, *w in OVERRIDES])
def test_a_mistake_on_the_command_line_is_named(override, words, conf, capsys):
    assert cli.main(["compose", override]) == 1
    message = capsys.readouterr().err
    for word in words:
        assert word in message
    assert (conf.folder / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


# --- the schema itself ---------------------------------------------------------------------------


def changed(dotted: str | tuple, value: Any) -> dict:
    """The committed parameters with one value changed; DELETE takes it out."""
    content = copy.deepcopy(CONTENT)
    path = tuple(dotted.split(".")) if isinstance(dotted, str) else dotted
    node = at(content, path[:-1])
    if value is DELETE:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return content


def at(content: Any, path: tuple) -> Any:
    for key in path:
        content = content[key]
    return content


DELETE = object()
IMAGES = ("datasets", "digits", "parts", 0, "images")
SHA, SOFTMAX = "0" * 63 + "g", "experiments.digits_softmax"
READ, FAULTS = "readings.kmnist_linear", "faults.kmnist_linear.catalogue"
NONE_LEFT = {"act": "add", "says": "none", "settings": ["trainer.epochs"], "amount": -50}
CNN, GRID = "experiments.digits_cnn", "studies.digits_cnn_grid"
SKLEARN = "experiments.digits_sklearn_logistic"
SUSPECTS, LOOP = "suspects.digits", "loops.digits"
OTHERS = "conditions.digits_cnn"
OF_SOFTMAX = {
    **CONTENT["conditions"]["digits_cnn"], "model": "digits_softmax", "family": "linear",
}  # fmt: skip


def unvalidated(experiment: str = SOFTMAX, **trainer: Any) -> dict:
    """An experiment without validation, and with other values of its trainer."""
    content = at(CONTENT, tuple(experiment.split(".")))
    return content | {"validation": {"method": "none"}, "trainer": content["trainer"] | trainer}


KFOLD = {"method": "kfold", "folds": 3}
ADAMW = {"name": "adamw", "lr": 0.001, "batch_size": 64}
SMOOTHED = {"weight_decay": 0.0, "label_smoothing": 0.1}


def trained(**trainer: Any) -> dict:
    """The network with other values of its trainer."""
    content = at(CONTENT, tuple(CNN.split(".")))
    return content | {"trainer": content["trainer"] | trainer}


def searched(**changes: Any) -> dict:
    """The grid of the network as a search, with other values."""
    search = {"seed": 0, "rounds": 2, "size": 4, "rungs": [1, 2], "reduction": 2}
    space = {"optimizer.lr": {"low": 0.001, "high": 0.1, "log": True}, "model.dropout": [0, 0.3]}
    return NETWORK_GRID | {"product": {}, "search": {**search, "space": space} | changes}


IMPORTED: dict[str, Any] = {
    "title": "Leaves",
    "licence": "none",
    "shape": [20, 12, 3],
    "pixel_max": 255,
    "classes": ["oak, red", "や", "<b>"],
    "imported": {
        "file": "data/imported/digits.npz",
        "sha256": "0" * 64,
        "train": 7,
        "test": 3,
    },
}


def imported(**changes: Any) -> dict[str, Any]:
    return IMPORTED | {"imported": IMPORTED["imported"] | changes}


REFUSED = [
    # key, value, what the message says after the key
    (f"{SOFTMAX}.dataset", "digitz", "=digitz: must be one of digits, kmnist, mnist"),
    (f"{SOFTMAX}.report", "none", "=none: must be one of digits, kmnist_cnn, kmnist_linear, mnist"),
    (f"{SOFTMAX}.classes", [1, 11], "=[1, 11]: must be at least two different labels of 0 to 9"),
    (f"{SOFTMAX}.classes", [1], "=[1]: must be at least two different labels"),
    (f"{SOFTMAX}.classes", [1, -1], "[1]=-1: must be at least 0"),
    (f"{SOFTMAX}.seeds", [1, 1], "=[1, 1]: must be one or more different seeds"),
    (f"{SOFTMAX}.seeds", [], "=[]: must be one or more different seeds"),
    (f"{SOFTMAX}.subset", 1, "=1: must be at least 2"),
    (f"{SOFTMAX}.optimizer", None, "=null: must be a map of name, lr, batch_size"),
    (f"{SOFTMAX}.optimizer.name", "adam", "=adam: must be one of sgd"),
    (f"{SOFTMAX}.optimizer.lr", 0, "=0: must be greater than 0"),
    (f"{SOFTMAX}.optimizer.lr", float("nan"), "=NaN: must be a number"),
    (f"{SOFTMAX}.optimizer.lr", "1e-3", "=1e-3: must be a number"),
    (f"{SOFTMAX}.optimizer.batch_size", 0.5, "=0.5: must be a whole number"),
    (f"{SOFTMAX}.optimizer.momentum", 0.9, "=0.9: there is no such key; known keys: name, lr"),
    (f"{SOFTMAX}.model.family", "cubic", "=cubic: must be one of linear, sklearn"),
    (f"{SOFTMAX}.model.family", ["linear"], '=["linear"]: must be one of linear, sklearn'),
    (f"{SOFTMAX}.model.scaling", "max", "=max: must be one of none, minmax, zscore, zscore_pixel"),
    (f"{SOFTMAX}.model.kind", "logistic", "=logistic: must be softmax, unless there are two"),
    (SOFTMAX, unvalidated(), ".trainer.patience=10: must be null without validation"),
    (SOFTMAX, unvalidated(patience=None), ".trainer.keep=best_accuracy: must be last without"),
    (CNN, unvalidated(CNN, keep="last"), ".trainer.patience=4: must be null without validation"),
    (f"{SOFTMAX}.trainer.epochs", None, "=null: must be a whole number"),
    (f"{SOFTMAX}.trainer.patience", True, "=true: must be a whole number"),
    (f"{SOFTMAX}.trainer.precision", "bf16", "=bf16: must be one of float32, float64"),
    (f"{SOFTMAX}.trainer.precision", "auto", "=auto: must be one of float32, float64"),
    (f"{SOFTMAX}.trainer.loss", "median", "=median: must be one of mean, sum"),
    (f"{SOFTMAX}.trainer.loss", DELETE, ": is missing; needed are epochs, patience, "),
    (f"{SOFTMAX}.trainer.schedule", "constant", "=constant: there is no such key; known keys: "),
    (f"{SOFTMAX}.trainer.threads", 2, "=2: there is no such key; known keys: epochs, patience, "),
    (f"{SOFTMAX}.trainer", DELETE, ": is missing; needed are report, "),
    (f"{SUSPECTS}.experiment", "digits_sofmax", "=digits_sofmax: must be one of digits_sklearn"),
    (f"{SUSPECTS}.dataset", "mnist", "=mnist: must be one of digits"),
    (f"{SUSPECTS}.family", "cnn", "=cnn: must be one of linear"),
    (f"{SUSPECTS}.ranks", [60, 30], "=[60, 30]: must be a rising list of counts"),
    (f"{SUSPECTS}.swapped", 0, "=0: must be at least 1"),
    (f"{SUSPECTS}.trial", {"subset": 100}, '={"subset": 100}: must be other keys than report'),
    (f"{SUSPECTS}.trial", {"trainer.epoch": 1}, ": the base experiment has no key 'trainer.epoch'"),
    (f"{SUSPECTS}.trial", {"trainer.epochs": 0}, ".trainer.epochs=0: must be at least 1"),
    ("suspects.digit", CONTENT["suspects"]["digits"], "=digit: must be one of digits, kmnist_cnn"),
    (f"{LOOP}.dataset", "mnist", "=mnist: must be one of digits"),
    (f"{LOOP}.seeds", [1, 1], "=[1, 1]: must be one or more different seeds"),
    (f"{LOOP}.trainer.keep", "best_loss", "=best_loss: must be last without validation"),
    (f"{LOOP}.trainer.schedule", "constant", "=constant: there is no such key; known keys: "),
    (f"{LOOP}.model.kind", "logistic", "=logistic: must be softmax, unless there are two classes"),
    (f"{LOOP}.optimizer", None, "=null: must be a map of name, lr, batch_size"),
    (f"{OTHERS}.model", "digits_softmax", "=digits_softmax: must be one of digits_cnn"),
    (f"{OTHERS}.dataset", "kmnist", "=kmnist: must be one of digits"),
    (f"{OTHERS}.images", 0, "=0: must be at least 1"),
    ("conditions.digits_softmax", OF_SOFTMAX, ".model=digits_softmax: must be a network with vali"),
    (f"{SKLEARN}.optimizer", {"lr": 1, "batch_size": 1}, ": must be null: sklearn has its own"),
    (f"{SKLEARN}.trainer.epochs", 2, "=2: there is no such key; known keys: precision"),
    (f"{CNN}.trainer.precision", "float64", "=float64: must be one of float32, bfloat16"),
    (f"{CNN}.trainer.precision", "auto", "=auto: must be one of float32, bfloat16"),
    (f"{CNN}.trainer.keep", "best", "=best: must be one of last, best_accuracy, best_loss"),
    (f"{CNN}.trainer.epochs", None, "=null: must be a whole number"),
    (f"{CNN}.trainer.schedule", "cosine", "=cosine: must be one of constant"),
    (f"{CNN}.trainer.augmentation", "flip", "=flip: must be one of distortions, none"),
    (f"{CNN}.trainer.averaging", None, "=null: must be one of exponential, none"),
    (f"{CNN}.optimizer", None, "=null: must be a map of name, lr, batch_size"),
    (f"{CNN}.optimizer.name", "sgd", "=sgd: must be one of adam"),
    (f"{CNN}.optimizer", CONTENT["experiments"]["digits_softmax"]["optimizer"], ".name=sgd: must"),
    (f"{CNN}.model.dropout", 1, "=1: must be less than 1"),
    (f"{CNN}.model.architecture", "lenet", "=lenet: must be one of improved, residual, resnet"),
    (f"{CNN}.model.draws", 5, "=5: must be a whole number for a siamese network, and null for"),
    (f"{CNN}.validation", {"method": "holdout", "fraction": 1}, ".fraction=1: must be less than 1"),
    (f"{CNN}.validation", KFOLD | {"ensemble": 1}, ".ensemble=1: must be true or false"),
    ("experiments.kmnist_siamese.validation", KFOLD | {"ensemble": True},
     ".ensemble=true: must be null for a siamese network"),
    (f"{CNN}.trainer.warmup", 0.1, "=0.1: must be null, because trainer.schedule is constant"),
    (f"{CNN}.trainer.cutout", 0.1, "=0.1: must be null, because trainer.augmentation is none"),
    (f"{CNN}.trainer.cutout", 2, "=2: must be at most 1"),
    (CNN, trained(schedule="linear"), ".trainer.warmup=null: must be a number, because trainer"),
    (f"{CNN}.optimizer", ADAMW, ".weight_decay=null: must be a number, because optimizer.name"),
    (CNN, trained(loss="sum") | {"optimizer": ADAMW | SMOOTHED},
     ".optimizer.label_smoothing=0.1: must be null, because it is that of a mean loss"),
    (GRID, searched(rungs=[2, 1]), ".search.rungs=[2, 1]: must be a rising list of epochs below 3"),
    (GRID, searched(rungs=[3]), ".search.rungs=[3]: must be a rising list of epochs below 3"),
    (GRID, searched(space={}), ".search.space={}: must be at least one key with its values"),
    (GRID, searched(space={"optimizer.lr": 1}), ".search.space.optimizer.lr=1: must be a list of"),
    (GRID, searched(space={"optimizer.l": [1]}), ".search.space: the base experiment has no key"),
    (GRID, searched(space={"optimizer.lr": [1, -1]}), ".space.optimizer.lr[1]=-1: must be greater"),
    (GRID, searched(space={"model.dropout": {"low": 0, "high": 0.5, "log": True}}),
     ".search.space.model.dropout.low=0: must be greater than 0 with log"),
    (GRID, searched(space={"model.dropout": {"low": 0.5, "high": 0.5, "log": False}}),
     ".search.space.model.dropout.high=0.5: must be greater than low"),
    (GRID, searched(reduction=1), ".search.reduction=1: must be at least 2"),
    (GRID, searched() | {"retrain": False}, ".retrain=false: must be true for a search, which"),
    (GRID, searched() | {"points": [{"optimizer.lr": 1}]}, ".points=[{"),
    (f"{GRID}.product", {"optimizer.lr": [0.1, -1]}, ".optimizer.lr[1]=-1: must be greater than 0"),
    (f"{GRID}.product", {"optimizer.name": ["adam", "sgd"]}, ".optimizer.name[1]=sgd: must be one"),
    (f"{GRID}.points", [{"optimizer.lr": 1}], ": must be a list of at least one point, or instead"),
    (f"{GRID}.points", DELETE, ": is missing; needed are report, base, "),
    (f"{GRID}.product", {"optimizer.lrr": [1]}, ": the base experiment has no key 'optimizer.lrr'"),
    (f"{GRID}.trial", {"trainer.epoch": 1}, ": the base experiment has no key 'trainer.epoch'"),
    (f"{GRID}.retrain", 1, "=1: must be true or false"),
    (f"{GRID}.seeds", [2, 2], "=[2, 2]: must be one or more different seeds, or null"),
    (f"{GRID}.seeds", [-1], "[0]=-1: must be at least 0"),
    ("evaluation.promise", 0, "=0: must be greater than 0"),
    ("studies.digits_softmax_grid.base", "none", "=none: must be one of digits_sklearn_logistic, "),
    ("studies.digits_softmax_grid.points", [], "=[]: must be a list of at least one point"),
    ("studies.digits_softmax_grid.points", [{"optimizer.lr": "x"}], "[0].optimizer.lr=x: must"),
    ("studies.digits_softmax_grid.points", [{"seeds": [9]}], "[0]: must not change report, "),
    ("studies.digits_softmax_grid.points", [{"model.scaling": "zscore"}] * 2, "[1]: the point"),
    ("studies.digits_softmax", CONTENT["studies"]["digits_softmax_grid"], ": an experiment has"),
    ("datasets.digits.shape", [8, 8, 3], "=[8, 8, 3]: must be [height, width], because IDX files"),
    ("datasets.digits.shape", [8, 8, 4], "=[8, 8, 4]: must be [height, width] or [height, width"),
    ("datasets.digits.shape", [8, 0], "[1]=0: must be at least 1"),
    ("datasets.digits.pixel_max", 256, "=256: must be at most 255"),
    ("datasets.digits.classes", ["a", "a"], '=["a", "a"]: must be 2 to 1,000 different names'),
    ("datasets.digits.classes", [str(n) for n in range(1001)], "=1001: must be 2 to 1,000 differ"),
    ("datasets.digits.classes", ["a", " "], "[1]= : must be printable text that does not begin"),
    ("datasets.digits.classes", ["a\nb", "c"], '[0]="a\\nb": must be printable text that does'),
    ("datasets.digits.classes", ["#a", "c"], "[0]=#a: must be printable text that does not begin"),
    ("datasets.digits", IMPORTED | {"parts": []}, ".parts=[]: there is no such key; known keys: "),
    ("datasets.digits", IMPORTED | {"imported": {}}, ".imported.file: is missing; needed are file"),
    ("datasets.digits", imported(file="x.npz"), ".imported.file=x.npz: must be text that matches "),
    ("datasets.digits", imported(sha256="x"), ".imported.sha256=x: must be text that matches "),
    ("datasets.digits", imported(test=0), ".imported.test=0: must be at least 1"),
    ("datasets.digits.classes", [True, False], "[0]=true: must be text"),
    ("datasets.digits.parts", [], "=[]: must be one or more parts with different names"),
    (IMAGES, SHA, f"={SHA}: must be text that matches ^[0-9a-f]{{64}}$"),
    ("datasets.digits.split.method", "files", "=files: must be random, unless there are two parts"),
    ("datasets.digits.split.train_size", 1, "=1: must be less than 1"),
    ("datasets.digits.split.seed", None, "=null: must be a number, because the split is random"),
    ("reports.digits.dataset", "none", "=none: must be one of digits, kmnist, mnist"),
    ("reports.digits.confidence", 95, "=95: must be less than 1"),
    ("reports.digits.claims", "../claims", "=../claims: must be lower-case words joined by '_'"),
    ("reports.digits.figures", {"1": "data/mnist/a.png"}, ".1=data/mnist/a.png: must be under"),
    ("reports.digits.figures", {"1": "data/digits/../../a.png"}, "../../a.png: must be under"),
    ("reports.digits.figures", {1: "data/digits/a.png"}, "[1]: the name must be text"),
    ("evaluation.samples", 0, "=0: must be at least 1"),
    ("studies", 5, "=5: must be a map"),
    (f"{READ}.experiments.kmnist_softmax.trainer.epochs", 7, "=7: must be one of 5, 10, 20, 30, "),
    (f"{READ}.choices.folds", [], "=[]: must be one or more different values"),
    (f"{READ}.choices.value", ["mean"], '=["mean"]: must be a list with mean_best'),
    (f"{READ}.seeds", [1, 1], "=[1, 1]: must be one or more different seeds"),
    ("readings.other", COMMITTED["readings"]["kmnist_linear"], "=other: must be one of digits, "),
    ("faults.other", COMMITTED["faults"]["kmnist_linear"], "=other: must be one of digits, "),
    ("faults.kmnist_linear.experiments.kmnist_softmax.dataset", "mnist", "=mnist: must be one"),
    (f"{FAULTS}.labels_swapped.classes", [0, 2], "=[0, 2]: must be two different positions of 0 "),
    (f"{FAULTS}.one_epoch_fewer", NONE_LEFT, ".trainer.epochs=0: must be at least 1"),
    (f"{FAULTS}.rate_by_10.settings", ["model.kind"], ": must be keys whose values are numbers"),
    (f"{FAULTS}.rate_by_10.act", "typo", "=typo: must be one of leak, keep, swap"),
    ("typo", {}, "={}: there is no such key; known keys: datasets, experiments, studies, "),
]  # fmt: skip


def test_an_imported_dataset_is_accepted():
    for shape in ([8, 8], [20, 12, 3]):
        content = changed("datasets.digits", IMPORTED | {"shape": shape})
        assert rules.check(content).datasets["digits"].imported.train == 7


@pytest.mark.parametrize(("key", "value", "words"), REFUSED)
def test_an_impossible_value_is_refused(key, value, words):
    with pytest.raises(node.ConfigError) as caught:
        rules.check(changed(key, value))
    assert str(caught.value).startswith(key)
    assert words in str(caught.value)


def test_the_committed_parameters_are_accepted_as_they_are():
    config = rules.check(COMMITTED)
    assert rules.models_of(config) == COMMITTED["models"]
    model = training.LinearModel(kind="softmax", scaling="minmax")
    assert config.experiments["digits_softmax"].model == model


def test_a_search_is_accepted():
    (study,) = [
        study
        for name, study in rules.check(changed(GRID, searched())).studies.items()
        if name == "digits_cnn_grid"
    ]
    assert study.search is not None and study.search.rungs == [1, 2]


def test_a_linear_model_may_have_any_validation():
    for validation in ({"method": "none"}, {"method": "holdout", "fraction": 0.2}):
        content = unvalidated(keep="last", patience=None) | {"validation": validation}
        params = changed(SOFTMAX, content)
        # A study that builds on it would need the validation to choose its winner.
        for section in ("studies", "models"):
            del params[section]["digits_softmax_grid"]
        del params["suspects"]["digits"]  # and suspects need a prediction for each image
        rules.check(params)


# --- the modules of stages -----------------------------------------------------------------------


def test_stages_depend_on_the_modules_that_their_settings_use():
    found = code.of(rules.check(COMMITTED))
    assert found == COMMITTED["code"]
    families = "src/kmnist_pipeline/families/"
    used = {name: set(about["code"]) for name, about in found["kfold_train"].items()}
    assert used["digits_softmax"] == {f"{families}linear/{name}.py" for name in ("model", "train")}
    network = used["digits_cnn"] ^ used["kmnist_siamese"]
    assert network == {f"{families}cnn/architectures/{n}.py" for n in ("simple", "siamese")}
    measured = {name: set(about["code"]) for name, about in found["evaluate"].items()}
    assert measured["digits_softmax"] == {f"{families}linear/model.py"}
    saliency = f"{families}cnn/insight/saliency.py"
    assert saliency in measured["digits_cnn"] and saliency not in measured["kmnist_siamese"]


def test_every_line_of_dvc_yaml_has_a_module():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for kind, lines in code.LINES.items():
        stage = stages[kind.replace("_", "-")]
        assert stage["foreach"] == f"${{code.{kind}}}"
        assert [dep for dep in stage["do"]["deps"] if dep.startswith("${item.code")] == [
            f"${{item.code[{number}]}}" for number in range(lines)
        ]


def test_a_study_depends_on_the_modules_of_all_its_trials():
    names = ["simple", "improved"]
    content = changed(GRID, NETWORK_GRID | {"product": {"model.architecture": names}})
    used = set(code.of(rules.check(content))["tune"]["digits_cnn_grid"]["code"])
    assert {Path(path).stem for path in used if "/architectures/" in path} == {*names}


def test_more_modules_than_lines_are_refused(monkeypatch):
    monkeypatch.setitem(code.LINES, "kfold_train", 1)
    with pytest.raises(node.ConfigError, match=r"uses 2 modules, and kfold-train in dvc\.yaml has"):
        code.of(rules.check(COMMITTED))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("PAIRED = False\n", "architectures/own.py: must define build, as the other modules there"),
        ("def build(): ...\n", "architectures/own.py: must define PAIRED, as the other modules"),
        ("def build(:\n", "architectures/own.py:1: not valid Python: "),
    ],
)
def test_a_network_without_what_a_network_needs_is_refused(text, words, tmp_path, monkeypatch):
    monkeypatch.setattr(code, "PACKAGE", tmp_path / "src/kmnist_pipeline")
    module = tmp_path / "src/kmnist_pipeline/families/cnn/architectures/own.py"
    module.parent.mkdir(parents=True)
    module.write_text(text)
    with pytest.raises(node.ConfigError, match=re.escape(words)):
        code._check(module)


def test_schema_and_registry_know_the_same_families_and_choices():
    assert registry.FAMILIES.keys() == training.SETTING_TYPES.keys()
    named = {
        f"{part}.{name}": allowed.get("enum") or [allowed.get("const")]
        for part, kind in training.SETTING_TYPES["cnn"]._asdict().items()
        for name, allowed in kind.model_json_schema()["properties"].items()
    }
    for folder, setting in registry.FAMILIES["cnn"].choices.items():
        modules = (ROOT / "src/kmnist_pipeline/families/cnn" / folder).glob("[!_]*.py")
        assert named[setting] == sorted(file.stem for file in modules) != []


def paths(node: Any, path: tuple = ()) -> Iterator[tuple]:
    """The paths of all values in `node`, maps and lists themselves included."""
    if path:
        yield path
    for key in (
        node if isinstance(node, dict) else range(len(node) if isinstance(node, list) else 0)
    ):
        yield from paths(node[key], (*path, key))


PATHS = [path for path in paths(CONTENT) if path[0] not in ("models", "code")]
FREE = {"points", "product", "trial", "retrain"}  # refused in the words of the keys they change
TYPED = [path for path in PATHS if len(path) > 2 and not FREE & set(path)]
NAMED = ("parts", "figures", "experiments", "studies", "catalogue")  # of any names
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda part: (
        st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=5), part, max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=200)
@given(st.sampled_from(PATHS), VALUES)
def test_any_value_is_accepted_or_refused_in_one_line(path, value):
    try:
        rules.check(changed(path, value))
    except node.ConfigError as error:
        assert re.fullmatch(r"[^\n]+: [^\n]+", str(error))


@settings(max_examples=100)
@given(st.sampled_from(TYPED), st.booleans())
def test_a_wrong_type_is_refused_with_key_and_value(path, nested):
    wrong: Any = {"a": 1} if nested else True
    assume(not nested or not isinstance(at(CONTENT, path), dict | None))
    dotted = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)[1:]
    with pytest.raises(node.ConfigError) as caught:
        rules.check(changed(path, wrong))
    assert str(caught.value).startswith(f"{dotted}={json.dumps(wrong)}: must be ")


@settings(max_examples=60)
@given(st.sampled_from([path for path in TYPED if path[-2] not in NAMED]))
def test_a_misspelt_key_is_refused_with_the_known_ones(path):
    # These say which keys are known beside them.
    assume(isinstance(path[-1], str) and path[-1] not in ("family", "method", "act"))
    content = changed(path, DELETE)
    at(content, path[:-1])[f"{path[-1]}x"] = at(CONTENT, path)
    with pytest.raises(node.ConfigError, match=rf"{path[-1]}x=.*no such key.*\b{path[-1]}\b"):
        rules.check(content)


def test_checking_takes_few_calls():
    """Every stage pays for it at its start."""
    profile = cProfile.Profile()
    profile.runcall(rules.check, CONTENT)
    assert sum(entry.callcount for entry in profile.getstats()) < 100_000

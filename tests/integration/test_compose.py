"""`kmnist compose`: everyone composes the same, and mistakes are named before anything runs."""

import copy
import shutil
from pathlib import Path

import pytest
import yaml
from support import wording
from support.parameters import CONTENT
from support.project import ROOT, Project

from kmnist_pipeline import cli

LR = "experiments.digits_softmax.optimizer.lr"


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
    others = ("dataset/a.yml", "stray.yaml", "experiment/sub/x.yaml", "newgroup/a.yaml")
    for other in others:
        (conf.folder / "conf" / other).parent.mkdir(exist_ok=True)
        (conf.folder / "conf" / other).write_text("{}\n")
    assert cli.main(["compose"]) == 0
    said = capsys.readouterr().err
    words = "not in use, because no line of conf/config.yaml leads to them: "
    assert said.startswith(f"note: these files of conf/ are {words}")
    for file in ("experiment/digits_sklearn_logistic.yaml", "claims/mine.csv", *others):
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
    assert "conf/ has no digit_softmax; did you mean digits_softmax?" in message


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
        "points[0]={}: a point must change at least one key",
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
        wording.CONFLICT,
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
    (
        CLAIMS,
        "\nlogistic-0-6-test,",
        "\nlogistic-0-6-test ,",
        f"{CLAIMS}: line 3: id='logistic-0-6-test ': must have no spaces around it",
    ),
    (
        CLAIMS,
        'validation.json,"lr=0.001,batch_size=128",',
        'validation.json,"lr=0.001,batch_size=129",',
        "line 4: logistic-0-6-lr0.001-bs128-val: there is no trial lr=0.001,batch_size=129; ",
        "did you mean lr=0.001,batch_size=",
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


def test_text_that_is_not_utf_8_is_named(conf, capsys):
    path = conf.folder / KMNIST
    path.write_bytes(path.read_bytes() + b"# Schl\xfcssel\n")
    assert cli.main(["compose"]) == 1
    assert f"error: {KMNIST}: is not UTF-8: " in capsys.readouterr().err


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b""])
@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
@pytest.mark.parametrize(
    ("line", "old", "new", "claim"),
    [
        (3, b"Step 7", b"Schritt f\xfcr 7", "confusion-matrix"),
        (2, b"acc", b"\xe4cc", "?"),
    ],
)
def test_a_claim_that_is_not_utf_8_is_named_with_its_line(
    line, old, new, claim, end, start, conf, capsys
):
    path = conf.folder / MATRIX
    lines = path.read_bytes().splitlines()
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    path.write_bytes(start + end.join([*lines, b""]))
    assert cli.main(["compose"]) == 1
    assert f"error: {MATRIX}: line {line}: {claim}: is not UTF-8" in capsys.readouterr().err


LINEAR, SKLEARN = "readings.kmnist_linear", "faults.mnist_logistic"


@pytest.mark.parametrize(
    ("file", "trial", "value", "refused"),
    [
        ("kmnist_softmax/test.json", "", "accuracy", ""),
        ("kmnist_softmax/test.json", "", "f1", LINEAR),  # readings have accuracy alone
        ("kmnist_softmax_grid/validation.json", "lr=0.1,batch_size=512", "accuracy", ""),
        ("kmnist_softmax_grid/test.json", "", "accuracy", LINEAR),  # the winner is no trial
        ("mnist_sklearn_logistic/test.json", "", "f1", ""),
        ("mnist_sklearn_logistic/validation.json", "", "loss", SKLEARN),
        ("mnist_simple_cnn/test.json", "", "accuracy", SKLEARN),
    ],
)
def test_readings_and_faults_need_a_claim_about_their_models(
    file, trial, value, refused, conf, capsys
):
    report = "mnist_logistic" if file.startswith("mnist") else "kmnist_linear"
    path = f"conf/claims/{report}.csv"
    header = (conf.folder / path).read_text().partition("\n")[0]
    row = f'a,I,b,c,d,0.5,{file},"{trial}",{value},nothing,,'
    (conf.folder / path).write_text(f"{header}\n{row}\n")
    assert cli.main(["compose"]) == (1 if refused else 0)
    message = capsys.readouterr().err
    assert (f"error: {refused}: {path} has no claim about " in message) == bool(refused)


OVERRIDES = [
    ("experimens.digits_softmax.optimizer.lr=1", "experimens.digits_soft", "datasets, experiments"),
    ("+typo=1", f"typo=1: {wording.NO_KEY}", "datasets, experiments, studies"),
    (f"++{LR}=-1", f"{LR}=-1: must be greater than 0"),
    ("experiments.digits_softmax=5", "experiments.digits_softmax=5: must be a map of report, "),
    ("experiments.digits_softmax.report=${reports.no}", "digits_softmax.report: ", "'reports.no'"),
    ("studies=5", "studies=5: must be a map"),
    (
        "~experiments",
        "studies.digits_softmax_grid.base=digits_softmax: must be one that conf/config.yaml lists",
    ),
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

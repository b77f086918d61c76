"""DVC's own commands: mistakes that they refuse, experiments, plots, and what they would run."""

import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from dvc.repo import Repo
from support import wording
from support.checking import commands, findings
from support.project import Project

from kmnist_pipeline.cli.dvc import COMPARED
from kmnist_pipeline.commands import impact
from kmnist_pipeline.config import compose as composition

CONF = "conf/experiment/digits_softmax.yaml"
SOFTMAX, EVALUATE, REPORT = "kfold-train@digits_softmax", "evaluate@digits_softmax", "report@digits"
LR = "experiments.digits_softmax.optimizer.lr"
TERMINAL = 200  # columns
SMALL = ["experiments.digits_softmax.trainer.epochs=2", "experiments.digits_softmax.seeds=[0]"]


# --- mistakes in DVC's own process ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("experiments.kmnist_softmax.optimizer.lrr=1", ["optimizer.lrr=1: ", "lr, batch_size"]),
        ("+experiments.kmnist_softmax.optimizer.lrr=1", ["optimizer.lrr=1: ", "lr, batch_size"]),
        (f"{LR}=fast", [f"{LR}=fast: must be a number"]),
        (f"{LR}=-1", [f"{LR}=-1: must be greater than 0"]),
        ("experiments.digits_softmax.validation.folds=1", ["folds=1: must be at least 2"]),
        ("experiments.kmnist_logistic_0_6.classes=[0,11]", ["classes=[0, 11]: ", "0 to 9"]),
        ("experiments.digits_softmax.dataset=digitz", ["dataset=digitz: ", "digits, kmnist, mni"]),
        ("studies.digits_softmax_grid.base=no", ["digits_softmax_grid.base=no: ", "digits_so"]),
        ("dataset@datasets.digits=digitz", ["'dataset/digitz'", "digits, kmnist, mnist"]),
    ],
)  # fmt: skip
def test_dvc_refuses_a_mistake_before_any_stage_runs(override, words, full_clone):
    done = full_clone.run("dvc", "exp", "run", "-S", override, "report@digits")
    said = done.stdout + done.stderr
    assert done.returncode != 0
    for word in words:
        assert word in said
    assert "Running stage" not in said
    assert "Traceback" not in said
    assert "unexpected" not in said
    assert full_clone.changed() == ""


def test_dvc_refuses_a_mistake_in_conf(clone):
    file = "conf/experiment/digits_softmax.yaml"
    clone.replace(file, "lr: 0.5", "lrr: 0.5")
    done = clone.run("dvc", "exp", "run", "report@digits")
    assert clone.changed() == f" M {file}\n"
    clone.replace(file, "lrr: 0.5", "lr: 0.5")
    assert done.returncode != 0
    assert f"optimizer.lrr=0.5: {wording.NO_KEY}; known keys: name, lr, batch_size" in done.stderr
    assert "Running stage" not in done.stdout


def test_a_stage_refuses_what_was_written_by_hand(clone):
    clone.replace("params.yaml", "epochs: 60", "epochs: 0")
    done = clone.run("dvc", "repro", "kfold-train@digits_softmax")
    assert clone.changed() == " M params.yaml\n"
    clone.replace("params.yaml", "epochs: 0", "epochs: 60")
    assert done.returncode != 0
    assert "experiments.digits_softmax.trainer.epochs=0: must be at least 1" in done.stderr
    assert "Traceback" not in done.stderr
    # The first stage to run is the one that refuses.
    assert done.stdout.count("Running stage") == 1


# --- experiments ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tried(digits_run: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The digits after three experiments: in a temporary copy, queued, and in the workspace."""
    project = digits_run.copy(tmp_path_factory.mktemp("experiments") / "project")
    project.commit("made on this machine")

    def dvc(*arguments: str) -> None:
        store = f"sqlite:///{project.folder}/mlflow.db"  # one that is there saves its making
        done = project.run("dvc", "exp", "run", *arguments, MLFLOW_TRACKING_URI=store)
        assert done.returncode == 0, done.stdout + done.stderr

    def experiment(name: str, lr: float, *flags: str, stage: str = "kfold-train") -> None:
        values = [part for value in (*SMALL, f"{LR}={lr}") for part in ("-S", value)]
        dvc("-n", name, *values, *flags, f"{stage}@digits_softmax")

    experiment("temporary", 0.3, "--temp")
    experiment("queued", 0.2, "--queue")
    composed = project.run("git", "show", "refs/exps/celery/stash:params.yaml").stdout
    assert project.changed() == ""
    dvc("--run-all")
    assert project.changed() == ""
    experiment("here", 0.4, stage="evaluate")
    (project.folder / "queued.yaml").write_text(composed)
    return project


@pytest.mark.parametrize(("file", "lr"), [("params.yaml", 0.4), ("queued.yaml", 0.2)])
def test_kmnist_composes_the_very_bytes_of_dvc(file, lr, tried):
    with contextlib.chdir(tried.folder):
        composed = composition.compose(Path("conf"), [f"{LR}={lr}", *SMALL])
        assert composed.encode() == Path(file).read_bytes()


def test_experiments_are_shown_with_parameter_and_metric(tried):
    shown = json.loads(tried.run("dvc", "exp", "show", "--json").stdout)
    found = {}
    for baseline in shown:
        for listed in baseline["experiments"] or []:
            data = listed["revs"][0]["data"]
            params = data["params"]["params.yaml"]["data"]["experiments"]["digits_softmax"]
            numbers = data["metrics"]["metrics/digits/digits_softmax/validation.json"]["data"]
            found[listed["name"]] = (params["optimizer"]["lr"], 0.5 < numbers["accuracy"] < 1)
    assert found == {"temporary": (0.3, True), "queued": (0.2, True), "here": (0.4, True)}
    assert "Success" in tried.run("dvc", "queue", "status").stdout


def test_what_dvc_shows_fits_a_terminal(tried):
    """All columns of many stages fit none."""
    show = ["dvc", "exp", "show"]
    shown = tried.run(*show).stdout
    assert shown == tried.run(*show, *COMPARED).stdout
    assert all(name in shown for name in ("[temporary]", "[queued]", "[here]"))
    one_parameter = [*COMPARED[:-1], f"{COMPARED[-1]}|.*(epochs|seeds)$"]  # others differ here too
    for command in ([*show, *one_parameter], ["dvc", "metrics", "show"]):
        assert width(tried, *command) <= TERMINAL, command


def test_what_dvc_shows_of_all_data_sets_fits_a_terminal_too(full_project):
    full_project.replace("params.yaml", "lr: 0.5\n", "lr: 0.4\n")
    metrics = "metrics/digits/digits_softmax/validation.json"
    full_project.replace(metrics, '"accuracy": 0', '"accuracy": 1')
    for what in ("exp", "metrics"):
        assert width(full_project, "dvc", what, "show") <= TERMINAL, what


def width(project: Project, *command: str) -> int:
    """The length of the longest line that a command prints, which are some."""
    lines = project.run(*command).stdout.splitlines()
    assert len(lines) > 3, command
    return max(map(len, lines))


def test_differences_of_parameters_and_metrics(tried):
    params = json.loads(tried.run("dvc", "params", "diff", "--json").stdout)["params.yaml"]
    assert (params[LR]["old"], params[LR]["new"]) == (0.5, 0.4)
    assert params["experiments.digits_softmax.trainer.epochs"]["new"] == 2

    file = "metrics/digits/digits_softmax/test.json"
    metrics = json.loads(tried.run("dvc", "metrics", "diff", "--json").stdout)[file]
    assert metrics["accuracy"]["diff"] < 0  # two epochs do not suffice
    assert tried.json(file)["accuracy"] == metrics["accuracy"]["new"]

    table = tried.run("dvc", "metrics", "show", "--md").stdout
    row = next(line for line in table.splitlines() if f"| {file} " in line)
    assert f"{metrics['accuracy']['new']:.5g}" in row


def specs(page: Path) -> list[dict]:
    """The Vega-Lite specifications of a page that `dvc plots` wrote."""
    found = re.findall(r"var spec = (\{.*?\});\s*vegaEmbed", page.read_text(), re.DOTALL)
    return [json.loads(spec) for spec in found]


@pytest.mark.parametrize(
    ("command", "revs"), [("show", {"workspace"}), ("diff --targets", {"workspace", "HEAD"})]
)
def test_plots_have_axes_and_data(command, revs, tried, tmp_path):
    targets = [
        "metrics/digits/digits_softmax/curves.csv",
        "metrics/digits/digits_softmax_grid/trials.csv",
        "figures/digits/digits_softmax",
    ]
    page = tmp_path / "out/index.html"
    done = tried.run("dvc", "plots", *command.split(), *targets, "-o", str(page.parent))
    assert done.returncode == 0, done.stderr
    curves, trials = specs(page)

    assert curves["title"]["text"] == "digits_softmax"
    encoding = curves["spec"]["encoding"]
    band, line, _ = (layer["encoding"] for layer in curves["spec"]["layer"])
    assert (encoding["x"]["title"], band["y"]["title"]) == ("epoch", "accuracy")
    assert set(encoding["color"]["scale"]["domain"]) == revs
    assert "DVC_METRIC" not in json.dumps(curves)
    values = curves["data"]["values"]
    assert {row["rev"] for row in values} == revs
    assert {row["split"] for row in values} == set(line["strokeDash"]["scale"]["domain"])
    assert {"trial", "epoch", "accuracy"} <= values[0].keys()

    assert trials["encoding"]["x"]["title"] == "mean validation accuracy"
    assert trials["encoding"]["x"]["field"] == "mean"
    assert trials["encoding"]["y"]["title"] == "trial"
    assert {row["trial"] for row in trials["data"]["values"]} == {
        f"lr={lr},batch_size={size}" for lr in (0.1, 0.5) for size in (32, 128)
    }
    pictures = {path.name.split("_")[-1] for path in (page.parent / "static").iterdir()}
    assert {"confusion.png", "curves.png", "weights.png"} <= pictures


def test_the_graph_names_the_kinds_of_stage(tried):
    graph = tried.run("dvc", "dag", "--dot", "report@digits").stdout
    stages = ["download@digits", "preprocess@digits", "kfold-train@digits_softmax"]
    stages += ["tune@digits_softmax_grid", "evaluate@digits_softmax", "conditions@digits_cnn"]
    stages += ["suspects@digits", "loop@digits", "report@digits"]
    for stage in stages:
        assert f'"{stage}"' in graph
    assert '"preprocess@digits" -> "kfold-train@digits_softmax"' in graph


# --- keeping an experiment, or going back ---------------------------------------------------------


@pytest.fixture(scope="module")
def applied(evidence: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy whose workspace has another learning rate's parameters, lock and evidence."""
    project = evidence.copy(tmp_path_factory.mktemp("applied") / "project")
    set_rate = ("-S", "experiments.digits_softmax.optimizer.lr=0.05")
    done = project.run("dvc", "exp", "run", "--name", "slow", *set_rate, EVALUATE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert project.run("git", "diff", "--quiet", "--", "conf").returncode == 0
    return project


def branched(project: Project) -> None:
    """The same experiment on a branch of its own."""
    for command in (
        ("git", "checkout", "--force", "HEAD", "--", "."),
        ("dvc", "exp", "branch", "slow", "slow"),
        ("git", "switch", "slow"),
    ):
        done = project.run(*command)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("place", [lambda _: None, branched])
def test_keeping_an_experiment_is_named_first_and_going_back_second(
    place: Callable[[Project], None], applied, evidence, tmp_path
):
    untouched = {finding.where for finding in findings(evidence)}
    project = applied.copy(tmp_path / "project")
    place(project)
    edit, *keep, back, checkout = commands(project, "params.yaml")
    assert commands(project, REPORT) == [edit, *keep, back, checkout]
    assert edit == f"# in {CONF}, set optimizer.lr: 0.05"
    assert keep == ["kmnist compose", "kmnist check", "git commit --all"]
    advice = "; the first commands above keep or discard the experiment\n"
    is_said = advice in project.run("kmnist", "check").stdout
    assert is_said == bool(project.changed())  # on its branch, no file differs from the commit

    kept = project.copy(tmp_path / "kept")
    kept.replace(CONF, "lr: 0.5\n", "lr: 0.05\n")
    assert kept.run("kmnist", "compose", "--check").returncode == 0
    assert kept.run("dvc", "checkout", "--force", SOFTMAX, EVALUATE).returncode == 0
    assert not {SOFTMAX, EVALUATE, "params.yaml"} & {each.where for each in findings(kept)}

    for command in (back, checkout):
        done = project.run("sh", "-c", command)
        assert done.returncode == 0, done.stdout + done.stderr
    assert {finding.where for finding in findings(project)} == untouched


# --- the impact of a change -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "file", "old", "new"),
    [
        ([f"{LR}=0.4"], None, "", ""),
        (["datasets.digits.split.seed=1", "reports.digits.confidence=0.9"], None, "", ""),
        ([], "src/kmnist_pipeline/config/grid.py", '"""', '"""Edited. '),
        ([], "metrics/digits/digits_softmax/validation.json", '"accuracy": 0', '"accuracy": 1'),
    ],
)
def test_the_stages_of_an_impact_are_those_that_dvc_would_run(overrides, file, old, new, unlogged):
    if file is not None:
        unlogged.replace(file, old, new)
    with contextlib.chdir(unlogged.folder):
        stages = impact.of_change(list(overrides)).stages
        found = {stage.address: stage.state for stage in stages if "digits" in stage.address}
        Path("params.yaml").write_text(composition.compose(Path("conf"), overrides))
        with Repo() as repo:
            ends = ["report@digits", "weights@digits_cnn"]
            would_run = repo.reproduce(ends, dry=True, force_downstream=True)
            status = {name for name in repo.status() if "digits" in name}
    assert set(found) == {stage.addressing for stage in would_run}
    themselves = {name for name, state in found.items() if state == "changed"}
    assert themselves and themselves <= status <= set(found)

"""`kmnist prune`: an item leaves the menu, the lock and the evidence, or nothing changes."""

import io
import re
import sys
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from support import wording
from support.checking import commands, findings
from support.project import ROOT, Project, files_under

from kmnist_pipeline import cli
from kmnist_pipeline.commands import prune
from kmnist_pipeline.config import compose as composition
from kmnist_pipeline.config import menu
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import outs

NETWORK = "digits_cnn"
MODELS = [NETWORK, "digits_softmax", "digits_softmax_grid", "digits_sklearn_logistic"]
LINE = f"  - experiment@experiments.{NETWORK}: {NETWORK}\n"
MODEL = f"models/{NETWORK}.safetensors"
FOLDERS = (
    *("conf", "params.yaml", "dvc.lock", "metrics", "figures", "reports"),
    *("models", "weights"),
)


@pytest.fixture
def lone(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A clone with one model file, in the current folder."""
    return with_model(project, monkeypatch)


@pytest.fixture
def full_lone(full_project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The same with all data sets."""
    return with_model(full_project, monkeypatch)


def with_model(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    (project.folder / "models").mkdir()
    (project.folder / MODEL).write_bytes(b"weights")
    monkeypatch.chdir(project.folder)
    return project


def state(project: Project) -> dict[str, bytes]:
    return {k: v for k, v in files_under(project.folder).items() if k.startswith(FOLDERS)}


def test_an_experiment_leaves_nothing_also_if_it_left_the_menu_before(lone, capsys, monkeypatch):
    before = state(lone)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert cli.main(["prune", NETWORK]) == 0
    shown = capsys.readouterr().out
    after = state(lone)
    gone = before.keys() - after.keys()
    assert MODEL in gone
    assert all(NETWORK in file for file in gone)
    assert not [file for file in after if NETWORK in file and not file.startswith("conf/")]
    assert {file for file in after if after[file] != before[file]} == {
        "conf/config.yaml",
        "params.yaml",
        "dvc.lock",
    }
    for word in (LINE.strip(), f"evaluate@{NETWORK}", f"metrics/digits/{NETWORK}\n", MODEL):
        assert word in shown
    assert "`dvc repro report@digits`" in shown  # the page goes on showing it until then
    assert {finding.where for finding in findings(lone)} == {"report@digits"}

    for file, content in before.items():
        outs.write_bytes(Path(file), content)
    lone.replace("conf/config.yaml", LINE, "")
    lone.replace("conf/config.yaml", f"\n  - conditions@conditions.{NETWORK}: {NETWORK}\n", "")
    lone.replace("conf/config.yaml", f"weights:\n  digits: {NETWORK}\n", "weights: {}\n")
    outs.write_bytes(Path("params.yaml"), composition.compose(Path("conf"), []).encode())
    (way,) = commands(lone, f"evaluate@{NETWORK}")
    kinds = ("kfold-train", "evaluate", "conditions", "weights")
    assert way == f"kmnist prune --yes {' '.join(f'{kind}@{NETWORK}' for kind in kinds)}"
    stale = {*(f"{kind}@{NETWORK}" for kind in kinds), "report@digits"}
    assert {finding.where for finding in findings(lone)} == stale
    assert cli.main(way.split()[1:]) == 0
    assert capsys.readouterr().out.count(f"evaluate@{NETWORK}") == 1
    assert state(lone) == after

    for file in gone:  # as if someone had cut the lock by hand
        outs.write_bytes(Path(file), before[file])
    assert cli.main(["prune", "--yes", NETWORK]) == 0
    assert state(lone) == after


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["digits_softmax"], ["studies.digits_softmax_grid.base=digits_softmax: must be one of"]),
        (
            ["kmnist_tuned_cnn"],
            ["reports.kmnist_cnn.figures.5a=kmnist_cnn/kmnist_tuned_cnn/confusion_train.png: "],
        ),
        (["kmnist_siamese"], ["kmnist_cnn.csv: line 23: one-shot-accuracy: kmnist_siamese is no"]),
        (
            [*MODELS, "suspects.digits", "loops.digits"],
            ["reports.digits: no experiment or study has report=digits"],
        ),
        (["digits_softmax", "digits_softmax_grid"], ["suspects.digits.", "digits_softmax"]),
        (["digits"], ["use datasets.digits or reports.digits"]),
        (["datasets.digits"], ["digits_sklearn_logistic.dataset=digits: must be one of"]),
        (["reports.digits", NETWORK], ["digits_sklearn_logistic.report=digits: must be one of"]),
        (["digits_cn"], ["conf/config.yaml has no digits_cn,", "did you mean digits_cnn?"]),
        (["evaluate@digits_cnn"], ["has no evaluate@digits_cnn, and no files of it remain"]),
        (["*"], ["conf/config.yaml has no *"]),
        (["experiments."], ["conf/config.yaml has no experiments."]),
    ],
)
def test_what_is_needed_stays(names, words, full_clone, monkeypatch, capsys):
    monkeypatch.chdir(full_clone.folder)
    assert cli.main(["prune", "--yes", *names]) == 1
    message = capsys.readouterr().err
    for word in words:
        assert word in message
    assert full_clone.changed() == ""


def test_no_answer_removes_nothing(lone, monkeypatch, capsys):
    before = state(lone)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert cli.main(["prune", NETWORK]) == 1
    assert "nothing was removed" in capsys.readouterr().err
    assert state(lone) == before


@pytest.mark.parametrize("interrupted", ["config.yaml", "params.yaml", "dvc.lock"])
def test_what_was_interrupted_can_be_done_again(interrupted, lone, monkeypatch):
    write = outs.write_bytes

    def interrupt(path: Path, content: bytes) -> None:
        if path.name == interrupted:
            raise KeyboardInterrupt
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(outs, "write_bytes", interrupt)
        assert cli.main(["prune", "--yes", NETWORK]) != 0
    assert NETWORK in (lone.folder / "dvc.lock").read_text()
    assert cli.main(["prune", "--yes", NETWORK]) == 0
    assert cli.main(["compose"]) == 0
    assert not [file for file in state(lone) if NETWORK in file and not file.startswith("conf/")]
    assert {finding.where for finding in findings(lone)} == {"report@digits"}


def test_while_a_stage_runs_nothing_is_removed(lone, capsys):
    before = state(lone)
    with Repo() as repo, repo.lock:
        assert cli.main(["prune", "--yes", NETWORK]) == 1
    assert "error: DVC: Unable to acquire lock" in capsys.readouterr().err
    assert state(lone) == before


def test_what_keeps_all_says_so(lone, capsys):
    assert cli.main(["prune", "--yes", "--all-but", "digits"]) == 0
    before = state(lone)
    capsys.readouterr()
    assert cli.main(["prune", "--all-but", "digits_cnn"]) == 0
    assert capsys.readouterr().out == "there is nothing to remove\n"
    assert state(lone) == before
    assert cli.main(["prune", "--yes", "datasets.digits"]) == 1
    said = capsys.readouterr().err
    assert "must be one that conf/config.yaml lists; it lists none" in said


def test_a_menu_that_has_changed_since_the_question_is_kept(lone):
    file = lone.folder / "conf/config.yaml"
    removal = prune.plan([NETWORK])
    file.write_text(before := file.read_text() + "# mine\n")
    with pytest.raises(UserError, match="has changed meanwhile; nothing was removed"):
        prune.remove(removal)
    assert file.read_text() == before


def test_all_but_one_report_leaves_a_clean_start(full_lone, capsys):
    (full_lone.folder / MODEL).unlink()  # these bytes are no model
    (full_lone.folder / "conf/experiment/unused.yaml").write_text("defaults: [base]\n")
    assert cli.main(["prune", "--yes", "--all-but", "digits"]) == 0
    shown = capsys.readouterr().out
    assert "conf/experiment/unused.yaml" in shown
    after = state(full_lone)
    owned = ("dataset", "experiment", "study", "report", "claims", "protocol")
    conf = {file for file in after if file.startswith(tuple(f"conf/{name}/" for name in owned))}
    assert {Path(file).stem for file in conf} == {"base", "none", "digits", *MODELS}
    assert {file for file in after if "mnist" in file} == set()
    for kind in ("model", "optimizer", "trainer", "validation"):  # choices for all
        assert {f for f in after if f.startswith(f"conf/{kind}/")} == {
            f"conf/{kind}/{path.name}" for path in (ROOT / "conf" / kind).iterdir()
        }
    left = (full_lone.folder / "conf/config.yaml").read_text()
    assert "mnist:" not in left
    committed = (ROOT / "conf/config.yaml").read_text().splitlines(keepends=True)
    kept = "".join(line for line in committed if line in left.splitlines(keepends=True))
    assert re.sub("\n{3,}", "\n\n", kept) == left
    assert cli.main(["compose"]) == 0
    assert capsys.readouterr().err == ""
    assert findings(full_lone) == []


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (["digits_cnn"], {*MODELS, "digits"}),
        (["mnist_logistic"], {"mnist", "mnist_simple_cnn", "mnist_sklearn_logistic"}),
    ],
)
def test_what_the_kept_items_need_stays(names, kept, full_lone):
    removal = prune.all_but(names)
    left = {name for _, name in menu.items(removal.remaining)}
    assert left == kept | {name for name in names if "." not in name}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("digit", "conf/config.yaml has no digit; did you mean digits?"),
        ("datasets.kmnist", "keep a report too, one of digits, kmnist_cnn, "),
    ],
)
def test_all_but_what_cannot_stay_alone_removes_nothing(
    name, words, full_clone, monkeypatch, capsys
):
    monkeypatch.chdir(full_clone.folder)
    assert cli.main(["prune", "--yes", "--all-but", name]) == 1
    assert words in capsys.readouterr().err
    assert full_clone.changed() == ""


def test_a_whole_report_with_its_models_and_data(full_lone, capsys):
    assert cli.main(["prune", "--yes", *MODELS, "datasets.digits", "reports.digits"]) == 0
    left = [file for file in state(full_lone) if "digits" in file and not file.startswith("conf/")]
    assert left == []
    assert findings(full_lone) == []


def test_a_project_without_studies_and_suspects_is_checked_and_reviewed(lone, capsys):
    (lone.folder / MODEL).unlink()  # these bytes are no model
    assert cli.main(["prune", "--yes", "--all-but", "digits"]) == 0
    assert cli.main(["prune", "--yes", "digits_softmax_grid"]) == 0
    assert {finding.where for finding in findings(lone)} == {"report@digits"}
    lone.replace("conf/config.yaml", "  - suspects@suspects.digits: digits\n", "")
    assert cli.main(["compose"]) == 0
    assert not {"studies", "suspects"} & yaml.safe_load(Path("params.yaml").read_text()).keys()
    assert cli.main(["review", "--dataset", "digits"]) == 1
    assert f"error: {wording.NO_SUSPECTS}digits" in capsys.readouterr().err


# --- a lock or a folder of somebody else ---------------------------------------------------------


def lock_out(project: Project, *outs: str) -> None:
    """Add a stage that dvc.yaml does not have, with these outs, to the lock."""
    listed = "".join(f"    - path: {out}\n      md5: {'f' * 32}\n" for out in outs)
    entry = f"  evaluate@gone:\n    cmd: x\n    outs:\n{listed}"  # the last one could be cut
    project.replace("dvc.lock", "stages:\n", f"stages:\n{entry}")


@pytest.mark.parametrize("out", ["../victim", "{}/victim", "models/../../victim"])
def test_a_lock_that_names_a_place_outside_the_project_is_refused(out, lone, tmp_path, capsys):
    (tmp_path / "victim").mkdir()
    out = out.format(tmp_path)
    lock_out(lone, out)
    before = state(lone)
    assert cli.main(["prune", "gone", "--yes"]) == 1
    assert f"dvc.lock: evaluate@gone: {out} is not a path" in capsys.readouterr().err
    assert (tmp_path / "victim").exists()
    assert state(lone) == before


def test_of_what_a_lock_names_only_what_stages_write_is_removed(lone, tmp_path, capsys):
    (tmp_path / "victim").write_text("precious")
    (lone.folder / "models/link").symlink_to(tmp_path)
    stay = ["docs", ".git/refs", "README.md", "data/imported/a.npz", "data/reviewed/a.npz"]
    go = ["models/gone.safetensors", "metrics/digits/gone", "data/raw/gone", "reports/gone"]
    for path in (*go, *stay[3:]):
        (lone.folder / path / "in").mkdir(parents=True)
    stay += ["models", "models/link/victim"]
    lock_out(lone, *stay, *go)
    assert cli.main(["prune", "gone", "--yes"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [path for path in (*stay, *go) if (lone.folder / path).exists()] == stay
    said = "kept, behind a link or where no stage writes: "
    # All models are in `models`, so it is not only of this stage.
    assert {line.removeprefix(said) for line in shown if line.startswith(said)} == {*stay} - {
        "models"
    }
    assert (tmp_path / "victim").read_text() == "precious"
    assert "evaluate@gone" not in (lone.folder / "dvc.lock").read_text()


def test_files_behind_a_linked_folder_of_conf_stay(full_lone, tmp_path):
    elsewhere = tmp_path / "protocol"
    (full_lone.folder / "conf/protocol").rename(elsewhere)
    (full_lone.folder / "conf/protocol").symlink_to(elsewhere)
    before = files_under(elsewhere)
    assert cli.main(["prune", "--yes", "--all-but", "digits"]) == 0
    assert files_under(elsewhere) == before


def test_a_terminal_gets_no_control_characters(lone, capsys):
    (lone.folder / "models/\x1b[31mgone").write_text("")
    lock_out(lone, r'"models/\e[31mgone"')
    assert cli.main(["prune", "gone", "--yes"]) == 0
    shown = capsys.readouterr().out
    assert r"models/\x1b[31mgone" in shown
    assert all(line.isprintable() for line in shown.splitlines())

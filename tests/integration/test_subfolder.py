"""A project in a folder of a larger Git repository: every command that reads Git works there."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.project import STORE, Project, committed, replaced
from support.stores import client_of, table

from kmnist_pipeline import cli
from kmnist_pipeline.commands import diff, diff_views, export, quick, verify
from kmnist_pipeline.commands.trace.ancestry import trace
from kmnist_pipeline.repository import git
from kmnist_pipeline.repository.revision import Revision

PLACE = "projects/kmnist"
FIGURE = "figures/digits/digits_softmax/curves.png"
TEST = "metrics/digits/digits_softmax/test.json"
STAGE = "evaluate@digits_softmax"


@pytest.fixture(scope="module")
def inside(digits_run: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The project after `make demo` in a subfolder of a repository that has other files.

    The current folder is the project's. What its tests change they put back.
    """
    top = tmp_path_factory.mktemp("larger")
    project = digits_run.copy(top / PLACE, without=(".git", ".kmnist", *STORE))
    for path in ("metrics/stray.json", TEST, "other/file"):
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_text("{}")
    committed(top)
    (top / "other/file").write_text("changed")  # outside of the project
    with contextlib.chdir(project.folder):
        yield project


@pytest.fixture
def edited(inside: Project) -> Iterator[Path]:
    """A metric file that differs from the committed one."""
    file = inside.folder / TEST
    with replaced(file, file.read_bytes().replace(b'"accuracy": 0', b'"accuracy": 1')):
        yield file


def test_paths_are_the_projects(inside):
    top, here = git.place()
    assert (top.resolve(), here) == (inside.folder.parents[1].resolve(), f"{PLACE}/")
    head = Revision("HEAD", git.commit("HEAD"))
    assert head.ids("metrics") == Revision("the workspace").ids("metrics")
    assert head.files(TEST) == {TEST: (inside.folder / TEST).read_bytes()}
    assert "other/file" not in head.ids("other")


def test_check_sees_the_projects_files_alone(inside, capsys):
    cli.main(["check"])
    found = capsys.readouterr()
    assert "stray.json" not in found.out + found.err
    assert STAGE not in found.out + found.err
    shutil.copy(TEST, "metrics/stray.json")
    git.run("add", "metrics/stray.json")
    try:
        assert cli.main(["check"]) == 1
        assert "metrics/stray.json" in str(capsys.readouterr())
    finally:
        git.run("rm", "--force", "--quiet", "metrics/stray.json")


def test_trace_finds_a_copy_in_the_folders_of_a_commit(inside, tmp_path):
    copy = Path(shutil.copy(FIGURE, tmp_path / "copy.png"))
    (file,) = trace([copy]).files
    (match,) = file.matches
    assert (file.status, match.stage.address, match.path) == ("exact", STAGE, FIGURE)
    assert [commit.id for commit in match.commits] == [git.commit("HEAD")]


def test_diff_with_the_workspace_and_between_commits(inside, edited):
    changed = diff.between("HEAD")
    assert {metric.file for metric in changed.metrics} == {TEST}
    git.run("commit", "--quiet", "--all", "--message", "edited")
    try:
        assert diff.between("HEAD~1", "HEAD").metrics == changed.metrics
    finally:
        git.run("reset", "--quiet", "HEAD~1")


def test_a_comment_shows_figures_by_their_path_in_the_repository(inside):
    figure = diff.Figure(FIGURE, "differ")
    side = Revision("a", "a" * 40)
    found = diff.Diff(side, side, figures=[figure])
    assert f"raw/{'a' * 40}/{PLACE}/{FIGURE}" in diff_views.markdown(found, "https://x/raw")


def test_publish_the_workspace_and_a_commit(inside, empty_store, tmp_path, monkeypatch):
    store = Path(shutil.copy(empty_store, tmp_path / "store.db"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    assert cli.main(["publish", "preprocess@digits", STAGE, "--rev", "HEAD"]) == 0
    shown = table(client_of(store))
    assert sorted(shown) == [STAGE, "preprocess@digits"]
    assert shown[STAGE]["tags"]["mlflow.source.git.commit"] == git.commit("HEAD")
    assert cli.main(["publish", STAGE]) == 0
    assert table(client_of(store)) == shown


def test_export(inside, tmp_path, capsys):
    done = export.export("digits", tmp_path / "crate")
    assert done.missing == {}
    assert (tmp_path / "crate" / FIGURE).read_bytes() == Path(FIGURE).read_bytes()
    assert cli.main(["export", "digits", "--output", str(tmp_path / "crate")]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.system
def test_verify_runs_in_the_same_folder_of_a_clone(inside):
    result = verify.rerun("preprocess@digits")
    assert (result.status, result.notes) == (0, [])
    assert [stage.address for stage in result.stages] == ["download@digits", "preprocess@digits"]
    compared = quick.compare_here("preprocess@digits")
    assert (compared.status, compared.notes) == (0, [])

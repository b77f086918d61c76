"""Where a project lies, whose it is and who uses it: the commands work, or say the real reason."""

import contextlib
import errno
import os
import pwd
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from support import wording
from support.checking import findings
from support.project import Project, committed

from kmnist_pipeline import cli
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.serving import registry
from kmnist_pipeline.tracking import server, store

FIGURE = "figures/digits/digits_softmax/curves.png"
COMMANDS = [["check"], ["trace", FIGURE], ["verify", "--quick"], ["diff", "HEAD"], ["impact"]]
USER = ("LOGNAME", "USER", "LNAME", "USERNAME")


def messages(project: Project, capsys: pytest.CaptureFixture[str], *commands: list[str]) -> str:
    """What the commands say, which all fail."""
    with contextlib.chdir(project.folder):
        for command in commands:
            assert cli.main(command) == 1
    found = capsys.readouterr()
    assert "HEAD is not a commit" not in found.err
    return found.err


def test_an_unpacked_archive_is_no_repository(full_project, capsys):
    shutil.rmtree(full_project.folder / ".git")
    of_dvc = [["fit"], ["predict", "docs/report.png"], ["prune", "--yes", "digits_cnn"]]
    of_dvc += [["publish"], ["predict", "docs/report.png", "--model", "digits_softmax"]]
    found = messages(full_project, capsys, *COMMANDS, *of_dvc)
    reason = "is not in a Git repository, as after unpacking a ZIP archive: clone the repository "
    way = "instead, or make one: `git init && git add --all && git commit -m start`"
    assert found.count(reason + way) == len(COMMANDS + of_dvc)
    assert "refused" not in found
    assert "error: models/digits_softmax.safetensors does not exist, and DVC cannot" in found


def test_a_repository_that_has_not_committed_the_project(project, capsys):
    (project.folder / ".git").rename(project.folder.parent / "kept")
    larger = Project(project.folder.parent)
    (larger.folder / ".gitignore").write_text("project/\nkept/\n")
    committed(larger.folder)
    found = messages(project, capsys, ["check"], ["verify", "--quick"])
    assert found.count("HEAD has no file of this folder, project/ of the Git repository ") == 2
    assert found.count("`git add --all . && git commit -m start`") == 2
    shutil.rmtree(larger.folder / ".git")
    project.run("git", "init", "--quiet")
    assert "nothing is committed yet: `git add --all" in messages(project, capsys, ["check"])


def test_a_repository_of_another_owner(project, capsys, monkeypatch):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    found = messages(project, capsys, *COMMANDS)
    assert found.count("\n        git config --global --add safe.directory") == len(COMMANDS)


def test_a_shallow_clone(project, tmp_path, capsys):
    project.commit("another")
    shallow = Project(tmp_path / "shallow")
    subprocess.run(
        ["git", "clone", "-q", "--depth", "1", project.folder.as_uri(), shallow.folder], check=True
    )
    assert findings(shallow) == []
    found = messages(shallow, capsys, ["diff", "HEAD~1"], ["publish", "--rev", "HEAD~1"])
    way = "this clone does not have all commits: `git fetch --unshallow` gets them\n"
    assert f"HEAD~1 {wording.NO_COMMIT}; {way}" in found
    assert f"HEAD~1 {wording.NO_REVISION} of this repository; {way}" in found


def test_what_a_user_has_told_git_changes_no_file(project, tmp_path, monkeypatch):
    (tmp_path / "attributes").write_text("* text eol=crlf\n")
    (tmp_path / "config").write_text(
        "[core]\nautocrlf = true\neol = crlf\n"
        f"attributesFile = {tmp_path}/attributes\n[color]\nui = always\n"
        "[diff]\nnoprefix = true\nexternal = false\n[log]\nshowSignature = true\n"
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    cloned = Project(tmp_path / "cloned")
    subprocess.run(["git", "clone", "-q", project.folder, cloned.folder], check=True)
    assert findings(cloned) == []


def test_a_merge_conflict_is_named_also_where_dvc_reads_the_lock(full_project, capsys):
    full_project.replace("dvc.lock", "stages:\n", "<<<<<<< HEAD\nstages:\n")
    found = messages(full_project, capsys, ["check"], ["fit"], ["predict", "docs/report.png"])
    problem = f"dvc.lock: line 2: {wording.CONFLICT}; take one side's; `dvc repro` "
    assert found.count(f"{problem}adds what only the other has (docs/experiments.md)") == 3


def test_a_user_id_without_a_name(clone, monkeypatch):
    def nameless(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.chdir(clone.folder)
    for name in USER:
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(pwd, "getpwuid", nameless)
    assert cli.main(["verify", "--quick"]) == 0
    assert os.environ["USER"] == str(os.getuid())


def test_a_reader_that_has_seen_enough(clone):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "kmnist_pipeline.cli", "trace", "--json", FIGURE]
    done = subprocess.run(
        command, cwd=clone.folder, env=clone.environment(), stdout=writing,
        stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def read_only(database: Path) -> None:
    with database.open("r+b") as file:
        file.seek(18)  # the version of SQLite that is needed to write
        file.write(b"\3")


def cut(database: Path) -> None:
    os.truncate(database, database.stat().st_size // 2)


def newer(database: Path) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        connection.commit()


def moved(database: Path) -> None:
    """A copy of another project's store, which can only be read."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        there = database.with_name("elsewhere") / "mlartifacts/Default"
        connection.execute("UPDATE experiments SET artifact_location = ?", (there.as_uri(),))
        connection.commit()
    read_only(database)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (moved, "readonly database; make it and its folder writable, or name another file"),
        (read_only, "attempt to write a readonly database; make it and its folder writable"),
        (
            cut,
            "database disk image is malformed; move it away, and `kmnist publish` makes a new one",
        ),
        (newer, "for a newer one, install that version, or name another file"),
        (lambda file: file.write_text("text" * 999), "file is not a database; move it away"),
        (lambda file: shutil.rmtree(file.parent), "there is no folder "),
    ],
)
def test_a_store_that_cannot_be_used_says_why_and_what_to_do(
    damage, words, clone, publish, empty_store, tmp_path
):
    (tmp_path / "folder").mkdir()
    database = Path(shutil.copy(empty_store, tmp_path / "folder/store.db"))
    damage(database)
    found = publish(clone, database).err
    assert words in found
    assert str(database) in found
    assert "Traceback" not in found
    if damage is not read_only:  # which `make ui` may show
        with pytest.raises(UserError, match=f"^.*{database}.*{re.escape(words)}.*$"):
            server._serve(0, f"sqlite:///{database}")


def test_a_store_in_a_missing_folder_has_no_champion_and_says_why(tmp_path, monkeypatch):
    file = tmp_path / "missing/store.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
    with pytest.raises(UserError, match=f"there is no folder {file.parent}"):
        registry.champion("digits")


def test_a_folder_that_takes_no_store_is_named(tmp_path, monkeypatch):
    def refused(source: str, target: Path) -> None:
        target.touch()
        raise OSError(errno.EROFS, "Read-only file system", str(target))

    monkeypatch.setattr(shutil, "copyfile", refused)
    words = f"{tmp_path}: Read-only file system, so no MLflow store can be made in it; make it "
    with pytest.raises(UserError, match=f"^{words}writable, with some room, or name another file"):
        store.create(tmp_path / "mlflow.db")
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_another_program_has_locked(clone, publish, own_store):
    with contextlib.closing(sqlite3.connect(own_store)) as other:
        other.execute("BEGIN EXCLUSIVE")
        found = publish(clone, own_store).err
    assert "database is locked; end the other program that uses it, or wait" in found
    assert "Traceback" not in found

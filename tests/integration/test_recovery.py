"""A lock that was cut gets its entries back, if they are still true."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import wording
from support.project import Project, replaced

from kmnist_pipeline.cli import dvc, main
from kmnist_pipeline.commands import recovery
from kmnist_pipeline.repository import git, locks

LOCK = Path("dvc.lock")
SAID = f"{wording.LOCK_CUT} Entries put back from the last "


@pytest.fixture
def whole(clone: Project) -> Iterator[bytes]:
    """The lock, in the project that has it and gets it back."""
    with contextlib.chdir(clone.folder):
        lock = LOCK.read_bytes()
        yield lock
        LOCK.write_bytes(lock)


def cuts(lock: bytes) -> Iterator[bytes]:
    """It as interrupts leave it: empty, in the head, and in or between entries, lines and words."""
    second = lock.index(b"\n  evaluate@") + 1
    last = lock.rindex(b"\n      size:")
    ends = [0, 5, 27, second, second + 2, second + 12, last, last + 1, len(lock) - 1]
    yield from (lock[:end] for end in (*ends, len(lock) // 2))


def test_a_cut_lock_gets_its_entries_back_byte_for_byte(whole):
    for cut in cuts(whole):
        LOCK.write_bytes(cut)
        assert recovery.put_back().startswith(SAID)
        assert LOCK.read_bytes() == whole, len(cut)
        assert recovery.put_back() == ""


@pytest.mark.parametrize(
    "command",
    [
        ["predict", "--model", "nothing", "README.md"],
        ["promote", "nothing"],
        ["prune", "nothing"],
        ["publish", "nothing"],
    ],
)
def test_a_command_that_reads_a_cut_lock_mends_it_first(command, whole, capsys):
    LOCK.write_bytes(b"")
    assert main(command) == 1
    assert SAID in capsys.readouterr().err
    assert LOCK.read_bytes() == whole


def test_an_entry_comes_back_only_with_the_files_parameters_and_code_that_it_names(clone, whole):
    stages = locks.parse(whole).stages
    metric = Path("metrics/digits/digits_softmax/test.json")
    params = Path("params.yaml").read_text()
    other = params.replace("  digits_cnn:\n", "  digits_cnn_gone:\n")
    code = Path("src/kmnist_pipeline/families/cnn/train.py")

    def gone() -> set[str]:
        LOCK.write_bytes(b"")
        recovery.put_back()
        return stages.keys() - locks.parse(LOCK.read_bytes()).stages.keys()

    with replaced(clone.folder / metric, b"{}"):
        assert gone() == {"evaluate@digits_softmax"}
    with replaced(clone.folder / "params.yaml", other.encode()):
        kinds = ("kfold-train", "evaluate", "conditions", "weights")
        assert gone() == {f"{kind}@digits_cnn" for kind in kinds}
    with replaced(clone.folder / code, code.read_bytes() + b"\n"):
        assert {name for name, stage in stages.items() if code.as_posix() in stage.deps} == gone()


def test_a_lock_that_people_or_another_dvc_write_stays_as_it_is(whole):
    from dvc.repo import Repo

    conflict = b"<<<<<<< HEAD\n".join(whole.partition(b"  evaluate@")[::2])
    twice = whole + whole.partition(b"stages:\n")[2]
    for text in (conflict, twice, b"stages: {}\n"):
        LOCK.write_bytes(text)
        assert recovery.put_back() == ""
        assert LOCK.read_bytes() == text
    LOCK.write_bytes(b"")
    with Repo() as repo, repo.lock:
        assert recovery.put_back() == ""
    LOCK.unlink()
    assert recovery.put_back() == ""


def test_what_was_removed_on_purpose_does_not_come_back(project):
    """An experiment, from the menu, the files and the lock: before and after composing."""

    def is_gone() -> bool:
        main(["check"])
        return LOCK.read_text() == kept

    with contextlib.chdir(project.folder):
        entries = locks.whole_entries(LOCK.read_text()) or {}
        kept = locks.text_of(t for name, t in entries.items() if not name.endswith("@digits_cnn"))
        LOCK.write_text(kept)
        Path("conf/experiment/digits_cnn.yaml").unlink()
        main_file = Path("conf/config.yaml")
        lines = main_file.read_text().splitlines(keepends=True)
        others = "".join(line for line in lines if "digits_cnn" not in line)
        main_file.write_text(others.replace("weights:\n", "weights: {}\n"))
        assert is_gone()
        assert main(["compose"]) == 0
        assert is_gone()
        project.commit("without it")
        project.git("checkout", "--quiet", "HEAD~1", "--", "conf", "params.yaml")
        assert is_gone()  # from the last commit too


@pytest.mark.parametrize("command", [["check"], ["fit", "report@digits"], ["impact"], ["compose"]])
def test_commands_notice_a_cut_lock(command, whole, capsys, monkeypatch):
    from kmnist_pipeline.commands import fit

    monkeypatch.setattr(fit, "train_missing", lambda *_: [])
    LOCK.write_bytes(whole[: len(whole) // 2])
    assert main(command) == 0
    assert capsys.readouterr().err.startswith(SAID)
    assert LOCK.read_bytes() == whole
    assert git.run("status", "--porcelain") == b""


def test_make_notices_a_cut_lock(whole, clone):
    LOCK.write_bytes(whole[: len(whole) // 2])
    done = clone.run("make", "--old-file=.venv/.ready", "lock")
    assert done.stderr.startswith(SAID)
    text = LOCK.read_text()
    assert locks.text_of((locks.whole_entries(text) or {}).values()) == text  # it has no cut entry


@pytest.mark.system
def test_a_stage_by_hand_puts_a_cut_lock_back(whole, clone):
    LOCK.write_bytes(whole[: len(whole) // 2])
    done = clone.run("python", "-m", "kmnist_pipeline.stages.download", "name=digits")
    assert done.returncode == 0 and done.stderr.startswith(SAID)
    assert LOCK.read_bytes() == whole


@pytest.mark.parametrize("program", ["dvc", "python -m dvc"])
@pytest.mark.system
def test_stages_of_another_dvc_say_that_the_lock_is_incomplete(program, project):
    """DVC holds its own lock then, and writes dvc.lock when the stage has ended."""
    lock = project.folder / LOCK
    whole = lock.read_bytes()
    lock.write_bytes(whole[: whole.index(b"\n  evaluate@") + 1])  # a valid file
    done = project.run(*program.split(), "repro", "--force", "--single-item", "download@digits")
    assert done.returncode == 0, done.stderr
    incomplete = "warning: dvc.lock is incomplete, as an interrupted DVC leaves it"
    assert (incomplete in done.stderr, SAID in done.stderr) == (program != "dvc", program == "dvc")
    with contextlib.chdir(project.folder):
        recovery.put_back()
    assert locks.parse(lock.read_bytes()).stages == locks.parse(whole).stages


@pytest.mark.parametrize("command", ["check", "impact"])
def test_a_lock_that_was_deleted_can_be_restored(command, whole, capsys):
    LOCK.unlink()
    main([command])
    said = capsys.readouterr()
    assert "dvc.lock is missing, so every stage is new" in said.out + said.err
    assert "git checkout HEAD -- dvc.lock" in said.out + said.err


@pytest.mark.parametrize("place", [".", "docs"])
def test_the_command_that_brings_files_back_works_where_the_user_is(place, whole, clone):
    gone = Path("metrics/digits/digits_cnn/test.json")
    start, before = clone.folder / place, gone.read_bytes()
    gone.unlink()
    (command,) = re.findall("`(.*)`", recovery.way_back(start))
    subprocess.run(command, shell=True, check=True, cwd=start)
    assert gone.read_bytes() == before


@pytest.mark.parametrize("command", ["kmnist", "dvc"])
def test_in_another_folder_messages_say_where_their_commands_are_valid(
    command, whole, capsys, monkeypatch
):
    """Both end before anything runs, because of a merge conflict."""
    LOCK.write_bytes(b"<<<<<<< HEAD\n" + whole)
    monkeypatch.setattr(sys, "argv", ["dvc", "repro"])
    monkeypatch.setenv("PATH", os.environ["PATH"])  # `dvc` changes it
    for folder, says in ((".", False), ("docs", True)):
        with contextlib.chdir(folder):
            assert (main(["check"]) if command == "kmnist" else dvc.main()) == 1
        said = capsys.readouterr().err
        assert said.startswith("error: dvc.lock: line 1: a merge conflict")
        note = "\nnote: commands and paths above are for the project's folder: `cd ..`\n"
        assert said.endswith(note) == says

"""`make setup`: the virtual environment belongs to its folder, whatever the folder's name."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.project import ROOT, committed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an umlaut and a space, and a virtual environment without packages."""
    folder = tmp_path / "ü あ"
    (folder / "src").mkdir(parents=True)
    (folder / "src/found.py").touch()
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    make = [sys.executable, "-m", "venv", "--without-pip", ".venv"]
    subprocess.run(make, cwd=folder, check=True)
    (folder / ".venv/.ready").touch()
    return folder


def planned(folder: Path) -> str:
    """The commands that `make setup` would run."""
    make = ["make", "--dry-run", "setup"]
    done = subprocess.run(make, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def test_an_environment_that_was_moved_is_made_again(folder):
    assert " venv " not in planned(folder)
    moved = folder.rename(folder.parent / "moved")
    assert " venv --clear .venv" in planned(moved)
    linked = folder.parent / "linked"
    shutil.copytree(moved, linked, ignore=shutil.ignore_patterns(".venv"))
    again = [sys.executable, "-m", "venv", "--clear", "--without-pip", ".venv"]
    subprocess.run(again, cwd=moved, check=True)
    (moved / ".venv/.ready").touch()
    (linked / ".venv").symlink_to(
        moved / ".venv"
    )  # another folder's own, which is not ours to make
    assert " venv " not in planned(linked)


def test_python_starts_whatever_the_folder_and_the_language(folder):
    (site,) = folder.glob(".venv/lib/python3*/site-packages")
    (site / "__editable__.kmnist_pipeline-0.1.0.pth").write_text(str(folder / "src"))
    (folder / ".venv/.ready").unlink()
    (line,) = [line for line in planned(folder).splitlines() if "__editable__" in line]
    subprocess.run(line, shell=True, cwd=folder, check=True)
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LANG"))}
    command = [folder / ".venv/bin/python", "-c", "import found"]
    subprocess.run(command, env={**plain, "LC_ALL": "C"}, check=True)


def test_every_target_notices_a_cut_lock():
    text = (ROOT / "Makefile").read_text()
    targets = {*re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE)} - {"help", "setup"}
    assert len(targets) > 8
    for target in targets:
        make = ["make", "--dry-run", target]
        done = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True)
        assert "mend_lock()" in done.stdout or "kmnist compose" in done.stdout, target


def test_a_missing_repository_is_said_with_gits_own_reason(folder):
    def said(**changes: str) -> str:
        done = subprocess.run(
            ["make", "repository"], cwd=folder, env={**os.environ, **changes},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.stderr

    found = said()
    assert "not a git repository" in found
    assert "git init && git add --all && git commit" in found
    committed(folder)
    assert said() == ""
    assert "safe.directory" in said(GIT_TEST_ASSUME_DIFFERENT_OWNER="1")

"""A clone for a verification is a repository of its own, whatever names another, and goes."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from support.project import Project

from kmnist_pipeline.commands import clone, status


@pytest.fixture
def in_hook(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A worktree of the project, in this process as Git leaves it in a hook there."""
    project.git("worktree", "add", "--quiet", "-b", "side", str(tmp_path / "side"))
    side = Project(tmp_path / "side")
    side.git("commit", "--quiet", "--allow-empty", "--message", "on the side")
    monkeypatch.setenv("GIT_DIR", side.git("rev-parse", "--absolute-git-dir"))
    monkeypatch.setenv("GIT_WORK_TREE", str(side.folder))
    monkeypatch.setenv("GIT_INDEX_FILE", side.git("rev-parse", "--git-path", "index"))
    monkeypatch.chdir(side.folder)
    return side


def test_a_clone_in_a_hook_of_a_worktree_changes_no_head(in_hook):
    here = status.head().commit
    with clone.clean(str(here)) as made:
        environment = made._environment()
        local = subprocess.check_output(["git", "rev-parse", "--local-env-vars"], text=True).split()
        assert environment.keys().isdisjoint(local)
        asked = ["git", "rev-parse", "HEAD"]
        found = subprocess.check_output(asked, cwd=made.path, env=environment, text=True)
        assert found.strip() == here
    assert in_hook.git("symbolic-ref", "--short", "HEAD") == "side"
    assert in_hook.git("status", "--porcelain") == ""
    assert in_hook.git("rev-parse", "HEAD") == here


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_signal_removes_the_clone(number, project, monkeypatch):
    monkeypatch.chdir(project.folder)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), clone.clean("HEAD") as made:
        folder = made.path
        assert folder.exists()
        os.kill(os.getpid(), number)
    assert not folder.parent.exists()
    assert signal.getsignal(number) == before

"""A clone for a verification is a repository of its own, whatever names another, and goes."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from support.project import Project

from kmnist_pipeline.commands import clone, status
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.repository import git


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


SETTINGS = """
[core]
    hooksPath = {hooks}
[init]
    templateDir = {template}
[protocol "file"]
    allow = never
"""


def test_settings_and_hooks_of_the_user_do_not_reach_a_clone(project, tmp_path, monkeypatch):
    hooks, template, ran = (tmp_path / name for name in ("hooks", "template", "ran"))
    for folder in (hooks, template / "hooks"):
        folder.mkdir(parents=True)
        hook = folder / "post-checkout"
        hook.write_text(f"#!/bin/sh\ntouch '{ran}'\nexit 3\n")
        hook.chmod(0o755)
    settings = tmp_path / "gitconfig"
    settings.write_text(SETTINGS.format(hooks=hooks, template=template))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    monkeypatch.chdir(project.folder)
    with clone.clean("HEAD") as made:
        assert (made.path / "dvc.yaml").exists()
        assert not (made.path / ".git/hooks/post-checkout").exists()
    assert not ran.exists()


def test_a_git_command_that_says_nothing_is_named(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    quiet = ("-C", str(project.folder), "rev-parse", "--quiet", "--verify", "no")
    with pytest.raises(git.NotFoundError) as caught:
        git.run(*quiet)
    assert str(caught.value) == f"`git {' '.join(quiet)}` ended with status 1 and no message"
    with pytest.raises(UserError, match=r"^git rev-parse: fatal: Needed a single revision"):
        git.run("-c", "core.pager=cat", "rev-parse", "--verify", "no")

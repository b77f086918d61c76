"""What `kmnist check` finds in a project."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

from support.project import Project

from kmnist_pipeline.commands import check, status
from kmnist_pipeline.commands.check import Finding
from kmnist_pipeline.config import compose as composition
from kmnist_pipeline.repository import locks


def findings(project: Project, composed: str | None = None) -> list[Finding]:
    """composed: instead of the parameters that conf/ gives."""
    with contextlib.chdir(project.folder):
        composed = composed or composition.compose(Path("conf"), [])
        found = status.of(status.locked_here(), locks.load(composed, "conf/"))
        return check.findings(found, composed)


def commands(project: Project, place: str) -> list[str]:
    """The commands that `kmnist check` gives for a place."""
    (finding,) = [finding for finding in findings(project) if finding.where == place]
    return [command for remedy in finding.remedies for command in remedy.commands]


def _composed(project: Project) -> str:
    """The parameters of the last commit, which conf/ gives where no test has changed it."""
    return project.run("git", "show", "HEAD:params.yaml").stdout


def reasons(project: Project, composed: str | None = None) -> list[str]:
    """Each reason with its place; composed: instead of the committed parameters."""
    found = findings(project, composed or _composed(project))
    return [f"{each.where}: {reason}" for each in found for reason in each.reasons]


def remedies(project: Project, *places: str, composed: str | None = None) -> list[str]:
    """The commands that are told for these places."""
    found = findings(project, composed or _composed(project))
    ways = {each.where: each.remedies for each in found}
    told = dict.fromkeys(remedy for place in places for remedy in ways[place])
    return [command for remedy in told for command in remedy.commands]


def md5_of(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()

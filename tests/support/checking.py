"""What `kmnist check` finds in a project."""

from __future__ import annotations

import contextlib
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

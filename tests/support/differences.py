"""Running `kmnist diff` in a project, and files of the digits for it to compare."""

import contextlib

import pytest
from support.project import Project

from kmnist_pipeline import cli
from kmnist_pipeline.commands import diff
from kmnist_pipeline.commands.diff import Diff

MODEL = "digits/digits_softmax"
TEST, CURVES = f"metrics/{MODEL}/test.json", f"figures/{MODEL}/curves.png"


def between(project: Project, *revisions: str) -> Diff:
    with contextlib.chdir(project.folder):
        return diff.between(*revisions)


def run(project: Project, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with contextlib.chdir(project.folder):
        status = cli.main(["diff", *arguments])
    shown = capsys.readouterr()
    assert (status, shown.err) == (0, "")
    return shown.out

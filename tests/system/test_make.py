"""Targets of the Makefile, run for real; `.ci/run` runs those that install, lint and test."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import urllib.request
from pathlib import Path

import psutil
import pytest
from support.fit_program import PATIENCE, end, wait_until
from support.project import ROOT, Project, lines_with
from support.stores import NEEDS_POSTGRESQL, free_port

MAKE = ("make", "--old-file=.venv/.ready")  # the packages are those of this interpreter


@pytest.fixture(scope="module")
def demo(digits_run: Project, place: Path) -> Project:
    """The project after `make demo`, with its store."""
    return digits_run.copy(place / "project")


def test_help_names_every_target_for_people(demo):
    done = demo.run(*MAKE)
    (phony,) = re.findall(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = {line.split()[1] for line in done.stdout.splitlines()}
    parts_of_the_others = {"lint", "lock", "moved", "repository"}
    assert {*phony.split()} - named == parts_of_the_others
    assert demo.run(*MAKE, "help").stdout == done.stdout


def test_repro_runs_what_is_stale_and_promotes_the_best_model(demo):
    first, again = demo.run(*MAKE, "repro"), demo.run(*MAKE, "repro")
    for done in (first, again):
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.endswith("The reports: reports/*/index.html\n")
    assert not lines_with("Running stage", again)
    assert lines_with("digits version 1, digits_", again)
    assert demo.run("kmnist", "check").returncode == 0


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("ui", "/health"),
        pytest.param("server", "/health", marks=NEEDS_POSTGRESQL),
        ("serve", "/ping"),
        ("cluster", None),
    ],
)
def test_a_server_answers_until_it_is_interrupted(target, path, demo, tmp_path):
    port, log = free_port(), tmp_path / "log"
    with log.open("wb") as output, subprocess.Popen(
        [*MAKE, target, f"PORT={port}", "DATASET=digits"], cwd=demo.folder,
        env=demo.environment(), stdout=output, stderr=output, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            wait_until(lambda: process.poll() is not None or is_ready(log), "a server")
            started = psutil.Process(process.pid).children(recursive=True)
            if path:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
                    assert answer.status == 200
            os.killpg(process.pid, signal.SIGINT)  # Ctrl-C reaches them all
            process.wait(PATIENCE)
            wait_until(lambda: not any(child.is_running() for child in started), "the end of all")
        finally:
            end(process.pid)
    if target != "cluster":  # whose workers print what Ctrl-C has interrupted
        assert "Traceback" not in log.read_text()


def is_ready(log: Path) -> bool:
    """Whether a server has said how to end it."""
    return bool(re.search("ctrl.c", log.read_text(), re.IGNORECASE))

"""What all tests share: a copy of this project to run in, without or with the digits run."""

# ruff: noqa: E402
from __future__ import annotations

import os

from kmnist_pipeline import arithmetic
from kmnist_pipeline.evidence import numbers

# Before anything imports NumPy, which then reads what it is told once and for all: this process
# computes as stages do, whatever its user has set, so that tests may demand equal bytes.
os.environ.pop(arithmetic.VARIABLE, None)
arithmetic.select()

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

ROOT = Path(__file__).parents[1]
# Evidence that waits to be made again: tests of what is committed leave it out.
STALE = frozenset((ROOT / ".ci/stale-stages").read_text().split())
STORE = ("mlartifacts", "mlflow.db")  # what the stages of a project have logged

# Files of some minutes each. They come first, so that at the end no process is left with one.
LONG = ("test_emulated.py", "test_verify.py", "test_fit_command.py", "test_cluster.py")

# Deadlines measure the machine, not the code; the examples are the same in every run.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files of LONG first, all others as they were."""
    place = {name: position for position, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONG)))


@dataclass
class Project:
    """A Git and DVC repository of its own, with this project's files, for a test to change."""

    folder: Path

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command there as `make` does; its output is kept, its exit status not judged."""
        return subprocess.run(
            command, cwd=self.folder, env=self.environment(**environment), text=True,
            capture_output=True, check=False,
        )  # fmt: skip

    def environment(self, **changes: str) -> dict[str, str]:
        """The environment of a command: this interpreter first, no store but the project's own.

        The arithmetic is not ours, but what the command selects.
        """
        ours = (*arithmetic.INSTRUCTIONS, *arithmetic.THREADS)
        foreign = ("MLFLOW_", "DVC_", "KMNIST_", *ours)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {
            **kept,
            "PATH": path,
            "PYTHONPATH": "src",
            "PYTHONDONTWRITEBYTECODE": "1",
            **changes,
        }

    def stage(self, module: str, *arguments: str, **environment: str):
        """Run an entrypoint by hand; its results go under multirun/."""
        name = f"kmnist_pipeline.stages.{module}"
        return self.run(sys.executable, "-m", name, *arguments, **environment)

    def copy(self, folder: Path, *, without: Sequence[str] = ()) -> Project:
        """All of it once more, but for files and folders of these names."""
        left = shutil.ignore_patterns(*without)
        return Project(shutil.copytree(self.folder, folder, symlinks=True, ignore=left))

    def json(self, path: str) -> dict:
        """The content of a JSON file, of numbers with their details."""
        if path.startswith("metrics/"):
            return numbers.read(self.folder / path)
        return json.loads((self.folder / path).read_text())

    def changed(self) -> str:
        """What `git status --porcelain` prints."""
        return self.run("git", "status", "--porcelain").stdout

    def replace(self, path: str, old: str, new: str) -> None:
        """Change a file, which must hold `old`."""
        file = self.folder / path
        text = file.read_text()
        assert old in text, f"{path} does not hold {old!r}"
        file.write_text(text.replace(old, new, 1))


@pytest.fixture(autouse=True, scope="session")
def _portable() -> None:
    """All test modules have been imported by now, and with them NumPy and torch."""
    arithmetic.require()


def _files() -> list[str]:
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return [file for file in listing.split("\0") if file and (ROOT / file).is_file()]


def _copy(folder: Path) -> Project:
    for file in _files():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, folder / file)
    for command in (
        ["init", "--quiet", "--initial-branch=main"],
        ["config", "user.name", "test"],
        ["config", "user.email", "test@localhost"],
        ["add", "--all"],
        ["commit", "--quiet", "--message", "copy"],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return Project(folder)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A fresh clone: the tracked files alone, in a repository of its own."""
    return _copy(tmp_path / "project")


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> tuple[Project, str]:
    """The project after `make demo`, and what DVC printed. Not to be changed by a test.

    Of the processes that run tests side by side, the first to need it makes it for all.
    """
    own = tmp_path_factory.getbasetemp()
    shared = own if worker_id == "master" else own.parent
    folder, printed = shared / "digits/project", shared / "digits.log"
    with FileLock(shared / "digits.lock"):
        if not printed.exists():
            done = _copy(folder).run("dvc", "repro", "--force", "report@digits")
            assert done.returncode == 0, done.stdout + done.stderr
            printed.write_text(done.stdout)
    return Project(folder), printed.read_text()


@pytest.fixture
def digits(digits_run: tuple[Project, str], tmp_path: Path) -> Project:
    """A copy of the project after `make demo`, with its cache, for a test to change."""
    return digits_run[0].copy(tmp_path / "project")

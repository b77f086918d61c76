"""A copy of this project, in a Git and DVC repository of its own, for a test to run and change."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kmnist_pipeline import arithmetic
from kmnist_pipeline.evidence import numbers
from kmnist_pipeline.evidence.paths import TRACKED
from kmnist_pipeline.repository import locks

ROOT = Path(__file__).parents[2]

MADE = (".dvc/cache", ".kmnist", "data", "models", "predictions")  # by stages, not in Git
STORE = ("mlartifacts", "mlflow.db")  # what the stages of a project have logged


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

        The arithmetic is not ours, but what the command selects; nor are the variables of the
        `make test` that runs us, by which a `make` would say where it is.
        """
        ours = (*arithmetic.INSTRUCTIONS, *arithmetic.THREADS)
        foreign = ("MLFLOW_", "DVC_", "KMNIST_", "MAKE", "MFLAGS", *ours)
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

    def git(self, *arguments: str) -> str:
        """What a git command prints; it must succeed."""
        done = self.run("git", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def commit(self, message: str = "so far") -> str:
        """Commit all changes, or none; the commit's id."""
        who = ("-c", "user.name=test", "-c", "user.email=test@localhost")
        self.git("add", "--all")
        self.git(*who, "commit", "--quiet", "--allow-empty", "--message", message)
        return self.git("rev-parse", "HEAD")

    def changed(self) -> str:
        """What `git status --porcelain` prints."""
        return self.run("git", "status", "--porcelain").stdout

    def replace(self, path: str, old: str, new: str) -> None:
        """Change a file, which must hold `old`."""
        file = self.folder / path
        text = file.read_text()
        assert old in text, f"{path} does not hold {old!r}"
        file.write_text(text.replace(old, new, 1))


def lines_with(word: str, done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines that a command has printed with a word in them."""
    return [line for line in (done.stdout + done.stderr).splitlines() if word in line]


def files_under(folder: Path) -> dict[str, bytes]:
    """The content of every file by its path in `folder`."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def flipped(path: Path, position: int | None = None) -> bytes:
    """The content of a file with one bit changed, in the middle or at a position."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if position is None else position] ^= 1
    return bytes(content)


@contextmanager
def replaced(path: Path, content: bytes | None) -> Iterator[None]:
    """Give a file, which DVC may have linked to its cache, other content or none for a while."""
    kept, mode = path.read_bytes(), path.stat().st_mode
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        path.write_bytes(kept)
        path.chmod(mode)


def _files() -> list[str]:
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return [file for file in listing.split("\0") if file and (ROOT / file).is_file()]


def fresh(folder: Path) -> Project:
    """The tracked files alone, committed in a new repository."""
    for file in _files():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, folder / file)
    committed(folder)
    return Project(folder)


def hide_mlflow(project: Project) -> Project:
    """Stages there find no MLflow, and do not wait for it. Git does not report how."""
    (project.folder / "src/mlflow.py").write_text('raise ImportError("there is no mlflow here")\n')
    with (project.folder / ".git/info/exclude").open("a") as excluded:
        excluded.write("/src/mlflow.py\n")
    return project


def committed(folder: Path) -> None:
    """Make a folder a repository with one commit, which has all its files."""
    for command in (
        ["init", "--quiet", "--initial-branch=main"],
        ["config", "user.name", "test"],
        ["config", "user.email", "test@localhost"],
        ["add", "--all"],
        ["commit", "--quiet", "--message", "copy"],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)


def copied(digits_run: Project, folder: Path) -> Project:
    """The project after `make demo`, with its cache, and without what its stages have logged."""
    return digits_run.copy(folder, without=STORE)


def stripped(digits_run: Project, folder: Path) -> Project:
    """The same without the caches that `check` and `predict` do not read."""
    return digits_run.copy(folder, without=("cache", ".kmnist", *STORE))


def digits_alone(full: Project, folder: Path) -> Project:
    """A copy of a project without what belongs to other datasets, committed."""
    project = full.copy(folder)
    menu = folder / "conf/config.yaml"
    text = re.sub(r"^  (- .*|\w+): k?mnist.*\n", "", menu.read_text(), flags=re.MULTILINE)
    menu.write_text(re.sub("\n{3,}", "\n\n", text))
    kept = [entry for name, entry in entries(project).items() if "@digits" in name]
    (folder / "dvc.lock").write_text(locks.text_of(kept))
    done = project.run("kmnist", "compose")
    assert done.returncode == 0, done.stderr
    kinds = ("metrics", "figures", "reports", "metrics/data", "figures/data")
    project.git("rm", "-r", "--quiet", *(f"{kind}/*mnist*" for kind in kinds))
    project.commit("digits alone")
    return project


def with_run(full: Project, digits_run: Project, folder: Path) -> Project:
    """A copy of a project with what a run of the digits alone has made."""
    project = full.copy(folder)
    for path in (*MADE, *TRACKED):
        shutil.copytree(digits_run.folder / path, folder / path, symlinks=True, dirs_exist_ok=True)
    both = entries(full) | entries(digits_run)
    (folder / "dvc.lock").write_text(locks.text_of(both.values()))
    return project


def entries(project: Project) -> dict[str, str]:
    """The text of each stage in the lock."""
    found = locks.whole_entries((project.folder / "dvc.lock").read_text())
    assert found
    return found


def cloned(project: Project, folder: Path) -> Project:
    """A clone, without the receipts that this repository has."""
    (folder.parent / "tmp").mkdir()
    subprocess.run(["git", "clone", "--quiet", project.folder, folder], check=True)
    if (folder / "receipts").exists():
        shutil.rmtree(folder / "receipts")
        Project(folder).commit("without receipts")
    return Project(folder)

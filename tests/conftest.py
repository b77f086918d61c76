"""What all tests share: a copy of this project to run in, without or with the digits run."""

# ruff: noqa: E402
from __future__ import annotations

import os

from kmnist_pipeline import arithmetic

# Before anything imports NumPy, which then reads what it is told once and for all: this process
# computes as stages do, whatever its user has set, so that tests may demand equal bytes.
os.environ.pop(arithmetic.VARIABLE, None)
arithmetic.select()

import contextlib
import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import yaml
from filelock import FileLock
from hypothesis import settings
from support.checking import reasons
from support.fault_server import FaultServer, serving
from support.fit_program import LONG, results, train
from support.noise import PACKED, made
from support.project import (
    Project,
    cloned,
    copied,
    digits_alone,
    fresh,
    hide_mlflow,
    stripped,
    with_run,
)
from support.stores import OF_DIGITS, Server, Table, client_of, table
from support.tracing import make_history

from kmnist_pipeline import cli
from kmnist_pipeline.data import sources
from kmnist_pipeline.data.sources import Dataset
from kmnist_pipeline.tracking import store as tracking

# A suite that runs in the background, or under nohup, ignores signals that its tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# One process makes `digits_run`, for minutes, while the other runs the unit tests, which need none.
# Of the system tests the longest files come first, so that at the end no process is left with one.
MAKES_DIGITS = "test_check.py"
FOLDERS = ("unit", "integration", "system")
FIRST = ("test_emulated.py", "test_documentation.py", "test_verify.py")

# Deadlines measure the machine, not the code; the examples are the same in every run.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files; mark the tests of tests/system, which `make test` leaves out."""
    first = {name: position for position, name in enumerate(FIRST)}
    places = {item.path: FOLDERS.index(item.path.parent.name) for item in items}
    for item in items:
        if item.path.parent.name == "system":
            item.add_marker("system")

    def place(item: pytest.Item) -> tuple[int, int]:
        name = item.path.name
        return -1 if name == MAKES_DIGITS else places[item.path], first.get(name, len(FIRST))

    items.sort(key=place)


@pytest.fixture(autouse=True, scope="session")
def _portable() -> None:
    """All test modules have been imported by now, and with them NumPy and torch."""
    arithmetic.require()


@pytest.fixture(scope="session")
def full_clone(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tracked files alone, in a repository of its own. No test may leave it changed."""
    return fresh(tmp_path_factory.mktemp("full") / "project")


@pytest.fixture
def full_project(full_clone: Project, tmp_path: Path) -> Project:
    """A copy of it for a test to change."""
    return full_clone.copy(tmp_path / "project")


@pytest.fixture(scope="session")
def clone(full_clone: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same with the digits alone, because DVC looks at every stage for each command."""
    return digits_alone(full_clone, tmp_path_factory.mktemp("clone") / "project")


@pytest.fixture
def project(clone: Project, tmp_path: Path) -> Project:
    """A copy of this one for a test to change."""
    return clone.copy(tmp_path / "project")


@pytest.fixture
def project_here(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The same, as the working directory."""
    monkeypatch.chdir(project.folder)
    return project


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder of all processes that run tests side by side: the first makes what all use."""
    own = tmp_path_factory.getbasetemp()
    return own if worker_id == "master" else own.parent


@pytest.fixture(scope="session")
def empty_store(shared: Path) -> Path:
    """A migrated SQLite store: making one takes seconds, a copy nothing."""
    path = shared / "mlflow.db"
    with FileLock(shared / "mlflow.lock"):
        if not path.exists():
            tracking.create(path)
    return path


@pytest.fixture(scope="session")
def digits_run(clone: Project, shared: Path, empty_store: Path) -> Project:
    """The clone after `make demo`. Not to be changed by a test.

    Its user has an empty home folder, without a list of fonts.
    """
    folder, printed, home = shared / "digits/project", shared / "digits.log", shared / "home"
    with FileLock(shared / "digits.lock"):
        if not printed.exists():
            project = clone.copy(folder)
            shutil.copy(empty_store, folder / "mlflow.db")
            home.mkdir(exist_ok=True)
            command = ("dvc", "repro", "--force", "report@digits", "weights@digits_cnn")
            done = project.run(*command, HOME=str(home))
            assert done.returncode == 0, done.stdout + done.stderr
            printed.write_text(done.stdout)
    return Project(folder)


@pytest.fixture(scope="session")
def demo_printed(digits_run: Project, shared: Path) -> str:
    """What DVC printed in that run."""
    return (shared / "digits.log").read_text()


@pytest.fixture
def full_run(full_clone: Project, digits_run: Project, tmp_path: Path) -> Project:
    """The project with all data sets after `make demo`, for a test to change."""
    return with_run(full_clone, digits_run, tmp_path / "full")


@pytest.fixture(scope="session")
def evidence(digits_run: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same without what its stages have logged, all of it committed. Not to be changed."""
    project = copied(digits_run, tmp_path_factory.mktemp("evidence") / "project")
    project.commit()
    return project


@pytest.fixture
def bare_one(evidence: Project, tmp_path: Path) -> Project:
    """A clone of it: no cache, no models, no MLflow store. A folder next to it is its `TMPDIR`."""
    return cloned(evidence, tmp_path / "bare")


@pytest.fixture
def digits(digits_run: Project, tmp_path: Path) -> Project:
    """A copy of the project after `make demo`, with its cache, for a test to change."""
    return digits_run.copy(tmp_path / "project")


@pytest.fixture
def without_mlflow(digits: Project) -> Project:
    """The same, committed, in which stages find no MLflow and do not wait for it."""
    digits.commit()
    return hide_mlflow(digits)


@pytest.fixture
def unlogged(digits_run: Project, tmp_path: Path) -> Project:
    """A copy of the project after `make demo`, without what its stages have logged."""
    return copied(digits_run, tmp_path / "project")


@pytest.fixture
def bare(digits_run: Project, tmp_path: Path) -> Project:
    """The same without caches, which `check` does not read."""
    return stripped(digits_run, tmp_path / "project")


@pytest.fixture
def here(bare: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The same, as the working directory."""
    monkeypatch.chdir(bare.folder)
    return bare


@pytest.fixture
def params(here: Project) -> dict[str, Any]:
    """Its parameters."""
    return yaml.safe_load((here.folder / "params.yaml").read_text())


@pytest.fixture
def check(bare: Project) -> Callable[[], list[str]]:
    """What a test made stale, where it does not touch conf/."""
    return lambda: reasons(bare)


@pytest.fixture(scope="session")
def history(
    digits_run: Project, shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Project, list[str], Path]:
    """The digits evidence with three commits of history, their ids, and the first one's files."""
    folder, made = shared / "history", shared / "history.made"
    with FileLock(shared / "history.lock"):
        if not made.exists():
            make_history(digits_run, folder)
            made.touch()
    archive = Project(folder / "project").copy(tmp_path_factory.mktemp("history") / "project")
    return archive, archive.git("rev-list", "--reverse", "HEAD").split()[-3:], folder / "old"


@pytest.fixture
def archive(history: tuple[Project, list[str], Path], monkeypatch: pytest.MonkeyPatch) -> Project:
    """The project with a history, as the working directory; not to be changed by a test."""
    monkeypatch.chdir(history[0].folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return history[0]


@pytest.fixture
def kmnist(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`kmnist ...` in this process: exit status, output, messages."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        status = cli.main([*map(str, arguments)])
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def trace(
    archive: Project, kmnist: Callable[..., tuple[int, str, str]]
) -> Callable[..., tuple[int, str, str]]:
    """`kmnist trace ...` in that project."""
    return partial(kmnist, "trace")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The fits of LONG, trained by workers on this machine without a disturbance."""
    store = tmp_path_factory.mktemp("undisturbed")
    status, _, messages = train(store, LONG)
    assert status == 0, messages
    return results(store)


@pytest.fixture
def own_store(empty_store: Path, tmp_path: Path) -> Path:
    """An empty store for a test to change."""
    return Path(shutil.copy(empty_store, tmp_path / "store.db"))


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run stages in, without a store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture
def store(workspace: Path, empty_store: Path) -> Any:
    """A client of the project's own SQLite store."""
    shutil.copyfile(empty_store, workspace / "mlflow.db")
    return tracking.connect()


@pytest.fixture
def publish(capsys: pytest.CaptureFixture[str]) -> Callable[..., SimpleNamespace]:
    """Runs `kmnist publish` in this process: importing MLflow takes seconds."""

    def run(project: Project, store: Path | str, *arguments: str) -> SimpleNamespace:
        uri = store if isinstance(store, str) else f"sqlite:///{store}"
        with contextlib.chdir(project.folder), mock.patch.dict(os.environ):
            os.environ["MLFLOW_TRACKING_URI"] = uri
            status = cli.main(["publish", *arguments])
        out, err = capsys.readouterr()
        return SimpleNamespace(status=status, out=out, err=err)

    return run


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that PostgreSQL's own user may enter, as it may not enter pytest's."""
    with tempfile.TemporaryDirectory(prefix="kmnist-test-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Server]:
    """A real MLflow server."""
    running = Server(tmp_path_factory.mktemp("server"), empty_store)
    yield running
    with contextlib.suppress(ProcessLookupError):
        running.send(signal.SIGKILL)
    running.process.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real browser."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("chromium is not installed: `make test-all` installs it")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu"]
        )
        yield started
        started.close()


@pytest.fixture(scope="module")
def live(digits_run: Project) -> Table:
    """What the stages of the digits run themselves have logged."""
    runs = table(client_of(digits_run.folder / "mlflow.db"))
    assert sorted(runs) == sorted(OF_DIGITS)
    return runs


@pytest.fixture
def impatient(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloads do not wait long; for modules that download from `faulty`."""
    # Only a test of silence waits for the timeout; the others get time enough on a busy machine.
    silence = re.search("silent|stall", request.node.name)
    monkeypatch.setattr(sources, "READ_TIMEOUT", 0.2 if silence else 5.0)
    monkeypatch.setattr(sources, "BACKOFF", 0.01)
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def faulty() -> Iterator[FaultServer]:
    """A server with the files of a data set of noise."""
    with serving() as state:
        state.content = dict(PACKED)
        yield state


@pytest.fixture
def dataset(faulty: FaultServer) -> Dataset:
    """What the configuration would say of this data set and its server."""
    _, dataset = made()
    dataset["sources"] = [f"{faulty.url}small/"]
    return dataset

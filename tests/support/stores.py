"""MLflow stores and servers of tests, and what a store shows."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.project import Project

from kmnist_pipeline.tracking import store as tracking

START_SECONDS = 120
TRAINED, EVALUATED = "kfold-train@digits_softmax", "evaluate@digits_softmax"
NEEDS_POSTGRESQL = pytest.mark.skipif(
    not list(Path("/usr/lib/postgresql").glob("*/bin/postgres")),
    reason="PostgreSQL is not installed: `make test-all` installs it",
)
OF_DIGITS = [
    *("download@digits", "preprocess@digits", TRAINED, EVALUATED),
    *("kfold-train@digits_cnn", "evaluate@digits_cnn", "conditions@digits_cnn"),
    "weights@digits_cnn",
    *("kfold-train@digits_sklearn_logistic", "evaluate@digits_sklearn_logistic"),
    *("tune@digits_softmax_grid", "evaluate@digits_softmax_grid"),
    *("suspects@digits", "loop@digits", "report@digits"),
]
Table = dict[str, dict[str, Any]]


def client_of(store: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{store}")


def table(client: Any) -> Table:
    """All that a store shows, save times and ids: each stage's runs, with those inside them."""
    found: Table = {}
    for experiment in client.search_experiments():
        of_stages = client.search_runs([experiment.experiment_id], "tags.`kmnist.stage` LIKE '%'")
        for run in of_stages:
            name = run.data.tags["kmnist.stage"]
            assert name not in found, f"{name} is shown twice"
            inside = f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
            children = client.search_runs([experiment.experiment_id], inside)
            found[name] = shown(client, run) | {
                "experiment": experiment.name,
                "inputs": [(i.dataset.to_dictionary(), i.tags) for i in run.inputs.dataset_inputs],
                "artifacts": artifacts(client, run),
                "children": sorted((shown(client, child) for child in children), key=str),
            }
            assert len(children) == len({child.info.run_name for child in children})
    return found


def shown(client: Any, run: Any) -> dict[str, Any]:
    dropped = {"kmnist.times", "mlflow.parentRunId"}
    return {
        "name": run.info.run_name,
        "status": run.info.status,
        "params": run.data.params,
        "tags": {
            # An experiment's number is the store's own.
            k: re.sub(r"#/experiments/\d+/", "#/experiments/N/", v)
            for k, v in run.data.tags.items()
            if k not in dropped
        },
        "metrics": {
            name: sorted(
                (m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)
            )
            for name in run.data.metrics
        },
    }


def artifacts(client: Any, run: Any) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        if not client.list_artifacts(run.info.run_id):
            return {}
        place = Path(client.download_artifacts(run.info.run_id, "", folder))
        files = [path for path in place.rglob("*") if path.is_file()]
        return {path.relative_to(place).as_posix(): path.read_bytes() for path in files}


def published(new: int, kept: int, refused: int = 0) -> str:
    return f"stages: {new} published, {kept} already there, {refused} refused\n"


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as free:
        free.bind((host, 0))
        return free.getsockname()[1]


def attempts(silent: socket.socket) -> int:
    """How many connections were made to a listening socket that nobody has answered."""
    silent.setblocking(False)
    for count in itertools.count():
        try:
            silent.accept()[0].close()
        except BlockingIOError:
            return count
    raise AssertionError


class Server:
    """A real MLflow server in a process group of its own."""

    def __init__(self, folder: Path, store: Path) -> None:
        port = free_port()
        self.uri = f"http://127.0.0.1:{port}"
        shutil.copyfile(store, folder / "server.db")
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        command += ["--backend-store-uri", "sqlite:///server.db", "--artifacts-destination", "kept"]
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | tracking.QUIET | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for _ in range(1200):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health"):
                self.client().search_experiments()  # the first query takes seconds
                return
            assert self.process.poll() is None, "the server ended at its start"
            time.sleep(0.1)
        self.send(signal.SIGKILL)
        raise TimeoutError("the server did not start in 120 s")

    def send(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)

    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(self.uri)


class Running:
    """`make server` in a folder, with its processes for a test to hinder."""

    def __init__(self, project: Project, folder: Path, *store: str, room: str = "") -> None:
        """store: as options; room: the size of a file system of its own, mounted at `folder`."""
        self.folder, self._project, self._store, self._room = folder, project, store, room
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.log = folder.with_name(f"{folder.name}.log")
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "kmnist_pipeline.tracking.server"]
        command += ["--port", str(self.port), *self._store]
        if self._room:
            space = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
            mount = (
                f"mount -t tmpfs -o size={self._room},mode=755 none {self.folder} || exit 77; cd ."
            )
            command = [*space, "sh", "-c", f'{mount}; cd {self.folder}; exec "$@"', "sh", *command]
        source = Path(tracking.__file__).parents[2]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                command, cwd=self.folder, stdout=output, stderr=subprocess.STDOUT,
                env=self._project.environment(PYTHONPATH=str(source)),
            )  # fmt: skip
        give_up = time.monotonic() + START_SECONDS
        while "MLflow:" not in self.log.read_text():
            if self.process.poll() == 77 or "unshare" in self.log.read_text():
                pytest.skip("no file system of one's own to fill here")
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < give_up, self.log.read_text()
            time.sleep(0.1)

    def processes(self, name: str) -> list[psutil.Process]:
        """The processes of `mlflow` or `postgres`; the one that looks after them is neither."""
        inside = psutil.Process(self.process.pid).children(recursive=True)
        of_postgres = {process for process in inside if process.name() == "postgres"}
        return [process for process in inside if (process in of_postgres) == (name == "postgres")]

    def send(self, number: signal.Signals, name: str) -> None:
        for process in self.processes(name):
            process.send_signal(number)

    def end(self) -> int:
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        return self.process.wait(60)

    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(self.uri)

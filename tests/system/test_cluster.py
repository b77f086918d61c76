"""Fits on a Dask cluster: a real scheduler and real workers on this machine, and real faults."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from support.fit_program import LONG, ROOT, SLOW, end, results, train, training, wait_until
from support.stores import free_port

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.fits.store import Store
from kmnist_pipeline.readings import training as readings
from kmnist_pipeline.readings.multiverse import Configuration, Course
from kmnist_pipeline.readings.training import Shown

QUICK = {"label": "quick", "again": [7]}
# Dask's own patience, shortened.
DASK = {
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "5s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "15s",
}
ELSEWHERE = "tcp://192.0.2.1:8786"  # kept for documentation: nobody is there


@dataclass
class Cluster:
    """A scheduler and its workers; each worker has a folder of its own."""

    folder: Path
    address: str
    stack: ExitStack
    environment: dict[str, str] = field(default_factory=dict)
    workers: list[subprocess.Popen] = field(default_factory=list)

    def add(self, *prefix: str, **environment: str) -> subprocess.Popen:
        """Start one more worker, of one process."""
        folder = self.folder / f"worker{len(self.workers)}"
        folder.mkdir()
        options = ["--no-nanny", "--local-directory", str(folder)]
        command = [*prefix, sys.executable, "-m", "kmnist_pipeline.fits.worker", self.address]
        self.workers.append(
            self.stack.enter_context(
                _running([*command, *options], folder, **self.environment, **environment)
            )
        )
        return self.workers[-1]


@contextmanager
def _running(command: list[str], folder: Path, **environment: str) -> Iterator[subprocess.Popen]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("KMNIST_")}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env={**kept, **DASK, **environment}, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        end(process.pid)
        process.wait()


@contextmanager
def _cluster(folder: Path, workers: int, host: str = "127.0.0.1") -> Iterator[Cluster]:
    folder.mkdir()
    port = free_port(host)
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", host]
    options = ["--port", str(port), "--dashboard-address", "127.0.0.1:0"]
    with ExitStack() as stack:
        stack.enter_context(_running([*command, *options], folder))
        cluster = Cluster(folder, f"tcp://{host}:{port}", stack)
        for _ in range(workers):
            cluster.add()
        yield cluster


@pytest.fixture
def cluster(tmp_path) -> Iterator[Cluster]:
    """A scheduler without workers."""
    with _cluster(tmp_path / "cluster", 0) as one:
        yield one


def test_the_cluster_to_try_gives_the_bytes_of_local_workers(tmp_path):
    port = free_port()
    command = [sys.executable, "-m", "kmnist_pipeline.fits.cluster", "--port", str(port)]
    with _running([*command, "--workers", "2"], tmp_path) as process:
        log = tmp_path / "log"
        wait_until(lambda: "KMNIST_SCHEDULER=" in log.read_text(), "the cluster's greeting")
        (address,) = [w for w in log.read_text().split() if w.startswith("KMNIST_SCHEDULER=")]
        children = psutil.Process(process.pid).children(recursive=True)
        assert _listening([process.pid, *(c.pid for c in children)]) == {"127.0.0.1"}
        status, out, messages = train(
            tmp_path / "cluster", QUICK, KMNIST_SCHEDULER=address.partition("=")[2]
        )
        assert status == 0, messages
        assert "quick: trained" in messages
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        wait_until(lambda: not any(c.is_running() for c in children), "the end of all")
    assert json.loads(out)["loky"] is False
    train(tmp_path / "local", QUICK)
    assert len(results(tmp_path / "local")) == 6
    assert results(tmp_path / "cluster") == results(tmp_path / "local")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_worker_costs_nothing(tmp_path, cluster, undisturbed, number):
    cluster.add()
    cluster.add()
    store = tmp_path / "store"
    with training(store, LONG, KMNIST_SCHEDULER=cluster.address) as program:
        program.wait_for("fits: ")
        wait_until(program.finished, "a fit")
        cluster.workers[0].send_signal(number)
        status, _, messages = program.end()
    assert status == 0, messages
    assert "was lost; another worker trains it" in messages
    assert results(store) == undisturbed


def test_a_worker_that_comes_later_is_used(tmp_path, cluster):
    with training(tmp_path / "store", QUICK, KMNIST_SCHEDULER=cluster.address) as program:
        program.wait_for("waiting for workers")
        cluster.add()
        status, _, messages = program.end()
    assert status == 0, messages


def test_without_the_scheduler_finished_fits_are_kept(tmp_path, cluster, undisturbed):
    cluster.add()
    store = tmp_path / "store"
    with training(store, LONG, KMNIST_SCHEDULER=cluster.address) as program:
        wait_until(program.finished, "a fit")
        (scheduler,) = [
            child
            for child in psutil.Process().children()
            if any("dask_scheduler" in word for word in child.cmdline())
        ]
        scheduler.kill()
        status, _, messages = program.end()
    assert status == 1
    assert f"error: KMNIST_SCHEDULER={cluster.address}: the scheduler is gone" in messages
    assert "Traceback" not in messages
    survived = len(results(store))
    assert 1 <= survived < 4
    _, _, messages = train(store, LONG)
    assert f"fits: {survived} known" in messages
    assert results(store) == undisturbed


def test_a_fit_ends_with_the_run_that_wanted_it(tmp_path, cluster):
    cluster.add()
    endless = {"label": "endless", **SLOW, "seeds": [1], "epochs": 10**6}
    with training(tmp_path / "a", endless, KMNIST_SCHEDULER=cluster.address) as program:
        worker = psutil.Process(cluster.workers[0].pid)
        wait_until(lambda: worker.cpu_percent(1) > 20, "work")
        program.process.kill()
    status, _, messages = train(tmp_path / "b", QUICK, KMNIST_SCHEDULER=cluster.address)
    assert status == 0, messages


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and ip")
def test_a_worker_that_is_cut_off_costs_nothing(tmp_path, undisturbed):
    with ExitStack() as stack:
        namespace, link, host = stack.enter_context(_network())
        cluster = stack.enter_context(_cluster(tmp_path / "cluster", 0, host))
        cluster.environment["KMNIST_SCHEDULER_INSECURE"] = "1"
        cluster.add()
        cluster.add("ip", "netns", "exec", namespace)
        insecure = {"KMNIST_SCHEDULER": cluster.address, "KMNIST_SCHEDULER_INSECURE": "1"}
        store = tmp_path / "store"
        wait_until(lambda: _workers(cluster) == 2, "both workers")
        with training(store, LONG, **insecure, **DASK) as program:
            wait_until(lambda: program.finished() >= 2, "two fits")
            subprocess.run(["ip", "link", "set", link, "down"], check=True)
            status, _, messages = program.end()
        assert status == 0, messages
        assert "was lost; " in messages
    assert results(store) == undisturbed


@pytest.mark.filterwarnings("ignore:Mismatched versions")
def test_a_worker_with_another_numpy_is_refused_by_name(tmp_path, cluster):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.metadata\n"
        "real = importlib.metadata.version\n"
        "importlib.metadata.version = lambda n: '1.0' if n == 'numpy' else real(n)\n"
    )
    cluster.add(PYTHONPATH=str(tmp_path))
    store = tmp_path / "store"
    with training(store, QUICK, KMNIST_SCHEDULER=cluster.address) as program:
        messages = program.wait_for("is not used: numpy 1.0 instead of ")
        status, _, more = program.end()
    assert status == 1, more
    assert "no worker can be used" in messages + more
    assert not results(store)
    cluster.add()
    wait_until(lambda: _workers(cluster) == 2, "the second worker")
    status, _, messages = train(store, QUICK, KMNIST_SCHEDULER=cluster.address)
    assert status == 0, messages
    assert "is not used: numpy 1.0 instead of " in messages
    train(tmp_path / "local", QUICK)
    assert results(store) == results(tmp_path / "local")


def test_a_worker_with_other_code_is_refused_by_name(tmp_path, cluster):
    shutil.copytree(ROOT / "src" / "kmnist_pipeline", tmp_path / "src" / "kmnist_pipeline")
    changed = tmp_path / "src" / "kmnist_pipeline" / "families" / "linear" / "model.py"
    code = changed.read_text()
    assert "0.5 * logits" in code
    changed.write_text(code.replace("0.5 * logits", "0.50001 * logits"))
    cluster.add(PYTHONPATH=str(tmp_path / "src"))
    status, _, messages = train(tmp_path / "store", QUICK, KMNIST_SCHEDULER=cluster.address)
    assert status == 1
    assert "is not used: another families/linear/model.py" in messages
    assert "Traceback" not in messages
    assert not results(tmp_path / "store")


def test_a_worker_that_is_older_than_an_edit_is_refused_by_name(tmp_path, cluster):
    shutil.copytree(ROOT / "src", tmp_path / "src")
    here = {"PYTHONPATH": str(tmp_path / "src")}
    cluster.add(**here)
    status, _, messages = train(tmp_path / "a", QUICK, KMNIST_SCHEDULER=cluster.address, **here)
    assert status == 0, messages
    changed = tmp_path / "src" / "kmnist_pipeline" / "families" / "linear" / "model.py"
    changed.write_text(changed.read_text().replace("0.5 * logits", "0.50001 * logits"))
    status, _, messages = train(tmp_path / "b", QUICK, KMNIST_SCHEDULER=cluster.address, **here)
    assert status == 1
    assert "is not used: another families/linear/model.py" in messages
    assert not results(tmp_path / "b")


def test_the_error_of_a_fit_names_it(tmp_path, cluster):
    cluster.add()
    wild = {"label": "wild", "seeds": [1], "lr": 1e308}
    status, _, messages = train(tmp_path / "store", wild, KMNIST_SCHEDULER=cluster.address)
    assert status == 1
    assert "error: wild seed 1 fold " in messages


@pytest.mark.parametrize(
    ("address", "told"),
    [
        (ELSEWHERE, "refused, because Dask executes what it receives"),
        ("scheduler.example.org:8786", "refused, because"),
        ("http://127.0.0.1:8786", "not the address of a scheduler"),
        ("127.0.0.1", "not the address of a scheduler"),
        ("tcp://127.0.0.1:1", "no scheduler answers: [Errno 111] Connection refused"),
        ("tls://127.0.0.1:1", "tls:// needs certificates"),
    ],
)
def test_an_address_that_cannot_be_used(tmp_path, address, told):
    status, _, messages = train(tmp_path, QUICK, KMNIST_SCHEDULER=address)
    assert status == 1
    assert "error: " in messages and told in messages
    assert "Traceback" not in messages


def test_a_worker_refuses_an_address_beyond_loopback():
    command = [sys.executable, "-m", "kmnist_pipeline.fits.worker"]
    for arguments, told in (([ELSEWHERE], "refused, because Dask"), ([], "name the scheduler")):
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 1
        assert done.stderr.startswith("error: ") and told in done.stderr


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
def test_tls(tmp_path):
    """As docs/cluster.md says: only who has a certificate of the team's authority gets in."""
    certificates = _certificates(tmp_path)
    tls = {f"DASK_DISTRIBUTED__COMM__TLS__{k}": v for k, v in certificates.items()}
    port = free_port()
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--protocol", "tls"]
    options = ["--host", "127.0.0.1", "--port", str(port), "--dashboard-address", "127.0.0.1:0"]
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "cluster").mkdir()
    with ExitStack() as stack:
        stack.enter_context(_running([*command, *options], tmp_path / "scheduler", **tls))
        cluster = Cluster(tmp_path / "cluster", f"tls://127.0.0.1:{port}", stack, tls)
        cluster.add()
        address = {"KMNIST_SCHEDULER": cluster.address}
        status, _, messages = train(tmp_path / "store", QUICK, **address, **tls)
        assert status == 0, messages
        status, _, messages = train(tmp_path / "other", QUICK, **address)
        assert status == 1
        assert "tls:// needs certificates" in messages


def _certificates(folder: Path) -> dict[str, str]:
    def openssl(command: str) -> None:
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)

    openssl("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=team -keyout ca.key -out ca.pem")
    openssl("req -newkey rsa:2048 -nodes -subj /CN=node -keyout node.key -out node.csr")
    openssl("x509 -req -days 2 -in node.csr -CA ca.pem -CAkey ca.key -out node.pem")
    (folder / "both.pem").write_text(
        (folder / "node.pem").read_text() + (folder / "node.key").read_text()
    )
    both = str(folder / "both.pem")
    roles = {f"{role}__CERT": both for role in ("SCHEDULER", "WORKER", "CLIENT")}
    return {"CA_FILE": str(folder / "ca.pem"), **roles}


@contextmanager
def _network() -> Iterator[tuple[str, str, str]]:
    """A network namespace, the link to it and this end's address."""
    name = f"kmnist{os.getpid() % 10_000}"
    link, subnet = f"{name}a", f"10.199.{os.getpid() % 250}"
    host = f"{subnet}.1"

    def ip(command: str) -> None:
        done = subprocess.run(["ip", *command.split()], check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"ip {command}: {done.stderr}")

    ip(f"netns add {name}")
    try:
        ip(f"link add {link} type veth peer name {name}b netns {name}")
        ip(f"addr add {host}/24 dev {link}")
        ip(f"link set {link} up")
        ip(f"-n {name} addr add {subnet}.2/24 dev {name}b")
        ip(f"-n {name} link set {name}b up")
        ip(f"-n {name} link set lo up")
        yield name, link, host
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


def _listening(pids: list[int]) -> set[str]:
    """The addresses at which processes listen."""
    return {
        connection.laddr.ip
        for pid in pids
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


def _workers(cluster: Cluster) -> int:
    """The number of workers that the scheduler has."""
    import distributed

    with distributed.Client(cluster.address, timeout=30, set_as_default=False) as client:
        return len(client.scheduler_info(n_workers=-1)["workers"])


def test_readings_have_the_same_numbers_on_the_cluster(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (200, 4), np.uint8)
    images: dict[Any, Shown] = {None: Shown(pixels, (pixels[:, 0] > 128).astype(np.int64), 150, 2)}
    of = Configuration("logistic", None, 0.1, 16)
    courses = {Course(of, scaling, "mean", 2, 0): 3 for scaling in ("minmax", "zscore")}
    here = readings.train("here", courses, images, Store(tmp_path / "here"))
    with _cluster(tmp_path / "cluster", 1) as cluster:
        monkeypatch.setenv("KMNIST_SCHEDULER", cluster.address)
        there = readings.train("there", courses, images, Store(tmp_path / "there"))
    assert here.keys() == there.keys() == courses.keys()
    assert all(np.array_equal(here[course], there[course]) for course in courses)
    assert results(tmp_path / "here") == results(tmp_path / "there") and results(tmp_path / "here")
    monkeypatch.setenv("KMNIST_SCHEDULER", f"127.0.0.1:{free_port()}")
    monkeypatch.setattr(readings, "CONNECT", 1.0)
    with pytest.raises(UserError, match="no scheduler answers there"):
        readings.train("gone", courses, images, Store(tmp_path / "gone"))

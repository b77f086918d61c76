"""MLflow's server on this machine, with PostgreSQL (`make server`) or another store (`make ui`).

The project has its own PostgreSQL cluster under `.kmnist/server/`. It listens on a Unix socket in a
folder that nobody else may enter, so it needs no password. Server and database end with this
process, and the data stay.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kmnist_pipeline import ports
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.repository.names import printable
from kmnist_pipeline.tracking import store as stores
from kmnist_pipeline.tracking import views
from kmnist_pipeline.tracking.store import QUIET

FOLDER = Path(".kmnist/server")
HOST = "127.0.0.1"
START_SECONDS = 120  # for the migrations of a new store on a busy machine
STOP_SECONDS = 30
DEBIAN = "/usr/lib/postgresql/*/bin"
LOCAL = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8"]


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; the exit status is then 0."""
    parser = argparse.ArgumentParser("tracking_server", description=__doc__)
    parser.add_argument("--port", type=ports.number, default=5000)
    parser.add_argument("--store", metavar="URI", help="the store to serve, instead of PostgreSQL")
    chosen = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        _serve(chosen.port, chosen.store)
    except KeyboardInterrupt:
        return 0
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
    return 1


def _serve(port: int, store: str | None) -> None:
    ports.require_free(HOST, port)
    if store and store.startswith("http"):
        raise UserError("MLFLOW_TRACKING_URI names a server: open its address in a browser")
    if store:
        _require_usable(store)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with ExitStack() as running:
        children = []
        if store is None:
            database, store = running.enter_context(_database(FOLDER.absolute()))
            children.append(database)
        server = running.enter_context(_server(port, store))
        address = f"http://{HOST}:{port}"
        server.answer("MLflow", lambda: _get(f"{address}/health").close(), OSError)
        _greet(address)
        children.append(server)
        while all(child.process.poll() is None for child in children):
            time.sleep(0.2)
        for child in children:
            child.check()


def _require_usable(store: str) -> None:
    """Raise UserError if MLflow cannot use the store, as `kmnist publish` says it."""
    # A publisher that gets no record only connects. Here, MLflow would stay in memory.
    command = [sys.executable, "-m", "kmnist_pipeline.tracking.runs"]
    named = {**stores.BOUNDS, **os.environ, **QUIET, "MLFLOW_TRACKING_URI": store}
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, check=False, env=named
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").splitlines()
        why = said[-1] if said else f"exit status {done.returncode}"
        raise UserError(f"{stores.named(store)} cannot be used: {why}")


@dataclass(frozen=True)
class Child:
    """A process in its own session, so that Ctrl-C reaches only the parent."""

    name: str
    log: Path
    process: subprocess.Popen[bytes]

    def check(self) -> None:
        """Raise UserError, with the last lines of the log, if the child has ended."""
        if self.process.poll() is not None:
            words = self.log.read_text(errors="replace", encoding="utf-8").strip().splitlines()[-3:]
            raise UserError(f"{self.name} has ended, see {self.log}:\n" + "\n".join(words))

    def answer(self, name: str, ask: Callable[[], Any], refusal: type[Exception]) -> Any:
        """The first answer to `ask`, which raises `refusal` until the child is ready."""
        give_up = time.monotonic() + START_SECONDS
        while True:
            try:
                return ask()
            except refusal:
                self.check()
                if time.monotonic() > give_up:
                    raise UserError(f"{name} does not answer, see {self.log}") from None
                time.sleep(0.1)


@contextmanager
def _child(
    name: str, end: Callable[[int], None], command: list[str], **options: Any
) -> Iterator[Child]:
    """Start a process whose output goes to a log; it ends with the block."""
    log = FOLDER / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )
    try:
        yield Child(name, log, process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            end(process.pid)
        try:
            process.wait(STOP_SECONDS)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def _database(folder: Path) -> Iterator[tuple[Child, str]]:
    """The project's own PostgreSQL, and the address of MLflow's database in it."""
    import psycopg

    other = _other_user(folder)
    data = folder / "postgres"
    programs = _programs(data)
    if not data.exists():
        fresh = folder / "postgres.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if other:
            os.chown(fresh, other["user"], other["group"])
        made = [str(programs / "initdb"), *LOCAL, "--pgdata", str(fresh)]
        done = subprocess.run(made, cwd="/", capture_output=True, check=False, **other)
        if done.returncode:
            raise UserError(f"initdb failed: {done.stderr.decode(errors='replace').strip()}")
        fresh.rename(data)

    # The path of a folder in the project could be too long for a socket.
    with tempfile.TemporaryDirectory(prefix="kmnist-server-") as place:
        if other:
            os.chown(place, other["user"], other["group"])
        settings = {"listen_addresses": "", "unix_socket_directories": place}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [str(programs / "postgres"), "-D", str(data), *options]

        def end(pid: int) -> None:
            os.kill(pid, signal.SIGINT)  # the fast shutdown: sessions end, everything is written

        with _child("postgres", end, command, cwd="/", **other) as child:
            connect = functools.partial(
                psycopg.connect, host=place, user="postgres", dbname="postgres", autocommit=True
            )
            with child.answer("PostgreSQL", connect, psycopg.OperationalError) as connection:
                known = "select 1 from pg_database where datname = 'mlflow'"
                if not connection.execute(known).fetchone():
                    connection.execute("drop role if exists mlflow")
                    connection.execute("create role mlflow login")
                    connection.execute("create database mlflow owner mlflow")
            yield child, f"postgresql+psycopg://mlflow@/mlflow?host={place}"


def _programs(data: Path) -> Path:
    """The folder of PostgreSQL's programs, of the version that made the data or of the newest."""
    there = {path.parent.name: path for path in Path("/").glob(DEBIAN.lstrip("/"))}
    made = data / "PG_VERSION"
    version = made.read_text("utf-8").strip() if made.exists() else max(there, key=int, default="")
    if version not in there:
        wanted = " ".join(["PostgreSQL", version]).strip()
        raise UserError(f"{wanted} is not installed ({DEBIAN}): `apt-get install postgresql`")
    return there[version]


def _other_user(folder: Path) -> dict[str, Any]:
    """The arguments of a process that run PostgreSQL as another user, if this user is root."""
    if os.geteuid():
        return {}
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        raise UserError(
            "PostgreSQL refuses to run as root, and there is no user postgres: "
            "run this as another user"
        ) from None
    other: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    if subprocess.run(["test", "-x", str(folder)], check=False, cwd="/", **other).returncode:
        raise UserError(
            f"PostgreSQL refuses to run as root, and the user postgres may not enter {folder}: "
            "run this as another user, or move the project"
        )
    return other


def _server(port: int, store: str) -> Any:
    """MLflow's server; it accepts only requests that name exactly this address."""
    names = [f"{host}:{port}" for host in (HOST, "localhost")]
    # One process with threads: with several, uvicorn ends those that need more than five seconds
    # to import MLflow.
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--host", HOST, "--port", str(port), "--allowed-hosts", ",".join(names)]
    command += ["--cors-allowed-origins", ",".join(f"http://{name}" for name in names)]
    command += ["--artifacts-destination", str(FOLDER.absolute() / "artifacts")]
    environment = {
        **os.environ,
        **QUIET,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # 2.2 GB of workers
        "MLFLOW_BACKEND_STORE_URI": store,  # other users could read a command line
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    # Ends the command and its workers.
    return _child("mlflow", lambda pid: os.killpg(pid, signal.SIGTERM), command, env=environment)


def _get(address: str) -> Any:
    return urllib.request.urlopen(address, timeout=START_SECONDS / 4)


def _greet(address: str) -> None:
    """Print the addresses of the server and of the views that the store has."""
    with _get(f"{address}/api/2.0/mlflow/experiments/search?max_results=1000") as answer:
        experiments = json.load(answer).get("experiments", [])
    print(f"MLflow: {address}   (Ctrl-C ends it)")
    print(f"Stages log there with MLFLOW_TRACKING_URI={address}")
    for experiment in experiments:
        if views.SAVED + views.MODELS in {tag["key"] for tag in experiment.get("tags", [])}:
            page = views.url(experiment["experiment_id"], views.MODELS)
            print(f"{printable(experiment['name'])}: {address}/{page}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

"""MLflow's store: its address, a client for it, and messages for its errors."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import shutil
import sqlite3
import tempfile
import textwrap
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from kmnist_pipeline.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

ARTIFACTS = "mlartifacts"  # the folder next to a SQLite store
OTHERS = "mlruns"  # the folder for experiments that are not of this project, by default
ADDRESSES = {  # the columns with addresses of folders of artifacts
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}
LONGEST = 200  # the most characters of an error in a message
# What to do about errors of SQLite.
OTHER = "name another file in MLFLOW_TRACKING_URI"
WRITABLE = f"make it and its folder writable, or {OTHER}"
ANOTHER = "move it away, and `kmnist publish` makes a new one"
WAYS_OUT = {
    "readonly database": WRITABLE,
    "unable to open database file": WRITABLE,
    "database is locked": "end the other program that uses it, or wait",
    "file is not a database": ANOTHER,
    "database disk image is malformed": ANOTHER,
}

IN_MEMORY = ("", "/", "/:memory:")  # addresses of SQLite after `sqlite://`
SERVED = ("postgresql", "mysql", "mssql")  # databases that MLflow knows, besides SQLite
WORKING = "sqlite:///FILE, http://HOST:PORT, https://HOST, postgresql://USER@HOST/DATABASE"

# With MLflow's defaults a call to a dead server blocks for four minutes.
BOUNDS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "3",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "PGCONNECT_TIMEOUT": "3",
}
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # each print would cost two more calls
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
}


def connect() -> MlflowClient:
    """A client for the store that `MLFLOW_TRACKING_URI` names, by default SQLite in this folder.

    The environment limits how long a dead server may block: BOUNDS. Raises UserError if the
    tables are from another version of MLflow or the address cannot be used, and MLflow's
    exceptions.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    require_usable()
    if not _uri().startswith("http"):
        from mlflow.store.db import utils

        utils.MAX_RETRY_COUNT = 1  # ten attempts to reach a stopped database take two minutes
        utils._logger.setLevel(logging.CRITICAL)  # it prints a traceback for what `reason` says
    file = database()
    if file is None:
        return MlflowClient(_uri())
    if not file.exists():
        create(file)
    move_in(file)
    try:
        client = MlflowClient(f"sqlite:///{file}")
    except MlflowException as error:
        if "out-of-date database schema" not in str(error):
            raise
        upgrade = f"mlflow db upgrade {shlex.quote(f'sqlite:///{file}')}"
        raise UserError(
            f"{file} is from another version of MLflow: `{upgrade}` "
            "upgrades a store of an older version; for a newer one, install that version, or "
            f"{OTHER}, which `kmnist publish` fills"
        ) from error
    client.search_experiments(max_results=1)  # SQLAlchemy initialises itself at the first query
    return client


def require_usable(uri: str | None = None) -> None:
    """Raise UserError if the address of a store names none that lasts, a file in a folder that is
    missing, or a database without its driver."""
    uri = uri or _uri()
    scheme, _, path = uri.partition("://")
    kind, why = scheme.partition("+")[0], None
    if kind == "sqlite" and path in IN_MEMORY:
        why = "names no file, so the store would be lost with this process"
    elif file := database(uri):
        if not file.parent.is_dir():
            raise UserError(f"there is no MLflow store {file}: there is no folder {file.parent}")
        if file.is_dir():
            why = f"{file} is a folder, not a file"
    elif kind in SERVED:
        from sqlalchemy import make_url
        from sqlalchemy.exc import ArgumentError

        try:
            make_url(uri).get_dialect().import_dbapi()
        except (ImportError, ArgumentError) as error:
            why = f"its driver is not installed here ({reason(error)})"
    if why:
        raise UserError(f"{without_credentials(uri)}: {why}; addresses that work: {WORKING}")


def database(uri: str | None = None) -> Path | None:
    """The absolute path of a SQLite store; MLflow would open a second engine for a relative one.

    The artifacts are next to the file itself, not next to a link to it.
    """
    scheme, _, path = (uri or _uri()).partition(":///")
    return Path(path).resolve() if scheme == "sqlite" else None


def named(uri: str | None = None) -> str:
    """The name of the store in messages."""
    return str(database(uri) or "the server that MLFLOW_TRACKING_URI names")


def artifacts(experiment: str) -> str | None:
    """The folder of a new MLflow experiment's artifacts; None if a server decides.

    Without a server MLflow would choose another folder. Raises UserError for a name that leads to
    another one: `kmnist publish --rev` takes it from a commit that may come from anyone.
    """
    file = database()
    if "/" in experiment or experiment in ("", ".", ".."):
        raise UserError(
            f"params.yaml: {experiment!r} is not the name of a report; "
            "`kmnist compose` writes the file"
        )
    return (file.parent / ARTIFACTS / experiment).as_uri() if file else None


def move_in(file: Path) -> None:
    """Point the addresses in a moved or copied SQLite store to the artifacts next to it.

    Its addresses are absolute, so a copy would read and change the artifacts of the original.
    Raises UserError if the store cannot be changed.
    """
    ours = file.parent / ARTIFACTS
    try:
        with contextlib.closing(sqlite3.connect(file)) as store, store:
            for old in _elsewhere(store, ours):
                moved = {old: ours.as_uri()}
                # MLflow writes no `file:` before these.
                moved[str(_path(old).with_name(OTHERS))] = str(ours.with_name(OTHERS))
                for (was, now), (table, column) in product(moved.items(), ADDRESSES.items()):
                    store.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                        f"WHERE substr({column}, 1, ?) = ?",
                        (now, len(was) + 1, len(was) + 1, f"{was}/"),
                    )
    except sqlite3.Error as error:
        raise UserError(
            f"{file} was moved or copied here, and its addresses of artifacts cannot be changed: "
            f"{reason(error)}"
        ) from error


def _elsewhere(store: sqlite3.Connection, ours: Path) -> set[str]:
    """The addresses of folders of artifacts next to other stores."""
    try:
        rows = store.execute("SELECT name, artifact_location FROM experiments").fetchall()
    except sqlite3.Error:  # MLflow says what is wrong with it
        return set()
    found = {
        address.removesuffix(f"/{name}")
        for name, address in rows
        if str(address).startswith("file:") and address.endswith(f"/{ARTIFACTS}/{name}")
    }
    return {old for old in found if _path(old).resolve() != ours.resolve()}


def _path(address: str) -> Path:
    return Path(unquote(urlsplit(address).path))


def create(file: Path) -> None:
    """Create a SQLite store under a temporary name, and rename it when it is complete.

    The migrations are not a transaction: a process that dies meanwhile would leave a store that
    nothing can open or repair. Raises UserError if the folder cannot be written.
    """
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / "mlflow.db"
        MlflowClient(f"sqlite:///{fresh}")
        copy = file.with_name(f"{file.name}.{os.getpid()}")
        try:
            shutil.copyfile(fresh, copy)
            if not file.exists():  # or another stage has just created it
                copy.replace(file)
        except OSError as error:
            raise UserError(
                f"{file.parent}: {error.strerror}, so no MLflow store can be made in it; make it "
                f"writable, with some room, or {OTHER}"
            ) from None
        finally:
            with contextlib.suppress(OSError):
                copy.unlink()


def _uri() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{_project() / 'mlflow.db'}"


def _project() -> Path:
    """This folder or, if it is a copy by `dvc exp run --temp`, the folder of the original."""
    here = Path.cwd()
    copies = next((path for path in here.parents if path.match(".dvc/tmp/exps")), None)
    return copies.parents[2] if copies else here


def reason(error: BaseException) -> str:
    """An error in one line, without the credentials in addresses.

    A UserError is not shortened. For other errors, it is the innermost error of the network, the
    files or the database, because it says more than the wrappers of MLflow and SQLAlchemy; a long
    one ends in an ellipsis.
    """
    if isinstance(error, UserError):
        return without_credentials(" ".join(str(error).split()))
    chain = [error]
    while inner := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(inner)
    of_database = [inner for fault in chain if (inner := getattr(fault, "orig", None))]
    of_system = [fault for fault in chain if isinstance(fault, OSError)]
    telling = of_system or of_database or chain[:1]
    text = f"{type(telling[-1]).__name__}: {telling[-1]}".partition("\n")[0]
    way = next((f"; {way}" for words, way in WAYS_OUT.items() if words in text), "")
    return textwrap.shorten(without_credentials(text), LONGEST, placeholder=" …") + way


def without_credentials(text: str) -> str:
    """The text without the users and passwords in addresses."""
    return re.sub(r"//\S*@", "//", text)

"""MLflow's store: which one it is, a client of it, and its faults in words."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from kmnist_pipeline.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

LONGEST = 200  # characters of a fault that are worth a line

# MLflow's own bounds let a call to a dead server block for four minutes.
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
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # each would cost two calls more
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
}


def connect() -> MlflowClient:
    """A client of the store that `MLFLOW_TRACKING_URI` names, by default SQLite in this folder.

    The environment says for how long a dead server may block it: BOUNDS. Raises UserError where
    the tables are those of another version of MLflow, and whatever MLflow raises.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    if not _uri().startswith("http"):
        from mlflow.store.db import utils

        utils.MAX_RETRY_COUNT = 1  # ten attempts at a database that is down take two minutes
    file = database()
    if file is None:
        return MlflowClient(_uri())
    if not file.exists():
        create(file)
    try:
        client = MlflowClient(f"sqlite:///{file}")
    except MlflowException as error:
        if "out-of-date database schema" not in str(error):
            raise
        raise UserError(
            f"{file} is of another version of MLflow: `mlflow db upgrade sqlite:///{file}`"
        ) from error
    client.search_experiments(max_results=1)  # SQLAlchemy sets itself up at the first query
    return client


def exists() -> bool:
    """Whether there is a store to ask; a server is taken to be one."""
    file = database()
    return file is None or file.exists()


def database() -> Path | None:
    """The file of a SQLite store; absolute, because MLflow keeps one engine for each address."""
    scheme, _, path = _uri().partition(":///")
    return Path(path).absolute() if scheme == "sqlite" else None


def named() -> str:
    """The store, in messages."""
    return str(database() or "the server that MLFLOW_TRACKING_URI names")


def artifacts(experiment: str) -> str | None:
    """Where a new MLflow experiment keeps its artifacts; None where a server knows its place.

    Without a server MLflow would choose a folder of its own.
    """
    file = database()
    return (file.parent / "mlartifacts" / experiment).as_uri() if file else None


def create(file: Path) -> None:
    """A new SQLite store, in place once it is whole.

    Its migrations are no transaction: a stage that fails meanwhile would leave a store that
    nothing can open or mend.
    """
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / "mlflow.db"
        MlflowClient(f"sqlite:///{fresh}")
        copy = file.with_name(f"{file.name}.{os.getpid()}")
        shutil.copyfile(fresh, copy)
    if file.exists():  # another stage was faster
        copy.unlink()
    else:
        copy.replace(file)


def _uri() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{_project() / 'mlflow.db'}"


def _project() -> Path:
    """This folder, or the project whose `dvc exp run --temp` made this folder a copy of it."""
    here = Path.cwd()
    copies = next((path for path in here.parents if path.match(".dvc/tmp/exps")), None)
    return copies.parents[2] if copies else here


def reason(error: BaseException) -> str:
    """A fault in one line, without the credentials of addresses.

    A UserError has its remedy, and stays whole. Of others it is the innermost fault of the network
    or the files, which says more than MLflow's wrapping, with an ellipsis where it is long.
    """
    if isinstance(error, UserError):
        return without_credentials(" ".join(str(error).split()))
    chain = [error]
    while inner := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(inner)
    telling = [fault for fault in chain if isinstance(fault, OSError)] or chain[:1]
    text = f"{type(telling[-1]).__name__}: {telling[-1]}".partition("\n")[0]
    return textwrap.shorten(without_credentials(text), LONGEST, placeholder=" …")


def without_credentials(text: str) -> str:
    """The text without the user and password of any address in it."""
    return re.sub(r"//\S*@", "//", text)

"""The MLflow runs that show stages.

This does not use MLflow, whose import takes longer than the rest of a trace. It waits only a few
seconds, because a trace must not wait for a store that is slow or down.
"""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SECONDS = 5


@dataclass(frozen=True)
class StageRun:
    """The finished MLflow run that shows a stage."""

    id: str
    name: str
    experiment: str
    experiment_id: str


@dataclass(frozen=True)
class StageRuns:
    """The runs of stages in an MLflow store: the latest finished run by lineage key.

    store: its name, without credentials; problem: why the answer is incomplete, if it is.
    """

    store: str
    problem: str = ""
    by_key: dict[str, StageRun] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.store} ({self.problem})" if self.problem else self.store


def runs_of(keys: Iterable[str]) -> StageRuns:
    """Ask the store that `MLFLOW_TRACKING_URI` names, by default SQLite in this folder."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    parts = urlsplit(uri)
    store = parts.path
    if parts.scheme:
        store = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    ask: Ask
    match parts.scheme.partition("+")[0]:
        case "sqlite":
            ask, uri = _ask_sqlite, uri.partition(":///")[2]
            store = uri
            if not Path(uri).is_file():
                return StageRuns(store, "does not exist")
        case "postgresql":
            ask = _ask_postgresql
        case "http" | "https":
            ask = _ask_server
        case _:
            return StageRuns(store, "not asked: neither a server nor SQLite nor PostgreSQL")
    found: dict[str, StageRun] = {}
    wanted = list(keys)
    problem = _bounded(ask, uri, wanted, found) if wanted else ""
    return StageRuns(store, problem, dict(found))


Ask = Callable[[str, list[str], dict[str, StageRun]], None]


def _bounded(ask: Ask, uri: str, keys: list[str], found: dict[str, StageRun]) -> str:
    """Let a query fill `found` until the time is up; returns the problem, if any."""
    errors: list[Exception] = []

    def work() -> None:
        try:
            ask(uri, keys, found)
        except Exception as error:
            errors.append(error)

    # No library's timeout covers everything: looking up the name, connecting, each slow byte.
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(SECONDS)
    if thread.is_alive():
        return f"no complete answer within {SECONDS} s"
    if errors:
        from kmnist_pipeline.tracking.store import reason

        return reason(errors[0])
    return ""


def _ask_server(uri: str, keys: list[str], found: dict[str, StageRun]) -> None:
    import requests

    with requests.Session() as session:
        # As MLflow's client does; without these variables, credentials in the address count.
        if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
            session.headers["Authorization"] = f"Bearer {token}"
        if user := os.environ.get("MLFLOW_TRACKING_USERNAME"):
            session.auth = (user, os.environ.get("MLFLOW_TRACKING_PASSWORD", ""))

        def search(what: str, **body: Any) -> list[dict[str, Any]]:
            address = f"{uri.rstrip('/')}/api/2.0/mlflow/{what}/search"
            answer = session.post(address, json=body, timeout=SECONDS)
            if not answer.ok:
                raise requests.HTTPError(f"{answer.status_code} {answer.reason}")
            return answer.json().get(what, [])

        experiments = search("experiments", max_results=1000)
        names = {each["experiment_id"]: each["name"] for each in experiments}
        latest = {"order_by": ["attributes.start_time DESC"], "max_results": 1}
        for key in keys if names else []:
            which = f"attributes.status = 'FINISHED' and tags.`kmnist.lineage` = '{key}'"
            for run in search("runs", experiment_ids=list(names), filter=which, **latest):
                info, id = run["info"], run["info"]["experiment_id"]
                found[key] = StageRun(info["run_id"], info["run_name"], names[id], id)


_QUERY = """
select tags.value, runs.run_uuid, runs.name, experiments.name, experiments.experiment_id
from tags join runs using (run_uuid) join experiments using (experiment_id)
where tags.key = 'kmnist.lineage' and tags.value in ({})
and runs.status = 'FINISHED' and runs.lifecycle_stage = 'active'
order by runs.start_time
"""


def _ask_sqlite(path: str, keys: list[str], found: dict[str, StageRun]) -> None:
    address = f"{Path(path).absolute().as_uri()}?mode=ro"
    # Without waiting: a stage that is being published must not delay the answer.
    with closing(sqlite3.connect(address, uri=True, timeout=0.2)) as database:
        _add(database.execute(_QUERY.format(",".join("?" * len(keys))), keys), found)


def _ask_postgresql(uri: str, keys: list[str], found: dict[str, StageRun]) -> None:
    import psycopg

    address = f"postgresql:{uri.partition(':')[2]}"  # without the driver, for SQLAlchemy
    with psycopg.connect(address, connect_timeout=SECONDS) as database:
        _add(database.execute(_QUERY.format(",".join(["%s"] * len(keys))), keys), found)


def _add(rows: Iterable[tuple[Any, ...]], found: dict[str, StageRun]) -> None:
    for key, run, name, experiment, id in rows:
        found[key] = StageRun(run, name, experiment, str(id))

"""The record of a stage for MLflow: plain data, such as the names of the files it has written.

A stage makes its record when it ends (`stages/frame.py`), `kmnist publish` makes the same record
later, and `runs` reads it.
"""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import paths

DATA = "data"  # the MLflow experiment of the stages that prepare data


class Record(TypedDict):
    """The record of a stage; the keys from `commit` on are optional.

    group: the MLflow experiment; root: the folder that paths are relative to; lineage: command,
    dependencies, parameters and key, or None for a run by hand; started and ended: seconds since
    the epoch; written: outs; parameters: values by dotted name.

    commit, dirty, repository: from `state_of_code`; experiment: the name of the experiment of
    `dvc exp` that made it; superseded: whether its stage has newer evidence; missing: files that
    are not available; published: whether `kmnist publish` and not the stage publishes it.
    """

    address: str
    kind: str
    item: str
    group: str
    root: str
    lineage: dict[str, Any] | None
    started: float
    ended: float
    written: list[str]
    parameters: dict[str, Any]
    commit: NotRequired[str]
    dirty: NotRequired[bool]
    repository: NotRequired[str | None]
    experiment: NotRequired[str | None]
    superseded: NotRequired[bool]
    missing: NotRequired[list[str]]
    published: NotRequired[bool]


def of_stage(
    address: str,
    root: Path,
    lineage: dict[str, Any] | None,
    written: list[str],
    models: dict[str, Any],
    parameters: dict[str, Any],
    started: float | None = None,
) -> Record:
    """The record of a stage that has just ended.

    models: the map of that name in `params.yaml`; parameters: used for a stage without lineage;
    started: by default now. Raises UserError if the stage's model is not in the map.
    """
    kind, _, item = address.partition("@")
    if kind in ("download", "preprocess"):
        group = DATA
    elif kind in ("suspects", "loop", "readings", "faults", "report"):
        group = item
    elif item in models:
        group = models[item]["report"]
    else:
        raise UserError(f"params.yaml has no model {item}: `kmnist compose` writes it")
    ended = time.time()
    return {
        "address": address,
        "kind": kind,
        "item": item,
        "group": group,
        "root": root.as_posix(),
        "lineage": lineage,
        "started": started or ended,
        "ended": ended,
        "written": written,
        "parameters": lineage["params"] if lineage else parameters,
    }


def state_of_code() -> dict[str, Any]:
    """The commit, whether files other than outs differ from it, and the repository's web address.

    Empty outside a Git repository.
    """

    from kmnist_pipeline.repository import git  # stages import this module, and do not use it

    outs = [f":!{path}" for path in (*paths.TRACKED, "dvc.lock")]
    try:
        changed = git.run("--no-optional-locks", "status", "--porcelain", "--", ".", *outs)
        state: dict[str, Any] = {"commit": git.commit("HEAD"), "dirty": bool(changed)}
    except UserError:
        return {}
    with contextlib.suppress(UserError):
        state["repository"] = _page(git.run("remote", "get-url", "origin").decode().strip())
    return state


def _page(remote: str) -> str | None:
    """The web address of a Git remote, without credentials; None if it has none.

    remote: as `git remote get-url` prints it.
    """
    web = re.fullmatch(r"(?:https?|ssh)://(?:[^@/]*@)?([^/:]+)(?::\d+)?/(.+?)(?:\.git)?/?", remote)
    found = web or re.fullmatch(r"[^@/:]+@([^/:]+):(.+?)(?:\.git)?/?", remote)
    return f"https://{found[1]}/{found[2]}" if found else None

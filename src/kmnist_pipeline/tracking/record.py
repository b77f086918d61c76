"""What a stage hands over for MLflow when it ends: plain data, such as the files it has written.

The frame of the stages makes a record (`evidence/stage.py`), `kmnist publish` makes the same one
of a stage that ran at another time, and `runs` reads it.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import paths

DATA = "data"  # the MLflow experiment of stages that belong to no report


class Record(TypedDict):
    """A stage's record; the last of its keys are added where they are known.

    group: the MLflow experiment; root: the folder that paths begin at; lineage: command,
    dependencies, parameters and key, or None for a run by hand; started and ended: seconds since
    the epoch; written: outs; parameters: values by dotted name.

    commit, dirty, repository: of `state_of_code`; experiment: its name, where `dvc exp` made it;
    superseded: whether its stage has newer evidence; missing: files that cannot be had; published:
    whether another process than the stage's own publishes it.
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
    """The record of a stage that ends now.

    models: the map of that name in `params.yaml`; parameters: those of a stage without lineage;
    started: now, unless given. Raises UserError where the stage's model is not in the map.
    """
    kind, _, item = address.partition("@")
    if kind in ("download", "preprocess"):
        group = DATA
    elif kind == "report":
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
    """Commit, whether anything but outs differs from it, and where a browser finds it.

    Nothing outside a Git repository.
    """

    def git(*args: str) -> str:
        environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
        command = ["git", *args]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    outs = [f":!{path}" for path in (*paths.TRACKED, "dvc.lock")]
    try:
        changed = git("status", "--porcelain", "--", ".", *outs)
        state: dict[str, Any] = {"commit": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return {}
    with contextlib.suppress(subprocess.CalledProcessError):
        state["repository"] = _page(git("remote", "get-url", "origin"))
    return state


def _page(remote: str) -> str | None:
    """Where a browser finds the repository of a Git remote, without credentials; None if nowhere.

    remote: as `git remote get-url` prints it.
    """
    web = re.fullmatch(r"(?:https?|ssh)://(?:[^@/]*@)?([^/:]+)(?::\d+)?/(.+?)(?:\.git)?/?", remote)
    found = web or re.fullmatch(r"[^@/:]+@([^/:]+):(.+?)(?:\.git)?/?", remote)
    return f"https://{found[1]}/{found[2]}" if found else None

"""The stages of `dvc.yaml`, where DVC's resolver has filled in the parameters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dvc.exceptions import DvcException
from dvc.schema import COMPILED_MULTI_STAGE_SCHEMA
from dvc.utils.serialize import YAMLFileCorruptedError, load_yaml
from voluptuous import MultipleInvalid

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import lineage
from kmnist_pipeline.repository import git, locks

if TYPE_CHECKING:
    from dvc.repo import Repo


RWLOCK = Path(".dvc/tmp/rwlock")


def cut_lock() -> str:
    """What to do if a killed DVC process has truncated DVC's list of files in use, or ""."""
    try:
        json.loads(RWLOCK.read_bytes())
    except FileNotFoundError:
        return ""
    except ValueError:
        return f"{RWLOCK} is broken, because a DVC was killed: delete it when no DVC is running"
    return ""


@contextmanager
def opened() -> Iterator[Repo]:
    """DVC's repository in this folder. DVC's errors become UserErrors."""
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            yield repo
    except DvcException as error:
        git.place()  # these two raise the reason if Git or the lock is why
        locks.parse(Path(locks.LOCK).read_bytes() if Path(locks.LOCK).exists() else b"")
        raise UserError(cut_lock() or f"DVC: {error}") from error


def stages(params: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every stage by address, as in `dvc.yaml` but without variables.

    params: the content of `params.yaml`, or content to try instead. Raises UserError if `dvc.yaml`
    is invalid or needs a parameter that `params` lacks.
    """
    try:
        content = COMPILED_MULTI_STAGE_SCHEMA(load_yaml("dvc.yaml"))
        resolver = lineage.resolver(content, params)
        found = {name: resolver.resolve_one(name)[name] for name in resolver.get_keys()}
    except YAMLFileCorruptedError as error:
        locks.refuse_conflict(Path("dvc.yaml").read_text("utf-8"), "dvc.yaml")
        raise UserError(f"dvc.yaml: {error.__cause__ or error}") from error
    except (DvcException, MultipleInvalid) as error:
        raise UserError(f"dvc.yaml: {error}") from error
    for stage in found.values():  # a line that a stage does not need repeats another dependency
        stage["deps"] = list(dict.fromkeys(stage.get("deps", [])))
    return found


def outs(stage: dict[str, Any]) -> dict[str, bool]:
    """Each out, and whether it is in Git (True) or in DVC's cache."""
    found = {}
    for kind in ("outs", "metrics", "plots"):
        for out in stage.get(kind, []):
            path, flags = next(iter(out.items())) if isinstance(out, dict) else (out, {})
            found[path] = flags.get("cache") is False
    return found


def values(stage: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """The values of a stage's parameters by dotted name, without those that `params` lacks."""
    found = {}
    for name in stage.get("params", []):
        try:
            found[name] = lineage.value(params, name)
        except (KeyError, TypeError):
            continue
    return found

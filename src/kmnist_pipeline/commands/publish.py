"""Bringing an MLflow store up to date with the evidence of the workspace, or of commits.

A stage makes a record for MLflow when it ends (`tracking.record`). This module makes the same
record from the stage's entry in a lock and the files that the entry names
(`repository/revision.py`). It never publishes a file that is not as the lock says.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from graphlib import CycleError
from pathlib import Path
from typing import Any, cast

from tqdm import tqdm

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import paths
from kmnist_pipeline.repository import git, locks
from kmnist_pipeline.repository.locks import LOCK, Graph, LockedStage
from kmnist_pipeline.repository.names import unknown
from kmnist_pipeline.repository.revision import Revision, below, check
from kmnist_pipeline.tracking import record, runs, store
from kmnist_pipeline.tracking.content import is_read
from kmnist_pipeline.tracking.record import Record, state_of_code

PARAMS = "params.yaml"
TRACKED = tuple(f"{folder}/" for folder in paths.TRACKED)  # runs show these, and models
MODELS = "models/"


class StoreError(UserError):
    """The store does not answer, so publishing other stages would fail too."""


@dataclass
class Published:
    """The stages that are new in the store, were already there, or were refused; one line each.

    notes: the files that published runs lack.
    """

    new: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Evidence:
    """The evidence of a revision.

    models: the map of that name in its parameters; origin: the commit, as the runs state it.
    """

    revision: Revision
    graph: Graph
    models: dict[str, Any]
    origin: dict[str, Any]


def stages(addresses: list[str], revisions: list[str]) -> Published:
    """Publish stages to MLflow: of the workspace, or of commits and experiments.

    addresses: such as `evaluate@digits_softmax`, or empty for all. A stage whose files are not as
    the lock says is refused, and the others continue. Raises UserError if the store fails, or for
    an unknown stage or revision.
    """
    os.environ.update({**store.BOUNDS, **os.environ, **store.QUIET})  # before importing MLflow
    git.place()  # raises the reason if there is no repository, once for all stages
    if not Path(LOCK).exists():
        raise UserError(f"{LOCK} does not exist: {git.restoring(LOCK, 'dvc repro')}")
    here = _evidence(Revision("the workspace"), state_of_code())
    wanted = [_commit(revision) for revision in revisions] or [here]
    _check(addresses, wanted)
    published = Published()
    with _asking("MLflow cannot be reached"):
        client = store.connect()
    chosen = list(_chosen(addresses, wanted))
    for evidence, stage in tqdm(chosen, desc="publish", unit=" stages", disable=None):
        name = evidence.revision.called(stage.address)
        with tempfile.TemporaryDirectory(prefix="kmnist-publish-") as folder:
            try:
                of_stage = _record(stage, evidence, Path(folder), here.graph)
                with _asking(f"{name} was not published to MLflow"):
                    is_new = runs.publish(client, of_stage)
            except StoreError:
                raise
            except UserError as error:
                published.refused.append(f"{name}: {error}")
                continue
        (published.new if is_new else published.kept).append(name)
        published.notes += [f"{name}: {path} is not in DVC's cache" for path in of_stage["missing"]]
    return published


@contextmanager
def _asking(problem: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        why = f"{store.reason(error)}): check {store.named()}, then run this again"
        raise StoreError(f"{problem} ({why}") from error


def _commit(name: str) -> Evidence:
    """The evidence of a commit, or of an experiment of `dvc exp`, by its id or name."""
    commit, experiment = git.commit_or_experiment(name)
    origin = {"commit": commit, "dirty": False, "experiment": experiment}
    return _evidence(Revision(name, commit), state_of_code() | origin)


def _evidence(revision: Revision, origin: dict[str, Any]) -> Evidence:
    where = revision.called(PARAMS)
    models = locks.load(revision.read(PARAMS).decode(), where).get("models")
    if not isinstance(models, dict):
        raise UserError(f"{where}: has no map `models`; `kmnist compose` writes it")
    return Evidence(revision, revision.lock(), models, origin)


def _check(addresses: list[str], wanted: list[Evidence]) -> None:
    known = {address for evidence in wanted for address in evidence.graph.stages}
    for address in addresses:
        if address not in known:
            raise unknown(f"{LOCK} has no stage {address}", address, sorted(known))


def _chosen(addresses: list[str], wanted: list[Evidence]) -> Iterator[tuple[Evidence, LockedStage]]:
    """The stages to publish, each after the stages it depends on, and each lineage key once."""
    seen = set()
    for evidence in wanted:
        try:
            stages = evidence.graph.in_order(evidence.graph.stages.values())
        except CycleError as error:
            circle = " <- ".join(error.args[1])
            raise UserError(f"{LOCK}: stages depend on each other: {circle}") from error
        for stage in stages:
            state = (stage.address, stage.key)
            if (not addresses or stage.address in addresses) and state not in seen:
                seen.add(state)
                yield evidence, stage


def _record(locked: LockedStage, evidence: Evidence, root: Path, current: Graph) -> Record:
    """The record of the stage as if it had just run, with its files under `root`.

    Raises UserError if a file is not as the lock says.
    """
    missing = []
    read = {path: md5 for path, md5 in locked.deps.items() if is_read(locked.kind, path)}
    for path, md5 in {**locked.outs, **read}.items():
        if path.startswith(TRACKED):
            evidence.revision.write(root, path)
            check(root / path, path, md5)
            if path in locked.outs:
                _check_keys(root / path, path, locked)
        elif path.startswith(MODELS):
            if not evidence.revision.put(path, md5, root):
                missing.append(path)
        elif evidence.revision.commit is None and Path(path).exists():
            check(Path(path), path, md5)

    known = {"cmd": locked.cmd, "deps": locked.deps, "params": locked.params, "key": locked.key}
    made = record.of_stage(locked.address, root, known, list(locked.outs), evidence.models, {})
    newest = current.stages.get(locked.address)
    is_current = newest is not None and newest.key == locked.key
    standing: dict[str, Any] = {"experiment": None} if is_current else {"superseded": True}
    more = evidence.origin | standing | {"missing": missing, "published": True}
    return cast(Record, {**made, **more})


def _check_keys(place: Path, path: str, stage: LockedStage) -> None:
    """Raise UserError if an out was made under another lineage key."""
    for file in below(place, path).values():
        content = json.loads(file.read_bytes()) if file.suffix == ".json" else {}
        if "made_by" in content and content["made_by"]["lineage"] != stage.key:
            raise UserError(
                f"{path} was made by another command, or from other dependencies or "
                f"parameters, than {LOCK} says; `dvc repro --force --single-item "
                f"{stage.address}` makes it again"
            )

"""Bringing an MLflow store level with the evidence: that of the workspace, or of commits.

A record is what a stage hands over when it ends (`runs.record_of`). Here it is made again from
the stage's entry in a lock and the files that the entry names: those of the workspace or of a
commit, and what Git does not keep from DVC's cache. What is not as the lock says is never shown.
"""

from __future__ import annotations

import difflib
import functools
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from tqdm import tqdm

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import lineage
from kmnist_pipeline.evidence.paths import TRACKED
from kmnist_pipeline.evidence.stage import Stage, group_of
from kmnist_pipeline.repository import git, locks
from kmnist_pipeline.repository.locks import LOCK, Graph, LockedStage
from kmnist_pipeline.tracking import runs

PARAMS = "params.yaml"
MODELS = "models"

Cache = Callable[[], Callable[[str], str]]  # opens DVC's cache, which tells the file of an md5


class StoreError(UserError):
    """A store that does not answer: no other stage would fare better."""


@dataclass
class Outcome:
    """What became of the stages: new in the store, there before, refused; one line each, and notes.

    notes: what a view lacks.
    """

    new: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """The evidence as it stands somewhere.

    revision: as the user called it, none for the workspace; models: the map of that name in its
    parameters; files: blobs by path, where a commit has them; origin: what its runs say of it.
    """

    revision: str | None
    graph: Graph
    models: dict[str, Any]
    files: dict[str, str]
    origin: dict[str, Any]

    def named(self, address: str) -> str:
        """A stage of this source, in messages."""
        return address if self.revision is None else f"{address} at {self.revision}"

    def put(self, path: str, place: Path) -> None:
        """Make a file or folder appear at a place, if it is there at all."""
        place.parent.mkdir(parents=True, exist_ok=True)
        if self.revision is None:
            if Path(path).exists():
                place.symlink_to(Path(path).absolute())
            return
        names = [name for name in self.files if name == path or name.startswith(f"{path}/")]
        blobs = git.blobs(self.files[name] for name in names)
        for name, (_, content) in zip(names, blobs, strict=True):
            file = place / Path(name).relative_to(path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)


def publish(addresses: list[str], revisions: list[str]) -> Outcome:
    """Show stages in MLflow: the workspace's, or those of commits and experiments.

    addresses: such as `evaluate@digits_softmax`, or none for all. A stage whose files are not what
    its lock says is refused, and the others go on. Raises UserError where the store fails, and for
    a stage or a revision that is not known.
    """
    os.environ.update({**runs.BOUNDS, **os.environ, **runs.QUIET})  # before importing MLflow
    here = _workspace()
    sources = [_commit(revision) for revision in revisions] or [here]
    _check(addresses, sources)
    cache = functools.cache(_open_cache)
    outcome = Outcome()
    with _asking("MLflow cannot be reached"):
        client = runs.connect()
    chosen = list(_chosen(addresses, sources))
    for source, stage in tqdm(chosen, desc="publish", unit=" stages", disable=None):
        name = source.named(stage.address)
        with tempfile.TemporaryDirectory(prefix="kmnist-publish-") as folder:
            try:
                record = _record(stage, source, Path(folder), here.graph, cache)
                with _asking(f"MLflow did not take {name}"):
                    is_new = runs.publish(client, record)
            except StoreError:
                raise
            except UserError as error:
                outcome.refused.append(f"{name}: {error}")
                continue
        (outcome.new if is_new else outcome.kept).append(name)
        outcome.notes += [f"{name}: {path} is not in DVC's cache" for path in record["missing"]]
    return outcome


@contextmanager
def _asking(problem: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise StoreError(f"{problem} ({runs.reason(error)})") from error


def _workspace() -> Source:
    if not Path(LOCK).exists():
        raise UserError(f"{LOCK} is not there: `dvc repro` makes the evidence")
    stages = locks.parse(Path(LOCK).read_text())
    models = _models(Path(PARAMS).read_text(), PARAMS)
    return Source(None, stages, models, {}, runs.state_of_code())


def _commit(revision: str) -> Source:
    """The evidence of a commit or of an experiment of `dvc exp`, by its id or name."""
    commit, experiment = git.commit_or_experiment(revision)
    return Source(
        revision,
        locks.parse(git.read(commit, LOCK).decode(), f"{LOCK} at {revision}"),
        _models(git.read(commit, PARAMS).decode(), f"{PARAMS} at {revision}"),
        git.tree(commit, *TRACKED),
        runs.state_of_code() | {"commit": commit, "dirty": False, "experiment": experiment},
    )


def _models(text: str, origin: str) -> dict[str, Any]:
    content = locks.load(text, origin)
    models = content.get("models") if isinstance(content, dict) else None
    if not isinstance(models, dict):
        raise UserError(f"{origin}: has no map `models`; `kmnist compose` writes it")
    return models


def _check(addresses: list[str], sources: list[Source]) -> None:
    known = {address for source in sources for address in source.graph.stages}
    for address in addresses:
        if address not in known:
            close = difflib.get_close_matches(address, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UserError(f"no stage {address} is in {LOCK}{hint}")


def _chosen(addresses: list[str], sources: list[Source]) -> Iterator[tuple[Source, LockedStage]]:
    """The stages to show, what they rest on first, and each state of a stage once."""
    seen = set()
    for source in sources:
        stages = source.graph.stages
        parents = {
            address: [parent.address for parent in source.graph.parents(stage)]
            for address, stage in stages.items()
        }
        try:
            order = list(TopologicalSorter(parents).static_order())
        except CycleError as error:
            circle = " <- ".join(error.args[1])
            raise UserError(f"{LOCK}: stages rest on each other: {circle}") from error
        for address in order:
            state = (address, stages[address].key)
            if (not addresses or address in addresses) and state not in seen:
                seen.add(state)
                yield source, stages[address]


def _record(
    locked: LockedStage, source: Source, root: Path, current: Graph, cache: Cache
) -> dict[str, Any]:
    """What the stage would hand over if it had run just now, its files under `root`.

    Raises UserError where a file is not what the lock says.
    """
    missing = []
    for path, md5 in locked.outs.items():
        place = root / path
        source.put(path, place)
        top = path.partition("/")[0]
        if top == MODELS and not place.exists():
            cached = Path(cache()(md5))
            if cached.exists():
                place.symlink_to(cached)
            else:
                missing.append(path)
        if place.exists():
            _verify(place, path, md5, locked.key)
        elif top in TRACKED:
            raise UserError(f"{path} is missing")

    for path, md5 in locked.deps.items():
        if runs.is_read(locked.kind, path):
            source.put(path, root / path)
            if not (root / path).exists() or lineage.digest(root / path) != md5:
                raise UserError(f"{path} is not what the stage has read")

    known = {"cmd": locked.cmd, "deps": locked.deps, "params": locked.params, "key": locked.key}
    stage = Stage(locked.kind, locked.item, root, known, written=list(locked.outs))
    try:
        group = group_of(stage, {"models": source.models})
    except KeyError as error:
        raise UserError(f"{PARAMS} has no model {locked.item}") from error
    record = runs.record_of(stage, group) | source.origin
    newest = current.stages.get(locked.address)
    is_current = newest is not None and newest.key == locked.key
    standing: dict[str, Any] = {"experiment": None} if is_current else {"superseded": True}
    return record | standing | {"missing": missing, "published": True}


def _verify(place: Path, path: str, md5: str, key: str) -> None:
    """Raise UserError where an out is not the one of the lock, or was made under another key."""
    if lineage.digest(place) != md5:
        raise UserError(f"{path} is not what the stage made")
    for file in place.rglob("*.json") if place.is_dir() else [place]:
        if file.suffix == ".json":
            content = json.loads(file.read_bytes())
            if "made_by" in content and content["made_by"]["lineage"] != key:
                raise UserError(
                    f"{path} was made by another command, or from other dependencies or "
                    f"parameters, than {LOCK} says"
                )


def _open_cache() -> Callable[[str], str]:
    from dvc.repo import Repo

    with Repo() as repo:
        return repo.cache.local.oid_to_path

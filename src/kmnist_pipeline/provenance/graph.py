"""Who made what, as a `dvc.lock` tells it: stages, the files between them, the original data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from voluptuous import MultipleInvalid

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import lineage

LOCK = "dvc.lock"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class LockedStage:
    """A stage's entry in a lock.

    deps and outs: md5 by path (a folder's is that of its listing and ends in `.dir`); params:
    values by dotted name; key: the lineage key.
    """

    address: str
    cmd: str
    deps: dict[str, str]
    params: dict[str, Any]
    outs: dict[str, str]
    key: str

    @property
    def kind(self) -> str:
        """What the stage does, such as `evaluate`."""
        return self.address.partition("@")[0]

    @property
    def item(self) -> str:
        """What it does it with, such as `kmnist_softmax`."""
        return self.address.partition("@")[2]


@dataclass(frozen=True)
class Graph:
    """The stages of one lock by address."""

    stages: dict[str, LockedStage]

    @cached_property
    def _makers(self) -> dict[str, str]:
        return {out: stage.address for stage in self.stages.values() for out in stage.outs}

    def makers(self, path: str) -> list[LockedStage]:
        """The stages that made a path: the file itself, the folder it is in, or what is in it.

        None for code and for files that no stage makes; several for a folder that several fill.
        """
        exact = next((self._makers[out] for out in _and_above(path) if out in self._makers), None)
        if exact is not None:
            return [self.stages[exact]]
        inside = {stage for out, stage in self._makers.items() if out.startswith(f"{path}/")}
        return [self.stages[address] for address in sorted(inside)]

    def parents(self, stage: LockedStage) -> list[LockedStage]:
        """The stages whose outs a stage reads, each once, in the order of its dependencies."""
        found = {maker.address: maker for path in stage.deps for maker in self.makers(path)}
        return list(found.values())

    def upstream(self, address: str) -> list[LockedStage]:
        """A stage and all that it rests on, each once, the nearest first."""
        found = {address: self.stages[address]}
        queue = [self.stages[address]]
        while queue:
            for parent in self.parents(queue.pop(0)):
                if parent.address not in found:
                    found[parent.address] = parent
                    queue.append(parent)
        return list(found.values())

    def downstream(self, addresses: Iterable[str]) -> dict[str, list[str]]:
        """All that rests on the given stages: for each, which of these and of all those it reads.

        The given stages themselves are there as far as they read one another.
        """
        parents = {name: [p.address for p in self.parents(s)] for name, s in self.stages.items()}
        reached, found = set(addresses), set[str]()
        while new := {name for name in parents if reached & {*parents[name]}} - found:
            found |= new
            reached |= new
        return {
            name: [parent for parent in parents[name] if parent in reached]
            for name in parents
            if name in found
        }


def parse(text: str, origin: str = LOCK) -> Graph:
    """The graph of a lock. Raises UserError, with `origin` in it, where the text is no lock."""
    try:
        content = COMPILED_LOCKFILE_SCHEMA(yaml.load(text, Loader=_LOADER) or {})
    except (yaml.YAMLError, MultipleInvalid) as error:
        raise UserError(f"{origin}: {error}") from error
    stages = {
        address: LockedStage(
            address=address,
            cmd=entry["cmd"],
            deps={dep["path"]: dep.get("md5", "") for dep in entry.get("deps", [])},
            params=entry.get("params", {}).get("params.yaml", {}),
            outs={out["path"]: out.get("md5", "") for out in entry.get("outs", [])},
            key=lineage.key_of_lock(entry),
        )
        for address, entry in content.get("stages", {}).items()
    }
    return Graph(stages)


def _and_above(path: str) -> Iterator[str]:
    """A path, the folder it is in, the folder that one is in, and so on."""
    parts = path.split("/")
    for count in range(len(parts), 0, -1):
        yield "/".join(parts[:count])

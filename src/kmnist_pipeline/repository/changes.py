"""Differences between a stage and its entry in a lock: command, parameters, dependencies, outs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kmnist_pipeline.evidence import lineage, paths
from kmnist_pipeline.repository.locks import LOCK, LockedStage

LONGEST = 60


@dataclass(frozen=True)
class Change:
    """A changed input or output of a stage, before and after.

    kind: `command`, `parameter`, `file` (a dependency), `out`, or how an out was made: `lineage`,
    `library`, `arithmetic`, `contradiction` (with other evidence); name: the parameter's dotted
    name, the path, the library, or a sentence about the contradiction; old, new:
    the command, JSON of a parameter's value, md5 of a file (empty if it is missing), lineage key,
    version or arithmetic; None if there is none.
    """

    kind: str
    name: str
    old: str | None
    new: str | None

    def __str__(self) -> str:
        match self.kind:
            case "command":
                return f"command changed: `{self.old}` -> `{self.new}`"
            case "parameter":
                return f"parameter {self.name} {_became(self.old, self.new)}"
            case "file" | "out":
                return self._of_path()
            case _:
                return self._of_making()

    def _of_making(self) -> str:
        old, new = self.old, self.new
        match self.kind:
            case "library":
                now = f"changed: {old} -> {new}" if new else f"{old} is not in requirements.lock"
                return f"library {self.name} {now}"
            case "arithmetic":
                return f"out {self.name} was made in {old} arithmetic, so it is not evidence"
            case "lineage":
                keys = f"lineage key {old and old[:12]} -> {new and new[:12]}"
                return (
                    "made by another command, or from other dependencies or parameters, than "
                    f"{LOCK} says ({keys}): {self.name}"
                )
            case _:
                return self.name

    def _of_path(self) -> str:
        thing = f"{'out' if self.kind == 'out' else 'dependency'} {self.name}"
        old, new = (md5 and md5[:12] for md5 in (self.old, self.new))
        if new is None:
            return f"{thing} is no longer in dvc.yaml"
        if old is None:
            return f"{thing} is new: md5 {new}"
        if new == "":
            return f"{thing} is missing"
        became = "changed"
        if self.kind == "out":  # those that Git ignores stay when another commit is checked out
            is_kept = self.name.startswith(paths.TRACKED)
            became = (
                "is not what the stage made" if is_kept else "is damaged or from another commit"
            )
        return f"{thing} {became}: md5 {old} -> {new}"


def of_stage(old: LockedStage, new: LockedStage) -> list[Change]:
    """The changes of the command, of parameters (by their innermost names) and of files."""
    found = [] if old.cmd == new.cmd else [Change("command", "cmd", old.cmd, new.cmd)]
    for name in sorted({**old.params, **new.params}):
        found += of_parameters(
            *(
                dict(lineage.leaves(name, stage.params[name])) if name in stage.params else {}
                for stage in (old, new)
            )
        )
    return found + [
        Change("file", path, old.deps.get(path), new.deps.get(path))
        for path in sorted({**old.deps, **new.deps})
        if old.deps.get(path) != new.deps.get(path)
    ]


def of_parameters(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """The changes of parameters, by their innermost names."""
    return [
        Change("parameter", name, json_of(old, name), json_of(new, name))
        for name in {**old, **new}
        if name not in old or name not in new or old[name] != new[name]
    ]


def json_of(known: Mapping[str, Any], name: str) -> str | None:
    """The value of a parameter in a `Change`: JSON, or None if there is none."""
    return json.dumps(known[name], ensure_ascii=False, default=str) if name in known else None


def _became(*values: str | None) -> str:
    old, new = (v and (v if len(v) <= LONGEST else f"{v[: LONGEST - 4]} ...") for v in values)
    if new is None:
        return f"is gone: was {old}"
    return f"is new: {new}" if old is None else f"changed: {old} -> {new}"

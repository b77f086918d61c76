"""What differs between two versions of a stage, by its own doing: command, parameters, files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kmnist_pipeline.evidence import lineage
from kmnist_pipeline.repository.locks import LockedStage


@dataclass(frozen=True)
class Change:
    """One thing that a stage is told or reads, before and after.

    kind: `command`, `parameter`, `file` or `out`; name: the parameter's dotted name or the file's
    path; old, new: the command, JSON of a parameter's values, or md5 of a file (empty where it is
    missing); None where there is none.
    """

    kind: str
    name: str
    old: str | None
    new: str | None

    def __str__(self) -> str:
        if self.kind == "command":
            return "another command"
        if self.kind == "parameter":
            return f"{self.name} {self.old or '–'} → {self.new or '–'}"
        if self.old and self.new:
            return f"{self.name} changed"
        return f"{self.name} is {'gone' if self.old else 'new'}"


def of_stage(old: LockedStage, new: LockedStage) -> list[Change]:
    """Command, parameters (down to the innermost name) and files that differ, in this order."""
    found = [] if old.cmd == new.cmd else [Change("command", "cmd", old.cmd, new.cmd)]
    for name in sorted({**old.params, **new.params}):
        before, after = (
            dict(lineage.leaves(name, stage.params[name])) if name in stage.params else {}
            for stage in (old, new)
        )
        found += [
            Change("parameter", leaf, _json(before, leaf), _json(after, leaf))
            for leaf in {**before, **after}
            if leaf not in before or leaf not in after or before[leaf] != after[leaf]
        ]
    found += [
        Change("file", path, old.deps.get(path), new.deps.get(path))
        for path in sorted({**old.deps, **new.deps})
        if old.deps.get(path) != new.deps.get(path)
    ]
    return found


def _json(known: Mapping[str, Any], name: str) -> str | None:
    return json.dumps(known[name], ensure_ascii=False, default=str) if name in known else None

"""What differs between two versions of a stage, by its own doing: command, parameters, files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kmnist_pipeline.provenance.graph import LockedStage


@dataclass(frozen=True)
class Change:
    """One thing that a stage is told or reads, before and after.

    kind: `command`, `parameter`, `file` or `out`; name: the parameter's dotted name or the file's
    path; old, new: JSON of a parameter's values or md5 of a file, None where there is none.
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
    """Command, parameters (each value by itself) and files that differ, in this order."""
    found = [] if old.cmd == new.cmd else [Change("command", "cmd", old.cmd, new.cmd)]
    before, after = values(old.params), values(new.params)
    found += [
        Change("parameter", name, _json(before, name), _json(after, name))
        for name in sorted({**before, **after})
        if name not in before or name not in after or before[name] != after[name]
    ]
    found += [
        Change("file", path, old.deps.get(path), new.deps.get(path))
        for path in sorted({**old.deps, **new.deps})
        if old.deps.get(path) != new.deps.get(path)
    ]
    return found


def values(params: Mapping[str, Any]) -> dict[str, Any]:
    """Each plain value of nested maps by dotted name; a list is one value."""
    return dict(_values("", params))


def _values(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from _values(f"{prefix}.{key}" if prefix else str(key), part)
    elif prefix:
        yield prefix, value


def _json(known: Mapping[str, Any], name: str) -> str | None:
    return json.dumps(known[name], ensure_ascii=False) if name in known else None

"""Is the committed evidence what code, configuration and data give?

The lock is held against the files, not DVC's cache, so that a fresh clone can be checked: files
that Git tracks are hashed; files that only the cache holds are compared from lock entry to lock
entry, and hashed too where they are there. The lineage keys that outs carry were taken when
their stages began, so an out made from a file that was changed meanwhile is found as well.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import re
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from kmnist_pipeline import arithmetic
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import lineage, paths
from kmnist_pipeline.repository import changes, dvc, git, locks
from kmnist_pipeline.repository.changes import Change
from kmnist_pipeline.repository.locks import LockedStage

LOCK, PARAMS, PINS = Path(locks.LOCK), Path("params.yaml"), Path("requirements.lock")
EVIDENCE = paths.TRACKED  # what Git keeps of the outs
WIDTH, LONGEST = 100, 60
Digest = Callable[[str], str | None]


@dataclass(frozen=True)
class Finding:
    """What is not fresh: a stage by its address, or a file; and why."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


def findings(composed: str) -> list[Finding]:
    """What is stale or does not belong, stage by stage; empty when all is fresh.

    composed: what `params.yaml` should be. Where it is not, the stages that either makes stale
    are named. Raises UserError where one of the files cannot be read.
    """
    params = locks.load(PARAMS.read_text(), PARAMS.name)
    wanted = locks.load(composed, "conf/")
    stages, lock = dvc.stages(params), _lock()
    made = {out: (md5, s.address) for s in lock.stages.values() for out, md5 in s.outs.items()}
    digest = functools.cache(_digest)  # many stages share a file
    pins = pinned()

    found = []
    if PARAMS.read_text() != composed:
        found.append(Finding(str(PARAMS), "is not level with conf/; run `kmnist compose`"))
    for name, stage in sorted(stages.items()):
        if name not in lock.stages:
            found.append(Finding(name, f"is not in {LOCK}"))
            continue
        locked = lock.stages[name]
        # A file of Git, or a folder that several stages fill, is on disk; the rest may be in the
        # cache alone, and then its maker's lock entry speaks for it.
        deps = {path: digest(path) or made.get(path, ("",))[0] for path in stage.get("deps", [])}
        now = replace(locked, cmd=stage["cmd"], deps=deps, params=dvc.values(stage, params))
        reasons = [
            *inputs(locked, now),
            *inputs(locked, replace(now, params=dvc.values(stage, wanted))),
            *_of_makers(locked, now, made),
            *_of_outs(stage, locked, digest),
            *_of_libraries(locked, pins, digest),
            *_of_arithmetic(locked, digest),
        ]
        found += [Finding(name, reason) for reason in dict.fromkeys(reasons)]
    for name in sorted(lock.stages.keys() - stages):
        found.append(Finding(name, f"is in {LOCK}, but not in dvc.yaml"))
    outs = {path for stage in stages.values() for path in dvc.outs(stage)}
    return found + [Finding(file, "no stage makes this file") for file in _strays(outs)]


def grouped(findings: Iterable[Finding]) -> str:
    """Findings for people: each stage with its reasons, those with the same reasons together."""
    reasons = defaultdict(list)
    for finding in findings:
        reasons[finding.where].append(finding.reason)
    places = defaultdict(list)
    for where, of_stage in reasons.items():
        places[tuple(of_stage)].append(where)
    lines = []
    for shared, names in places.items():
        count = f" ({len(names)})" if len(names) > 2 else ""
        lines.append(_wrapped(", ".join(names) + count, ""))
        lines += [_wrapped(reason, "  ") for reason in shared]
    return "\n".join(lines)


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=2 * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def inputs(old: LockedStage, new: LockedStage) -> list[str]:
    """What made a stage another: command, each parameter and each dependency, from what to what.

    A dependency without an md5 is missing.
    """
    return [_reason(change) for change in changes.of_stage(old, new)]


def _reason(change: Change) -> str:
    old, new = change.old, change.new
    match change.kind:
        case "command":
            return f"command changed: `{old}` -> `{new}`"
        case "parameter":
            return f"parameter {change.name} {_became(old, new)}"
        case _ if new is None:
            return f"dependency {change.name} is in {LOCK}, but not in dvc.yaml"
        case _ if not new:
            return f"dependency {change.name} is missing"
        case _:
            was = "is new: md5" if old is None else f"changed: md5 {_short(old)} ->"
            return f"dependency {change.name} {was} {_short(new)}"


def _became(old: str | None, new: str | None) -> str:
    if new is None:
        return f"is gone: was {_shortened(old)}"
    return (
        f"is new: {_shortened(new)}"
        if old is None
        else f"changed: {_shortened(old)} -> {_shortened(new)}"
    )


def _of_makers(
    locked: LockedStage, now: LockedStage, made: dict[str, tuple[str, str]]
) -> list[str]:
    """Dependencies that are on disk as the stage read them, while the lock of their makers differs.

    made: md5 and maker of each out, as the lock has them.
    """
    return [
        f"dependency {path} is not what {made[path][1]} made, says {LOCK}: "
        + _from_to(made[path][0], md5)
        for path, md5 in now.deps.items()
        if md5 == locked.deps.get(path) and path in made and made[path][0] != md5
    ]


def _of_outs(stage: dict[str, Any], locked: LockedStage, digest: Digest) -> list[str]:
    reasons = []
    others = defaultdict(list)
    declared = dvc.outs(stage)
    for path in sorted({**declared, **locked.outs}):
        current = digest(path)
        if path not in locked.outs or path not in declared:
            reasons.append(f"out {path} is not both in dvc.yaml and {LOCK}")
        elif current is None and declared[path]:
            reasons.append(f"out {path} is missing")
        elif current is not None and current != locked.outs[path]:
            changed = _from_to(locked.outs[path], current)
            reasons.append(f"out {path} is not what the stage made: {changed}")
        elif current is not None:
            for file, key in other_keys(path, locked.key):
                others[key].append(file)
    return reasons + [
        f"made by another command, or from other dependencies or parameters, than {LOCK} says "
        f"(lineage key {_short(key)} -> {_short(locked.key)}): {', '.join(files)}"
        for key, files in others.items()
    ]


def other_keys(out: str, key: str) -> list[tuple[str, str]]:
    """The JSON and PNG files of an out that carry another lineage key, each with that key."""
    path = Path(out)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    carried = ((file.as_posix(), _key_in(file)) for file in files)
    return [(file, other) for file, other in carried if other not in (None, key)]


def _key_in(file: Path) -> str | None:
    if file.suffix == ".png":
        with Image.open(file) as image:
            return image.info.get("Lineage", "none")
    if file.suffix == ".json":
        content = json.loads(file.read_text())
        return (content["made_by"]["lineage"] or "none") if "made_by" in content else None
    return None


def _of_libraries(locked: LockedStage, pins: dict[str, str], digest: Digest) -> list[str]:
    """Libraries that made the evidence in another version than the one that is pinned now."""
    reasons = []
    for path, md5 in locked.outs.items():
        if not path.endswith(".json") or digest(path) != md5:
            continue
        content = json.loads(Path(path).read_text())
        environment = content.get("environment", {}) if isinstance(content, dict) else {}
        for name, version in environment.get("libraries", {}).items():
            wanted = pins.get(name) or installed(name)
            if public(version) != wanted:
                reasons.append(f"library {name} changed: {public(version)} -> {wanted}")
    return reasons


def _of_arithmetic(locked: LockedStage, digest: Digest) -> list[str]:
    """Whether JSON outs were made in another arithmetic than that of evidence.

    On a machine that has not got it, that of the machine will do; `arithmetic.note` says so.
    """
    for path, md5 in locked.outs.items():
        if path.endswith(".json") and digest(path) == md5:
            content = json.loads(Path(path).read_text())
            made_in = content.get("made_by", {}).get("arithmetic", arithmetic.V3)
            accepted = {arithmetic.V3} | ({arithmetic.name()} if arithmetic.note() else set())
            if made_in not in accepted:
                return [
                    f"out {path} was made in {made_in} arithmetic, which makes no evidence: "
                    f"`dvc repro --force --single-item {locked.address}` makes it in portable"
                ]
    return []


def pinned() -> dict[str, str]:
    """The version of each library that `requirements.lock` pins; empty where there is no file."""
    text = PINS.read_text() if PINS.exists() else ""
    found = re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE)
    return {name.lower().replace("_", "-"): public(version) for name, version in found}


def installed(name: str) -> str | None:
    """The version of a library that is installed here, or None."""
    try:
        return public(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return None


def public(version: str) -> str:
    """A version without its local part: 2.13.0+cpu is 2.13.0, built for a CPU."""
    return version.partition("+")[0]


def _digest(path: str) -> str | None:
    return lineage.digest(Path(path)) if Path(path).exists() else None


def _strays(outs: set[str]) -> list[str]:
    """Files that Git tracks among the evidence, though no stage makes them."""
    tracked = git.run("ls-files", "-z", "--", *EVIDENCE).decode()
    return [
        file.as_posix()
        for file in map(Path, filter(None, tracked.split("\0")))
        if file.name != ".gitignore"
        and not any(parent.as_posix() in outs for parent in (file, *file.parents))
    ]


def _lock() -> locks.Graph:
    if not LOCK.exists():
        raise UserError(f"{LOCK} is not there: `dvc repro` makes the evidence")
    return locks.parse(LOCK.read_bytes())


def _from_to(old: str, new: str) -> str:
    return f"md5 {_short(old)} -> {_short(new)}"


def _short(digest: str) -> str:
    return digest[:12]


def _shortened(text: str | None) -> str:
    return textwrap.shorten(text or "", LONGEST, placeholder=" ...")

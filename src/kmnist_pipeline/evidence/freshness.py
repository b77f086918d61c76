"""Is the committed evidence what code, configuration and data give?

The lock is held against the files, not DVC's cache, so that a fresh clone can be checked: files
that Git tracks are hashed; files that only the cache holds are compared from lock entry to lock
entry, and hashed too where they are there. The lineage keys that outs carry were taken when
their stages began, so an out made from a file that was changed meanwhile is found as well.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml
from dvc.dvcfile import load_file
from dvc.repo import Repo
from PIL import Image

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import lineage

EVIDENCE = ("metrics", "figures", "reports")


def findings() -> list[str]:
    """What is stale or does not belong, one line each, the stage first; empty when all is fresh."""
    lock = _yaml(Path("dvc.lock")).get("stages", {})
    params = _yaml(Path("params.yaml"))
    with Repo() as repo:
        resolver = load_file(repo, "dvc.yaml").resolver
        stages = {name: resolver.resolve_one(name)[name] for name in resolver.get_keys()}
    made = {out["path"]: out["md5"] for entry in lock.values() for out in entry.get("outs", [])}
    found = [
        f"{name}: {problem}"
        for name, stage in sorted(stages.items())
        for problem in _of_stage(stage, lock.get(name), params, made)
    ]
    found += [
        f"{name}: in dvc.lock, but no stage of dvc.yaml" for name in sorted(lock.keys() - stages)
    ]
    outs = {path for stage in stages.values() for path, _ in _outs(stage)}
    return found + [f"{file}: no stage makes this file" for file in _strays(outs)]


def _of_stage(
    stage: dict[str, Any],
    entry: dict[str, Any] | None,
    params: dict[str, Any],
    made: dict[str, str],
) -> list[str]:
    if entry is None:
        return ["is not in dvc.lock"]
    problems = []
    if entry["cmd"] != stage["cmd"]:
        problems.append("its command changed")

    locked = entry.get("params", {}).get("params.yaml", {})
    for name in sorted({*stage.get("params", []), *locked}):
        try:
            current = lineage.value(params, name)
        except (KeyError, TypeError):
            current = None
        if name not in locked or locked[name] != current:
            problems.append(f"parameter {name} changed")

    deps = {dep["path"]: dep["md5"] for dep in entry.get("deps", [])}
    for path in sorted({*stage.get("deps", []), *deps}):
        # A folder that several stages fill, or a file of Git, is on disk; the rest may be in the
        # cache alone, and then its maker's lock entry speaks for it.
        current = lineage.digest(Path(path)) if Path(path).exists() else made.get(path)
        if path not in deps or deps[path] != current or made.get(path, current) != current:
            problems.append(f"dependency {path} {'changed' if current else 'is missing'}")

    outs = {out["path"]: out["md5"] for out in entry.get("outs", [])}
    key = lineage.key_of_lock(entry)
    in_git = dict(_outs(stage))
    for path in sorted({*in_git, *outs}):
        here = Path(path).exists()
        if path not in outs or path not in in_git or (in_git[path] and not here):
            problems.append(f"out {path} is missing")
        elif here and lineage.digest(Path(path)) != outs[path]:
            problems.append(f"out {path} is not what the stage made")
        elif here:
            problems += [f"{file} carries another lineage key" for file in _of_other_key(path, key)]
    return problems


def _outs(stage: dict[str, Any]) -> list[tuple[str, bool]]:
    """Each out with whether Git keeps it (else DVC's cache does)."""
    found = []
    for kind in ("outs", "metrics", "plots"):
        for out in stage.get(kind, []):
            path, flags = next(iter(out.items())) if isinstance(out, dict) else (out, {})
            found.append((path, flags.get("cache") is False))
    return found


def _of_other_key(out: str, key: str) -> list[str]:
    """The JSON and PNG files of an out that say they were made under another lineage key."""
    path = Path(out)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [file.as_posix() for file in files if _key_in(file) not in (None, key)]


def _key_in(file: Path) -> str | None:
    if file.suffix == ".png":
        with Image.open(file) as image:
            return image.info.get("Lineage", "none")
    if file.suffix == ".json":
        content = json.loads(file.read_text())
        return (content["made_by"]["lineage"] or "none") if "made_by" in content else None
    return None


def _strays(outs: set[str]) -> list[str]:
    """Files that Git tracks among the evidence, though no stage makes them."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--", *EVIDENCE], capture_output=True, text=True, check=True
    ).stdout
    tracked = [Path(file) for file in listing.split("\0") if file]
    return [
        file.as_posix()
        for file in tracked
        if file.name != ".gitignore"
        and not any(parent.as_posix() in outs for parent in (file, *file.parents))
    ]


def _yaml(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise UserError(f"{path} is not there: `dvc repro` makes the evidence")
    return yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}

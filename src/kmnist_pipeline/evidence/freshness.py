"""Is the committed evidence what code, configuration and data give?

The lock is held against the files, not DVC's cache, so that a fresh clone can be checked: files
that Git tracks are hashed; files that only the cache holds are compared from lock entry to lock
entry, and hashed too where they are there. The lineage keys that outs carry were taken when
their stages began, so an out made from a file that was changed meanwhile is found as well.
"""

from __future__ import annotations

import functools
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from dvc.dvcfile import load_file
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from PIL import Image
from voluptuous import MultipleInvalid

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import lineage

LOCK, PARAMS = Path("dvc.lock"), Path("params.yaml")
EVIDENCE = ("metrics", "figures", "reports")
Digest = Callable[[str], str | None]


def findings(composed: str) -> list[str]:
    """What is stale or does not belong, one line each, its stage first; empty when all is fresh.

    composed: what `params.yaml` should be. Where it is not, the stages that either makes stale
    are named.
    """
    params, wanted = _yaml(PARAMS), yaml.load(composed, Loader=LOADER)
    level = PARAMS.read_text() == composed
    stages, lock = _stages(), _lock()
    made = {out["path"]: out.get("md5") for e in lock.values() for out in e.get("outs", [])}
    digest = functools.cache(_digest)  # many stages share a file

    found = [] if level else [f"{PARAMS}: is not level with conf/; run `kmnist compose`"]
    for name, stage in sorted(stages.items()):
        if name not in lock:
            found.append(f"{name}: is not in {LOCK}")
            continue
        problems = [
            *_of_command(stage, lock[name]),
            *_of_params(stage, lock[name], [params, wanted]),
            *_of_deps(stage, lock[name], made, digest),
            *_of_outs(stage, lock[name], digest),
        ]
        found += [f"{name}: {problem}" for problem in problems]
    found += [f"{name}: is in {LOCK}, but not in dvc.yaml" for name in sorted(lock.keys() - stages)]
    outs = {path for stage in stages.values() for path in _outs(stage)}
    return found + [f"{file}: no stage makes this file" for file in _strays(outs)]


def _of_command(stage: dict[str, Any], entry: dict[str, Any]) -> list[str]:
    return [] if entry["cmd"] == stage["cmd"] else ["its command changed"]


def _of_params(stage: dict[str, Any], entry: dict[str, Any], contents: list[dict]) -> list[str]:
    locked = entry.get("params", {}).get(PARAMS.name, {})
    return [
        f"parameter {name} changed"
        for name in sorted({*stage.get("params", []), *locked})
        if any(locked.get(name, _NOTHING) != _value(content, name) for content in contents)
    ]


def _of_deps(
    stage: dict[str, Any], entry: dict[str, Any], made: dict[str, str | None], digest: Digest
) -> list[str]:
    problems = []
    locked = {dep["path"]: dep.get("md5") for dep in entry.get("deps", [])}
    for path in sorted({*stage.get("deps", []), *locked}):
        # A file of Git, or a folder that several stages fill, is on disk; the rest may be in the
        # cache alone, and then its maker's lock entry speaks for it.
        current = digest(path) or made.get(path)
        if current is None:
            problems.append(f"dependency {path} is missing")
        elif locked.get(path) != current:
            problems.append(f"dependency {path} changed")
        elif made.get(path, current) != current:
            problems.append(f"dependency {path} is not what its stage made, says {LOCK}")
    return problems


def _of_outs(stage: dict[str, Any], entry: dict[str, Any], digest: Digest) -> list[str]:
    problems = []
    locked = {out["path"]: out.get("md5") for out in entry.get("outs", [])}
    key = lineage.key_of_lock(entry)
    declared = _outs(stage)
    for path in sorted({*declared, *locked}):
        current = digest(path)
        if path not in locked or path not in declared:
            problems.append(f"out {path} is not both in dvc.yaml and {LOCK}")
        elif current is None and declared[path]:
            problems.append(f"out {path} is missing")
        elif current not in (None, locked[path]):
            problems.append(f"out {path} is not what the stage made")
        elif current:
            problems += [
                f"out {file} was made by another command, or from other dependencies or "
                f"parameters, than {LOCK} says"
                for file in _of_other_key(path, key)
            ]
    return problems


def _digest(path: str) -> str | None:
    return lineage.digest(Path(path)) if Path(path).exists() else None


def _outs(stage: dict[str, Any]) -> dict[str, bool]:
    """Each out, and whether Git keeps it (else DVC's cache does)."""
    found = {}
    for kind in ("outs", "metrics", "plots"):
        for out in stage.get(kind, []):
            path, flags = next(iter(out.items())) if isinstance(out, dict) else (out, {})
            found[path] = flags.get("cache") is False
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
    done = subprocess.run(
        ["git", "ls-files", "-z", "--", *EVIDENCE], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"git ls-files: {done.stderr.strip()}")
    tracked = [Path(file) for file in done.stdout.split("\0") if file]
    return [
        file.as_posix()
        for file in tracked
        if file.name != ".gitignore"
        and not any(parent.as_posix() in outs for parent in (file, *file.parents))
    ]


def _stages() -> dict[str, dict[str, Any]]:
    """Every stage of `dvc.yaml` by name, its variables replaced by their values."""
    try:
        with Repo() as repo:
            resolver = load_file(repo, "dvc.yaml").resolver
            return {name: resolver.resolve_one(name)[name] for name in resolver.get_keys()}
    except DvcException as error:
        raise UserError(f"dvc.yaml: {error}") from error


def _lock() -> dict[str, dict[str, Any]]:
    if not LOCK.exists():
        raise UserError(f"{LOCK} is not there: `dvc repro` makes the evidence")
    try:
        return COMPILED_LOCKFILE_SCHEMA(_yaml(LOCK)).get("stages", {})
    except MultipleInvalid as error:
        raise UserError(f"{LOCK}: {error}") from error


LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NOTHING = object()


def _yaml(path: Path) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8") as file:
            content = yaml.load(file, Loader=LOADER)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: must be a map")
    return content


def _value(params: dict[str, Any], name: str) -> Any:
    try:
        return lineage.value(params, name)
    except (KeyError, TypeError):
        return _NOTHING

"""Finds the stages that would run again; `check`, `impact` and `verify --quick` show the result.

It compares a lock, of the workspace or of a commit, with `dvc.yaml`, the parameters that `conf/`
gives, and the files. It does not need DVC's cache, so it works in a new clone: the md5 of a
dependency that a stage makes is taken from the lock, and an out that is only in the cache may be
missing. If such a file is altered on disk, the stage that makes it is changed, and the stages that
read it are downstream. `params.yaml` does not count: `kmnist compose` makes it from `conf/`.
"""

import functools
import importlib.metadata
import json
import os
import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from kmnist_pipeline import arithmetic
from kmnist_pipeline.commands import derived
from kmnist_pipeline.commands.words import count
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import lineage, paths
from kmnist_pipeline.repository import changes, dvc, git, locks
from kmnist_pipeline.repository.changes import Change
from kmnist_pipeline.repository.compare import Difference, Verdict
from kmnist_pipeline.repository.locks import Graph, LockedStage
from kmnist_pipeline.repository.revision import Revision, below

PARAMS, PINS = Path("params.yaml"), Path("requirements.lock")
CLEAN = "git clean --force --"
DVC_CHECKOUT = "dvc checkout --force --allow-missing"  # removes what the cache lacks
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}(?![^\s])")
IN_GIT = "of evidence in Git"
LOST = f"{locks.LOCK} is missing, so every stage is new"
FEW = 3  # modules that reasons name, and files that the last sentence names, one by one
Digest = Callable[[str], str]


@dataclass(frozen=True)
class StageStatus:
    """A stage that runs again or for the first time, or that `dvc.yaml` no longer has.

    state: `new`, `changed` (by itself), `downstream` or `gone`; changes: those of dependencies
    that no stage makes, and of its outs; reads: the other such stages whose outs it reads; outs: of
    a stage that is gone, as the lock has them.
    """

    address: str
    state: str
    changes: list[Change]
    reads: list[str]
    outs: tuple[str, ...] = ()

    @property
    def reasons(self) -> list[str]:
        """The reasons, one on each line."""
        if self.state == "new":
            return [f"is not in {locks.LOCK}"]
        if self.state == "gone":
            return [f"is in {locks.LOCK}, but not in dvc.yaml"]
        return said(self.changes) or [f"reads outs of {', '.join(self.reads)}"]


@dataclass(frozen=True)
class Status:
    """The differences from a lock.

    stages: in the order of `dvc.yaml`, then stages that are gone; orphans: files among the
    evidence that Git tracks but no stage makes; wanted: all stages of `dvc.yaml`, as their new
    lock entries would be, with the md5 of outs from the lock.
    """

    stages: list[StageStatus]
    orphans: list[str]
    wanted: Graph


def of(locked: Graph, params: dict[str, Any]) -> Status:
    """Compare `dvc.yaml` with these parameters, and the current files, with a lock.

    Raises UserError if `dvc.yaml` is invalid or needs a parameter that `params` lacks.
    """
    digest = functools.cache(_digest)  # many stages share a file
    pins = pinned()
    described = dvc.stages(params)
    wanted = _graph(described, params, locked, digest)
    own = {
        name: [
            *changes.of_stage(locked.stages[name], stage),
            *_of_outs(described[name], locked.stages[name], digest),
            *_of_making(locked.stages[name], pins, digest),
        ]
        for name, stage in wanted.stages.items()
        if name in locked.stages
    }
    orphans = _orphans(wanted)
    altered = [c.name for found in own.values() for c in found if is_altered_out(c)]
    for name, found in own.items():  # the stages that fill a folder report its changes
        own[name] = [
            change
            for change in found
            if change.kind != "file"
            or not any(path.startswith(f"{change.name}/") for path in (*altered, *orphans))
        ]
    gone = [name for name in locked.stages if name not in wanted.stages]
    lost = locked.downstream(gone)
    again = [name for name in wanted.stages if own.get(name) != [] or name in lost]
    below = wanted.downstream(again)
    sound = [stage for name, stage in locked.stages.items() if name not in {*gone, *again, *below}]
    if contradicted := derived.contradictions(sound, params):
        own |= contradicted
        again += contradicted
        below = wanted.downstream(again)
    stages = [
        StageStatus(
            name,
            "new" if name not in own else "changed" if own[name] else "downstream",
            own.get(name, []),
            list(dict.fromkeys([*lost.get(name, []), *below.get(name, [])])),
        )
        for name in wanted.stages
        if name in again or name in below
    ]
    stages += [StageStatus(name, "gone", [], [], tuple(locked.stages[name].outs)) for name in gone]
    return Status(stages, orphans, wanted)


def said(changes: list[Change]) -> list[str]:
    """The changes, one on each line; of many changed modules, only the first."""
    modules = [each for each in changes if each.kind == "file" and each.name.startswith("src/")]
    more = modules[FEW:] if len(modules) > FEW + 1 else []
    lines = [str(change) for change in changes if change not in more]
    return lines + ([f"and {len(more)} more dependencies in src/"] if more else [])


def is_composed(composed: str) -> bool:
    """Whether params.yaml is up to date with `conf/`."""
    return PARAMS.exists() and PARAMS.read_text("utf-8") == composed


def locked_here() -> Graph:
    """The stages of the workspace's lock; empty if there is no lock.

    Raises UserError if the lock cannot be read.
    """
    path = Path(locks.LOCK)
    try:
        return locks.parse(path.read_bytes()) if path.exists() else Graph({})
    except UserError as error:
        way = f"`{git.RESTORE} {locks.LOCK}` restores the committed one"
        raise UserError(f"{error}\n{way}") from error


def is_lock_lost() -> bool:
    """Whether the lock is missing here, but not in the commit that is checked out."""
    return not Path(locks.LOCK).exists() and bool(git.objects(["HEAD"], locks.LOCK))


def made_here(found: Status) -> dict[str, list[Change]]:
    """The stages whose results are up to date and not those of HEAD.

    Each has the changes, since HEAD, of its command, its parameters and the files that no stage
    makes. found: the differences from the lock here.
    """
    if not edited(locks.LOCK):
        return {}
    before = head().lock().stages
    stale = {stage.address for stage in found.stages}
    return {
        name: [
            change
            for change in changes.of_stage(
                before.get(name, LockedStage(name, "", {}, {}, {})), stage
            )
            if change.kind != "file" or not found.wanted.makers(change.name)
        ]
        for name, stage in locked_here().stages.items()
        if name not in stale and stage != before.get(name)
    }


def edited(*places: str) -> list[str]:
    """The files in Git's index or HEAD that differ from HEAD."""
    return git.paths("diff", "--name-only", "-z", "--relative", "HEAD", "--", *places)


def summary(
    differences: Iterable[Difference],
    where: str = "",
    run: bool = False,
    fits: int = 0,
    way: str = "",
) -> str:
    """A sentence: how many files differ from the commit, and what to do about them.

    differences: of all files; where: which files these are, in words; run: whether a run in a clone
    made them, so that there is nothing to do; fits: how many of the differences compare the weights
    of a fit instead of a file; way: what to do, by default the commands that restore the files.
    """
    verdicts = {each.path: each.verdict for each in differences}
    apart = [path for path, verdict in verdicts.items() if verdict is not Verdict.IDENTICAL]
    worst = max(verdicts.values(), default=Verdict.IDENTICAL)
    whole = f"{count(len(verdicts) - fits, 'file')} {where}".rstrip()
    whole += f" and the weights of {count(fits, 'fit')}" if fits else ""
    if not apart:
        again = "the committed bytes were made again" if run else "these are the committed bytes"
        return f"{worst.words}: {again} (all of {whole})"
    differ = "differs" if len(apart) == 1 else "differ"
    line = f"{worst.words}: {len(apart)} of {whole} {differ} from the commit"
    equal = sum(verdict is Verdict.EQUAL for verdict in verdicts.values())
    if worst is Verdict.DIFFERENT and equal:
        line += f", {equal} of them with equal numbers"
    if worst is Verdict.EQUAL and (note := arithmetic.note()):
        return f"{line}. {note}"
    return f"{line}; {'the workspace is unchanged' if run else way or _restored(apart)}"


def _restored(files: list[str]) -> str:
    """The smallest commands that give these files their committed content, in a sentence."""
    kept = head().ids(*files)
    differ = {*edited(*files)}
    # Committed files, and outs that are folders of them, that are not what the lock says.
    wrong = {
        file
        for file in files
        if file not in differ and any(f"{path}/".startswith(f"{file}/") for path in kept)
    }
    if wrong == {*files}:
        return "`kmnist check` names the commands that make it again"
    files = [file for file in files if file not in wrong]
    of_git = {file for file in files if file in kept}
    new = {file for file in files if file.startswith(paths.TRACKED)} - of_git
    others = set(files) - of_git - new
    commands = [
        f"`{command} {shlex.join(_few(found))}`"
        for command, found in {
            git.RESTORE: of_git,
            CLEAN: new,
            DVC_CHECKOUT: others,
        }.items()
        if found
    ]
    verb, these = ("restores", "restore")[len(commands) > 1], ("it", "them")[len(files) > 1]
    line = f"{' and '.join(commands)} {verb} {these}"
    return f"{line}, or removes what is not in DVC's cache" if others else line


def _few(files: set[str]) -> list[str]:
    """The files, or the folders that contain them if they are many."""
    if len(files) <= FEW:
        return sorted(files)
    common = os.path.commonpath(files)
    return [common] if common else sorted({file.partition("/")[0] for file in files})


def graph(params: dict[str, Any], locked: Graph) -> Graph:
    """All stages of `dvc.yaml`, as their new entries in a lock would be: see `Status`.

    Raises UserError as `of` does.
    """
    return _graph(dvc.stages(params), params, locked, functools.cache(_digest))


def _graph(
    described: dict[str, dict[str, Any]], params: dict[str, Any], locked: Graph, digest: Digest
) -> Graph:
    made = {out: md5 for stage in locked.stages.values() for out, md5 in stage.outs.items()}
    stages = {}
    for name, stage in described.items():
        used = dvc.values(stage, params)
        for missing in set(stage.get("params", [])) - used.keys():
            raise UserError(f"dvc.yaml: {name}: there is no parameter {missing}")
        outs = {path: made.get(path, "") for path in dvc.outs(stage)}
        deps = {path: made.get(path) or digest(path) for path in stage.get("deps", [])}
        stages[name] = LockedStage(name, stage["cmd"], deps, used, outs)
    return Graph(stages)


def _of_outs(stage: dict[str, Any], locked: LockedStage, digest: Digest) -> list[Change]:
    """The outs that differ between `dvc.yaml`, the lock and the disk."""
    found = []
    declared = dvc.outs(stage)
    for path in sorted({**declared, **locked.outs}):
        old, new = locked.outs.get(path), digest(path) if path in declared else None
        if None in (old, new) or (old != new and (new or declared[path])):
            found.append(Change("out", path, old, new))
    return found


def _of_making(locked: LockedStage, pins: dict[str, str], digest: Digest) -> list[Change]:
    """The outs that have the locked md5, but whose content states another origin."""
    found = list[Change]()
    others = defaultdict(list)
    for path in (path for path, md5 in locked.outs.items() if digest(path) == md5):
        for file in below(Path(path), path):
            if (key := _key_in(Path(file))) not in (None, locked.key):
                others[key].append(file)
            if file.endswith(".json"):
                found += _of_environment(file, pins)
    carried = [Change("lineage", ", ".join(f), key, locked.key) for key, f in others.items()]
    return carried + list(dict.fromkeys(found))


def _of_environment(path: str, pins: dict[str, str]) -> list[Change]:
    """The changes if an out was made with other libraries than pinned, or in another arithmetic.

    A machine without the arithmetic of evidence may use its own; `arithmetic.note` says so.
    """
    content = json.loads(Path(path).read_text("utf-8"))
    if not isinstance(content, dict):
        return []
    found = []
    origin = content.get("made_by", {})
    libraries = content.get("environment", {}).get("libraries", {}) | origin.get("libraries", {})
    for name, version in libraries.items():
        made, now = _public(version), pins.get(name) if PINS.exists() else installed(name)
        if made != now:
            found.append(Change("library", name, made, now))
    made_in = origin.get("arithmetic", arithmetic.V3)
    if made_in not in {arithmetic.V3} | ({arithmetic.name()} if arithmetic.note() else set()):
        found.append(Change("arithmetic", path, made_in, arithmetic.V3))
    return found


def _key_in(file: Path) -> str | None:
    """The lineage key that a JSON or PNG file states, if any."""
    if file.suffix == ".png":
        with Image.open(file, formats=["PNG"]) as image:
            return image.info.get("Lineage", "none")
    if file.suffix == ".json":
        content = json.loads(file.read_text("utf-8"))
        return (content["made_by"]["lineage"] or "none") if "made_by" in content else None
    return None


def pinned() -> dict[str, str]:
    """The version of each library in `requirements.lock`; empty if there is no such file.

    Raises UserError if the file has a merge conflict, or a library twice.
    """
    text = PINS.read_text("utf-8") if PINS.exists() else ""
    locks.refuse_conflict(text, str(PINS))
    found: dict[str, str] = {}
    for name, version, _ in _pins(text):
        library = re.sub(r"[-_.]+", "-", name).lower()  # equal for pip
        if library in found:
            raise UserError(
                f"{PINS}: {name}=={version}: {library} is listed twice, first as "
                f"{found[library]}; remove one of them, or `{git.RESTORE} {PINS}`"
            )
        found[library] = version
    return {name: _public(version) for name, version in found.items()}


def unhashed() -> list[str]:
    """The libraries of `requirements.lock` without a hash: pip would refuse to install them."""
    text = PINS.read_text("utf-8") if PINS.exists() else ""
    return [name for name, _, hashes in _pins(text) if not hashes]


def rehashed() -> list[str]:
    """The libraries with the version of HEAD's `requirements.lock` and other hashes.

    They are other files of the same version, which no file of evidence can show.
    """
    if str(PINS) not in edited(str(PINS)) or not PINS.exists():
        return []
    committed = _pins(head().read(str(PINS)).decode(errors="replace"))
    before = {(name, version): hashes for name, version, hashes in committed}
    return [
        name
        for name, version, hashes in _pins(PINS.read_text("utf-8"))
        if hashes != before.get((name, version), hashes)
    ]


def _pins(text: str) -> list[tuple[str, str, set[str]]]:
    """Name, version and hashes of each library of a `requirements.lock`."""
    lines = text.replace("\\\n", " ").splitlines()
    found = ((re.match(r"([\w.-]+)\s*==\s*([^\s;]*)", line), line) for line in lines)
    return [(m[1], m[2], {*HASH.findall(line)}) for m, line in found if m]


def head() -> Revision:
    """The commit that is checked out."""
    return Revision("HEAD", git.commit("HEAD"))


def folders(commit: str) -> list[str]:
    """The folders of evidence that a commit has: git refuses to check others out."""
    kept = Revision(commit, git.commit(commit))
    return [folder for folder in paths.TRACKED if kept.ids(folder)]


def installed(name: str) -> str | None:
    """The installed version of a library, or None."""
    try:
        return lineage.versions([name])[name]
    except importlib.metadata.PackageNotFoundError:
        return None


def _public(version: str) -> str:
    """Without the local part, which names a build: 2.13.0+cpu becomes 2.13.0."""
    return version.partition("+")[0]


def _digest(path: str) -> str:
    return lineage.digest(Path(path)) if Path(path).exists() else ""


def is_altered_out(change: Change) -> bool:
    """Whether a change is an out that is missing or not what its stage made."""
    return change.kind == "out" and None not in (change.old, change.new)


def _orphans(wanted: Graph) -> list[str]:
    outs = {out for stage in wanted.stages.values() for out in stage.outs}
    return [
        file.as_posix()
        for file in map(Path, git.paths("ls-files", "-z", "--", *paths.TRACKED))
        if file.name != ".gitignore"
        and file.exists()
        and not any(parent.as_posix() in outs for parent in (file, *file.parents))
    ]

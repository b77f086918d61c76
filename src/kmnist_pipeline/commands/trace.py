"""Where a file comes from: which stage made it, from what, down to the original data.

A file is known by its bytes, whatever it is called and wherever it lies. The lock of this folder
and those of all commits say which bytes each stage made: the md5 of single files stands there, for
a file in a folder the md5 of the folder's listing does, and Git has the folder; the sha256 of the
original data stands among the parameters. Only where the bytes are unknown does it count what a
file says of itself (the lineage key in a PNG, a JSON or a page), or that it lies where a stage
writes: then it is an altered copy.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import lineage
from kmnist_pipeline.repository import git, locks

Status = Literal["exact", "altered", "unknown"]
BY_HAND = "by hand"  # in place of the lineage key, where a stage ran without DVC


@dataclass(frozen=True)
class Lock:
    """One version of the lock: its text, the commits that have it, whether this folder has it."""

    text: str
    commits: list[git.Commit]
    here: bool

    @property
    def origin(self) -> str:
        """What to call it in a message."""
        return locks.LOCK if self.here else f"{locks.LOCK} at {self.commits[0].id[:12]}"

    @cached_property
    def whole(self) -> locks.Graph:
        """All of it."""
        return locks.Graph({stage.address: stage for stage in self.holding()})

    def holding(self, *needles: str) -> list[locks.LockedStage]:
        """The stages whose entry holds one of the needles, and perhaps more; all without any."""
        if needles and not any(needle in self.text for needle in needles):
            return []
        try:
            return locks.stages(self.text, self.origin, *needles)
        except UserError:
            if self.here:
                raise
            return []  # what is committed cannot be mended, and is no reason to stop


@dataclass
class Making:
    """A stage that made certain bytes, under the path that it wrote; the locks that say so."""

    stage: locks.LockedStage
    path: str
    locks: list[Lock]

    @property
    def here(self) -> bool:
        """Whether the lock of this folder says so."""
        return self.locks[0].here

    @property
    def commits(self) -> list[git.Commit]:
        """The commits whose lock says so, the newest first."""
        found = [commit for lock in self.locks for commit in lock.commits]
        return sorted(found, key=lambda commit: datetime.fromisoformat(commit.date), reverse=True)


@dataclass
class Finding:
    """What is known of one file.

    file: as it is shown; md5: of its bytes; status: `exact` where a stage made these very bytes;
    remark: what is not as it should be, if anything; makings: the likeliest first.
    """

    file: str
    md5: str
    status: Status
    remark: str = ""
    makings: list[Making] = field(default_factory=list)


@dataclass(frozen=True)
class Input:
    """A file or folder that a stage read, and the keys of the stages that made it.

    fits: whether they made just these bytes; where not, no commit's lock tells who did.
    """

    path: str
    md5: str
    makers: list[str]
    fits: bool


@dataclass(frozen=True)
class Original:
    """A data set as it was published: titles, sources, licence, and sha256 by file name."""

    dataset: str
    title: str
    licence: str
    sources: list[str]
    files: dict[str, str]


@dataclass(frozen=True)
class Step:
    """A stage in a lineage.

    inputs: what it read of other stages; code: md5 by path of what it read of this repository;
    originals: the published data that it fetched; files: the paths of all that it made, as far as
    this repository can list them.
    """

    stage: locks.LockedStage
    inputs: list[Input]
    code: dict[str, str]
    originals: list[Original]
    files: list[str]


@dataclass(frozen=True)
class Run:
    """The MLflow run that shows a stage."""

    id: str
    name: str
    experiment: str
    experiment_id: str


@dataclass(frozen=True)
class Trace:
    """Files and the stages behind them.

    steps: by lineage key, each after all that read of it; runs: by lineage key; store: what
    MLflow store was asked, or why not.
    """

    findings: list[Finding]
    steps: dict[str, Step]
    runs: dict[str, Run]
    store: str

    def behind(self, key: str) -> list[Step]:
        """A stage and all that it rests on, each once, the nearest first."""
        found = {key: self.steps[key]}
        queue = [key]
        while queue:
            for source in self.steps[queue.pop(0)].inputs:
                for maker in source.makers:
                    if maker not in found:
                        found[maker] = self.steps[maker]
                        queue.append(maker)
        return list(found.values())

    def whole(self, finding: Finding) -> bool:
        """Whether the lineage of a file leads to original data without a gap or a doubt."""
        if not finding.makings or finding.remark:
            return False
        steps = self.behind(finding.makings[0].stage.key)
        gaps = any(not source.fits for step in steps for source in step.inputs)
        return not gaps and any(step.originals for step in steps)

    @property
    def exit_status(self) -> int:
        """0 where all is known to the byte, 3 where some file is altered, 1 where one is unknown.

        Where the bytes are known, but not all that they were made from, it is 1 too.
        """
        if any(finding.status == "unknown" for finding in self.findings):
            return 1
        if any(finding.status == "altered" for finding in self.findings):
            return 3
        return 0 if all(self.whole(finding) for finding in self.findings) else 1


def trace(files: Sequence[Path], unfold: bool = False) -> Trace:
    """The lineage of files, absolute paths all; of a folder, that of all files in it.

    Without files, the graph of this folder's lock. unfold: whether to list what is in the folders
    that stages made. Raises UserError for a path that is not there.
    """
    past = _Past()
    if files:
        named = [inner for file in files for inner in _files(file)]
        digests = [_digests(file, past.hash_name) for file in named]
        past.asked = [digest.blob for digest in digests]
        findings = [_find(*pair, past) for pair in zip(named, digests, strict=True)]
        roots = [
            (making.locks[0], making.stage)
            for making in (finding.makings[0] for finding in findings if finding.makings)
        ]
    else:
        findings = []
        here = [lock for lock in past.locks if lock.here]
        roots = [(lock, stage) for lock in here for stage in lock.whole.stages.values()]
        if not roots:
            raise UserError(f"{locks.LOCK} is not there, or empty: `dvc repro` makes the evidence")
    steps = _steps(roots, past, unfold)
    return Trace(findings, steps, *_runs(steps))


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        inside = [file for file in sorted(path.rglob("*")) if file.is_file()]
        shown = [file for file in inside if not _hidden(file.relative_to(path))]
        if not shown:
            raise UserError(f"{_shown(path)}: there is no file in this folder")
        return shown
    if not path.is_file():
        raise UserError(f"{_shown(path)}: there is no such file")
    return [path]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _shown(path: Path) -> str:
    """The path from the project's folder where it lies there."""
    here = Path.cwd()
    return (path.relative_to(here) if path.is_relative_to(here) else path).as_posix()


class _Past:
    """All versions of the lock, the likeliest to be meant first, and the folders beside them."""

    def __init__(self) -> None:
        self.commits = git.commits()
        self.locks = list(_locks(self.commits))
        self.asked: list[str] = []  # the blobs that files were asked for
        self._objects: dict[str, dict[str, str]] = {}
        self._md5_of_blob: dict[str, str] = {}
        self._listings: dict[str, dict[str, str]] = {}

    def folders(self, path: str, blob: str) -> set[str]:
        """DVC's md5 of each folder above a path, at the commits that have a blob there."""
        having = {id for id, found in self.objects(path).items() if found == blob}
        trees = {
            tree
            for folder in _above(path)
            if any(f"path: {folder}\n" in lock.text for lock in self.locks)
            for id, tree in self.objects(folder).items()
            if id in having
        }
        return {listing_md5(self.listing(tree)) for tree in trees}

    def objects(self, path: str) -> dict[str, str]:
        """The Git object at a path by commit."""
        if path not in self._objects:
            self._objects[path] = git.objects([commit.id for commit in self.commits], path)
        return self._objects[path]

    def listing(self, tree: str) -> dict[str, str]:
        """The md5 of each file of a Git tree by its path from there."""
        if tree not in self._listings:
            blobs = git.tree(tree)
            new = sorted(set(blobs.values()) - self._md5_of_blob.keys())
            self._md5_of_blob |= {name: _md5(content) for name, content in git.blobs(new)}
            listing = {path: self._md5_of_blob[blob] for path, blob in blobs.items()}
            self._listings[tree] = listing
        return self._listings[tree]

    def beside(self, lock: Lock, path: str) -> Iterator[dict[str, str]]:
        """The listings of a folder as it stands beside a lock, in Git and on the disk."""
        for commit in lock.commits[:1]:
            if commit.id in self.objects(path):
                yield self.listing(self.objects(path)[commit.id])
        if lock.here:
            yield _listing_here(path)

    @cached_property
    def hash_name(self) -> str:
        """What Git makes its ids by."""
        return git.hash_name()

    @cached_property
    def places(self) -> dict[str, set[str]]:
        """The paths under which Git has the files that were asked for, by blob."""
        return git.places(self.asked)


def _locks(commits: list[git.Commit]) -> Iterator[Lock]:
    """That of this folder, that of HEAD, then by their newest commits."""
    blobs = git.objects([commit.id for commit in commits], locks.LOCK)
    having: dict[str, list[git.Commit]] = {}
    for commit in sorted(commits, key=lambda commit: not commit.is_head):
        if commit.id in blobs:
            having.setdefault(blobs[commit.id], []).append(commit)
    texts = {name: content.decode(errors="replace") for name, content in git.blobs(having)}

    path = Path(locks.LOCK)
    here = path.read_text(errors="replace") if path.is_file() else None
    same = next((name for name, text in texts.items() if text == here), None)
    if here is not None:
        yield Lock(here, having.pop(same) if same else [], True)
    for name, holders in having.items():
        yield Lock(texts[name], holders, False)


# --- whose bytes are these? ----------------------------------------------------------------------


def _find(file: Path, digests: _Digests, past: _Past) -> Finding:
    shown, place = _shown(file), _place(file)
    exact = (
        _of_outs(past, {digests.md5})
        or _of_folders(past, digests)
        or _of_original(past, digests.sha256)
        or _of_uncommitted(past, digests.md5, file.stat().st_size)
    )
    address, key = _says(file)
    if exact:
        exact.sort(
            key=lambda making: (
                making.stage.key != key,
                making.path != place,
                Path(making.path).name != file.name,
            )
        )
        remark = ""
        if key not in ("", exact[0].stage.key):
            remark = f"a file was changed while the stage ran: it began under lineage key {key}"
        return Finding(shown, digests.md5, "exact", remark, exact)

    if key and (making := _of_key(past, address, key, place, file.name)):
        remark = f"it says that {address} made it, but that stage made other bytes"
        return Finding(shown, digests.md5, "altered", remark, [making])
    if place and (making := _of_place(past, place)):
        remark = f"it lies where {making.stage.address} writes, but that stage made other bytes"
        return Finding(shown, digests.md5, "altered", remark, [making])
    return Finding(shown, digests.md5, "unknown", _guess(past, digests.blob, address, key))


@dataclass(frozen=True)
class _Digests:
    md5: str
    sha256: str
    blob: str


def _digests(file: Path, git_hash: str) -> _Digests:
    """Under which names DVC, `conf/dataset` and Git know the content of a file."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    blob = hashlib.new(git_hash, f"blob {file.stat().st_size}\0".encode(), usedforsecurity=False)
    with file.open("rb") as content:
        while chunk := content.read(lineage.CHUNK):
            for digest in (md5, sha256, blob):
                digest.update(chunk)
    return _Digests(md5.hexdigest(), sha256.hexdigest(), blob.hexdigest())


def _place(file: Path) -> str | None:
    """Where in the project a file lies."""
    return file.relative_to(Path.cwd()).as_posix() if file.is_relative_to(Path.cwd()) else None


def _makings(found: Iterable[tuple[Lock, locks.LockedStage, str]]) -> list[Making]:
    """One for each stage and lineage key and path, with all locks that hold it."""
    makings: dict[tuple[str, str], Making] = {}
    for lock, stage, path in found:
        making = makings.setdefault((stage.key, path), Making(stage, path, []))
        if lock not in making.locks:
            making.locks.append(lock)
    return list(makings.values())


def _of_outs(past: _Past, md5s: set[str], inside: str = "") -> list[Making]:
    """Who made outs of these md5s; `inside` says which file of a folder is meant."""
    return _makings(
        (lock, stage, inside or out)
        for lock in past.locks
        for stage in lock.holding(*md5s)
        for out, md5 in stage.outs.items()
        if md5 in md5s and (not inside or inside.startswith(f"{out}/"))
    )


def _of_folders(past: _Past, digests: _Digests) -> list[Making]:
    """Who made a file in a folder that Git keeps."""
    found = []
    for path in sorted(past.places[digests.blob]):
        md5s = past.folders(path, digests.blob)
        if md5s:
            found += _of_outs(past, md5s, path)
    return found


def _of_original(past: _Past, sha256: str) -> list[Making]:
    """Who fetched a file of the original data."""
    return _makings(
        (lock, stage, f"{next(iter(stage.outs))}/{name}")
        for lock in past.locks
        for stage in lock.holding(sha256)
        for original in originals(stage)
        for name, digest in original.files.items()
        if digest == sha256
    )


def _of_uncommitted(past: _Past, md5: str, size: int) -> list[Making]:
    """Who made a file in a folder of this checkout that is no commit's yet."""
    return _makings(
        (lock, stage, f"{out}/{name}")
        for lock in past.locks
        if lock.here
        for stage in lock.holding(".dir\n")
        for out, out_md5 in stage.outs.items()
        if out_md5.endswith(".dir") and size in {f.stat().st_size for f in _inside_here(out)}
        for listing in [_listing_here(out)]
        if md5 in listing.values() and listing_md5(listing) == out_md5
        for name, digest in listing.items()
        if digest == md5
    )


def _of_key(past: _Past, address: str, key: str, place: str | None, name: str) -> Making | None:
    """What a stage made under a lineage key; as the file in the same place or of the same name."""
    found = [
        (lock, stage)
        for lock in past.locks
        for stage in lock.holding(f"  {address}:\n")
        if (stage.address, stage.key) == (address, key)
    ]
    if not found:
        return None
    lock, stage = found[0]
    names = [name for out, md5 in stage.outs.items() for name in _inside(past, lock, out, md5)]
    alike = [path for path in names if Path(path).name == name]
    path = place if place in names else (alike or list(stage.outs))[0]
    return Making(stage, path, [lock for lock, _ in found])


def _inside(past: _Past, lock: Lock, out: str, md5: str) -> list[str]:
    """The files of an out, or the out itself where nobody can tell."""
    if md5.endswith(".dir"):
        for listing in past.beside(lock, out):
            if listing_md5(listing) == md5:
                return [f"{out}/{name}" for name in listing]
    return [out]


def _of_place(past: _Past, place: str) -> Making | None:
    """The stage that writes a path, by the lock of this folder."""
    found = [
        Making(stage, place, [lock])
        for lock in past.locks
        if lock.here
        for stage in lock.holding(*(f"path: {path}\n" for path in (place, *_above(place))))
        for out in stage.outs
        if place == out or place.startswith(f"{out}/")
    ]
    return found[0] if found else None


_ORIGINS = (  # in a JSON out, in a page
    re.compile(
        rb'"lineage": (?:null|"(?P<key>[0-9a-f]{64})").*?"stage": "(?P<stage>[^"]+)"', re.DOTALL
    ),
    re.compile(
        rb"Made by (?:<code>|`)(?P<stage>[^<`]+)(?:</code>|`), "
        rb"lineage key (?:<code>|`)(?P<key>[0-9a-f]{64})(?:</code>|`)"
    ),
)


def _says(file: Path) -> tuple[str, str]:
    """Stage and lineage key as a file tells them itself, nothing where it does not.

    The key is `by hand` where the stage ran without DVC.
    """
    content = file.read_bytes()
    if content.startswith(b"\x89PNG"):
        from PIL import Image

        try:
            with Image.open(file) as image:
                return str(image.info.get("Stage", "")), str(image.info.get("Lineage", ""))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            return "", ""  # damaged just there
    for origin in _ORIGINS:
        if match := origin.search(content):
            key = match["key"].decode() if match["key"] else BY_HAND
            return match["stage"].decode(errors="replace"), key
    return "", ""


def _guess(past: _Past, blob: str, address: str, key: str) -> str:
    """What else could help to find out what an unknown file is."""
    if key == BY_HAND:
        return f"it says that {address} made it, run by hand and not by DVC"
    if key:
        told = f"it says that {address} made it under lineage key {key[:12]}, which no lock holds"
        return f"{told}; {_SHALLOW}" if git.is_shallow() else told
    if paths := sorted(past.places[blob]):
        return f"Git has it as {', '.join(paths)}, but no stage of any lock made these bytes"
    return _SHALLOW if git.is_shallow() else ""


_SHALLOW = "this clone has not all commits: `git fetch --unshallow` gets them"


# --- what is behind it? --------------------------------------------------------------------------


def _steps(
    roots: list[tuple[Lock, locks.LockedStage]], past: _Past, unfold: bool
) -> dict[str, Step]:
    """The stages and all that they rest on, by lineage key."""
    steps: dict[str, Step] = {}
    queue = list(roots)
    while queue:
        lock, stage = queue.pop(0)
        if stage.key in steps:
            continue
        inputs, code = [], {}
        for path, md5 in stage.deps.items():
            if not lock.whole.makers(path):
                code[path] = md5
                continue
            found = _makers(past, lock, path, md5)
            makers = found or [(lock, maker) for maker in lock.whole.makers(path)]
            keys = list(dict.fromkeys(maker.key for _, maker in makers))
            inputs.append(Input(path, md5, keys, bool(found)))
            queue += makers
        files = [
            file
            for out, md5 in stage.outs.items()
            for file in (_inside(past, lock, out, md5) if unfold else [out])
        ]
        steps[stage.key] = Step(stage, inputs, code, originals(stage), files)
    return steps


def _makers(past: _Past, lock: Lock, path: str, md5: str) -> list[tuple[Lock, locks.LockedStage]]:
    """Who made just this content of a path: by the reader's lock, or else by another.

    Another, because a commit may hold a stage that has not yet run again on what it reads.
    """
    for other in sorted(past.locks, key=lambda candidate: candidate is not lock):
        if md5 not in other.text:
            continue
        makers = other.whole.makers(path)
        if [maker.outs.get(path) for maker in makers] == [md5]:
            return [(other, makers[0])]
        if md5.endswith(".dir") and not any(path in maker.outs for maker in makers):
            outs = {out: digest for maker in makers for out, digest in maker.outs.items()}
            for listing in past.beside(other, path):
                if listing_md5(listing) == md5 and _consists(listing, path, outs):
                    return [(other, maker) for maker in makers]
    return []


def _consists(listing: dict[str, str], folder: str, outs: dict[str, str]) -> bool:
    """Whether all files of a folder are files of these outs."""
    left = {f"{folder}/{name}": md5 for name, md5 in listing.items()}
    for out, md5 in outs.items():
        if left.get(out) == md5:
            del left[out]
        inside = {path: digest for path, digest in left.items() if path.startswith(f"{out}/")}
        names = {path.removeprefix(f"{out}/"): digest for path, digest in inside.items()}
        if inside and listing_md5(names) == md5:
            left = {path: digest for path, digest in left.items() if path not in inside}
    return not left


def originals(stage: locks.LockedStage) -> list[Original]:
    """The published data that a stage got hold of; only `download` does."""
    if stage.kind != "download":
        return []
    found = []
    for name, about in stage.params.items():
        parts = about["parts"]  # a map in the oldest locks, then a list, which keeps its order
        named = parts.items() if isinstance(parts, dict) else ((p["name"], p) for p in parts)
        files = {
            f"{part}-{content}-idx{dimensions}-ubyte": digests[content]
            for part, digests in named
            for content, dimensions in (("images", 3), ("labels", 1))
        }
        known = {key: about.get(key, "") for key in ("title", "licence")}
        found.append(
            Original(name.partition(".")[2], **known, sources=about["sources"], files=files)
        )
    return found


def listing_md5(listing: dict[str, str]) -> str:
    """DVC's md5 of a folder from those of its files, as `lineage.digest` has it from the disk."""
    rows = sorted(listing.items(), key=lambda row: row[0].split("/"))
    text = json.dumps([{"md5": md5, "relpath": path} for path, md5 in rows])
    return _md5(text.encode()) + ".dir"


def _listing_here(folder: str) -> dict[str, str]:
    files = _inside_here(folder)
    return {file.relative_to(folder).as_posix(): lineage.digest(file) for file in files}


def _inside_here(folder: str) -> list[Path]:
    return [file for file in Path(folder).rglob("*") if file.is_file()]


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _above(path: str) -> list[str]:
    """The folders that a path is in, without the project's own."""
    return [folder.as_posix() for folder in Path(path).parents][:-1]


# --- where can it be seen? -----------------------------------------------------------------------


def _runs(keys: Iterable[str]) -> tuple[dict[str, Run], str]:
    """The finished MLflow runs by lineage key, and the store that has them.

    A store on disk is read with SQLite itself, because importing MLflow takes longer than all the
    rest; a server is not asked, because it may be slow, gone, or want a password.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    scheme, _, place = uri.partition(":///")
    if scheme != "sqlite":
        server = urlsplit(uri)  # may hold a password
        return {}, f"{server.scheme}://{server.hostname or ''}{server.path} (not asked)"
    if not Path(place).is_file():
        return {}, f"{place} (not there)"
    wanted = list(keys)
    try:
        # Without waiting: a stage that is being logged must not hold up an answer.
        address = f"{Path(place).absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=0.2)) as database:
            rows = database.execute(_RUNS.format(",".join("?" * len(wanted))), wanted).fetchall()
    except sqlite3.Error as error:
        return {}, f"{place} (cannot be read: {error})"
    return {
        key: Run(run, name, experiment, str(id)) for key, run, name, experiment, id in rows
    }, place


_RUNS = """
select tags.value, runs.run_uuid, runs.name, experiments.name, experiments.experiment_id
from tags join runs using (run_uuid) join experiments using (experiment_id)
where tags.key = 'kmnist.lineage' and tags.value in ({})
and runs.status = 'FINISHED' and runs.lifecycle_stage = 'active'
order by runs.start_time
"""


def as_json(found: Trace) -> dict[str, Any]:
    """A trace for programs.

    files: each asked file with its `status` (exact, altered, unknown), who `made` it (the likeliest
    first; `here`: in this folder's lock; `commits`: whose lock holds it, newest first), the lineage
    keys of the stages `behind` it and the `originals` that these end in, `whole` where nothing is
    missing between; stages: by lineage key, with `code` (md5 by path), `inputs` and the keys of
    their `makers` (`fits`: these made just this content), `outs` and the `files` in them, and the
    MLflow `run`; mlflow: the store, and why it was not asked.
    """
    return {
        "files": [_finding_json(found, finding) for finding in found.findings],
        "stages": {key: _step_json(found, step) for key, step in found.steps.items()},
        "mlflow": found.store,
    }


def _finding_json(found: Trace, finding: Finding) -> dict[str, Any]:
    made = [
        {
            "stage": making.stage.address,
            "lineage": making.stage.key,
            "path": making.path,
            "here": making.here,
            "commits": [
                {"id": commit.id, "date": commit.date, "subject": commit.subject}
                for commit in making.commits
            ],
        }
        for making in finding.makings
    ]
    behind = found.behind(finding.makings[0].stage.key) if made else []
    return {
        "file": finding.file,
        "md5": finding.md5,
        "status": finding.status,
        "remark": finding.remark,
        "whole": found.whole(finding),
        "made": made,
        "behind": [step.stage.key for step in behind],
        "originals": [original.__dict__ for step in behind for original in step.originals],
    }


def _step_json(found: Trace, step: Step) -> dict[str, Any]:
    run = found.runs.get(step.stage.key)
    return {
        "stage": step.stage.address,
        "cmd": step.stage.cmd,
        "params": step.stage.params,
        "code": step.code,
        "inputs": [source.__dict__ for source in step.inputs],
        "outs": step.stage.outs,
        "files": step.files,
        "originals": [original.__dict__ for original in step.originals],
        "run": run.__dict__ if run else None,
    }

"""Identifying a file: the stages that made it, according to all versions of the lock.

A file is identified by its bytes, under any name and in any folder. The lock has the md5 of outs
that are files, the md5 of outs that are folders (Git has their files), and, as parameters, the
sha256 of the published data. If the bytes are unknown, the lineage key in the file (a PNG, a JSON
or a page), or its path if a stage writes there, identifies it as an altered copy.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Literal

from kmnist_pipeline.commands.trace.history import History, LockVersion, folders_above
from kmnist_pipeline.evidence import lineage
from kmnist_pipeline.repository import git, locks
from kmnist_pipeline.repository.names import printable

Exactness = Literal["exact", "altered", "unknown"]
BY_HAND = "by hand"  # instead of a lineage key, if a stage ran without DVC


@dataclass
class Match:
    """A stage that made the bytes, the path that it wrote, and the versions of the lock with it."""

    stage: locks.LockedStage
    path: str
    versions: list[LockVersion]

    @property
    def commits(self) -> list[git.Commit]:
        """The commits whose lock has the stage, the newest first."""
        found = [commit for version in self.versions for commit in version.commits]
        return sorted(found, key=lambda commit: datetime.fromisoformat(commit.date), reverse=True)


@dataclass
class Identified:
    """The result for one file.

    file: its path in messages; md5: of its bytes; status: `exact` if a stage made exactly these
    bytes, `altered` or `unknown`; remark: the problem, if any; matches: the likeliest first.
    """

    file: str
    md5: str
    status: Exactness
    remark: str = ""
    matches: list[Match] = field(default_factory=list)


@dataclass(frozen=True)
class Original:
    """A dataset as published or imported: title, licence, sources, and sha256 by file name."""

    dataset: str
    title: str
    licence: str
    sources: list[str]
    files: dict[str, str]


def shown(path: Path) -> str:
    """A path in messages: relative to the project's folder if it is there."""
    here = Path.cwd()
    return (path.relative_to(here) if path.is_relative_to(here) else path).as_posix()


def blob_of(file: Path, git_hash: str) -> str:
    """Git's id of a file's content; git_hash: the hash of this repository's object ids."""
    held = file.read_bytes()
    blob = b"blob %d\0%b" % (len(held), held)
    return hashlib.new(git_hash, blob, usedforsecurity=False).hexdigest()


def identify(file: Path, blob: str, history: History) -> Identified:
    """Find the stages that made a file, whose path is absolute; blob: its id in Git."""
    place, content = shown(file), file.read_bytes()
    md5 = lineage.digest_of_bytes(content)
    exact = (
        _of_outs(history, {md5})
        or _of_folders(history, blob)
        or _of_originals(history, hashlib.sha256(content).hexdigest())
        or _of_uncommitted(history, len(content), md5)
    )
    address, key = _claimed_origin(content)

    def unlikely(match: Match) -> tuple[bool, ...]:
        name = Path(match.path).name
        return match.stage.key != key, match.path != place, name != file.name

    if exact:
        exact.sort(key=unlikely)
        remark = ""
        if key not in ("", exact[0].stage.key):
            remark = f"a file was changed while the stage ran: it began under lineage key {key}"
        return Identified(printable(place), md5, "exact", remark, exact)

    match = (_of_key(history, address, key, place) if key else None) or _of_place(history, place)
    if match:
        version = "this file" if match.path == place else match.path
        remark = f"{match.stage.address} made a different version of {version}"
        return Identified(printable(place), md5, "altered", remark, [match])
    return Identified(printable(place), md5, "unknown", _hint(history, blob, address, key))


def _matches(found: Iterable[tuple[LockVersion, locks.LockedStage, str]]) -> list[Match]:
    """A match for each lineage key and path, with all versions of the lock that have it."""
    matches: dict[tuple[str, str], Match] = {}
    for version, stage, path in found:
        match = matches.setdefault((stage.key, path), Match(stage, path, []))
        if version not in match.versions:
            match.versions.append(version)
    return list(matches.values())


def _of_outs(history: History, md5s: set[str], inside: str = "") -> list[Match]:
    """The stages that made outs with these md5s; inside: the path of the file in a folder."""
    return _matches(
        (version, stage, inside or out)
        for version in history.versions
        for stage in version.stages(*md5s)
        for out, md5 in stage.outs.items()
        if md5 in md5s and (not inside or inside.startswith(f"{out}/"))
    )


def _of_folders(history: History, blob: str) -> list[Match]:
    """The stages that made the file as part of a folder that is in Git."""
    return [
        match
        for path in sorted(history.places[blob])
        if (md5s := history.folders(path, blob))
        for match in _of_outs(history, md5s, path)
    ]


def _of_originals(history: History, sha256: str) -> list[Match]:
    """The stages that downloaded the file."""
    return _matches(
        (version, stage, f"{next(iter(stage.outs))}/{name}")
        for version in history.versions
        for stage in version.stages(sha256)
        for original in originals(stage)
        for name, digest in original.files.items()
        if digest == sha256
    )


def _of_uncommitted(history: History, size: int, md5: str) -> list[Match]:
    """The stages that made the file as part of a folder that is not committed yet."""
    return _matches(
        (version, stage, f"{out}/{name}")
        for version in history.here
        for stage in version.stages(".dir\n")
        for out, out_md5 in stage.outs.items()
        if out_md5.endswith(".dir")
        and size in {file.stat().st_size for file in Path(out).rglob("*") if file.is_file()}
        for listing in [lineage.listing(Path(out))]
        if md5 in listing.values() and lineage.digest_of_listing(listing) == out_md5
        for name, digest in listing.items()
        if digest == md5
    )


def _of_key(history: History, address: str, key: str, place: str) -> Match | None:
    """The stage of a lineage key, with its file at the same path or with the same name."""
    found = [
        (version, stage)
        for version in history.versions
        for stage in version.stages(f"  {address}:\n")
        if (stage.address, stage.key) == (address, key)
    ]
    if not found:
        return None
    version, stage = found[0]
    files = history.files(version, stage)
    alike = [file for file in files if Path(file).name == Path(place).name]
    path = place if place in files else (alike or list(stage.outs))[0]
    return Match(stage, path, [version for version, _ in found])


def _of_place(history: History, place: str) -> Match | None:
    """The stage that writes to a path, according to the lock of this folder."""
    needles = [f"path: {path}\n" for path in (place, *folders_above(place))]
    found = (
        Match(stage, place, [version])
        for version in history.here
        for stage in version.stages(*needles)
        for out in stage.outs
        if place == out or place.startswith(f"{out}/")
    )
    return next(found, None)


_CLAIMS = (  # in a JSON out, in a page
    re.compile(
        rb'"lineage": (?:null|"(?P<key>[0-9a-f]{64})").*?"stage": "(?P<stage>[^"]+)"', re.DOTALL
    ),
    re.compile(
        rb"Made by (?:<code>|`)(?P<stage>[^<`]+)(?:</code>|`), "
        rb"lineage key (?:<code>|`)(?P<key>[0-9a-f]{64})(?:</code>|`)"
    ),
)


def _claimed_origin(content: bytes) -> tuple[str, str]:
    """The stage and lineage key (or BY_HAND) that a file states; empty if it states none."""
    if content.startswith(b"\x89PNG"):
        from PIL import Image

        try:
            with Image.open(BytesIO(content), formats=["PNG"]) as image:
                return str(image.info.get("Stage", "")), str(image.info.get("Lineage", ""))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            return "", ""  # the text itself is damaged
    for claim in _CLAIMS:
        if match := claim.search(content):
            key = match["key"].decode() if match["key"] else BY_HAND
            return match["stage"].decode(errors="replace"), key
    return "", ""


def _hint(history: History, blob: str, address: str, key: str) -> str:
    """A remark that may help to identify an unknown file."""
    if key == BY_HAND:
        return f"it says that {address} made it, run by hand and not by DVC"
    if not key and (paths := sorted(history.places[blob])):
        return f"Git has it as {', '.join(paths)}, but no stage of any lock made these bytes"
    said = f"it says that {address} made it under lineage key {key[:12]}, which no lock has"
    remarks = [said] if key else []
    return "; ".join(filter(None, [*remarks, git.if_shallow()]))


def originals(stage: locks.LockedStage) -> Iterator[Original]:
    """The published or imported data that a stage got; only `download` does that."""
    for name, about in stage.params.items() if stage.kind == "download" else ():
        title, licence = about.get("title", ""), about.get("licence", "")
        dataset = name.partition(".")[2]
        if content := about.get("imported"):
            files = {Path(content["file"]).name: content["sha256"]}
            yield Original(dataset, title, licence, [content["file"]], files)
            continue
        parts = about["parts"]  # a map in the oldest locks, later a list, which keeps its order
        named = parts.items() if isinstance(parts, dict) else ((p["name"], p) for p in parts)
        files = {
            f"{part}-{content}-idx{dimensions}-ubyte": digests[content]
            for part, digests in named
            for content, dimensions in (("images", 3), ("labels", 1))
        }
        yield Original(dataset, title, licence, about["sources"], files)

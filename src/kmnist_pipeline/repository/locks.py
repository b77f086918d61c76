"""The stages in a `dvc.lock`, and the files that connect them."""

from __future__ import annotations

import re
import shlex
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from graphlib import TopologicalSorter
from itertools import chain
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import lineage, paths
from kmnist_pipeline.repository import git

LOCK = "dvc.lock"
DEEPEST = 50  # nested maps and lists
LONGEST = 10_000  # characters of a value
AFTER_SLASH = "0"  # the character after a slash: no path below a folder sorts behind it
_MD5 = re.compile(r"[0-9a-f]{32}(?:\.dir)?")


@dataclass(frozen=True)
class LockedStage:
    """The entry of a stage in a lock.

    deps and outs: md5 by path (for a folder, the md5 of its listing with the ending `.dir`);
    params: values by dotted name.
    """

    address: str
    cmd: str
    deps: dict[str, str]
    params: dict[str, Any]
    outs: dict[str, str]

    @cached_property
    def key(self) -> str:
        """The lineage key."""
        return lineage.key(self.cmd, self.deps, self.params)

    @property
    def kind(self) -> str:
        """The kind of the stage, such as `evaluate`."""
        return self.address.partition("@")[0]

    @property
    def item(self) -> str:
        """The experiment, study, dataset or report that it works on."""
        return self.address.partition("@")[2]


@dataclass(frozen=True)
class Graph:
    """The stages of a lock, by address."""

    stages: dict[str, LockedStage]

    @cached_property
    def _makers(self) -> dict[str, str]:
        """The address of the stage that makes each out. The outs end with a slash, as prefixes."""
        return {f"{out}/": stage.address for stage in self.stages.values() for out in stage.outs}

    @cached_property
    def _sorted(self) -> list[str]:
        """All outs in order: those below a folder follow each other."""
        return sorted(self._makers)

    @cached_property
    def _top(self) -> list[str]:
        """The outs that are in no other out, in order: at most one of them is above a path."""
        found = list[str]()
        for out in self._sorted:
            if not found or not out.startswith(found[-1]):
                found.append(out)
        return found

    @cached_property
    def _known(self) -> dict[str, list[LockedStage]]:
        return {}

    def makers(self, path: str) -> list[LockedStage]:
        """The stages that made a path: the file, the folder that contains it, or its content.

        Empty for code and for files that no stage makes; several for a folder that several fill.
        """
        # A lock may come from anyone, so this looks outs up instead of going through all of them,
        # and a folder that many stages read is looked up once.
        if path not in self._known:
            self._known[path] = self._found(f"{path}/")
        return self._known[path]

    def _found(self, path: str) -> list[LockedStage]:
        place = bisect_right(self._top, path) - 1
        if place >= 0 and path.startswith(self._top[place]):
            return [self.stages[self._makers[self._top[place]]]]
        first = bisect_left(self._sorted, path)
        last = bisect_left(self._sorted, f"{path[:-1]}{AFTER_SLASH}")
        inside = {self._makers[out] for out in self._sorted[first:last]}
        return [self.stages[address] for address in sorted(inside)]

    def parents(self, stage: LockedStage) -> list[LockedStage]:
        """The stages whose outs a stage reads, each once, in the order of its dependencies."""
        found = {maker.address: maker for path in stage.deps for maker in self.makers(path)}
        return list(found.values())

    def upstream(self, address: str) -> list[LockedStage]:
        """A stage and all stages that it depends on, each once, the nearest first."""
        found = {address: self.stages[address]}
        queue = [self.stages[address]]
        while queue:
            for parent in self.parents(queue.pop(0)):
                if parent.address not in found:
                    found[parent.address] = parent
                    queue.append(parent)
        return list(found.values())

    def in_order(self, stages: Iterable[LockedStage]) -> list[LockedStage]:
        """Stages, and those whose outs they read, each after the stages it depends on.

        Raises graphlib.CycleError if stages depend on each other.
        """
        parents = {each.address: [p.address for p in self.parents(each)] for each in stages}
        return [self.stages[name] for name in TopologicalSorter(parents).static_order()]

    def downstream(self, addresses: Iterable[str]) -> dict[str, list[str]]:
        """All stages that depend on the given ones, each with the stages through which it does.

        A given stage is included if it reads another one.
        """
        parents = {name: [p.address for p in self.parents(s)] for name, s in self.stages.items()}
        reached = set(addresses)
        while new := {name for name in parents if reached & {*parents[name]}} - reached:
            reached |= new
        reads = {name: [p for p in parents[name] if p in reached] for name in parents}
        return {name: read for name, read in reads.items() if read}


def parse(text: str | bytes, origin: str = LOCK) -> Graph:
    """The graph of a lock. Raises UserError, which names `origin`, if the text is not a lock."""
    return Graph({stage.address: stage for stage in stages(text, origin)})


def stages(text: str | bytes, origin: str = LOCK, *needles: str) -> list[LockedStage]:
    """The stages of a lock; with `needles`, at least those whose entry contains one of them.

    YAML is slow, and the locks of a history repeat each other: so only the needed entries are
    parsed, and equal texts only once. Raises UserError, which names `origin`, if the text is not
    a lock.
    """
    try:
        text = text if isinstance(text, str) else text.decode()
        _refuse_doubles(text)
        entries = _entries(text)
        if entries is None:
            return list(_stages(load(text, origin).get("stages", {})))
        matter = (e for e in entries if not needles or any(needle in e for needle in needles))
        return [stage for entry in matter for stage in _parsed(entry)]
    except (ValueError, YAMLError) as error:
        raise UserError(f"{origin}: {error}") from error


def without(text: str, addresses: Iterable[str]) -> str:
    """The text of a lock without these stages. Raises UserError if DVC has not written it."""
    entries = _entries(text)
    if entries is None:
        raise UserError(f"{LOCK} is not as DVC writes it: `{git.RESTORE} {LOCK}`")
    left = [entry for entry in entries if _address(entry) not in {*addresses}]
    head = text.partition("\nstages:\n")[0]
    return "\n".join([head, *(["stages:"] if left else []), "".join(left)])


def load(text: str, origin: str) -> dict[str, Any]:
    """The map in a text in YAML 1.2, as DVC writes it; empty if the text is empty.

    Raises UserError, which names `origin`, if the text is not YAML or not a map.
    """
    refuse_conflict(text, origin)
    try:
        content = _yaml(text)
    except (ValueError, YAMLError) as error:
        raise UserError(f"{origin}: {error}") from error
    if not isinstance(content, dict | None):
        raise UserError(f"{origin}: must be a map")
    return content or {}


def refuse_conflict(text: str, origin: str) -> None:
    """Raise UserError, which names `origin`, if Git has left both sides of a merge in a text."""
    if found := _MARKER.search(text):
        number = text.count("\n", 0, found.start()) + 1
        raise UserError(
            f"{origin}: line {number}: a merge conflict is not resolved; {_resolving(origin)}"
        )


def refuse_conflicts(*places: Path) -> None:
    """Raise UserError, which names each one, if text files there have both sides of a merge.

    places: files, and folders with all below them; they may be missing.
    """
    found = []
    for file in (file for place in places for file in (place, *sorted(place.rglob("*")))):
        if file.is_file():
            try:
                refuse_conflict(file.read_bytes().decode(errors="replace"), str(file))
            except UserError as error:
                found.append(str(error))
    if found:
        raise UserError("\n".join(found))


_MARKER = re.compile("^(?:<<<<<<<|>>>>>>>) ", re.MULTILINE)
# How to resolve a merge conflict in a file that the project writes itself.
_CONFLICTS = {
    LOCK: "take one side's; `dvc repro` adds what only the other has (docs/experiments.md)",
    "params.yaml": "`kmnist compose` writes it again",
}


def _resolving(origin: str) -> str:
    if origin.partition("/")[0] in (*paths.TRACKED, "receipts"):
        ours = f"`{git.RESTORE} {shlex.quote(origin)}` takes that of this branch"
        again = "`kmnist check` then names the stages to run again"
        return f"it is generated, so take one side's: {ours}; {again}"
    return _CONFLICTS.get(origin, "keep what both sides need, and remove the markers")


def _yaml(text: str) -> Any:
    """The value of a YAML text. Raises ValueError for what DVC never writes and may do harm.

    The parser crashes on deep nesting, and a few aliases of aliases fill any memory.
    """
    depth = 0
    for event in YAML(typ="safe").parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError(f"has more than {DEEPEST} nested maps and lists")
        if isinstance(event, AliasEvent):
            raise ValueError(f"has an alias, *{event.anchor}")
        if isinstance(event, ScalarEvent) and len(event.value) > LONGEST:
            raise ValueError(f"has a value of {len(event.value)} characters")
    return YAML(typ="safe").load(text)


def whole_entries(text: str) -> dict[str, str] | None:
    """The text of each entry, by address, of a lock whose end may be cut, without a cut entry.

    None if the text does not begin as DVC writes a lock, or has a stage twice.
    """
    if _HEAD.startswith(text):
        return {}
    lines, newline, rest = text.removeprefix(_HEAD).rpartition("\n")
    found = _ENTRY.findall(lines + newline)
    if not text.startswith(_HEAD) or "".join(found) != lines + newline or rest[:1].strip():
        return None
    begins_next = re.match("  [^ ]", rest)
    if found and ((rest and not begins_next) or not _is_whole(found[-1])):
        found.pop()
    by_address = {_address(entry): entry for entry in found}
    return by_address if len(by_address) == len(found) else None


def _is_whole(entry: str) -> bool:
    try:
        return bool(_parsed(entry))
    except (ValueError, YAMLError):
        return False


def text_of(entries: Iterable[str]) -> str:
    """The lock with these entries."""
    return _HEAD + "".join(entries)


_HEAD = "schema: '2.0'\nstages:\n"
_ENTRY = re.compile(r"^  [^ \n].*\n(?:(?:   .*)?\n)*", re.MULTILINE)


@cache
def _entries(text: str) -> list[str] | None:
    """The text of each stage's entry; None if DVC has not written the lock."""
    head, _, body = text.partition("\nstages:\n")
    found = _ENTRY.findall(body)
    is_ours = re.fullmatch("schema: .*", head) and "".join(found) == body
    return found if found and is_ours else None


def _address(entry: str) -> str:
    return entry.partition(":")[0].strip()


@cache
def _refuse_doubles(text: str) -> None:
    seen = Counter(map(_address, _entries(text) or ()))
    if doubled := [address for address, number in seen.items() if number > 1]:
        raise ValueError(
            f"{doubled[0]}: is listed twice, as after a merge that kept both sides; "
            f"{_CONFLICTS[LOCK]}"
        )


@cache
def _parsed(entry: str) -> tuple[LockedStage, ...]:
    return tuple(_stages(_yaml(entry)))


def _stages(entries: Any) -> Iterator[LockedStage]:
    if not isinstance(entries, dict):
        raise ValueError("stages: must be a map")
    for address, entry in entries.items():
        try:
            files = [*entry.get("deps", []), *entry.get("outs", [])]
            if bare := [file["path"] for file in files if "md5" not in file]:
                raise ValueError(f"{address}: {bare[0]} has no md5")
            deps, outs = (
                {file["path"]: file["md5"] for file in entry.get(kind, [])}
                for kind in ("deps", "outs")
            )
            params = entry.get("params", {}).get("params.yaml", {})
            texts = (address, entry["cmd"], *params, *chain(*deps.items(), *outs.items()))
            if odd := [text for text in texts if not isinstance(text, str)]:
                raise TypeError(f"{odd[0]!r} must be text")
            _refuse_elsewhere(address, {**deps, **outs})
            yield LockedStage(address, entry["cmd"], deps, params, outs)
        except KeyError as error:
            raise ValueError(f"{address}: {error} is missing") from error
        except (AttributeError, TypeError) as error:
            raise ValueError(f"{address}: is not as DVC writes it: {error}") from error


def _refuse_elsewhere(address: str, files: dict[str, str]) -> None:
    """Raise ValueError for a name, path or md5 that names a place outside its folder.

    Commands join them to a folder and then read, write or delete there.
    """
    away = f"remove {address} from the file: `dvc repro` writes it again if it is in dvc.yaml"
    if "/" in address or "\0" in address:
        raise ValueError(f"{address}: is not the name of a stage; {away}")
    for path, md5 in files.items():
        if not is_inside(path):
            raise ValueError(f"{address}: {path} is not a path in the project's folder; {away}")
        if not is_md5(md5):
            raise ValueError(f"{address}: {path} has md5 {md5}, which is not an md5; {away}")


def pointed(pointer: Path) -> str:
    """The md5 of the file that a `.dvc` file names. Raises UserError if there is none."""
    about = load(pointer.read_text("utf-8"), str(pointer))
    with suppress(LookupError, TypeError):
        md5 = about["outs"][0]["md5"]
        if is_md5(md5) and not md5.endswith(".dir"):
            return str(md5)
    raise UserError(f"{pointer}: has no outs[0].md5: `{git.RESTORE} {pointer}` restores it")


def is_inside(path: str) -> bool:
    """Whether a path, joined to a folder, stays in it: it is relative, and has no `..`."""
    return not {"", ".", ".."} & {*path.split("/")} and "\0" not in path


def is_md5(text: str) -> bool:
    """Whether a text is an md5 as DVC writes it; that of a folder ends with `.dir`."""
    return _MD5.fullmatch(text) is not None

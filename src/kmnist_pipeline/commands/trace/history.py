"""The history of the evidence: all versions of the lock, and the folders in their commits."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import lineage
from kmnist_pipeline.repository import git, locks


@dataclass(frozen=True)
class LockVersion:
    """A version of the lock: its text, the commits that have it, and whether this folder has it."""

    text: str
    commits: list[git.Commit]
    here: bool

    @cached_property
    def graph(self) -> locks.Graph:
        """All of its stages."""
        return locks.Graph({stage.address: stage for stage in self.stages()})

    def stages(self, *needles: str) -> list[locks.LockedStage]:
        """All stages whose entry contains a search string, possibly more; without needles, all."""
        if needles and not any(needle in self.text for needle in needles):
            return []
        origin = locks.LOCK if self.here else f"{locks.LOCK} at {self.commits[0].id[:12]}"
        try:
            return locks.stages(self.text, origin, *needles)
        except UserError:
            if self.here:
                raise
            return []  # a commit cannot be fixed, so its invalid lock must not end the trace


class History:
    """All versions of the lock: of this folder, of HEAD, then the others, the newest first.

    blobs: the Git ids of the traced files.
    """

    def __init__(self, blobs: Sequence[str] = ()) -> None:
        self._blobs = blobs
        self._commits = git.commits()
        self.versions = list(_versions(self._commits))
        self._objects_at = cache(partial(git.objects, [commit.id for commit in self._commits]))
        self._md5_of_blob: dict[str, str] = {}
        self._listing = cache(self._list)

    @property
    def here(self) -> list[LockVersion]:
        """The version in this folder, if there is one."""
        return [version for version in self.versions if version.here]

    @cached_property
    def places(self) -> dict[str, set[str]]:
        """The paths that each traced file has had in Git, by blob."""
        return git.places(self._blobs)

    def folders(self, path: str, blob: str) -> set[str]:
        """DVC's md5 of each folder that contains a path, in the commits with this blob there."""
        having = {id for id, found in self._objects_at(path).items() if found == blob}
        trees = {
            tree
            for folder in folders_above(path)
            if any(f"path: {folder}\n" in version.text for version in self.versions)
            for id, tree in self._objects_at(folder).items()
            if id in having
        }
        return {lineage.digest_of_listing(self._listing(tree)) for tree in trees}

    def listings(self, version: LockVersion, folder: str) -> Iterator[dict[str, str]]:
        """The listings (md5 by file) of a folder for a version of the lock, in Git and on disk."""
        for commit in version.commits[:1]:
            if commit.id in self._objects_at(folder):
                yield self._listing(self._objects_at(folder)[commit.id])
        if version.here:
            yield lineage.listing(Path(folder))

    def files(self, version: LockVersion, stage: locks.LockedStage) -> list[str]:
        """The files in a stage's outs; an out itself if it is a file or no listing matches."""
        found = []
        for out, md5 in stage.outs.items():
            listings = self.listings(version, out) if md5.endswith(".dir") else ()
            listing = next((x for x in listings if lineage.digest_of_listing(x) == md5), None)
            found += [out] if listing is None else [f"{out}/{name}" for name in listing]
        return found

    def _list(self, tree: str) -> dict[str, str]:
        """The md5 of each file in a Git tree, by its path in the tree."""
        blobs = git.tree(tree)
        for name, content in git.blobs(sorted({*blobs.values()} - self._md5_of_blob.keys())):
            self._md5_of_blob[name] = lineage.digest_of_bytes(content)
        return {path: self._md5_of_blob[blob] for path, blob in blobs.items()}


def _versions(commits: list[git.Commit]) -> Iterator[LockVersion]:
    blobs = git.objects([commit.id for commit in commits], locks.LOCK)
    having: dict[str, list[git.Commit]] = {}
    for commit in sorted(commits, key=lambda commit: not commit.is_head):
        if commit.id in blobs:
            having.setdefault(blobs[commit.id], []).append(commit)
    texts = {name: content.decode(errors="replace") for name, content in git.blobs(having)}

    path = Path(locks.LOCK)
    if path.is_file():
        here = path.read_text(errors="replace", encoding="utf-8")
        same = next((name for name, text in texts.items() if text == here), "")
        yield LockVersion(here, having.pop(same, []), True)
    for name, holders in having.items():
        yield LockVersion(texts[name], holders, False)


def folders_above(path: str) -> list[str]:
    """The folders that contain a path, below the project's folder."""
    return [folder.as_posix() for folder in Path(path).parents][:-1]

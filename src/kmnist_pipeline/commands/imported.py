"""Are DVC's pointer and the description in `conf/` of an imported dataset of the same version?

The pointer has the md5 of the dataset's file, the description has its sha256. So only the file can
tell, in DVC's cache or in the workspace; where neither has it, nothing is found.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kmnist_pipeline.commands import additions, status
from kmnist_pipeline.commands.finding import Finding, Remedy
from kmnist_pipeline.evidence import lineage, paths
from kmnist_pipeline.repository import git, locks
from kmnist_pipeline.repository.revision import Revision

FOLDER = Path(paths.imported("")).parent.as_posix()
CHECKOUT = "dvc checkout --force"


def findings(params: dict[str, Any]) -> Iterator[Finding]:
    """The pointers and files that are another version than the description; params: of `conf/`."""
    for name, about in (params.get("datasets") or {}).items():
        if content := about.get("imported"):
            yield from _of_dataset(name, content["file"], content["sha256"])


def _of_dataset(name: str, file: str, sha256: str) -> Iterator[Finding]:
    pointer, described = Path(f"{file}.dvc"), str(additions.file("dataset", name))
    if not pointer.exists():
        yield Finding(str(pointer), ("is missing",), _ways(name, described, str(pointer)))
        return
    md5 = locks.pointed(pointer)
    here = Path(file)
    is_other = here.exists() and lineage.digest(here) != md5
    if kept := Revision("the workspace").cached(file, md5):
        is_apart = _sha256(kept[file]) != sha256
    else:
        is_apart = is_other and _sha256(here) == sha256
    if is_apart:
        reason = f"is of another version than {described}, which says sha256 {sha256[:12]}..."
        yield Finding(str(pointer), (reason,), _ways(name, described, str(pointer)))
    elif is_other:
        way = Remedy("get the right one", (f"{CHECKOUT} {shlex.quote(str(pointer))}",))
        yield Finding(file, (f"is not the file that {pointer} names",), (way,))


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _ways(name: str, described: str, pointer: str) -> tuple[Remedy, ...]:
    again = Remedy("import the images again", (f"kmnist import {name} SOURCE",))
    both = [described, status.PARAMS.as_posix(), pointer]
    if not git.paths("diff", "--name-only", "-z", "HEAD", "--", described, pointer):
        return (again,)
    undo = (f"{git.RESTORE} {shlex.join(both)}", f"{CHECKOUT} {shlex.quote(pointer)}")
    return Remedy("go back to the committed version", undo), again

"""Putting back entries of `dvc.lock` that an interrupted write has lost.

DVC writes the lock in place. The command `dvc` of this project replaces it instead (`cli/dvc.py`),
but other DVCs that are interrupted leave a lock that is cut. The committed lock has the entries of
the committed evidence. DVC's run cache has those of stages that have run since, and DVC restores
them from there without running the stages again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import lineage
from kmnist_pipeline.repository import git, locks
from kmnist_pipeline.repository.locks import LOCK, LockedStage

PARAMS = Path("params.yaml")


def put_back() -> str:
    """Put the entries that the lock has lost back; returns a sentence for the user, or "".

    They come from the committed lock. An entry is put back only if it is still true: `dvc.yaml` and
    `params.yaml` have the stage with this command and these parameters, and its dependencies and
    outs have the md5s of the entry. An out that is only in DVC's cache may be missing. A lock that
    a person has edited, or another DVC is writing, stays as it is.
    """
    if _damage() is None:
        return ""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo, repo.lock:
            return _mend()
    except (DvcException, UserError):  # what is wrong beside the lock, the next command says
        return ""


def _damage() -> tuple[dict[str, str], dict[str, str], bool] | None:
    """The entries of the lock and of the committed lock, and whether the lock's end is cut.

    None if the lock has lost nothing, or if it or the committed one is not as DVC writes it.
    """
    try:
        text = Path(LOCK).read_bytes().decode(errors="surrogateescape")
        committed = locks.whole_entries(git.run("show", f"HEAD:./{LOCK}").decode())
    except (OSError, UserError, UnicodeDecodeError):
        return None
    here = locks.whole_entries(text)
    if here is None or not committed:
        return None
    last = next(reversed(here), "")
    before = committed.get(last, "")
    if last and before != here[last] and before.startswith(here[last]):  # cut after a whole line
        del here[last]
    is_cut = text != locks.text_of(here.values())
    return (here, committed, is_cut) if is_cut or committed.keys() - here else None


def _mend() -> str:
    from kmnist_pipeline.evidence import outs

    found = _damage()  # once more, because another DVC may have just ended
    if found is None:
        return ""
    here, committed, is_cut = found
    back = _still_true({name: committed[name] for name in committed.keys() - here})
    if not back and not is_cut:
        return ""
    known = committed | here
    content = locks.text_of(known[name] for name in known if name in back or name in here)
    outs.write_bytes(Path(LOCK), content.encode(errors="surrogateescape"))
    return (
        f"{LOCK} was incomplete, as an interrupted DVC leaves it. Entries put back from the last "
        f"commit: {len(back)}; `dvc repro` finds later ones in its cache"
    )


def _still_true(entries: dict[str, str]) -> set[str]:
    """The stages whose entries DVC would find up to date."""
    from kmnist_pipeline.repository import dvc

    params = locks.load(PARAMS.read_text(), PARAMS.name)
    described = dvc.stages(params)
    made = [dvc.outs(stage) for stage in described.values()]
    cached = {out for found in made for out, in_git in found.items() if not in_git}
    digests: dict[str, str | None] = {}

    def digest(path: str) -> str | None:
        if path not in digests:
            digests[path] = lineage.digest(Path(path)) if Path(path).exists() else None
        return digests[path]

    def is_true(entry: LockedStage, stage: dict[str, Any]) -> bool:
        return (
            entry.cmd == stage["cmd"]
            and entry.params == dvc.values(stage, params)
            and entry.deps.keys() == set(stage.get("deps", []))
            and entry.outs.keys() == dvc.outs(stage).keys()
            and all(
                digest(path) == md5 or (path in cached and digest(path) is None)
                for path, md5 in {**entry.deps, **entry.outs}.items()
            )
        )

    stages = locks.parse(locks.text_of(entries.values())).stages if entries else {}
    return {name for name, s in stages.items() if name in described and is_true(s, described[name])}

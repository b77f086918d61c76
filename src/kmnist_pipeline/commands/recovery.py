"""Putting back what an interrupted DVC has lost: entries of `dvc.lock`, and committed files.

DVC writes the lock in place. The command `dvc` of this project replaces it instead (`cli/dvc.py`),
but another DVC that is interrupted leaves a lock that is cut. The committed lock has the entries of
the committed evidence. Those of stages that have run since are in DVC's run cache: DVC restores
them from there without running the stages again.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from pathlib import Path

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.repository import git, locks
from kmnist_pipeline.repository.locks import LOCK
from kmnist_pipeline.repository.revision import Revision

PARAMS = Path("params.yaml")
CHECKED = "KMNIST_LOCK_CHECKED"  # the variable that tells stages that dvc.lock is complete
Damage = tuple[dict[str, str], dict[str, str], bool]  # see _damage


def put_back() -> str:
    """Put the entries that the lock has lost back; returns a sentence for the user, or "".

    They come from the committed lock. An entry is put back only if `dvc.yaml`, `params.yaml` and
    `conf/` have the stage with the same command, dependencies, parameters and outs, and if its outs
    are what it says; an out that is only in DVC's cache may be missing. A lock that a person has
    edited, or that another DVC is writing, stays as it is.
    """
    if _damage() is None:
        return ""
    from kmnist_pipeline.repository import dvc

    try:
        with dvc.opened() as repo, repo.lock:
            return _mend()
    except (UserError, OSError):  # the next command says what is wrong
        return ""


def notice() -> None:
    """Put the lost entries back at the start of a stage; while DVC runs it, only say so.

    The project's command `dvc` has done this before. Another DVC, such as `python -m dvc`, has read
    the lock as it is, and writes it when the stage has ended.
    """
    said = ""
    if "DVC_STAGE" not in os.environ:
        said = put_back()
    elif found := _damage():
        with contextlib.suppress(UserError, OSError):  # the stage says what is wrong
            if found[2] or _lost(found)[1]:
                way = "when DVC has ended, `kmnist check` puts back what is lost"
                said = f"warning: {LOCK} is incomplete, as an interrupted DVC leaves it; {way}"
    if said:
        print(said, file=sys.stderr)


def way_back(start: Path) -> str:
    """A sentence with the command for committed files that DVC has removed, or "".

    start: the absolute folder that the command is for.

    DVC removes the outs of a stage before it runs it, so a stage that fails or is killed leaves
    them missing. Only this project's command `dvc` calls this: DVC's own program, `python -m dvc`,
    does not tell.
    """
    from kmnist_pipeline.commands import status
    from kmnist_pipeline.evidence import paths
    from kmnist_pipeline.repository import dvc

    try:
        described = dvc.stages(locks.load(PARAMS.read_text("utf-8"), PARAMS.name))
        committed = status.head().lock().stages.items()
    except (OSError, UserError):  # what is wrong is said already
        return ""
    outs = [out for name, stage in committed if name in described for out in stage.outs]
    gone = [out for out in outs if out.startswith(paths.TRACKED) and not Path(out).exists()]
    if not gone:
        return ""
    names = shlex.join(os.path.relpath(out, start) for out in gone)
    return f"committed files are missing: `{git.RESTORE} {names}` restores them"


def _damage() -> Damage | None:
    """The entries of the lock and of the committed lock, and whether the lock's end is cut.

    None if the lock has lost nothing, or if it or the committed one is not as DVC writes it.
    """
    try:
        text = Path(LOCK).read_bytes().decode(errors="replace")  # a cut character
        committed = locks.whole_entries(Revision("HEAD", "HEAD").read(LOCK).decode())
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
    here, _, is_cut = found
    known, back = _lost(found)
    if not back and not is_cut:
        return ""
    content = locks.text_of(known[name] for name in known if name in back or name in here)
    outs.write_bytes(Path(LOCK), content.encode())
    return (
        f"{LOCK} was incomplete, as an interrupted DVC leaves it. Entries put back from the last "
        f"commit: {len(back)}; `dvc repro` finds later ones in its cache"
    )


def _lost(found: Damage) -> tuple[dict[str, str], set[str]]:
    """All known entries, and those that the lock has lost and that are still true."""
    from kmnist_pipeline.repository import dvc

    here, committed, _ = found
    known = committed | here
    described = dvc.stages(locks.load(PARAMS.read_text("utf-8"), PARAMS.name))
    lost = (committed.keys() & described.keys()) - here.keys()
    return known, lost - _changed(known) if lost else set()  # _changed takes seconds


def _changed(entries: dict[str, str]) -> set[str]:
    """The stages that DVC would run again by themselves, or does not know."""
    from kmnist_pipeline.commands import check, status
    from kmnist_pipeline.config import compose as composition

    locked = locks.parse(locks.text_of(entries.values()))
    # What somebody has just removed from conf/ is still in params.yaml.
    texts = {PARAMS.read_text("utf-8"), composition.compose(Path("conf"), [])}
    return {
        stage.address
        for text in texts
        for stage in status.of(locked, locks.load(text, PARAMS.name)).stages
        if stage.state == "gone" or any(c.kind not in check.MADE for c in stage.changes)
    }


if __name__ == "__main__":
    notice()

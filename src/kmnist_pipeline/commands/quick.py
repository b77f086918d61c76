"""Comparing the workspace with HEAD, and finding stages that would run again, without a run.

A view of `status` for the lock of HEAD, which adds by how much files differ, and compares the files
in DVC's cache.
"""

from collections.abc import Iterator
from pathlib import Path

from kmnist_pipeline.commands import status, verify
from kmnist_pipeline.commands.status import StageStatus
from kmnist_pipeline.commands.verify import Checked, Result
from kmnist_pipeline.commands.words import count
from kmnist_pipeline.config import compose as composition
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import lineage
from kmnist_pipeline.repository import locks
from kmnist_pipeline.repository.compare import Difference, Verdict, compare
from kmnist_pipeline.repository.locks import LOCK, Graph, LockedStage
from kmnist_pipeline.repository.revision import DamagedError, Revision


def compare_here(target: str | None = None) -> Result:
    """Compare the files of the workspace and of its cache with HEAD, without running anything.

    target: limits this to a stage and all stages that it depends on. Raises UserError if the
    target is not a stage of the committed lock, or if `conf/` or `dvc.yaml` is invalid.
    """
    old, lock = verify.committed()
    stages = verify.chosen(lock, target)
    composed = composition.compose(Path("conf"), [])
    params = locks.load(composed, "conf/")
    found = status.of(lock, params)
    looked_at = {stage.address for stage in stages}
    if target is None or target in found.wanted.stages:
        looked_at |= {stage.address for stage in verify.chosen(found.wanted, target)}
    of_stage = {stage.address: stage for stage in found.stages if stage.address in looked_at}
    difference, here = _lock_here(old, lock)
    absent: list[str] = []
    checked = [Checked(LOCK, [difference])]
    for stage in stages:
        own = of_stage.get(stage.address)
        differences = list(_here(stage, own, old, here, absent))
        checked.append(Checked(stage.address, differences, stale=_stale(own)))
    stale = dict[str, list[str]]()
    if not status.is_composed(composed):
        stale["params.yaml"] = ["is not up to date with conf/"]
    stale |= {name: stage.reasons for name, stage in of_stage.items() if stage.state == "new"}
    if target is None:
        stale |= {file: ["no stage makes this file"] for file in found.orphans}
    checked += [Checked(where, [], stale=reasons) for where, reasons in stale.items()]
    notes = verify.dirty(old)
    if below := [stage.address for stage in of_stage.values() if stage.state == "downstream"]:
        notes.insert(0, f"downstream of these: {', '.join(below)}")
    if absent:
        notes.append(f"{count(len(absent), 'out')} not compared: not in the workspace or cache")
    title = f"{verify.named(old)}, {count(len(stages), 'stage')} compared (committed -> here)"
    way = ""
    if (
        here.stages
        and status.edited(LOCK)
        and any(status.made_here(status.of(here, params)).values())
    ):
        way = "some are new and up to date: `kmnist check` says how to keep or undo them"
    return Result(title, checked, notes, way=way)


def _stale(stage: StageStatus | None) -> list[str]:
    """Why a stage would run again, without altered outs, because comparing files says more."""
    if stage is None or stage.state == "downstream":
        return []
    if stage.changes:
        return status.said([c for c in stage.changes if not status.is_altered_out(c)])
    return stage.reasons


def _here(
    stage: LockedStage, found: StageStatus | None, old: Revision, here: Graph, absent: list[str]
) -> Iterator[Difference]:
    """The differences of a stage's outs; the names of outs that are not here go to `absent`.

    here: the stages of the workspace's lock.
    """
    altered = {change.name for change in found.changes if change.kind == "out"} if found else set()
    is_gone = found is not None and found.state == "gone"
    run_here = here.stages[stage.address].outs if stage.address in here.stages else {}
    for out, md5 in stage.outs.items():
        path = Path(out)
        cached = None
        if not verify.in_git(out):
            try:
                cached = bool(old.cached(out, md5))
            except DamagedError as error:
                yield Difference(out, Verdict.DIFFERENT, str(error))
        if out in altered or (is_gone and path.exists()):
            now = lineage.digest(path) if path.exists() else ""
            # If a run here made the model, comparing its metrics shows whether it is equal.
            unknown = Verdict.EQUAL if run_here.get(out) == now else Verdict.DIFFERENT
            yield from verify.between(out, md5, now, old, path, unknown)
        elif path.exists():
            files = old.files(out) if verify.in_git(out) else [out]
            for file in files:
                yield Difference(file, Verdict.IDENTICAL, Verdict.IDENTICAL.words)
        elif cached is False:
            absent.append(out)


def _lock_here(old: Revision, committed: Graph) -> tuple[Difference, Graph]:
    """The difference of the workspace's lock from the committed one, and its stages."""
    path = Path(LOCK)
    before, content = old.read(LOCK), path.read_bytes() if path.exists() else None
    try:
        here = status.locked_here()
    except UserError as error:
        return Difference(LOCK, Verdict.DIFFERENT, f"cannot be read: {error}"), Graph({})
    if content is None or content == before:
        return compare(LOCK, before, content), here
    was, now = committed.stages, here.stages
    apart = [address for address in {**was, **now} if was.get(address) != now.get(address)]
    if apart and all(a in was and a in now and _is_of_run(was[a], now[a]) for a in apart):
        line = f"has the hashes of a run in this workspace, in {', '.join(apart)}"
        return Difference(LOCK, Verdict.EQUAL, line), here
    stages = ", ".join(apart) or "other text than hashes, commands and parameters"
    return Difference(LOCK, Verdict.DIFFERENT, f"differs from the committed one, in {stages}"), here


def _is_of_run(old: LockedStage, new: LockedStage) -> bool:
    """Whether two entries differ only in hashes, and the files here have the new hashes."""
    before, after = ({**stage.deps, **stage.outs} for stage in (old, new))
    return (old.cmd, old.params, before.keys()) == (new.cmd, new.params, after.keys()) and all(
        Path(path).exists() and lineage.digest(Path(path)) == md5
        for path, md5 in after.items()
        if md5 != before[path]
    )

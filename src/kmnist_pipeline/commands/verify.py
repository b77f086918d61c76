"""Does a run from scratch give the committed evidence? If not, what differs and why?

HEAD is cloned into a temporary folder that has its own DVC cache and MLflow store; the stages run
there, and every out is compared. Nothing is written into the workspace; see `receipts` for what
the command leaves there.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kmnist_pipeline import arithmetic
from kmnist_pipeline.commands import clone, fit, receipts, status
from kmnist_pipeline.commands.words import count
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import lineage, numbers, paths
from kmnist_pipeline.fits.plan import name_of
from kmnist_pipeline.repository import changes, git, locks
from kmnist_pipeline.repository.compare import Difference, Verdict, compare
from kmnist_pipeline.repository.locks import LOCK, Graph, LockedStage
from kmnist_pipeline.repository.names import unknown
from kmnist_pipeline.repository.revision import DamagedError, Revision, below

PARAMS = "params.yaml"
STATUS = {Verdict.IDENTICAL: 0, Verdict.EQUAL: 3, Verdict.DIFFERENT: 1}


@dataclass
class Checked:
    """A stage, the comparison of its files, and the likely causes of differences.

    stale: why it would run again or is not part of the evidence, whatever its files are.
    """

    address: str
    differences: list[Difference]
    causes: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)

    @property
    def of_files(self) -> Verdict:
        """The worst verdict of its files."""
        return max((each.verdict for each in self.differences), default=Verdict.IDENTICAL)

    @property
    def verdict(self) -> Verdict:
        """That of its files, but different if it is stale."""
        return Verdict.DIFFERENT if self.stale else self.of_files


@dataclass(frozen=True)
class Result:
    """The comparison with the evidence of a commit.

    receipt: of the run that made the compared files; None if they are those of the workspace.
    fits: how many of the comparisons are of the weights of a fit, not of a file; way: what to do
    about differences, by default the commands that restore the files.
    """

    title: str
    stages: list[Checked]
    notes: list[str] = field(default_factory=list)
    receipt: receipts.Statement | None = None
    fits: int = 0
    way: str = ""

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of the stages."""
        return max((stage.verdict for stage in self.stages), default=Verdict.IDENTICAL)

    @property
    def status(self) -> int:
        """0 identical, 3 equal numbers but other bytes, 1 different."""
        return STATUS[self.verdict]

    def lines(self) -> Iterator[str]:
        """The result as text: by stage what is not identical, then the counts."""
        yield self.title
        for stage in self.stages:
            yield from (f"{stage.address}: {reason}" for reason in stage.stale)
            if stage.of_files is not Verdict.IDENTICAL:
                yield f"{stage.address}: {stage.of_files.words}"
            alike = defaultdict(list)
            for each in stage.differences:
                if each.verdict is Verdict.DIFFERENT:
                    yield f"  {each.path}: {each.line}"
                elif each.verdict is Verdict.EQUAL:
                    alike[each.line].append(each.path)
            yield from (f"  {', '.join(files)}: {line}" for line, files in alike.items())
            yield from (f"  likely cause: {cause}" for cause in stage.causes)
        yield from self.notes
        made = self.receipt is not None
        found = (d for stage in self.stages for d in stage.differences)
        stale = any(stage.stale for stage in self.stages)
        end = "; but not everything is up to date, see above" if stale else ""
        where = "" if made else f"{status.IN_GIT} and outs in DVC's cache"
        yield status.summary(found, where, made, self.fits, self.way) + end


def rerun(target: str | None = None) -> Result:
    """Run a stage and all stages that it depends on, or every stage, in a clean clone of HEAD.

    target: a stage's address. Shows the progress on standard error. Raises UserError if the target
    is not a stage of the committed lock or if the run fails, and KeyboardInterrupt, also for
    SIGTERM. Leaves no file and no process behind.
    """
    old, lock = committed()
    stages = chosen(lock, target)
    with clone.clean(str(old.commit)) as project:
        checked = _run(project, stages, old)
        ran = _ran(project, stages, lock)
        environments = [_environment(stage, old, project.path) for stage in stages]
    _find_stale(checked, stages, ran)
    return Result(
        f"{named(old)}, {count(len(stages), 'stage')} run in a clean clone {_SIDES}",
        _explained(checked, lock, environments),
        receipt=_receipt(old, target, None, ran, checked),
    )


def first_epochs(epochs: int, target: str | None = None) -> Result:
    """Train only the first epochs of every fit in a clean clone, and compare the weights.

    The data are made from scratch as in `rerun`. For each fit and each of these epochs, the digest
    of all weights is compared with the committed one. Raises UserError as `rerun` does, and if
    this machine cannot give the same bits.
    """
    if not arithmetic.is_portable():
        raise UserError(
            f"--epochs compares weights to the last bit, and the arithmetic here is "
            f"{arithmetic.name()}, not x86-64-v3: `kmnist verify` without it compares numbers"
        )
    old, lock = committed()
    stages = chosen(lock, target)
    data = [stage for stage in stages if stage.kind in ("download", "preprocess")]
    trained = [stage for stage in stages if stage.kind in fit.SECTIONS]
    digests: dict[str, dict[str, list[str]]] = {}
    with clone.clean(str(old.commit)) as project:
        checked = _run(project, data, old)
        ran = _ran(project, data + trained, lock)
        if trained:
            addresses = [stage.address for stage in trained]
            module = "kmnist_pipeline.commands.epochs"
            digests = json.loads(project.call(module, str(epochs), *addresses))
    checked += [
        Checked(stage.address, _weights(stage, old, digests[stage.address], epochs))
        for stage in trained
    ]
    _find_stale(checked, data + trained, ran)
    fits = sum(map(len, digests.values()))
    return Result(
        f"{named(old)}, {count(epochs, 'epoch')} of {count(fits, 'fit')} trained in a clean "
        f"clone {_SIDES}",
        checked,
        receipt=_receipt(old, target, epochs, ran, checked),
        fits=fits,
    )


_SIDES = "(committed -> made again)"


def _receipt(
    old: Revision,
    target: str | None,
    epochs: int | None,
    ran: list[LockedStage],
    checked: list[Checked],
) -> receipts.Statement:
    pairs = zip(ran, (each.differences for each in checked), strict=True)
    return receipts.statement(str(old.commit), target, epochs, pairs)


def _run(project: clone.Clone, stages: list[LockedStage], old: Revision) -> list[Checked]:
    """Run stages in a clone, and compare their outs."""
    for note in dirty(old):  # now, because the run may take hours
        print(f"note: {note}", file=sys.stderr)
    project.run([stage.address for stage in stages])
    made = locks.parse((project.path / LOCK).read_bytes(), f"{LOCK} of the run")
    checked = [Checked(stage.address, []) for stage in stages]
    for each, stage in zip(checked, stages, strict=True):
        for out, md5 in stage.outs.items():
            now = made.stages[stage.address].outs.get(out, "")
            # If the committed model is missing, comparing its metrics shows whether it is equal.
            each.differences += between(out, md5, now, old, project.path / out, Verdict.EQUAL)
    return checked


def _ran(project: clone.Clone, stages: list[LockedStage], lock: Graph) -> list[LockedStage]:
    """The stages with the command, dependencies and parameters of the clone, that is, as they ran.

    The md5s of what stages make are those of the lock: a run on another type of machine gives other
    bytes, and this does not make what reads them stale.
    """
    with chdir(project.path):
        params = locks.load(Path(PARAMS).read_text("utf-8"), PARAMS)
        wanted = status.graph(params, lock).stages
    return [wanted[stage.address] for stage in stages]


def _find_stale(checked: list[Checked], stages: list[LockedStage], ran: list[LockedStage]) -> None:
    """Note why the lock does not say what ran, even if this made the same bytes."""
    for each, stage, now in zip(checked, stages, ran, strict=True):
        new = now.outs.keys() - stage.outs.keys()
        each.stale = status.said(changes.of_stage(stage, now))
        each.stale += [f"out {out} is not in {LOCK}" for out in sorted(new)]


def _weights(
    stage: LockedStage, old: Revision, digests: dict[str, list[str]], epochs: int
) -> list[Difference]:
    """Compare the weights of each fit after its first epochs with the committed ones."""
    (path,) = _details(stage)
    committed = old.files(path).get(path)
    if committed is None:
        return [Difference(path, Verdict.DIFFERENT, "is missing in the commit")]
    before = {
        name_of(row.get("trial", ""), row["seed"], row["fold"]): row.get("weights", [])[:epochs]
        for row in numbers.decode(json.loads(committed))["folds"]
    }
    return [
        Difference(
            f"{path} {name}",
            Verdict.IDENTICAL if before.get(name) == digests.get(name) else Verdict.DIFFERENT,
            f"weights by epoch {before.get(name)} -> {digests.get(name)}",
        )
        for name in {**before, **digests}
    ]


def committed() -> tuple[Revision, Graph]:
    """HEAD and its lock."""
    head = status.head()
    head.files(*paths.TRACKED, LOCK)  # reads all in one process of git
    return head, head.lock()


def chosen(committed: Graph, target: str | None) -> list[LockedStage]:
    """The stages to compare, each after the stages that it depends on.

    Raises UserError if the target is not one of them.
    """
    if target is None:
        return list(committed.stages.values())
    if target not in committed.stages:
        problem = f"{LOCK} at HEAD has no stage {target}"
        raise unknown(problem, target, committed.stages)
    return committed.upstream(target)[::-1]


def named(old: Revision) -> str:
    """A commit in messages."""
    return f"commit {str(old.commit)[:12]}"


def dirty(old: Revision) -> list[str]:
    """A note for the user if the workspace has uncommitted changes."""
    changed = git.run("--no-optional-locks", "status", "--porcelain", "--", ".").splitlines()
    files = f"{count(len(changed), 'file')}; `git status`"
    note = f"the workspace has uncommitted changes ({files}): this compares with {named(old)}"
    return [note] if changed else []


# Comparing an out.


def in_git(out: str) -> bool:
    """Whether an out is in Git (True) or in DVC's cache."""
    return out.partition("/")[0] in paths.TRACKED


def between(
    out: str, locked: str, now: str, old: Revision, path: Path, unknown: Verdict
) -> list[Difference]:
    """Compare an out at `path` with the committed one, file by file.

    locked, now: its md5s; `now` is empty if it does not exist; unknown: the verdict if the
    committed content is not available.
    """
    if in_git(out):
        before = old.files(out)
    elif locked == now:
        return [Difference(out, Verdict.IDENTICAL, Verdict.IDENTICAL.words)]
    elif not now:
        return [Difference(out, Verdict.DIFFERENT, "is no longer made")]
    else:
        why = "the committed one is not in the cache (`dvc pull`)"
        try:
            before = _contents(old.cached(out, locked))
        except DamagedError as error:
            before, why = {}, str(error)
        if not before:
            line = f"md5 {locked[:12]} -> {now[:12]}, the size of the difference is unknown: {why}"
            return [Difference(out, unknown, line)]
    after = _contents(below(path, out))
    found = _compared(before, after)
    if locked != now and all(each.verdict is Verdict.IDENTICAL for each in found):
        # The committed file is not what the stage made. An older commit may have that.
        line = f"{LOCK} says md5 {locked[:12]}, the committed file has {now[:12]}"
        made = old.recorded(out, locked) if in_git(out) else {}
        if not made:
            return [Difference(out, Verdict.DIFFERENT, line)]
        worst = max(_compared(made, after), key=lambda each: each.verdict)
        return [Difference(out, worst.verdict, f"{line}: {worst.line}")]
    return found


def _compared(before: dict[str, bytes], after: dict[str, bytes]) -> list[Difference]:
    return [compare(name, before.get(name), after.get(name)) for name in sorted(before | after)]


def _contents(files: dict[str, Path]) -> dict[str, bytes]:
    return {name: file.read_bytes() for name, file in files.items()}


# Comparing the outs of a run.


def _details(stage: LockedStage) -> list[str]:
    """The file with the weights of each fit and the environment, if the stage trains."""
    return [out for out in stage.outs if out.endswith(numbers.beside("/validation.json"))]


def _environment(stage: LockedStage, old: Revision, project: Path) -> list[str]:
    """The differences in machine and libraries between the committed run and this one."""
    found = []
    for out in _details(stage):
        before = _machine(old.files(out).get(out, b"{}"))
        after = _machine((project / out).read_bytes())
        found += [
            f"other {name}: {before.get(name)} -> {after.get(name)}"
            for name in {**before, **after}
            if before.get(name) != after.get(name)
        ]
    return found


def _machine(details: bytes) -> dict[str, Any]:
    """The values of `environment` by name."""
    try:
        flat = dict(lineage.leaves("", json.loads(details).get("environment", {})))
    except (ValueError, TypeError, AttributeError):  # the comparison says that it is damaged
        return {}
    return {name.replace("libraries.", "version of "): value for name, value in flat.items()}


def _explained(checked: list[Checked], lock: Graph, environments: list[list[str]]) -> list[Checked]:
    """Add the likely causes of differences: inputs, machine and libraries (not a stale lock)."""
    anywhere = list(dict.fromkeys(line for lines in environments for line in lines)) or _versions()
    apart = {each.address for each in checked if each.of_files is not Verdict.IDENTICAL}
    for each, own in zip(checked, environments, strict=True):
        if each.address in apart:
            parents = lock.parents(lock.stages[each.address])
            above = [maker.address for maker in parents if maker.address in apart]
            each.causes = [*own, *([f"follows from {', '.join(above)}"] if above else [])]
            each.causes = each.causes or ([] if each.stale else anywhere or [_NONE])
    return checked


_NONE = (
    "none is known: command, parameters, code, machine and versions are the same, so this "
    "stage did not make the committed files"
)


def _versions() -> list[str]:
    """The libraries whose installed version is not the pinned one."""
    pins = status.pinned()
    pairs = [(name, pins.get(name), status.installed(name)) for name in receipts.MAKE_BYTES]
    return [
        f"other version of {name}: {pin} is pinned, {here} is installed"
        for name, pin, here in pairs
        if pin and here and pin != here
    ]

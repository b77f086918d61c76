"""Does a run from scratch give what the commit holds, and if not, what differs and why?

HEAD is cloned into a temporary folder, with a DVC cache and an MLflow store of its own; the stages
run there, and every out is compared. Nothing is written into the workspace.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kmnist_pipeline import arithmetic
from kmnist_pipeline.commands import clone, status
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import lineage, numbers, paths
from kmnist_pipeline.fits.plan import name_of
from kmnist_pipeline.repository import changes, git, locks
from kmnist_pipeline.repository.compare import Difference, Verdict, compare
from kmnist_pipeline.repository.locks import LOCK, Graph, LockedStage
from kmnist_pipeline.repository.revision import DamagedError, Revision, below

STATUS = {Verdict.IDENTICAL: 0, Verdict.EQUAL: 3, Verdict.DIFFERENT: 1}
# The libraries that numbers and figures go through; `environment` names only some of them.
MAKE_BYTES = ("numpy", "scipy", "scikit-learn", "torch", "matplotlib", "pillow")


@dataclass(frozen=True)
class Checked:
    """A stage, how each file of it compares, and why some differ, as far as that can be told.

    stale: why it would run again, or does not belong, whatever its files are.
    """

    address: str
    differences: list[Difference]
    causes: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """The worst of its files; different where it is stale."""
        if self.stale:
            return Verdict.DIFFERENT
        return max((each.verdict for each in self.differences), default=Verdict.IDENTICAL)


@dataclass(frozen=True)
class Result:
    """How the evidence of a commit compares.

    run: whether a run made what is compared, or it lies in the workspace.
    """

    title: str
    stages: list[Checked]
    notes: list[str] = field(default_factory=list)
    run: bool = True

    @property
    def verdict(self) -> Verdict:
        """The worst of its stages."""
        return max((stage.verdict for stage in self.stages), default=Verdict.IDENTICAL)

    @property
    def status(self) -> int:
        """0 identical, 3 equal numbers but other bytes, 1 different."""
        return STATUS[self.verdict]

    def lines(self) -> Iterator[str]:
        """The result for people: what is not identical by stage, the worst first, then the sum."""
        yield self.title
        for stage in self.stages:
            if stage.verdict is Verdict.IDENTICAL:
                continue
            yield from (f"{stage.address}: {reason}" for reason in stage.stale)
            if worst := max(
                (each.verdict for each in stage.differences), default=Verdict.IDENTICAL
            ):
                yield f"{stage.address}: {worst.words}"
            alike = defaultdict(list)
            for each in stage.differences:
                if each.verdict is Verdict.DIFFERENT:
                    yield f"  {each.path}: {each.line}"
                elif each.verdict is Verdict.EQUAL:
                    alike[each.line].append(each.path)
            for line, files in alike.items():
                yield f"  {', '.join(files)}: {line}"
            for cause in stage.causes:
                yield f"  likely cause: {cause}"
        yield from self.notes
        counts = Counter(each.verdict for stage in self.stages for each in stage.differences)
        yield status.told(counts, self.run)


def rerun(target: str | None = None) -> Result:
    """Run a stage and all that it depends on, or every stage, in a clean clone of HEAD.

    target: a stage's address. Shows its progress on standard error. Raises UserError where the
    target is no stage of the committed lock, or where the run fails; KeyboardInterrupt, also when
    the process is asked to terminate. No file and no process is left then.
    """
    old, revision, lock = committed()
    stages = chosen(lock, target)
    for note in dirty(revision):  # at once: the run may take hours
        print(f"note: {note}", file=sys.stderr)
    with clone.clean(revision) as project:
        project.run([stage.address for stage in stages])
        made = locks.parse((project.path / LOCK).read_bytes(), f"{LOCK} of the run")
        checked = [
            Checked(stage.address, _made_again(stage, made, old, project.path)) for stage in stages
        ]
        environments = [_environment(stage, old, project.path) for stage in stages]
    return Result(
        f"commit {revision[:12]}, {_count(len(stages), 'stage')} run in a clean clone "
        "(committed -> made again)",
        _explained(checked, stages, made, environments),
    )


def first_epochs(epochs: int, target: str | None = None) -> Result:
    """Train only the first epochs of every fit of a target in a clean clone, and compare weights.

    The data are made again from nothing as in `rerun`; of each fit, the digest of all weights
    after each of these epochs is compared with the committed one. Raises UserError as `rerun`
    does, and where this machine cannot give the same bits.
    """
    if not arithmetic.is_portable():
        raise UserError(
            f"--epochs compares weights to the last bit, and the arithmetic here is "
            f"{arithmetic.name()}, not x86-64-v3: `kmnist verify` without it compares numbers"
        )
    old, revision, lock = committed()
    stages = chosen(lock, target)
    data = [stage for stage in stages if stage.kind in ("download", "preprocess")]
    trained = [stage for stage in stages if stage.kind in ("kfold-train", "tune")]
    for note in dirty(revision):
        print(f"note: {note}", file=sys.stderr)
    with clone.clean(revision) as project:
        project.run([stage.address for stage in data])
        made = locks.parse((project.path / LOCK).read_bytes(), f"{LOCK} of the run")
        checked = [
            Checked(stage.address, _made_again(stage, made, old, project.path)) for stage in data
        ]
        addresses = [stage.address for stage in trained]
        digests = json.loads(
            project.call("kmnist_pipeline.commands.epochs", str(epochs), *addresses)
            if addresses
            else "{}"
        )
    fits = sum(len(found) for found in digests.values())
    for stage in trained:
        checked.append(Checked(stage.address, _weights(stage, old, digests[stage.address], epochs)))
    return Result(
        f"commit {revision[:12]}, {_count(epochs, 'epoch')} of {_count(fits, 'fit')} trained in a "
        "clean clone (committed -> made again)",
        checked,
    )


def _weights(
    stage: LockedStage, old: Revision, digests: dict[str, list[str]], epochs: int
) -> list[Difference]:
    """How the weights of each fit after its first epochs compare with the committed ones."""
    name = "/validation.json"
    found = [out for out in stage.outs if out.endswith((name, numbers.beside(name)))]
    path = max(found, key=len)  # older evidence has one file
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


def committed() -> tuple[Revision, str, Graph]:
    """HEAD, its id and its lock."""
    commit = git.commit("HEAD")
    head = Revision("HEAD", commit)
    head.files(*paths.TRACKED, LOCK)  # all at once, by one process of git
    return head, commit, head.lock()


def chosen(committed: Graph, target: str | None) -> list[LockedStage]:
    """The stages to look at, what they depend on first.

    Raises UserError where the target is none of them.
    """
    if target is None:
        return list(committed.stages.values())
    if target not in committed.stages:
        near = difflib.get_close_matches(target, committed.stages, 1)
        items = defaultdict(list)
        for stage in committed.stages.values():
            items[stage.kind].append(stage.item)
        raise UserError(
            f"{target} is no stage of {LOCK} at HEAD"
            + (f"; did you mean {near[0]}?" if near else ".")
            + " There are:\n"
            + "\n".join(f"  {kind}@: {', '.join(names)}" for kind, names in items.items())
        )
    return committed.upstream(target)[::-1]


def dirty(revision: str) -> list[str]:
    """A sentence for people where the workspace is not what was committed."""
    changed = (
        git.run("--no-optional-locks", "status", "--porcelain", "--", ".").decode().splitlines()
    )
    if not changed:
        return []
    return [
        f"the workspace is not what was committed ({_count(len(changed), 'file')}; `git status`): "
        f"this is about commit {revision[:12]}"
    ]


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


# Each out.


def in_git(out: str) -> bool:
    """Whether Git keeps an out, or DVC's cache."""
    return out.partition("/")[0] in paths.TRACKED


def _contents(files: Mapping[str, Path]) -> dict[str, bytes]:
    return {name: file.read_bytes() for name, file in files.items()}


def between(
    out: str, locked: str, now: str, old: Revision, path: Path, unknown: Verdict
) -> list[Difference]:
    """How an out that lies at `path` compares, file by file.

    locked, now: its md5s, `now` empty where nothing lies there; unknown: the verdict where the
    committed content is not here.
    """
    if not in_git(out):
        if locked == now:
            return [Difference(out, Verdict.IDENTICAL, Verdict.IDENTICAL.words)]
        if not now:
            return [Difference(out, Verdict.DIFFERENT, "is no longer made")]
        try:
            before = old.cached(out, locked)
            why = "the committed one is not in the cache (`dvc pull`)"
        except DamagedError as error:
            before, why = {}, str(error)
        if not before:
            line = f"md5 {locked[:12]} -> {now[:12]}, by how much is unknown: {why}"
            return [Difference(out, unknown, line)]
        return _each(_contents(before), _contents(below(path, out)))
    found = _each(old.files(out), _contents(below(path, out)))
    if locked != now and all(each.verdict is Verdict.IDENTICAL for each in found):
        line = f"{LOCK} says md5 {locked[:12]}, the committed file has {now[:12]}"
        found.append(Difference(out, Verdict.DIFFERENT, line))
    return found


def _each(old: Mapping[str, bytes], new: Mapping[str, bytes]) -> list[Difference]:
    return [compare(path, old.get(path), new.get(path)) for path in sorted({**old, **new})]


# What was made again.


def _made_again(stage: LockedStage, made: Graph, old: Revision, project: Path) -> list[Difference]:
    """How each file compares; of models that are not here, the metrics tell what they are worth."""
    now = made.stages[stage.address].outs
    return [
        difference
        for out, md5 in stage.outs.items()
        for difference in between(
            out, md5, now.get(out, ""), old, project / out, unknown=Verdict.EQUAL
        )
    ]


def _environment(stage: LockedStage, old: Revision, project: Path) -> list[str]:
    """How the machine and the libraries differ between the committed run and the one here."""
    found = []
    for out in stage.outs:
        if not out.endswith(("/validation.json", numbers.beside("/validation.json"))):
            continue
        before = _machine(old.files(out).get(out, b"{}"))
        after = _machine((project / out).read_bytes())
        found += [
            f"other {name}: {before.get(name)} -> {after.get(name)}"
            for name in {**before, **after}
            if before.get(name) != after.get(name)
        ]
    return found


def _machine(validation: bytes) -> dict[str, Any]:
    """What `environment` says, plain values by name."""
    try:
        flat = dict(lineage.leaves("", json.loads(validation).get("environment", {})))
    except (ValueError, TypeError, AttributeError):  # the comparison says that it is damaged
        return {}
    return {name.replace("libraries.", "version of "): value for name, value in flat.items()}


def _explained(
    checked: list[Checked], stages: list[LockedStage], made: Graph, environments: list[list[str]]
) -> list[Checked]:
    """The same with likely causes: what a stage was given, and where and with what it ran."""
    anywhere = list(dict.fromkeys(line for lines in environments for line in lines)) or _versions()
    apart = {each.address for each in checked if each.verdict is not Verdict.IDENTICAL}
    explained = []
    for each, stage, own in zip(checked, stages, environments, strict=True):
        causes: list[str] = []
        if each.address in apart:
            now = made.stages[each.address]
            above = [maker.address for maker in made.parents(now) if maker.address in apart]
            changed = changes.of_stage(_alone(stage, made), _alone(now, made))
            causes = [*map(str, changed), *own]
            causes += [f"follows from {', '.join(above)}"] if above else []
            causes = causes or anywhere or [_NONE]
        explained.append(replace(each, causes=causes))
    return explained


_NONE = (
    "none is known: command, parameters, code, machine and versions are the same, so the "
    "committed files are not what this stage makes"
)


def _alone(stage: LockedStage, made: Graph) -> LockedStage:
    """A stage with those dependencies alone that no stage makes."""
    deps = {path: md5 for path, md5 in stage.deps.items() if not made.makers(path)}
    return replace(stage, deps=deps)


def _versions() -> list[str]:
    """Libraries that are installed here in another version than the pinned one."""
    pins = status.pinned()
    pairs = [(name, pins.get(name), status.installed(name)) for name in MAKE_BYTES]
    return [
        f"other version of {name}: {pin} is pinned, {here} is installed"
        for name, pin, here in pairs
        if pin and here and pin != here
    ]

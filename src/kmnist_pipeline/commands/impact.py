"""What a change will re-make, before anything runs: stages, figures, metrics, reports, claims.

The lock says what the evidence was made from. What it would be made from now is `dvc.yaml` with
the composed parameters put in by DVC's own resolver, and the files as they are. Where the two
differ a stage runs again, and with it whatever reads its outs.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from kmnist_pipeline.config import compose as composition
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evaluation import claims
from kmnist_pipeline.evidence import lineage, paths
from kmnist_pipeline.repository import changes, dvc, locks
from kmnist_pipeline.repository.changes import Change
from kmnist_pipeline.repository.locks import Graph, LockedStage

EVIDENCE = tuple(f"{folder}/" for folder in paths.TRACKED)
STYLES = {"changed": "bold", "new": "bold green", "gone": "bold red", "downstream": ""}


@dataclass(frozen=True)
class Affected:
    """A stage that runs again, or for the first time, or has none to run any more.

    state: `new`, `changed` (by itself), `downstream` or `gone`; changes: of what it reads that no
    stage makes; reads: the affected stages whose outs it reads.
    """

    address: str
    state: str
    changes: list[Change]
    reads: list[str]

    @property
    def reasons(self) -> list[str]:
        """Why, one reason a line."""
        if self.state in ("new", "gone"):
            return [f"is {self.state}"]
        own = [str(change) for change in self.changes]
        return own or [f"reads {', '.join(self.reads)}"]


@dataclass(frozen=True)
class Impact:
    """What a change re-makes.

    figures, metrics, reports: files, or a folder (`.../`) where no file is there yet; claims: ids
    by report; orphans: files whose stage is gone.
    """

    stages: list[Affected] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)
    reports: list[str] = field(default_factory=list)
    claims: dict[str, list[str]] = field(default_factory=dict)
    orphans: list[str] = field(default_factory=list)

    def json(self) -> dict[str, Any]:
        """Plain values alone."""
        return asdict(self)


def of_change(overrides: list[str]) -> Impact:
    """The impact of `conf/` with overrides, and of the files as they are, on the locked evidence.

    Raises UserError where `conf/` or an override is refused, or `dvc.yaml` or the lock is broken.
    """
    params = locks.load(composition.compose(Path("conf"), overrides), "conf/")
    locked = _locked()
    wanted = _wanted(params, locked)
    gone = [stage for name, stage in locked.stages.items() if name not in wanted.stages]
    own = {
        name: _own_changes(locked.stages[name], stage)
        for name, stage in wanted.stages.items()
        if name in locked.stages
    }
    lost = locked.downstream(stage.address for stage in gone)
    again = [name for name in wanted.stages if own.get(name) != [] or name in lost]
    below = wanted.downstream(again)
    stages = [
        Affected(
            name,
            "new" if name not in own else "changed" if own[name] else "downstream",
            own.get(name, []),
            list(dict.fromkeys([*lost.get(name, []), *below.get(name, [])])),
        )
        for name in wanted.stages
        if name in again or name in below
    ]
    remade = {out for stage in stages for out in wanted.stages[stage.address].outs}
    themselves = {stage.address for stage in stages if stage.state != "downstream"}
    return Impact(
        stages=stages + [Affected(stage.address, "gone", [], []) for stage in gone],
        figures=_files(remade, "figures/"),
        metrics=_files(remade, "metrics/"),
        reports=_files(remade, "reports/"),
        claims=_claims(params["reports"], remade, themselves),
        orphans=_files({out for stage in gone for out in stage.outs}, *EVIDENCE),
    )


def _locked() -> Graph:
    path = Path(locks.LOCK)
    return locks.parse(path.read_text()) if path.exists() else Graph({})


def _wanted(params: dict[str, Any], locked: Graph) -> Graph:
    """The stages of `dvc.yaml` with these parameters, each as its lock entry is going to be.

    A file that one stage alone makes has the hash that the lock gives it: whether the stage makes
    another is for the graph to tell.
    """
    made = {out: md5 for stage in locked.stages.values() for out, md5 in stage.outs.items()}
    digest = functools.cache(lambda path: made.get(path) or _digest(path))
    stages = {}
    for name, stage in dvc.stages(params).items():
        used = dvc.values(stage, params)
        for missing in set(stage.get("params", [])) - used.keys():
            raise UserError(f"dvc.yaml: {name}: there is no parameter {missing}")
        outs = {path: made.get(path, "") for path in dvc.outs(stage)}
        deps = {path: digest(path) for path in stage.get("deps", [])}
        stages[name] = LockedStage(name, stage["cmd"], deps, used, outs, key="")
    return Graph(stages)


def _own_changes(before: LockedStage, stage: LockedStage) -> list[Change]:
    """What differs from the lock, and which outs are no longer what the stage made.

    Of its outs, those that Git keeps: what DVC's cache holds may be away.
    """
    outs = [
        Change("out", path, md5, _digest(path) or None)
        for path, md5 in before.outs.items()
        if path.startswith(EVIDENCE) and _digest(path) != md5
    ]
    return changes.of_stage(before, stage) + outs


def _digest(path: str) -> str:
    return lineage.digest(Path(path)) if Path(path).exists() else ""


def _files(outs: Iterable[str], *folders: str) -> list[str]:
    """The files of those outs that lie in the folders; an out that is not there yet, as it is."""
    found = []
    for out in sorted(outs):
        if out.startswith(folders):
            path = Path(out)
            inside = sorted(file.as_posix() for file in path.rglob("*") if file.is_file())
            found += inside or [out if path.suffix else f"{out}/"]
    return found


def _claims(
    reports: dict[str, Any], remade: set[str], themselves: set[str]
) -> dict[str, list[str]]:
    """Ids of the claims that are judged anew, by report.

    themselves: the stages that change by themselves; where a report's does, all its claims are.
    """
    found = {}
    for report, about in reports.items():
        stated = claims.read(Path(f"conf/claims/{about['claims']}.csv"))
        anew = [
            claim["id"]
            for claim in stated
            if claim["file"]
            and (f"report@{report}" in themselves or remade & _sources(report, claim))
        ]
        if anew:
            found[report] = anew
    return found


def _sources(report: str, claim: dict[str, str]) -> set[str]:
    """The files of numbers that a claim is judged by."""
    return {f"{paths.METRICS}/{report}/{file}" for file in claims.files(claim)}


def show(impact: Impact, console: Console) -> None:
    """Print an impact as a tree."""
    if not impact.stages:
        console.print("no stage runs again: nothing is re-made")
        return
    states = Counter(stage.state for stage in impact.stages)
    told = ", ".join(f"{count} {state}" for state, count in states.items())
    tree = Tree(f"{_count(len(impact.stages), 'stage')}: {told}")
    for stage in impact.stages:
        first, *others = stage.reasons
        branch = tree.add(Text.assemble((stage.address, STYLES[stage.state]), "  ", first))
        for reason in others:
            branch.add(Text(reason))
    _add(tree, "figure", "re-made", impact.figures)
    _add(tree, "metric file", "re-made", impact.metrics)
    _add(tree, "report file", "re-made", impact.reports)
    for report, ids in impact.claims.items():
        branch = tree.add(f"{_count(len(ids), 'claim')} of {report} judged anew")
        branch.add(Text(", ".join(ids)))
    _add(tree, "file", "that no stage makes any more", impact.orphans)
    console.print(tree)


def _add(tree: Tree, noun: str, what: str, files: list[str]) -> None:
    """A branch with the names of the files, those of one folder on one line."""
    new = sum(file.endswith("/") for file in files)
    counts = [_count(len(files) - new, noun)] if len(files) > new else []
    counts += [_count(new, "new folder")] if new else []
    if files:
        branch = tree.add(f"{' and '.join(counts)} {what}")
        for folder, group in itertools.groupby(files, lambda file: file.rpartition("/")[0]):
            names = ", ".join(file.rpartition("/")[2] for file in group)
            branch.add(Text(f"{folder}/  {names}".rstrip()))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"

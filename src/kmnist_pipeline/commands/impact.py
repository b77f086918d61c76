"""The figures, metrics, reports and claims that a change affects, before anything runs.

A view of `status`, with the parameters that `conf/` gives with overrides.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from kmnist_pipeline.commands import status
from kmnist_pipeline.commands.status import StageStatus
from kmnist_pipeline.commands.words import count
from kmnist_pipeline.config import compose as composition
from kmnist_pipeline.evaluation import claims
from kmnist_pipeline.evidence import paths
from kmnist_pipeline.repository import locks
from kmnist_pipeline.repository.revision import below

STYLES = {"changed": "bold", "new": "bold green", "gone": "bold red", "downstream": ""}


@dataclass(frozen=True)
class Impact:
    """The effects of a change.

    figures, metrics, weights, reports: files to make again, or a folder (`.../`) that has no files
    yet; claims: ids by report; orphans: files that Git tracks and no stage makes any more;
    composed: whether params.yaml is up to date with `conf/`.
    """

    stages: list[StageStatus] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)
    weights: list[str] = field(default_factory=list)
    reports: list[str] = field(default_factory=list)
    claims: dict[str, list[str]] = field(default_factory=dict)
    orphans: list[str] = field(default_factory=list)
    composed: bool = True


def of_change(overrides: list[str]) -> Impact:
    """The impact of `conf/` with overrides, and of the current files, on the locked evidence.

    Raises UserError if `conf/`, an override, `dvc.yaml` or the lock is invalid.
    """
    composed = composition.compose(Path("conf"), overrides)
    params = locks.load(composed, "conf/")
    found = status.of(status.locked_here(), params)
    again = [stage for stage in found.stages if stage.state != "gone"]
    outs = {out for stage in again for out in found.wanted.stages[stage.address].outs}
    themselves = {stage.address for stage in again if stage.state != "downstream"}
    return Impact(
        stages=found.stages,
        figures=_files(outs, "figures/"),
        metrics=_files(outs, "metrics/"),
        weights=_files(outs, "weights/"),
        reports=_files(outs, "reports/"),
        claims=_claims(params["reports"], outs, themselves),
        orphans=found.orphans,
        composed=bool(overrides) or status.is_composed(composed),
    )


def _files(outs: Iterable[str], folder: str) -> list[str]:
    """The files of the outs in a folder; an out that does not exist yet is listed itself."""
    found = []
    for out in sorted(outs):
        if out.startswith(folder):
            path = Path(out)
            found += sorted(below(path, out)) or [out if path.suffix else f"{out}/"]
    return found


def _claims(reports: dict[str, Any], outs: set[str], themselves: set[str]) -> dict[str, list[str]]:
    """The ids of the claims that are compared again, by report.

    themselves: the stages that change by themselves; if a report's stage does, all its claims are.
    """
    found = defaultdict(list)
    for report, about in reports.items():
        path, is_all = Path(f"conf/claims/{about['claims']}.csv"), f"report@{report}" in themselves
        for claim in claims.read(path) if path.exists() else []:
            if claim["file"] and (is_all or outs & _sources(report, claim)):
                found[report].append(claim["id"])
    return dict(found)


def _sources(report: str, claim: dict[str, str]) -> set[str]:
    """The files of numbers that decide a claim's verdict."""
    return {f"{paths.METRICS}/{report}/{file}" for file in claims.files(claim)}


def show(impact: Impact, console: Console) -> None:
    """Print an impact as a tree."""
    if not impact.composed:
        console.print("params.yaml is not up to date with conf/; this shows the impact of conf/")
    if not (impact.stages or impact.orphans):
        console.print("no stage runs again")
        return
    states = Counter(stage.state for stage in impact.stages)
    text = ", ".join(f"{number} {state}" for state, number in states.items())
    tree = Tree(f"{count(len(impact.stages), 'stage')}: {text}" if text else "no stage runs again")
    for stage in impact.stages:
        first, *others = stage.reasons
        branch = tree.add(Text.assemble((stage.address, STYLES[stage.state]), "  ", first))
        for reason in others:
            branch.add(Text(reason))
    _add(tree, "figure", "made again", impact.figures)
    _add(tree, "metric file", "made again", impact.metrics)
    _add(tree, "weights file", "made again", impact.weights)
    _add(tree, "report file", "made again", impact.reports)
    for report, ids in impact.claims.items():
        branch = tree.add(f"{count(len(ids), 'claim')} of {report} compared again")
        branch.add(Text(", ".join(ids)))
    if impact.stages and not impact.claims:
        tree.add("no claim compared again")
    _add(tree, "file", "that no stage makes any more", impact.orphans)
    console.print(tree)


def _add(tree: Tree, noun: str, what: str, files: list[str]) -> None:
    """Add a branch with the names of the files, one line for each folder."""
    new = sum(file.endswith("/") for file in files)
    numbers = {noun: len(files) - new, "new folder": new}
    counts = [count(number, noun) for noun, number in numbers.items() if number]
    if files:
        branch = tree.add(f"{' and '.join(counts)} {what}")
        for folder, group in itertools.groupby(files, lambda file: file.rpartition("/")[0]):
            names = ", ".join(file.rpartition("/")[2] for file in group)
            branch.add(Text(f"{folder}/  {names}".rstrip()))

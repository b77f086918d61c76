"""The pool of fits: two workers against one, the overhead of a fit, and the time of all fits of
params.yaml on more cores, computed from the durations in the store."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.candidate import Candidate
from benchmarks.measuring import in_turn, prepare, tell, unmeasured, verdict
from kmnist_pipeline.commands import fit
from kmnist_pipeline.config import grid
from kmnist_pipeline.evidence import paths
from kmnist_pipeline.fits import plan, store
from kmnist_pipeline.fits.plan import Plan
from kmnist_pipeline.fits.store import Store
from kmnist_pipeline.fits.tasks import FitTask
from kmnist_pipeline.repository import locks

WORKERS = "LOKY_MAX_CPU_COUNT"
EMPTY, TRIED, LONGEST = 10_000, 500, 60.0  # fits, fits to estimate from, their seconds
CORES = (1, 2, 4, 16, 64)


def two_workers() -> bool:
    """All fits of kmnist_linear, with few epochs and one seed, on one worker and on two."""
    prepare("kmnist")
    with (
        Candidate("pools", "portable", variables={WORKERS: "1"}) as one,
        Candidate("pools", "portable", variables={WORKERS: "2"}) as two,
    ):
        (fits,) = {candidate.ask("plan_report")["fits"] for candidate in (one, two)}
        taken = in_turn({"one": lambda _: one.ask("report"), "two": lambda _: two.ask("report")})
    alone, both = taken["one"]["seconds"], taken["two"]["seconds"]
    detail = f"{fits} fits of one seed, {alone:.1f} s on one and {both:.1f} s on two"
    return verdict("fits of kmnist_linear, one worker / two", alone / both, 1.8, True, detail)


def empty_fits() -> bool:
    """The overhead of a fit: 10,000 fits that compute almost nothing."""
    with Candidate("pools", "portable") as candidate:
        each = candidate.ask("empty", fits=TRIED)["seconds"] / TRIED
        fits = min(EMPTY, max(TRIED, round(LONGEST / each / TRIED) * TRIED))
        taken = candidate.ask("empty", fits=fits)
    planned, each = (1000 * taken[name] / fits for name in ("planned", "seconds"))
    detail = f"{fits} empty fits in one plan, of which planning takes {planned:.1f} ms each"
    if fits < EMPTY:
        detail += f"; {EMPTY} would take more than {LONGEST:.0f} s"
    return verdict("overhead of a fit, ms", each, 50, False, detail)


@dataclass(frozen=True)
class Job:
    """A fit in a schedule.

    seconds: its duration; cost: the pool starts the most costly fit first; after: the keys of the
    fits that must end before it.
    """

    label: str
    seconds: float
    cost: float
    after: frozenset[str] = frozenset()


def all_fits() -> bool:
    """The time of all fits of params.yaml on 1 to 64 cores, from the durations in the store."""
    what = "all fits on 4 cores / the least possible"
    prepare("kmnist")
    params = locks.load(Path("params.yaml").read_text(), "params.yaml")
    kept = store.default()
    known = {e.key: e.about["seconds"] for e in kept.entries() if e.finished and e.about}
    absent = _unprocessed(params)
    tasks = _tasks(params, kept, known, absent)
    jobs, estimated, unknown = _jobs(tasks, known)
    if absent:
        tell(f"without the fits of {', '.join(absent)}, whose data are not processed here")
    for family, count in unknown.items():
        tell(f"left out: {count} fits of {family}, because {kept.folder} has none of them")
    if not jobs:
        return unmeasured(what, f"{kept.folder} has none of {len(tasks)} fits")

    total, (chain, last) = sum(job.seconds for job in jobs.values()), longest_chain(jobs)
    times = {cores: makespan(jobs, cores) for cores in CORES}
    guess = f"{estimated} of them estimated by cost from known fits of their family"
    tell(
        f"{len(jobs)} fits of params.yaml, {guess if estimated else 'their durations known'}: "
        + ", ".join(f"{_duration(times[cores])} on {cores}" for cores in CORES)
        + " cores"
    )
    detail = f"the longest chain, {_duration(chain)}, ends with {last}"
    return verdict(what, times[4] / max(total / 4, chain), 1.2, False, detail)


def _unprocessed(params: dict[str, Any]) -> list[str]:
    """The datasets of models whose data are not processed here."""
    datasets = sorted({about["dataset"] for about in params["models"].values()})
    return [name for name in datasets if not Path(paths.processed(name)).exists()]


def _tasks(
    params: dict[str, Any], kept: Store, known: Mapping[str, float], absent: list[str]
) -> dict[str, tuple[FitTask, frozenset[str]]]:
    """All fits by key, each with the keys of the fits that it waits for."""
    found: dict[str, tuple[FitTask, frozenset[str]]] = {}
    for kind, section in fit.SECTIONS.items():
        for name in params[section]:
            if params["models"][name]["dataset"] in absent:
                continue
            planned = fit.plan_of(f"{kind}@{name}", params)
            first = {task.key: task for task in planned.tasks()}
            # A fit that several stages need waits only for fits that all of them wait for.
            found |= {key: (task, frozenset()) for key, task in first.items()}
            if planned.choose is None:
                continue
            study = params["studies"][name]
            if study.get("search"):  # what comes after its first wave is not known yet
                continue
            if first.keys() <= known.keys():
                planned.advance(kept)
                again = planned
            else:  # it costs about the same for every winner
                point = next(iter(planned.points.values()))
                trial = grid.retrained(study, params["experiments"][study["base"]], point)
                again = Plan(name, {plan.RETRAINED: trial}, planned.images)
            for task in again.tasks():
                found.setdefault(task.key, (task, frozenset(first)))
    return found


def _jobs(
    tasks: Mapping[str, tuple[FitTask, frozenset[str]]], known: Mapping[str, float]
) -> tuple[dict[str, Job], int, Counter[str]]:
    """The fits with durations, the number of estimated durations, and the number of fits by family
    that cannot be estimated, because no fit of the family is known."""
    seconds: dict[str, float] = defaultdict(float)
    cost: dict[str, float] = defaultdict(float)
    for key, (task, _) in tasks.items():
        if key in known:
            seconds[task.fit.family] += known[key]
            cost[task.fit.family] += task.cost
    jobs, estimated, unknown = {}, 0, Counter[str]()
    for key, (task, after) in tasks.items():
        family = task.fit.family
        if key not in known and family not in cost:
            unknown[family] += 1
            continue
        estimated += key not in known
        lasts = known.get(key, task.cost * seconds[family] / (cost[family] or 1))
        jobs[key] = Job(task.label, lasts, task.cost, after)
    return jobs, estimated, unknown


def makespan(jobs: Mapping[str, Job], cores: int) -> float:
    """Seconds until all jobs are done, if a free core takes the most costly job that is ready."""
    waits = {key: {other for other in job.after if other in jobs} for key, job in jobs.items()}
    ready = [(-job.cost, key) for key, job in jobs.items() if not waits[key]]
    heapq.heapify(ready)
    followers = defaultdict(list)
    for key, others in waits.items():
        for other in others:
            followers[other].append(key)
    running: list[tuple[float, str]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < cores:
            _, key = heapq.heappop(ready)
            heapq.heappush(running, (now + jobs[key].seconds, key))
        now, done = heapq.heappop(running)
        for key in followers[done]:
            waits[key].remove(done)
            if not waits[key]:
                heapq.heappush(ready, (-jobs[key].cost, key))
    return now


def longest_chain(jobs: Mapping[str, Job]) -> tuple[float, str]:
    """The seconds of the longest chain of fits that wait for each other, and its last fit.

    A fit waits for others at most once: what a study trains again waits for trials.
    """
    ends = {
        key: job.seconds + max((jobs[k].seconds for k in job.after if k in jobs), default=0)
        for key, job in jobs.items()
    }
    key = max(ends, key=lambda key: ends[key])
    return ends[key], jobs[key].label


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

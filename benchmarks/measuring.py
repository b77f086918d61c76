"""What all measurements share: taking turns, the verdict, and the data."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import INHERITED
from kmnist_pipeline.evidence import paths

ROUNDS = 3
ALIKE = 0.005  # how far the accuracies of trainings that are compared may lie apart
SCHEDULER = "KMNIST_SCHEDULER"  # names a cluster
PROCESSED = Path(paths.processed("kmnist"))

Answer = dict[str, float]  # what a candidate says of one run, such as `seconds` and `accuracy`


def environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a command as `make` starts it: this interpreter and this code first, and
    workers on this machine alone."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{INHERITED.get('PATH', '')}"
    chosen = {"PATH": path, "PYTHONPATH": "src", SCHEDULER: ""}
    return {**INHERITED, **chosen, **(changes or {})}


def run(
    *command: str, folder: Path | None = None, variables: Mapping[str, str] | None = None
) -> None:
    """Run a Python module with its arguments, without its output. Raises where it fails."""
    try:
        subprocess.run(
            [sys.executable, *command],
            cwd=folder,
            env=environment(variables),
            check=True,
            capture_output=True,
            text=True,
        )
    except subprocess.CalledProcessError as error:
        sys.stderr.write(error.stderr)
        raise


def interleaved(*candidates: Callable[[], object]) -> list[float]:
    """The fastest of ROUNDS runs of each candidate, the candidates taking turns, in seconds."""
    fastest = [float("inf")] * len(candidates)
    for _ in range(ROUNDS):
        for position, candidate in enumerate(candidates):
            start = time.perf_counter()
            candidate()
            fastest[position] = min(fastest[position], time.perf_counter() - start)
    return fastest


def in_turn(candidates: Mapping[str, Callable[[int], Answer]]) -> dict[str, Answer]:
    """ROUNDS runs of each candidate, the candidates taking turns: of each the fastest `seconds`,
    and the means of what else it answers.

    A candidate is told the number of the round and takes its own time.
    """
    answers: dict[str, list[Answer]] = {name: [] for name in candidates}
    for number in range(ROUNDS):
        for name, candidate in candidates.items():
            answers[name].append(candidate(number))
    return {
        name: {
            value: min(seen) if value == "seconds" else sum(seen) / len(seen)
            for value in given[0]
            for seen in [[answer[value] for answer in given]]
        }
        for name, given in answers.items()
    }


def verdict(
    what: str, value: float, bound: float, least: bool, detail: str, *accuracies: float
) -> bool:
    """Print one line; whether the bound holds, and any accuracies lie within half a point.

    least: whether the bound is the smallest value that is allowed, or the largest.
    """
    alike = not accuracies or max(accuracies) - min(accuracies) <= ALIKE
    holds = alike and (value >= bound if least else value <= bound)
    sign = ">=" if least else "<="
    print(
        f"{'ok  ' if holds else 'MISS'} {what}: {value:.2f} ({sign} {bound:g}); {detail}",
        flush=True,
    )
    return holds


def unmeasured(what: str, why: str) -> bool:
    """Print that something could not be measured, which holds no bound."""
    print(f"MISS {what}: not measured; {why}", flush=True)
    return False


def tell(text: str) -> None:
    """Print a line that has no bound."""
    print(f"     {text}", flush=True)


def prepare(*datasets: str) -> None:
    """Have DVC make the processed data of these data sets, where they are not there."""
    for name in datasets:
        if not Path(paths.processed(name)).exists():
            run("-m", "dvc", "repro", "--quiet", f"preprocess@{name}")

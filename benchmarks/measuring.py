"""The common parts of all measurements: taking turns, the verdict, and the data."""

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
ALIKE = 0.005  # the largest difference of accuracies between compared trainings
SCHEDULER = "KMNIST_SCHEDULER"  # names a cluster
PROCESSED = Path(paths.processed("kmnist"))

Answer = dict[str, float]  # of a candidate about one run, such as `seconds` and `accuracy`


def environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a command as `make` starts it: this interpreter and this code first, and
    only workers on this machine."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{INHERITED.get('PATH', '')}"
    chosen = {"PATH": path, "PYTHONPATH": "src", SCHEDULER: ""}
    return {**INHERITED, **chosen, **(changes or {})}


def run(
    *command: str, folder: Path | None = None, variables: Mapping[str, str] | None = None
) -> None:
    """Run a Python module with its arguments, without its output. Raises if it fails."""
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
    """The seconds of the fastest of ROUNDS runs of each candidate; candidates take turns."""
    fastest = [float("inf")] * len(candidates)
    for _ in range(ROUNDS):
        for position, candidate in enumerate(candidates):
            start = time.perf_counter()
            candidate()
            fastest[position] = min(fastest[position], time.perf_counter() - start)
    return fastest


def in_turn(candidates: Mapping[str, Callable[[int], Answer]]) -> dict[str, Answer]:
    """ROUNDS runs of each candidate, which take turns: returns for each the fastest `seconds`, and
    the means of its other values.

    A candidate gets the number of the round and measures its time itself.
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
    """Print a line; returns whether the bound holds, and accuracies are within half a point.

    least: whether the bound is the smallest allowed value, or the largest.
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
    """Print that something could not be measured, which counts as a missed bound."""
    print(f"MISS {what}: not measured; {why}", flush=True)
    return False


def tell(text: str) -> None:
    """Print a line that has no bound."""
    print(f"     {text}", flush=True)


def prepare(*datasets: str) -> None:
    """Make the missing processed data of these datasets with DVC."""
    for name in datasets:
        if not Path(paths.processed(name)).exists():
            run("-m", "dvc", "repro", "--quiet", f"preprocess@{name}")

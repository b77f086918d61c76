"""Training the missing fits of all stale stages as one pool: `kmnist fit`.

DVC runs stages one after the other. This command first trains all their fits in parallel, on all
cores or machines, so that `dvc repro` finds every fit in the store.
"""

import logging
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.fits import plan, pool, store, swapped
from kmnist_pipeline.fits.plan import Plan
from kmnist_pipeline.repository import dvc
from kmnist_pipeline.repository.names import unknown

DATA = ("download@", "preprocess@")
SECTIONS = {"kfold-train": "experiments", "tune": "studies"}  # of models
SUSPECTS = "suspects"  # a stage and its section; it trains too, but keeps no model


def train_missing(targets: list[str], params: dict[str, Any]) -> list[str]:
    """Train the missing fits of stale stages: the targets and the stages that they depend on.

    targets: stages, or empty for every stage; params: the content of `params.yaml`. First brings
    the data of these stages up to date. Returns the stale stages that train. Raises UserError if
    a target is unknown, or data cannot be made.
    """
    first = stale(targets)
    data = {name.partition("@")[2] for name in first if name.startswith(DATA)}
    data |= {dataset_of(name, params) for name in trains(first)}
    if not data:
        return []
    _prepare(data)
    names = trains(stale(targets))  # equal data makes no stage stale
    pool.train([plan_of(name, params) for name in names], store.default())
    return names


def trains(stages: Iterable[str]) -> list[str]:
    """The stages that train, among `stages`."""
    return [name for name in stages if name.partition("@")[0] in (*SECTIONS, SUSPECTS)]


def dataset_of(stage: str, params: dict[str, Any]) -> str:
    """The dataset of a stage that trains."""
    kind, _, name = stage.partition("@")
    return params[SUSPECTS if kind == SUSPECTS else "models"][name]["dataset"]


def plan_of(stage: str, params: dict[str, Any], winner: str | None = None) -> Plan:
    """The fits of a stage that trains; its processed data must exist.

    winner: the trial that a study trains again; None if validation decides it.
    """
    kind, _, name = stage.partition("@")
    if kind == SUSPECTS:
        settings = params[SUSPECTS][name]
        experiment = params["experiments"][settings["experiment"]]
        return swapped.of_suspects(name, settings, experiment)[0]
    entry = params[SECTIONS[kind]][name]
    if kind == "kfold-train":
        return plan.of_experiment(name, entry)
    return plan.of_study(name, entry, params["experiments"][entry["base"]], winner=winner)


def stale(targets: list[str]) -> list[str]:
    """The stages that `dvc repro` would run, as far as this is known before any has run.

    targets: only these and the stages that they depend on; empty for every stage. Stages that DVC
    can restore from its cache are left out. Raises UserError if a target is not a stage.
    """
    from dvc.stage.cache import RunCacheNotFoundError

    logging.getLogger("dvc").setLevel(logging.WARNING)  # hide "restored": it is a dry run
    found = []
    with dvc.opened() as repo, repo.lock:
        stages = set(repo.index.stages)
        if targets:
            known = sorted(stage.addressing for stage in stages)
            stages = {stage for target in targets for stage in _upstream(repo, target, known)}
        for stage in sorted(stages, key=lambda stage: stage.addressing):
            if not stage.changed():
                continue
            try:
                if not all(dep.exists for dep in stage.deps):
                    raise RunCacheNotFoundError(stage)
                if stage.changed_stage() or stage.changed_deps():
                    # DVC does this too before it looks for a run with these dependencies.
                    stage.save_deps()
                    for out in stage.outs:
                        out.clear()
                repo.stage_cache.restore(stage, dry=True)
            except RunCacheNotFoundError:
                found.append(stage.addressing)
    return found


def _upstream(repo: Any, target: str, known: list[str]) -> list[Any]:
    """The stages of a target, and those that they depend on; known: the names of all stages."""
    from dvc.stage.exceptions import StageNotFound

    try:
        return repo.stage.collect(target, with_deps=True)
    except StageNotFound as error:
        raise unknown(f"dvc.yaml has no stage {target}", target, known) from error


def _prepare(datasets: set[str]) -> None:
    """Make the processed data of these datasets with DVC, if they are stale."""
    targets = [f"preprocess@{name}" for name in sorted(datasets)]
    command = [sys.executable, "-m", "kmnist_pipeline.cli.dvc", "repro", "--quiet", *targets]
    if subprocess.run(command, check=False).returncode:
        raise UserError(f"`dvc repro {' '.join(targets)}` fails: see above")

"""Training the missing fits of all stale stages as one pool: `kmnist fit`.

DVC runs stages one after the other. This trains first what they need, over all cores or machines
at once, so that `dvc repro` finds every fit in the store.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kmnist_pipeline.data import dataset
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import paths
from kmnist_pipeline.fits import plan, pool, store
from kmnist_pipeline.fits.plan import Plan

DATA = ("download@", "preprocess@")
SECTIONS = {"kfold-train": "experiments", "tune": "studies"}


def fit(targets: list[str], params: dict[str, Any]) -> list[str]:
    """Train what stale stages among the targets and all that they depend on need.

    targets: stages, every stage where there is none; params: the content of `params.yaml`. The
    data of these stages are brought up to date first. Returns the stale stages that train.
    Raises UserError where a target is unknown, or data cannot be made.
    """
    first = stale(targets)
    data = {name.partition("@")[2] for name in first if name.startswith(DATA)}
    data |= {params["models"][name.partition("@")[2]]["dataset"] for name in trains(first)}
    if data:
        _prepare(data)
        names = trains(stale(targets))  # what came out the same makes no stage stale
        pool.train([plan_of(name, params) for name in names], store.default())
        return names
    return []


def trains(stages: Iterable[str]) -> list[str]:
    """Those of the stages that train."""
    return [name for name in stages if name.partition("@")[0] in SECTIONS]


def plan_of(stage: str, params: dict[str, Any], winner: str | None = None) -> Plan:
    """The fits of a stage that trains; its processed data must be there.

    winner: the trial that a study trains again, where that is not left to its numbers.
    """
    kind, _, name = stage.partition("@")
    entry = params[SECTIONS[kind]][name]
    base = entry if kind == "kfold-train" else params["experiments"][entry["base"]]
    processed = Path(paths.processed(base["dataset"]))
    images = dataset.load(processed, "train", base["classes"])
    if kind == "kfold-train":
        return plan.of_experiment(name, base, images)
    return plan.of_study(name, entry, base, images, winner)


def stale(targets: list[str]) -> list[str]:
    """The stages that `dvc repro` would run, as far as can be told before any has run.

    Of the targets and of all that they depend on, or of every stage; those that DVC can restore
    from its cache are left out. Raises UserError where a target is no stage.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.stage.cache import RunCacheNotFoundError

    logging.getLogger("dvc").setLevel(logging.WARNING)  # what it would restore is not restored
    found = []
    try:
        with Repo() as repo, repo.lock:
            stages = (
                {s for target in targets for s in repo.stage.collect(target, with_deps=True)}
                if targets
                else set(repo.index.stages)
            )
            for stage in sorted(stages, key=lambda stage: stage.addressing):
                if not stage.changed():
                    continue
                try:
                    if not all(dep.exists for dep in stage.deps):
                        raise RunCacheNotFoundError(stage)
                    if stage.changed_stage() or stage.changed_deps():
                        # As DVC does before it looks for an earlier run of these dependencies.
                        stage.save_deps()
                        for out in stage.outs:
                            out.clear()
                    repo.stage_cache.restore(stage, dry=True)
                except RunCacheNotFoundError:
                    found.append(stage.addressing)
    except DvcException as error:
        raise UserError(f"DVC: {error}") from error
    return found


def _prepare(datasets: set[str]) -> None:
    """Have DVC make the processed data of these data sets, as far as they are stale."""
    targets = [f"preprocess@{name}" for name in sorted(datasets)]
    command = [sys.executable, "-m", "dvc", "repro", "--quiet", *targets]
    if subprocess.run(command, check=False).returncode:
        raise UserError(f"`dvc repro {' '.join(targets)}` fails: see above")

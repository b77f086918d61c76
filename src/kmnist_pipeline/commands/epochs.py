"""Trains the first epochs of all fits of some stages, for `kmnist verify --epochs`.

It runs in the folder of a project whose data are processed:
`python -m kmnist_pipeline.commands.epochs EPOCHS STAGE...`. It prints JSON: the digests of the
weights of each fit, by stage. It uses no results from the store of fits.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from kmnist_pipeline import arithmetic

arithmetic.select()  # before NumPy is loaded; the caller has checked the variable

from kmnist_pipeline.commands import fit  # noqa: E402
from kmnist_pipeline.errors import UserError  # noqa: E402
from kmnist_pipeline.evidence import numbers, paths  # noqa: E402
from kmnist_pipeline.fits import pool  # noqa: E402
from kmnist_pipeline.fits.plan import Plan, name_of  # noqa: E402
from kmnist_pipeline.fits.store import Store  # noqa: E402
from kmnist_pipeline.repository import locks  # noqa: E402

Digests = dict[str, list[str]]  # of the weights after each epoch, by trial, seed and fold


def first_epochs(epochs: int, stages: list[str]) -> dict[str, Digests]:
    """Train the first epochs of every fit of the stages; returns the digests by stage."""
    params = locks.load(Path("params.yaml").read_text("utf-8"), "params.yaml")
    plans = {stage: _plan(stage, params) for stage in stages}
    with tempfile.TemporaryDirectory(prefix="fits-") as folder:
        store = Store(Path(folder))
        pool.train(list(plans.values()), store, stop_after=epochs)
        return {stage: _digests(plan, store) for stage, plan in plans.items()}


def _plan(stage: str, params: dict[str, Any]) -> Plan:
    """The fits of a stage, with the trials of a search and the winner of a study that its evidence
    has: a few epochs might choose others."""
    kind, _, name = stage.partition("@")
    if kind != "tune":
        return fit.plan_of(stage, params)
    path = Path(paths.numbers(params["models"][name]["report"], name, "validation.json"))
    found, study = numbers.read(path), params["studies"][name]
    if study.get("search"):
        points = [trial["parameters"] for trial in found["trials"]]
        study = {**study, "search": None, "points": points}
    changed = {**params, "studies": {**params["studies"], name: study}}
    return fit.plan_of(stage, changed, found["winner"])


def _digests(plan: Plan, store: Store) -> Digests:
    found = {}
    for wave in range(len(plan.waves)):
        for name, trial in plan.trained(store, wave).items():
            for seed, folds in zip(trial.experiment["seeds"], trial.fits, strict=True):
                for fold, fitted in enumerate(folds):
                    found[name_of(name, seed, fold)] = fitted.digests
    return found


if __name__ == "__main__":
    try:
        print(json.dumps(first_epochs(int(sys.argv[1]), sys.argv[2:])))
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")

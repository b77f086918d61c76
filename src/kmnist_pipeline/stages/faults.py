"""Train models with faults on purpose, to see which claims would detect them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kmnist_pipeline.config import grid
from kmnist_pipeline.data import dataset
from kmnist_pipeline.data.dataset import Images
from kmnist_pipeline.evidence import paths
from kmnist_pipeline.evidence.stage import Stage
from kmnist_pipeline.faults import tampering, training
from kmnist_pipeline.fits import key
from kmnist_pipeline.stages.frame import entrypoint

LIBRARIES = ("numpy", "scipy")


def faults(stage: Stage, params: dict[str, Any]) -> None:
    """Train every model of the study without a fault and with each. Write the numbers of all.

    Test images are read here too, but choose nothing; nothing outside this study reads its fits.
    """
    about = params["faults"][stage.item]
    catalogue = {grid.CLEAN: tampering.NONE, **about["catalogue"]}
    processed = Path(paths.processed(about["dataset"]))
    several, places = {}, {}
    images: dict[str, tuple[Images, int]] = {}
    for model, trial, experiment in _models(about):
        classes = str(experiment["classes"])
        if classes not in images:
            train = dataset.load(processed, "train", experiment["classes"])
            test = dataset.load(processed, "test", experiment["classes"])
            images[classes] = tampering.together(train, test), len(train)
        for name, fault in catalogue.items():
            faulty = tampering.tampered(experiment, *images[classes], fault)
            if faulty is not None:
                label = f"{stage.address} {model} {trial} {name}".replace("  ", " ")
                several[label], places[label] = faulty, (model, trial, name)
    found: dict[str, Any] = {}
    for label, numbers in training.measured(several):
        model, trial, name = places[label]
        found.setdefault(model, {}).setdefault(trial, {})[name] = numbers
    content = {
        "catalogue": {name: fault["says"] for name, fault in about["catalogue"].items()},
        "budget": about["budget"],
        "measured": found,
        "environment": key.environment(about["family"]),
    }
    stage.write_details(paths.report_numbers(stage.item, stage.kind), content)


def _models(about: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """The models of the study, each with its trial ("" for an experiment) and its settings."""
    changed = {n: grid.apply(e, about["changes"]) for n, e in about["experiments"].items()}
    found = [(name, "", experiment) for name, experiment in changed.items()]
    for name, study in about["studies"].items():
        trials = grid.trials(study, changed[study["base"]])
        found += [(name, trial, experiment) for trial, experiment in trials.items()]
    return found


if __name__ == "__main__":
    entrypoint(faults, kind="faults", items="faults", libraries=LIBRARIES)

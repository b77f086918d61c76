"""An experiment that is trained while some labels are wrong on purpose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kmnist_pipeline.config import grid
from kmnist_pipeline.data import dataset
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evaluation import suspects
from kmnist_pipeline.evidence import paths
from kmnist_pipeline.fits import plan
from kmnist_pipeline.fits.plan import Plan


def of_suspects(
    name: str, settings: dict[str, Any], experiment: dict[str, Any]
) -> tuple[Plan, np.ndarray]:
    """The fits of the changed experiment on swapped labels, and the rows of these.

    settings: those of the search for suspects. Raises UserError if there are too few images.
    """
    processed = Path(paths.processed(settings["dataset"]))
    images = dataset.load(processed, "train", experiment["classes"])
    count = settings["swapped"]
    if count > len(images):
        raise UserError(f"suspects.{name}.swapped={count}: there are {len(images)} images")
    classes = len(images.classes)
    wrong, rows = suspects.swapped(images.labels, classes, count, settings["seed"])
    changed = grid.apply(experiment, settings["changes"])
    planned = plan.of_experiment(f"suspects@{name}", changed, replace(images, labels=wrong))
    return planned, rows

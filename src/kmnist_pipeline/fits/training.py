"""The training of an experiment or study, and the outs that both have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kmnist_pipeline.evidence import paths
from kmnist_pipeline.fits import key, pool, results, store
from kmnist_pipeline.fits.plan import LostError, Plan
from kmnist_pipeline.fits.results import TrainedTrials

if TYPE_CHECKING:
    from kmnist_pipeline.evidence.stage import Stage

ATTEMPTS = 3  # if files vanish from the store between writing and reading


def train(plan: Plan) -> list[TrainedTrials]:
    """Train the fits of the plan that the store lacks; returns the trials of each wave."""
    kept = store.default()
    for attempt in range(1, ATTEMPTS + 1):
        pool.train([plan], kept)
        try:
            return [plan.trained(kept, wave) for wave in range(len(plan.waves))]
        except LostError:
            if attempt == ATTEMPTS:
                raise
    raise AssertionError


def write(
    stage: Stage,
    report: str,
    classes: tuple[str, ...],
    waves: list[TrainedTrials],
    details: dict[str, Any],
    *libraries: str,
) -> None:
    """Write the model file of the last wave, and the curves and numbers of all trials.

    details: the additional content of a study's `validation.json`; libraries: those that chose
    the trials.
    """
    kept = waves[-1]
    winner = results.winner(kept)
    model = results.model_bytes(stage.item, kept, winner, classes)
    stage.write(paths.weights(stage.item), model)
    trials = results.longest(waves)
    curves = paths.numbers(report, stage.item, "curves.csv")
    stage.write_csv(curves, results.CURVES, results.curve_rows(trials))
    compared, seeds = results.validation_accuracy(kept[winner])
    details = {
        **details,
        "seeds": seeds,
        "folds": results.fold_rows(trials),
        "environment": key.environment(kept[winner].experiment["model"]["family"], *libraries),
    }
    stage.write_numbers(paths.numbers(report, stage.item, "validation.json"), compared, details)

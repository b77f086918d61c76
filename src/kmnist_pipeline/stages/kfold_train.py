"""Train an experiment on every fold of every seed, and keep the model of the best fold."""

from __future__ import annotations

from typing import Any

from kmnist_pipeline.evidence import paths
from kmnist_pipeline.evidence.stage import Stage
from kmnist_pipeline.fits import plan, results, training
from kmnist_pipeline.stages.frame import entrypoint


def kfold_train(stage: Stage, params: dict[str, Any]) -> None:
    """Read only the training split. Write the model, its numbers by fold and epoch, and the
    predictions of each fold's model for the images that it was not trained on."""
    experiment = params["experiments"][stage.item]
    planned = plan.of_experiment(stage.item, experiment)
    (trials,) = waves = training.train(planned)

    training.write(stage, experiment["report"], planned.images.classes, waves, {})
    out_of_fold = results.out_of_fold(trials[""], planned.validated(""), planned.images)
    stage.write(paths.out_of_fold(stage.item), out_of_fold)


if __name__ == "__main__":
    entrypoint(kfold_train, kind="kfold-train", items="experiments")

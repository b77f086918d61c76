"""Train the model of an experiment on every fold of every seed, and keep the best fold's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kmnist_pipeline.data import dataset
from kmnist_pipeline.evidence import paths
from kmnist_pipeline.evidence.stage import Stage, entrypoint
from kmnist_pipeline.fits import key, plan, results, training


def kfold_train(stage: Stage, params: dict[str, Any]) -> None:
    """Read the training split alone; write the model, its numbers by fold and epoch, and what
    each fold's model says of the images it was not trained on."""
    experiment = params["experiments"][stage.item]
    images = dataset.load(
        Path(paths.processed(experiment["dataset"])), "train", experiment["classes"]
    )
    planned = plan.of_experiment(stage.item, experiment, images)
    ((fitted,),) = training.train(planned)

    model = results.model_bytes(stage.item, {"": experiment}, 0, images.classes, [fitted])
    stage.write(paths.weights(stage.item), model)
    stage.write(
        paths.out_of_fold(stage.item),
        results.out_of_fold(experiment["model"], planned.validated(""), fitted, images),
    )
    seeds, report = experiment["seeds"], experiment["report"]
    curves = results.curve_rows("", seeds, fitted)
    stage.write_csv(paths.numbers(report, stage.item, "curves.csv"), results.CURVES, curves)
    compared = results.validation_accuracy(fitted)
    stage.write_numbers(
        paths.numbers(report, stage.item, "validation.json"),
        compared,
        {
            "seeds": compared.pop("seeds"),
            "folds": results.fold_rows("", seeds, fitted),
            "environment": key.environment(experiment["model"]["family"]),
        },
    )


main = entrypoint(kfold_train, kind="kfold-train", items="experiments")

if __name__ == "__main__":
    main()

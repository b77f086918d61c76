"""Train the model of an experiment on every fold of every seed, and keep the best fold's."""

from __future__ import annotations

import importlib
from pathlib import Path

from tqdm import tqdm

from kmnist_pipeline import schema
from kmnist_pipeline.data import dataset
from kmnist_pipeline.evidence import outs
from kmnist_pipeline.evidence.stage import Stage, entrypoint, environment
from kmnist_pipeline.training import fit


def kfold_train(stage: Stage, config: schema.Config) -> None:
    """Read the training split alone; write the model, `validation.json` and `curves.csv`."""
    experiment = config.experiments[stage.item]
    family = importlib.import_module(f"kmnist_pipeline.training.{experiment.model.family}")
    processed = Path(f"data/processed/{experiment.dataset}.npz")
    images = dataset.load(processed, "train", experiment.classes)

    total = fit.total(family, [experiment], len(images))
    with (
        stage.scratch() as scratch,
        tqdm(desc=stage.address, total=total, unit=" steps", disable=None) as bar,
    ):
        (fits,) = fit.train(family, [experiment], images, outs.Folder(scratch), bar.update)

        model = fit.model_bytes(stage.item, {"": experiment}, 0, images.classes, [fits])
        stage.write(f"models/{stage.item}.safetensors", model)
        metrics = f"metrics/{experiment.report}/{stage.item}"
        stage.write_csv(
            f"{metrics}/curves.csv", fit.CURVES, fit.curve_rows("", experiment.seeds, fits)
        )
        stage.write_json(
            f"{metrics}/validation.json",
            {
                **fit.validation_accuracy(fits),
                "folds": fit.fold_rows("", experiment.seeds, fits),
                "environment": environment(*family.LIBRARIES) | family.hardware(experiment.trainer),
            },
        )


main = entrypoint(kfold_train, kind="kfold-train", items="experiments")

if __name__ == "__main__":
    main()

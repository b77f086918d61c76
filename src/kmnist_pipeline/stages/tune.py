"""Train every trial of a study on every fold of every seed; the winner has the best validation."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from tqdm import tqdm

from kmnist_pipeline import schema
from kmnist_pipeline.data import dataset
from kmnist_pipeline.evidence import outs
from kmnist_pipeline.evidence.stage import Stage, entrypoint, environment
from kmnist_pipeline.training import fit


def tune(stage: Stage, config: schema.Config) -> None:
    """Read the training split alone; write all trials' weights and numbers, and who won."""
    study = config.studies[stage.item]
    base = config.experiments[study.base]
    trials = schema.trials(study, base)
    family = importlib.import_module(f"kmnist_pipeline.training.{base.model.family}")
    images = dataset.load(Path(f"data/processed/{base.dataset}.npz"), "train", base.classes)

    total = fit.total(list(trials.values()))
    with (
        stage.scratch() as scratch,
        tqdm(desc=stage.address, total=total, unit="fold", disable=None) as bar,
    ):
        remember = fit.remember_in(scratch, outs.write_bytes)
        fits = fit.train(family, list(trials.values()), images, remember, bar.update)

        numbers = [fit.validation_accuracy(seeds) for seeds in fits]
        rows = [
            {"name": name, "parameters": point, **measured}
            for name, point, measured in zip(trials, study.points, numbers, strict=True)
        ]
        winner = max(range(len(rows)), key=lambda t: numbers[t]["seeds"]["mean"])

        model = fit.model_bytes(stage.item, trials, winner, images.classes, fits)
        stage.write(f"models/{stage.item}.safetensors", model)
        metrics = f"metrics/{study.report}/{stage.item}"
        by_trial = list(zip(trials, fits, strict=True))
        curves = [
            row for name, seeds in by_trial for row in fit.curve_rows(name, base.seeds, seeds)
        ]
        stage.write_csv(f"{metrics}/curves.csv", fit.CURVES, curves)
        stage.write_csv(f"{metrics}/trials.csv", *_table(rows, winner))
        folds = [row for name, seeds in by_trial for row in fit.fold_rows(name, base.seeds, seeds)]
        stage.write_json(
            f"{metrics}/validation.json",
            {
                **numbers[winner],
                "winner": rows[winner]["name"],
                "trials": rows,
                "folds": folds,
                "environment": environment(*family.LIBRARIES),
            },
        )


def _table(rows: list[dict[str, Any]], winner: int) -> tuple[list[str], list[list[Any]]]:
    """Header and rows of `trials.csv`: parameters, then validation over seeds, then who won."""
    keys = list(dict.fromkeys(key for row in rows for key in row["parameters"]))
    header = ["trial", *keys, "validation_accuracy", "mean", "sd", "seeds", "n", "winner"]
    table = []
    for number, row in enumerate(rows):
        seeds = row["seeds"]
        measured = [row["accuracy"], seeds["mean"], seeds["sd"], seeds["n"], row["n"]]
        values = [row["parameters"].get(key) for key in keys]
        table.append([row["name"], *values, *measured, number == winner])
    return header, table


main = entrypoint(tune, kind="tune", items="studies")

if __name__ == "__main__":
    main()

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
from kmnist_pipeline.training import trials as trials_of

RETRAINED = "retrained"  # the name of the winner trained again, beside those of the trials


def tune(stage: Stage, config: schema.Config) -> None:
    """Read the training split alone; write weights and numbers of the trials, and who won."""
    study = config.studies[stage.item]
    base = config.experiments[study.base]
    trials = schema.trials(study, base)
    family = importlib.import_module(f"kmnist_pipeline.training.{base.model.family}")
    images = dataset.load(Path(f"data/processed/{base.dataset}.npz"), "train", base.classes)

    def train(tried: dict[str, schema.Experiment], memory: outs.Folder) -> list:
        members = list(tried.values())
        total = fit.total(family, members, len(images))
        with tqdm(desc=stage.address, total=total, unit=" steps", disable=None) as bar:
            return fit.train(family, members, images, memory, bar.update)

    with stage.scratch() as scratch:
        memory = outs.Folder(scratch)
        fits = train(trials, memory)
        numbers = [fit.validation_accuracy(seeds) for seeds in fits]
        points = trials_of.points(study.points, study.product)
        rows = [
            {"name": name, "parameters": point, **measured}
            for name, point, measured in zip(trials, points, numbers, strict=True)
        ]
        winner = max(range(len(rows)), key=lambda t: numbers[t]["seeds"]["mean"])
        kept, kept_fits, chosen = trials, fits, winner
        if study.retrain:
            kept = {RETRAINED: schema.retrained(study, base, winner)}
            kept_fits, chosen = train(kept, memory.within(RETRAINED)), 0
            numbers.append(fit.validation_accuracy(kept_fits[0]))

        model = fit.model_bytes(stage.item, kept, chosen, images.classes, kept_fits)
        stage.write(f"models/{stage.item}.safetensors", model)
        metrics = f"metrics/{study.report}/{stage.item}"
        by_trial = list(zip(trials, fits, strict=True))
        if study.retrain:
            by_trial.append((RETRAINED, kept_fits[0]))
        curves = [
            row for name, seeds in by_trial for row in fit.curve_rows(name, base.seeds, seeds)
        ]
        stage.write_csv(f"{metrics}/curves.csv", fit.CURVES, curves)
        stage.write_csv(f"{metrics}/trials.csv", *_table(rows, winner))
        folds = [row for name, seeds in by_trial for row in fit.fold_rows(name, base.seeds, seeds)]
        stage.write_json(
            f"{metrics}/validation.json",
            {
                **(numbers[-1] if study.retrain else numbers[winner]),
                "winner": rows[winner]["name"],
                "trials": rows,
                "folds": folds,
                "environment": environment(*family.LIBRARIES) | family.hardware(base.trainer),
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

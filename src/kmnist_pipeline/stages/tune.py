"""Train every trial of a study on every fold of every seed; the winner has the best validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kmnist_pipeline.config import grid
from kmnist_pipeline.data import dataset
from kmnist_pipeline.evidence import paths
from kmnist_pipeline.evidence.stage import Stage, entrypoint
from kmnist_pipeline.fits import key, plan, results, training


def tune(stage: Stage, params: dict[str, Any]) -> None:
    """Read the training split alone; write weights and numbers of the trials, and who won."""
    study = params["studies"][stage.item]
    base = params["experiments"][study["base"]]
    images = dataset.load(Path(paths.processed(base["dataset"])), "train", base["classes"])
    fits, *again = training.train(plan.of_study(stage.item, study, base, images))

    trials = grid.trials(study, base)
    numbers = [results.validation_accuracy(seeds) for seeds in fits]
    rows = [
        {"name": name, "parameters": point, **measured}
        for name, point, measured in zip(trials, grid.points(study), numbers, strict=True)
    ]
    winner = results.winner(fits)
    kept, kept_fits, chosen = trials, fits, winner
    by_trial = list(zip(trials, fits, strict=True))
    if again:
        (kept_fits,) = again
        kept, chosen = {plan.RETRAINED: grid.retrained(study, base, winner)}, 0
        by_trial.append((plan.RETRAINED, kept_fits[0]))

    model = results.model_bytes(stage.item, kept, chosen, images.classes, kept_fits)
    stage.write(paths.weights(stage.item), model)
    seeds, report = grid.seeds(study, base), study["report"]
    curves = [row for name, fitted in by_trial for row in results.curve_rows(name, seeds, fitted)]
    stage.write_csv(paths.numbers(report, stage.item, "curves.csv"), results.CURVES, curves)
    stage.write_csv(paths.numbers(report, stage.item, "trials.csv"), *_table(rows, winner))
    compared = results.validation_accuracy(kept_fits[chosen])
    stage.write_numbers(
        paths.numbers(report, stage.item, "validation.json"),
        compared,
        {
            "seeds": compared.pop("seeds"),
            "winner": rows[winner]["name"],
            "trials": rows,
            "folds": [
                row for name, fitted in by_trial for row in results.fold_rows(name, seeds, fitted)
            ],
            "environment": key.environment(base["model"]["family"]),
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

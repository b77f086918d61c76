"""Train every trial of a study on every fold of every seed; validation chooses the winner."""

from __future__ import annotations

from typing import Any

from kmnist_pipeline.config import grid
from kmnist_pipeline.evidence import paths
from kmnist_pipeline.evidence.stage import Stage, entrypoint
from kmnist_pipeline.fits import plan, results, training


def tune(stage: Stage, params: dict[str, Any]) -> None:
    """Read only the training split. Write the weights and numbers of the trials and the winner."""
    study = params["studies"][stage.item]
    planned = plan.of_study(stage.item, study, params["experiments"][study["base"]])
    trials, *retrained = training.train(planned)

    winner = results.winner(trials)
    rows = []
    for (name, trial), point in zip(trials.items(), grid.points(study), strict=True):
        compared, seeds = results.validation_accuracy(trial)
        rows.append({"name": name, "parameters": point, **compared, "seeds": seeds})
    details = {"winner": winner, "trials": rows}
    training.write(stage, study["report"], planned.images.classes, [trials, *retrained], details)
    table = paths.numbers(study["report"], stage.item, "trials.csv")
    stage.write_csv(table, *_table(rows, winner))


def _table(rows: list[dict[str, Any]], winner: str) -> tuple[list[str], list[list[Any]]]:
    """The header and rows of `trials.csv`: parameters, validation over seeds, winner."""
    keys = list(dict.fromkeys(key for row in rows for key in row["parameters"]))
    header = ["trial", *keys, "validation_accuracy", "mean", "sd", "seeds", "n", "winner"]
    table = []
    for row in rows:
        seeds = row["seeds"]
        measured = [row["accuracy"], seeds["mean"], seeds["sd"], seeds["n"], row["n"]]
        values = [row["parameters"].get(key) for key in keys]
        table.append([row["name"], *values, *measured, row["name"] == winner])
    return header, table


if __name__ == "__main__":
    entrypoint(tune, kind="tune", items="studies")

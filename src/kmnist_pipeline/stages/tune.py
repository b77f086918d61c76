"""Train every trial of a study on every fold of every seed; validation chooses the winner."""

from __future__ import annotations

from typing import Any

from kmnist_pipeline.evidence import paths
from kmnist_pipeline.evidence.stage import Stage
from kmnist_pipeline.fits import plan, results, training
from kmnist_pipeline.stages.frame import entrypoint


def tune(stage: Stage, params: dict[str, Any]) -> None:
    """Read only the training split. Write the weights and numbers of the trials and the winner."""
    study = params["studies"][stage.item]
    planned = plan.of_study(stage.item, study, params["experiments"][study["base"]])
    waves = training.train(planned)

    tried = results.longest(waves)
    # A search stops most trials early; only those trained to the end may win.
    ended = [wave for wave, stop in zip(waves, planned.stops, strict=True) if stop is None]
    whole = results.longest(ended)
    winner = results.winner({name: whole[name] for name in planned.points if name in whole})
    rows = []
    for name, point in planned.points.items():
        compared, seeds = results.validation_accuracy(tried[name])
        row = {"name": name, "parameters": point, **compared, "seeds": seeds}
        spent = {"epochs": results.epochs(tried[name])} if study.get("search") else {}
        rows.append(row | spent)
    details = {"winner": winner, "trials": rows}
    chose = ["optuna"] if study.get("search") else []
    training.write(stage, study["report"], planned.images.classes, waves, details, *chose)
    table = paths.numbers(study["report"], stage.item, "trials.csv")
    stage.write_csv(table, *_table(rows, winner))


def _table(rows: list[dict[str, Any]], winner: str) -> tuple[list[str], list[list[Any]]]:
    """The header and rows of `trials.csv`: parameters, validation over seeds, winner."""
    keys = list(dict.fromkeys(key for row in rows for key in row["parameters"]))
    header = ["trial", *keys, "validation_accuracy", "mean", "sd", "seeds", "n", "winner"]
    spent = ["epochs"] if "epochs" in rows[0] else []
    table = []
    for row in rows:
        seeds = row["seeds"]
        measured = [row["accuracy"], seeds["mean"], seeds["sd"], seeds["n"], row["n"]]
        values = [row["parameters"].get(key) for key in keys]
        epochs = [row[key] for key in spent]
        table.append([row["name"], *values, *measured, row["name"] == winner, *epochs])
    return header + spent, table


if __name__ == "__main__":
    entrypoint(tune, kind="tune", items="studies")

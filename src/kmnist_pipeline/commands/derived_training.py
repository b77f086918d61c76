"""What follows from the epochs and folds of a training, for `derived`."""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kmnist_pipeline.commands.apart import (
    Values,
    apart,
    flat,
    numbers_of,
    table,
    training_images,
)
from kmnist_pipeline.config import grid
from kmnist_pipeline.data import splits
from kmnist_pipeline.evaluation import metrics
from kmnist_pipeline.evidence import numbers, paths
from kmnist_pipeline.families import excerpt, file
from kmnist_pipeline.families.base import digest
from kmnist_pipeline.fits.plan import RETRAINED
from kmnist_pipeline.repository.locks import LockedStage

Row = dict[str, Any]  # of a fold in validation_details.json
Experiment = dict[str, Any]
FitName = tuple[str, str, str]  # trial, seed and fold, as in curves.csv


def of_training(stage: LockedStage, params: dict[str, Any]) -> Iterator[str]:
    """Accuracies and losses are means over folds; those of folds are those of the kept epochs."""
    path = numbers_of(stage, "validation.json")
    content = numbers.read(path)
    of_curves = path.with_name("curves.csv")
    curves: dict[FitName, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in table(of_curves):
        curves[row["trial"], row["seed"], row["fold"]][row["split"]].append(row)
    by_trial: dict[str, dict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in content["folds"]:
        by_trial[row.get("trial", "")][row["seed"]].append(row)
    experiments = _experiments(stage, params, content)
    yield from apart(path, {"trials": [*by_trial]}, {"trials": [*experiments]})
    for name in experiments.keys() & by_trial.keys():
        yield from _of_seeds(path, name, by_trial[name], experiments[name], params)
        for row in itertools.chain(*by_trial[name].values()):
            of_fit = curves.pop((name, str(row["seed"]), str(row["fold"])), {})
            yield from _of_fit(path, row, of_fit, experiments[name]["trainer"])
    for trial, seed, fold in curves:
        yield f"{of_curves}: {trial} seed {seed}, fold {fold} is not in {path}"
    of_trials = {name: _over_folds(seeds) for name, seeds in by_trial.items()}
    stated = {trial["name"]: trial for trial in content.get("trials", [])}
    for name, trial in stated.items():
        yield from apart(path, _stated(trial), of_trials[name])
    # A winner that was trained again comes last.
    kept = [name for name in of_trials if name not in stated] or [content.get("winner", "")]
    yield from apart(path, _stated(content), of_trials[kept[-1]])
    if stage.kind == "tune":
        epochs = {
            name: [row["epochs"] for rows in seeds.values() for row in rows]
            for name, seeds in by_trial.items()
        }
        yield from _of_trials(path, content, epochs, params["studies"][stage.item])


def of_weights(stage: LockedStage, params: dict[str, Any]) -> Iterator[str]:
    """The weights in Git are those of the model file or, if that is not here, of its numbers."""
    path, whole = paths.weights_in_git(stage.item), Path(paths.weights(stage.item))
    content = Path(path).read_bytes()
    if whole.exists():
        if content != excerpt.of(whole.read_bytes(), path):
            yield f"{path}: differs from the weights of the first seed in {whole}"
        return
    tensors, about = file.decode(content)
    (trial,) = about["trials"]
    is_ensemble = bool(trial["validation"].get("ensemble"))
    report = params["models"][stage.item]["report"]
    rows = numbers.read(Path(paths.numbers(report, stage.item, "validation.json")))["folds"]
    of_seed = [
        row
        for row in rows
        if row.get("trial", "") == trial["name"] and row["seed"] == about["seeds"][0]
    ]
    kept = [row["fold"] for row in of_seed if row["kept"]]
    yield from apart(Path(path), {"kept_folds": about["kept_folds"]}, {"kept_folds": [kept]})
    trainer = trial["trainer"]
    if trainer.get("averaging") != "none" or trainer.get("stored"):
        return  # the digests are of other weights than those that are kept
    for row in of_seed if is_ensemble else [row for row in of_seed if row["kept"]]:
        of_fit = file.select(tensors, 0, 0, row["fold"] if is_ensemble else None)
        network = {name: t for name, t in of_fit.items() if name.startswith("network.")}
        if digest(network) != row["weights"][row["kept_epoch"] - 1]:
            yield f"{path}: the weights of fold {row['fold']} are not those of its training"


def _experiments(
    stage: LockedStage, params: dict[str, Any], content: dict[str, Any]
) -> dict[str, Experiment]:
    """The experiment of each trial, by name; content: the numbers of the stage."""
    if stage.kind == "kfold-train":
        return {"": params["experiments"][stage.item]}
    study = params["studies"][stage.item]
    base = params["experiments"][study["base"]]
    points = {trial["name"]: trial["parameters"] for trial in content["trials"]}
    found = {name: grid.trial(study, base, point) for name, point in points.items()}
    if study["retrain"] or study.get("search"):
        found[RETRAINED] = grid.retrained(study, base, points[content["winner"]])
    return found


def _of_seeds(
    path: Path,
    name: str,
    seeds: dict[int, list[Row]],
    experiment: Experiment,
    params: dict[str, Any],
) -> Iterator[str]:
    """Seeds and folds are those of the experiment, and the best fold of each seed is kept."""
    of_trial = f" of {name}" if name else ""
    yield from apart(
        path, {f"seeds{of_trial}": [*seeds]}, {f"seeds{of_trial}": experiment["seeds"]}
    )
    size, drawn = training_images(experiment, params), experiment["validation"]
    size = size if experiment["subset"] is None else experiment["subset"]
    sizes = _sizes(size, drawn["method"], drawn.get("folds"), drawn.get("fraction"))
    for seed, rows in seeds.items():
        place = f"seed {seed}{of_trial}"
        kept = [row["fold"] for row in rows if row["kept"]]
        if len(kept) != 1 or not _is_best(rows, kept[0], "best_accuracy"):
            yield f"{path}: {place} keeps fold {kept}, which is not its best one"
        if sizes is not None:
            given = [[row["n_train"], row["n_validation"]] for row in rows]
            part = f"training and validation images of {place}"
            yield from apart(path, {part: given}, {part: sizes})


@functools.cache
def _sizes(
    n: int, method: str, folds: int | None, fraction: float | None
) -> list[list[int]] | None:
    """The number of training and validation images of each fold of n images, of any seed.

    None for `grouped`: those of groups depend on the images.
    """
    if method == "grouped":
        return None
    if method == "none":
        return [[n, 0]]
    cut = splits.kfold(n, folds, 0) if folds else [splits.holdout(n, fraction or 0, 0)]
    return [[len(training), len(held)] for training, held in cut]


def _of_fit(
    path: Path, row: Row, curves: dict[str, list[Row]], trainer: dict[str, Any]
) -> Iterator[str]:
    """The curves have each epoch; the fold has the numbers of the kept one, which is the best."""
    fold = f"seed {row['seed']}, fold {row['fold']}"
    parts = {"train_": curves.get("train", []), "": curves.get("validation", [])}
    for prefix, rows in parts.items():
        wanted = row["epochs"] if row["n_validation"] or prefix else 0
        if [int(each["epoch"]) for each in rows] != [*range(1, wanted + 1)]:
            yield (
                f"{path.with_name('curves.csv')}: {fold} has {len(rows)} rows for "
                f"{'training' if prefix else 'validation'}, but {wanted} epochs follow from {path}"
            )
            return
        for score in ("accuracy", "loss"):
            place = f"{prefix}{score} of {fold}"
            expected = float(rows[row["kept_epoch"] - 1][score]) if rows else None
            yield from apart(path, {place: row[f"{prefix}{score}"]}, {place: expected})
    digests = {f"number of weights of {fold}": len(row["weights"])}
    yield from apart(path, digests, dict.fromkeys(digests, row["epochs"]))
    keep, kept = trainer.get("keep", "last"), row["kept_epoch"]
    epochs = [{**each, "fold": int(each["epoch"])} for each in parts[""]]
    is_last = kept == row["epochs"]
    if not (is_last if keep == "last" or not epochs else _is_best(epochs, kept, keep)):
        yield f"{path}: kept_epoch of {fold} is {kept}, but another one is kept by {keep}"


def _is_best(rows: list[Row], fold: int, keep: str) -> bool:
    """Whether this fold, or epoch, has the best score; rounding may make others its equal."""
    scores = {}
    for row in rows:
        accuracy, loss = (float(row[key] or 0) for key in ("accuracy", "loss"))
        scores[row["fold"]] = (-loss, accuracy) if keep == "best_loss" else (accuracy, -loss)
    return scores.get(fold) == max(scores.values())


def _over_folds(seeds: dict[int, list[Row]]) -> Values:
    """The numbers of a trial, from the rows of its folds by seed."""
    first, *_ = seeds.values()
    if not (n := sum(row["n_validation"] for row in first)):
        return {"accuracy": None, "loss": None, "n": 0}
    means = [float(np.mean([row["accuracy"] for row in rows])) for rows in seeds.values()]
    loss = float(np.mean([row["loss"] for row in first]))
    return {"accuracy": means[0], "loss": loss, "n": n, **flat("seeds", metrics.spread(means))}


def _stated(content: dict[str, Any]) -> Values:
    compared = {key: content[key] for key in ("accuracy", "loss", "n")}
    return {**compared, **flat("seeds", content["seeds"] or {})}


def _of_trials(
    path: Path, content: dict[str, Any], epochs: dict[str, list[int]], study: dict[str, Any]
) -> Iterator[str]:
    """Trials are the points of the study, the winner is the best one, and trials.csv shows them."""
    trials, search, winner = content["trials"], study.get("search"), content["winner"]
    if search:
        for trial in trials:
            place = f"epochs of {trial['name']}"
            yield from apart(path, {place: trial["epochs"]}, {place: sum(epochs[trial["name"]])})
    else:  # points of equal name are one trial
        points = {grid.name(point): point for point in grid.points(study)}
        stated = {trial["name"]: trial["parameters"] for trial in trials}
        yield from apart(path, {"parameters": stated}, {"parameters": points})
    # A search ends most trials early; those with more epochs than its last rung went to the end.
    ended = [t for t in trials if not search or max(epochs[t["name"]]) > search["rungs"][-1]]
    means = {trial["name"]: trial["seeds"]["mean"] for trial in trials}
    if means[winner] < max((means[trial["name"]] for trial in ended), default=0):
        yield f"{path}: winner is {winner}, but another trial has a better mean"
    of_table = path.with_name("trials.csv")
    expected = [_row(trial, trial["name"] == winner) for trial in trials]
    yield from apart(of_table, {"table": table(of_table)}, {"table": expected})


def _row(trial: dict[str, Any], is_winner: bool) -> dict[str, str]:
    """The row of a trial in trials.csv."""
    seeds = trial["seeds"]
    cells = {
        "trial": trial["name"],
        **trial["parameters"],
        "validation_accuracy": trial["accuracy"],
        **{key: seeds[key] for key in ("mean", "sd")},
        "seeds": seeds["n"],
        "n": trial["n"],
        "winner": is_winner,
        **({"epochs": trial["epochs"]} if "epochs" in trial else {}),
    }
    return {key: "" if value is None else str(value) for key, value in cells.items()}

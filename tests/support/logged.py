"""Stages that have ended, and the runs that MLflow shows of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np

from kmnist_pipeline.evidence.stage import Stage
from kmnist_pipeline.stages.frame import publishing
from kmnist_pipeline.tracking import record
from kmnist_pipeline.tracking import runs as tracking
from kmnist_pipeline.tracking import store as stores
from kmnist_pipeline.tracking.publisher import Publisher
from kmnist_pipeline.tracking.record import Record

SEEDS, FOLDS, EPOCHS = 2, 3, 4
KEY, OTHER_KEY = "1" * 64, "2" * 64
MD5 = "0123456789abcdef" * 2


def lineage(key: str, params: dict[str, Any]) -> dict[str, Any]:
    deps = {
        "data/processed/digits.npz": MD5,
        "src/kmnist_pipeline/families/linear/train.py": "f" * 32,
    }
    return {"cmd": "python -m some.stage name=x", "deps": deps, "params": params, "key": key}


def curve(trial: str, epochs: int = EPOCHS) -> list[list[Any]]:
    """Rows of curves.csv: fold 2 stops one epoch early."""
    return [
        [trial, seed, fold, epoch, split, 1 / epoch, (seed + fold + epoch) / 100]
        for seed in range(SEEDS)
        for fold in range(FOLDS)
        for epoch in range(1, epochs + (fold < 2))
        for split in ("train", "validation")
    ]


def fold_rows() -> list[dict[str, Any]]:
    return [
        {"seed": seed, "fold": fold, "kept_epoch": 2, "epochs": 4, "accuracy": 0.9, "loss": 0.3}
        | {"n_train": 80, "n_validation": 20, "train_accuracy": 0.95, "train_loss": 0.2}
        for seed in range(SEEDS)
        for fold in range(FOLDS)
    ]


CURVES = ["trial", "seed", "fold", "epoch", "split", "loss", "accuracy"]
SPREAD = {"n": 2, "mean": 0.91, "sd": 0.01, "values": [0.9, 0.92]}
VALIDATED = {"accuracy": 0.9, "loss": 0.3, "n": 120, "seeds": SPREAD}
PARAMETERS = {
    "experiments.digits_softmax.optimizer": {"lr": 0.5, "batch_size": 32},
    "experiments.digits_softmax.model": {"family": "linear", "kind": "softmax"},
    "experiments.digits_softmax.classes": None,
    "datasets.digits.classes": ["0", "1"],
    "evaluation": {"samples": 25},
}


def write(stage: Stage, path: str, content: dict[str, Any]) -> None:
    """Numbers as the stages write them: what one compares, and a second file of details."""
    names = ("accuracy", "loss", "n", "precision", "recall", "f1", "correct")
    compared = {name: content[name] for name in names if name in content}
    stage.write_numbers(path, compared, {k: v for k, v in content.items() if k not in compared})


def trained(
    key: str | None = KEY,
    epochs: int = EPOCHS,
    item: str = "digits_softmax",
    params: dict[str, Any] = PARAMETERS,
) -> Stage:
    """A stage that has trained; without a key, by hand."""
    root = Path("." if key else f"multirun/kfold-train/{item}/lr=0.1")
    stage = Stage("kfold-train", item, root, lineage(key, params) if key else None)
    stage.write(f"models/{item}.safetensors", b"weights")
    stage.write_csv(f"metrics/digits/{item}/curves.csv", CURVES, curve("", epochs))
    validation = f"metrics/digits/{item}/validation.json"
    write(stage, validation, VALIDATED | {"folds": fold_rows()})
    return stage


def tuned() -> Stage:
    points = [{"optimizer.lr": 0.1}, {"optimizer.lr": 0.5}]
    stage = Stage("tune", "digits_grid", Path("."), lineage(KEY, {"studies.digits_grid": {}}))
    stage.write_csv(
        "metrics/digits/digits_grid/curves.csv", CURVES, curve("lr=0.1") + curve("lr=0.5")
    )
    trials = [
        VALIDATED | {"name": f"lr={point['optimizer.lr']}", "parameters": point} for point in points
    ]
    write(
        stage,
        "metrics/digits/digits_grid/validation.json",
        VALIDATED | {"folds": fold_rows(), "trials": trials, "winner": "lr=0.5"},
    )
    stage.write_csv("metrics/digits/digits_grid/trials.csv", ["trial"], [["lr=0.1"], ["lr=0.5"]])
    return stage


def evaluated(item: str = "digits_softmax", **more: Any) -> Stage:
    from matplotlib import image

    known = lineage(KEY, {"evaluation": {"samples": 25}})
    known["deps"][f"metrics/digits/{item}/validation.json"] = MD5
    stage = Stage("evaluate", item, Path("."), known)
    scores = {"accuracy": 0.9, "precision": 0.8, "recall": 0.7, "f1": 0.6, "n": 20, "correct": 18}
    per_class = {"o": {"f1": 0.5}, "ki (き)": {"f1": 0.7}}
    seeds = dict.fromkeys(("accuracy", "precision", "recall", "f1"), SPREAD)
    details = {"confusion": [[9, 1], [1, 9]], "per_class": per_class, "seeds": seeds}
    write(stage, f"metrics/digits/{item}/test.json", scores | details | more)
    stage.write(f"predictions/{item}.npz", b"predictions")
    with stage.directory(f"figures/digits/{item}") as folder:
        image.imsave(folder / "confusion.png", np.eye(16))
    return stage


def record_of(stage: Stage, **parameters: Any) -> Record:
    made = (stage.address, stage.root, stage.lineage, stage.written)
    return record.of_stage(*made, {stage.item: {"report": "digits"}}, parameters, stage.started)


def publish(stage: Stage, client: Any = None, **more: Any) -> None:
    """The child's side, in this process."""
    tracking.publish(client or stores.connect(), cast(Record, {**record_of(stage), **more}))


def runs(client: Any, group: str = "digits", *filters: str) -> list[Any]:
    """The runs of stages in an experiment, without the runs inside them, oldest first."""
    experiment = client.get_experiment_by_name(group)
    if experiment is None:
        return []
    wanted = " and ".join(["tags.`kmnist.stage` LIKE '%'", *filters])
    return client.search_runs([experiment.experiment_id], wanted, order_by=["start_time ASC"])


def children(client: Any, run: Any) -> list[Any]:
    inside = f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
    return client.search_runs([run.info.experiment_id], inside, order_by=["run_name ASC"])


def history(client: Any, run: Any, metric: str) -> dict[int, float]:
    return {m.step: m.value for m in client.get_metric_history(run.info.run_id, metric)}


def artifacts(client: Any, run: Any) -> set[str]:
    folders = client.list_artifacts(run.info.run_id)
    return {
        file.path for top in folders for file in client.list_artifacts(run.info.run_id, top.path)
    }


def log(stage: Stage) -> None:
    """Log a stage as its entrypoint does."""
    with publishing() as child:
        Publisher(*child).hand_over(record_of(stage))

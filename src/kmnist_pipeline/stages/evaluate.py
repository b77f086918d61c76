"""Measure a model on the test set: the only stage that reads test images and labels."""

from __future__ import annotations

import csv
import importlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from kmnist_pipeline import schema
from kmnist_pipeline.data import dataset, splits
from kmnist_pipeline.data.dataset import Images
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evaluation import canvas, metrics, model_figures
from kmnist_pipeline.evidence.stage import Stage, entrypoint
from kmnist_pipeline.models import file

Drawn = tuple[str, str, Figure]  # file name, caption, figure


class MismatchError(UserError):
    """A model file that is not of the model or data set to be evaluated."""


def evaluate(stage: Stage, config: schema.Config) -> None:
    """Score every trial and seed; write `test.json`, the predictions and the figures."""
    model = config.models[stage.item]
    tensors, about = _read_model(Path(f"models/{stage.item}.safetensors"), stage.item, model)
    family = importlib.import_module(f"kmnist_pipeline.models.{model['family']}")
    processed = Path(f"data/processed/{model['dataset']}.npz")
    test = dataset.load(processed, "test", about["classes"])
    metrics_folder = f"metrics/{model['report']}/{stage.item}"
    winner = about["winner"]

    def probabilities(trial: int, seed: int, images: Images) -> np.ndarray:
        chosen = file.select(tensors, trial, seed)
        return family.probabilities(about["trials"][trial]["model"], chosen, images.flat)

    trials = []
    for t, trial in enumerate(about["trials"]):
        seeds = range(len(about["seeds"]))
        right = [probabilities(t, s, test).argmax(axis=1) == test.labels for s in seeds]
        accuracies = [float(hits.mean()) for hits in right]
        trials.append(
            {
                "name": trial["name"],
                "n": len(test),
                "correct": int(right[0].sum()),
                "accuracy": accuracies[0],
                "seeds": metrics.spread(accuracies),
            }
        )

    shown = probabilities(winner, 0, test)
    predicted = shown.argmax(axis=1)
    counts = metrics.confusion(test.labels, predicted, len(test.classes))
    scores = metrics.scores(counts, test.classes)
    of_study = {"winner": trials[winner]["name"], "trials": trials}
    stage.write_json(
        f"{metrics_folder}/test.json",
        {
            **scores,
            "seeds": trials[winner]["seeds"],
            "right": metrics.pack_bits(predicted == test.labels),
            "misclassified": np.flatnonzero(predicted != test.labels)[:10],
            **(of_study if model["kind"] == "study" else {}),
        },
    )

    arrays = _predictions("test", shown, test)
    held_out = _held_out(processed, about)
    if held_out is not None:
        arrays |= _predictions("validation", probabilities(winner, 0, held_out), held_out)
    content = io.BytesIO()
    arrays["classes"] = np.array(test.classes)
    np.savez(content, allow_pickle=False, **arrays)
    stage.write(f"predictions/{stage.item}.npz", content.getvalue())

    weights = family.class_weights(file.select(tensors, winner, 0))
    drawn = [
        *prediction_figures(test, predicted, scores, config.evaluation.samples),
        *weight_figures(weights, test),
        *training_figures(Path(metrics_folder), about["trials"][winner]["name"], trials),
    ]
    with stage.directory(f"figures/{model['report']}/{stage.item}") as folder:
        for name, caption, figure in drawn:
            text = stage.png_text(caption, about["trials"][winner])
            (folder / f"{name}.png").write_bytes(canvas.png_bytes(figure, text))


def _read_model(path: Path, name: str, model: dict) -> tuple[dict[str, np.ndarray], dict]:
    tensors, about = file.read(path)
    if (about["name"], about["dataset"]) != (name, model["dataset"]):
        raise MismatchError(
            f"{path} holds {about['name']} trained on {about['dataset']}, not {name} on "
            f"{model['dataset']}: `dvc repro evaluate@{name}` makes it again"
        )
    return tensors, about


def _held_out(processed: Path, about: dict) -> Images | None:
    """What the kept fold of the winner's first seed did not train on."""
    trial, seed = about["trials"][about["winner"]], about["seeds"][0]
    if trial["validation"]["method"] == "none":
        return None
    images = dataset.load(processed, "train", about["classes"])
    images = images.take(splits.subset(len(images), trial["subset"], seed))
    folds = list(splits.kfold(len(images), trial["validation"]["folds"], seed))
    return images.take(folds[about["kept_folds"][about["winner"]][0]][1])


def _predictions(split: str, probabilities: np.ndarray, images: Images) -> dict[str, np.ndarray]:
    return {
        f"{split}_probabilities": probabilities.astype(np.float32),
        f"{split}_predicted": probabilities.argmax(axis=1),
        f"{split}_labels": images.labels,
        f"{split}_index": images.index,
    }


def prediction_figures(
    test: Images, predicted: np.ndarray, scores: dict[str, Any], samples: int
) -> Iterator[Drawn]:
    """Confusion matrix (mnist_logistic 4.7), scores, right and wrong predictions (4.9.1-2)."""
    yield (
        "confusion",
        "Confusion matrix on the test set, in counts: rows are true classes, columns predicted.",
        model_figures.confusion_matrix(scores["confusion"], test.classes),
    )
    precision, recall, f1 = (
        np.array([of_class[score] for of_class in scores["per_class"].values()])
        for score in ("precision", "recall", "f1")
    )
    yield (
        "scores",
        "Precision, recall and F1 of each class on the test set.",
        model_figures.class_scores(test.classes, precision, recall, f1),
    )
    for name, hits, caption in (
        ("correct", predicted == test.labels, "The first test images that are predicted right."),
        ("misclassified", predicted != test.labels, "The first test images predicted wrong."),
    ):
        rows = np.flatnonzero(hits)[:samples]
        titles = [
            f"Predicted: {test.classes[predicted[row]]}, Actual: {test.classes[test.labels[row]]}"
            for row in rows
        ]
        if len(rows):
            pixels, top = test.pixels[rows], int(test.pixels.max())
            yield name, caption, model_figures.labelled_images(pixels, titles, 5, top)


def weight_figures(weights: np.ndarray, test: Images) -> Iterator[Drawn]:
    """The weights of each class as an image (kmnist_linear Fig. 8). weights: (K, D)."""
    yield (
        "weights",
        "The weights of each class over the pixels: red speaks for the class, blue against it."
        if len(weights) > 1
        else f"The weights over the pixels: red speaks for {test.classes[1]}, blue for "
        f"{test.classes[0]}.",
        model_figures.class_weights(
            weights.reshape(len(weights), *test.pixels.shape[1:]), test.classes
        ),
    )


def training_figures(folder: Path, winner: str, trials: list[dict]) -> Iterator[Drawn]:
    """Learning curves (kmnist_linear Fig. 5-7), and for a study its trials."""
    with (folder / "curves.csv").open(newline="") as table:
        curves = [row for row in csv.DictReader(table) if row["trial"] == winner]
    if len({row["epoch"] for row in curves}) > 1:
        yield (
            "curves",
            "Accuracy (left) and loss (right) by epoch on training and validation images: mean "
            "over folds and seeds, with the range.",
            model_figures.learning_curves(curves),
        )
    if len(trials) > 1:
        validation = json.loads((folder / "validation.json").read_text())
        seeds = [trial["seeds"] for trial in validation["trials"]]
        names = [trial["name"] for trial in trials]
        yield (
            "trials",
            "Validation accuracy of each trial (mean and standard deviation over seeds), by "
            "which the winner was chosen, and test accuracy, measured afterwards.",
            model_figures.trials(
                names,
                np.array([spread["mean"] for spread in seeds]),
                np.array([spread["sd"] or 0 for spread in seeds]),
                np.array([trial["seeds"]["mean"] for trial in trials]),
                names.index(winner),
            ),
        )


main = entrypoint(evaluate, kind="evaluate", items="models")

if __name__ == "__main__":
    main()

"""Measure a model on the test images, which no stage reads that trains it or chooses."""

from __future__ import annotations

import csv
import hashlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.special import softmax

from kmnist_pipeline import own
from kmnist_pipeline.data import dataset, npz, reviews, splits
from kmnist_pipeline.data.dataset import Images
from kmnist_pipeline.evaluation import metrics, out_of_fold, routing, scoring
from kmnist_pipeline.evidence import numbers, paths
from kmnist_pipeline.evidence.stage import Stage
from kmnist_pipeline.families.registry import FAMILIES
from kmnist_pipeline.families.trained import TrainedModel
from kmnist_pipeline.figures import canvas
from kmnist_pipeline.figures import models as model_figures
from kmnist_pipeline.own import figures
from kmnist_pipeline.stages.frame import entrypoint

Drawn = tuple[str, str, Figure]  # file name, caption, figure
LIBRARIES = ("numpy", "scipy", *canvas.LIBRARIES)
SALIENT = 5  # the number of test images with a saliency map


def evaluate(stage: Stage, params: dict[str, Any]) -> None:
    """Score every trial and seed; write the numbers, the predictions and the figures."""
    about, settings = params["models"][stage.item], params["evaluation"]
    path = Path(paths.weights(stage.item))
    model = TrainedModel.load(path, stage.item, about["dataset"])
    stage.libraries += FAMILIES[about["family"]].libraries
    is_study, is_network = about["kind"] == "study", about["family"] == "cnn"
    processed = Path(paths.processed(about["dataset"]))
    test = dataset.load(processed, "test", model.about["classes"])
    train = dataset.load(processed, "train", model.about["classes"])
    held, validation = held_out(model, train)

    names = [trial["name"] for trial in model.about["trials"]]
    scored = [scores_by_seed(model, trial, test) for trial in range(len(names))]
    rows = []
    for name, seeds in zip(names, scored, strict=True):
        spreads = {key: metrics.spread([s[key] for s in seeds]) for key in scoring.SCORES}
        rows.append({"name": name, **scoring.compared(seeds[0]), "seeds": spreads})
    shown = model.probabilities(test.pixels)
    predicted = shown.argmax(axis=1)
    by_split = {"test": (shown, test.labels)}
    arrays = _predictions("test", shown, test)
    if len(validation):
        by_split["validation"] = (held, validation.labels)
        arrays |= _predictions("validation", held, validation)
    scores = scored[model.trial][0]
    details: dict[str, Any] = {
        "per_class": scores["per_class"],
        "confusion": metrics.pack_confusion(scores["confusion"]),
        "seeds": rows[model.trial]["seeds"],
        "right": metrics.pack_bits(predicted == test.labels),
        "misclassified": np.flatnonzero(predicted != test.labels)[:10],
        "test_images": hashlib.sha256(test.pixels.tobytes() + test.labels.tobytes()).hexdigest(),
    }
    chosen = model.about["classes"]
    corrected = reviews.labels_of_test(processed, test.index, test.labels, chosen)
    if corrected is not None:
        details["corrected"] = of_corrected(predicted, test.labels, corrected)
    if is_study:
        details |= {"winner": names[model.trial], "trials": rows}
    if model.is_one_shot:
        details["draws"] = draws(model, test)
    elif is_network and "validation" in by_split:
        details["routing"] = routing.route(by_split, settings["promise"])
    test_numbers = paths.numbers(about["report"], stage.item, "test.json")
    stage.write_numbers(test_numbers, scoring.compared(scores), details)

    content = npz.encode(**arrays, classes=np.array(test.classes))
    stage.write(paths.predictions(stage.item), content)

    drawn = [
        *prediction_figures(test, predicted, scores, settings["samples"]),
        *model_insight(model, test),
        *training_figures(Path(test_numbers).parent, names[model.trial], rows),
    ]
    if is_study and is_network:
        drawn.append(training_confusion(model, train.take(split(model, train)[0])))
    if "routing" in details:
        drawn += routing_figures(details["routing"], by_split)
    drawn += own_figures(test, shown)
    with stage.directory(paths.figures(about["report"], stage.item)) as folder:
        for name, caption, figure in drawn:
            canvas.sign(figure, stage.item)
            title = f"{stage.item} on {about['dataset']}: {caption}"
            text = stage.png_text(title, model.parameters)
            (folder / f"{name}.png").write_bytes(canvas.png_bytes(figure, text))


def split(model: TrainedModel, images: Images) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the training images and of the validation images of the best fold."""
    seed, subset = model.about["seeds"][model.seed], model.parameters["subset"]
    drawn = splits.subset(len(images), subset, seed)
    folds = splits.folds(images, drawn, model.parameters["validation"], seed)
    training, validation = folds[model.best.fold or 0]
    return drawn[training], drawn[validation]


def held_out(model: TrainedModel, images: Images) -> tuple[np.ndarray, Images]:
    """The validation images, with the class probabilities (N, C) that their fold's model gives.

    The members of an ensemble predict alone here, because the others have seen these images. A
    model that was trained on all images has those of the experiment that `folds_of` names.
    """
    if folds_of := model.parameters["validation"].get("folds_of"):
        predicted = out_of_fold.load(Path(paths.out_of_fold(folds_of)))
        order = np.argsort(images.index)
        seen = order[np.searchsorted(images.index, predicted.index, sorter=order)]
        return predicted.probabilities, images.take(seen)
    rows = [split(member, images)[1] for member in model.members]
    found = [np.zeros((0, len(images.classes)))]
    for member, held in zip(model.members, rows, strict=True):
        if len(held):
            found.append(member.probabilities(images.pixels[held]))
    return np.concatenate(found), images.take(np.concatenate(rows))


def scores_of(test: Images, probabilities: np.ndarray) -> dict[str, Any]:
    """The scores of class probabilities (N, C) of the test images."""
    return scoring.scores(test.labels, probabilities, test.classes)


def of_corrected(
    predicted: np.ndarray, labels: np.ndarray, corrected: np.ndarray
) -> dict[str, Any]:
    """The accuracy with the test labels that people have corrected, without excluded images.

    predicted, labels, corrected: (N,); `labels` as published, reviews.LEFT_OUT where corrected has
    none.
    """
    kept = corrected != reviews.LEFT_OUT
    right, n = int((predicted == corrected)[kept].sum()), int(kept.sum())
    changed = int((corrected != labels)[kept].sum())
    left_out = len(labels) - n
    return {
        "accuracy": right / n,
        "n": n,
        "correct": right,
        "changed": changed,
        "excluded": left_out,
    }


def scores_by_seed(model: TrainedModel, trial: int, test: Images) -> list[dict[str, Any]]:
    """The scores of one trial on the test images, by seed."""
    models = [model.of(trial, seed) for seed in range(len(model.about["seeds"]))]
    return [scores_of(test, m.probabilities(test.pixels)) for m in models]


def draws(model: TrainedModel, test: Images) -> dict[str, Any]:
    """The spread of a one-shot model's scores over trainings and draws of the support images."""
    measured = []
    for seed in range(len(model.about["seeds"])):
        distances = model.of(model.trial, seed).distances(test.pixels)
        nearness = softmax(-distances, axis=2)
        measured.append([scores_of(test, nearness[:, draw]) for draw in range(nearness.shape[1])])
    return {
        score: metrics.nested([[draw[score] for draw in draws] for draws in measured])
        for score in scoring.SCORES
    }


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
    """Confusion matrix (mnist_logistic 4.7), scores, correct and wrong predictions (4.9.1-2)."""
    n = f"{len(test):,} test images"
    yield (
        "confusion",
        f"confusion matrix of the {n}, {model_figures.cells(len(test.classes))}.",
        model_figures.confusion_matrix(scores["confusion"], test.classes),
    )
    by_class = [
        [of_class[score] for of_class in scores["per_class"].values()]
        for score in ("precision", "recall", "f1")
    ]
    yield (
        "scores",
        f"precision, recall and F1 of {model_figures.scored(len(test.classes))} on the {n}.",
        model_figures.class_scores(test.classes, *by_class),
    )
    for name, hits, result in (
        ("correct", predicted == test.labels, "correct"),
        ("misclassified", predicted != test.labels, "wrong"),
    ):
        rows = np.flatnonzero(hits)[:samples]
        caption = f"the first {len(rows)} of {hits.sum():,} {result} predictions on the {n}."
        titles = [
            _title(test.classes[predicted[row]], test.classes[test.labels[row]]) for row in rows
        ]
        if len(rows):
            pixels, top = test.pixels[rows], int(test.pixels.max())
            figure = canvas.labelled_images(pixels, titles, 5, top, font_size=9, gap=18)
            yield name, caption, figure


def _title(predicted: str, actual: str) -> str:
    apart = ", " if len(predicted) + len(actual) <= 12 else "\n"
    return f"Predicted: {canvas.short(predicted)}{apart}Actual: {canvas.short(actual)}"


def model_insight(model: TrainedModel, test: Images) -> Iterator[Drawn]:
    """The weights of each class (kmnist_linear Fig. 8), or saliency maps (kmnist_cnn Fig. 7)."""
    shape = test.pixels.shape[1:]
    if (weights := model.class_weights()) is not None:
        pictures = weights.reshape(len(weights), *shape)[: canvas.MOST_TILES]
        names = test.classes[: max(2, len(pictures))]
        yield (
            "weights",
            _about_weights(weights, shape, test.classes),
            model_figures.class_weights(pictures, names),
        )
    elif not model.is_one_shot:
        from kmnist_pipeline.families.cnn.insight import saliency  # loads torch

        few = test.take(np.arange(min(SALIENT, len(test))))
        slopes = saliency.saliency(
            model.parameters["model"], model.tensors, few.pixels, len(few.classes)
        )
        predicted = model.best.probabilities(few.pixels).argmax(axis=1)
        titles = [canvas.short(test.classes[label]) for label in predicted]
        caption = (
            f"the first {len(few)} test images (above, with the predicted class) and their "
            "saliency (below): the effect of each pixel on the logit of that class; black is no "
            "effect."
        )
        top = int(test.pixels.max())
        yield "saliency", caption, model_figures.saliency(few.pixels, slopes, titles, top)


def _about_weights(weights: np.ndarray, shape: tuple[int, ...], names: tuple[str, ...]) -> str:
    """The caption of the weights (K, D) of a linear model."""
    classes = f"the first {canvas.MOST_TILES} classes" if len(weights) > canvas.MOST_TILES else ""
    if len(shape) == 3:
        whose = "each of " + classes if classes else "each class"
        if len(weights) == 1:
            whose = names[1]
        return (
            f"the weights of the red, green and blue value of each pixel for {whose}, as a colour; "
            "grey is no weight, bright is evidence for the class, dark against."
        )
    if len(weights) == 1:
        return f"the weight of each pixel; red is evidence for {names[1]}, blue for {names[0]}."
    whose = f"each of {classes}" if classes else "each class"
    return f"the weight of each pixel for {whose}; red is evidence for the class, blue against."


def training_confusion(model: TrainedModel, training: Images) -> Drawn:
    """Confusion matrix on the training images (kmnist_cnn Fig. 5a)."""
    scores = scores_of(training, model.probabilities(training.pixels))
    caption = (
        f"confusion matrix of the {len(training):,} images that the model was trained on, "
        f"{model_figures.cells(len(training.classes))}; accuracy {scores['accuracy']:.4f}."
    )
    figure = model_figures.confusion_matrix(scores["confusion"], training.classes)
    return "confusion_train", caption, figure


def routing_figures(
    routed: dict[str, Any], by_split: dict[str, routing.Predicted]
) -> Iterator[Drawn]:
    """Reliability diagram and risk-coverage curve of confidence routing (kmnist_cnn III.D.2)."""
    t, (before, labels) = routed["temperature"], by_split["test"]
    after = {split: (routing.calibrated(p, t), of) for split, (p, of) in by_split.items()}
    n_validation, n_test = len(by_split["validation"][1]), len(labels)
    yield (
        "reliability",
        f"accuracy by confidence on the {n_test:,} test images, before and after temperature "
        f"scaling with T = {t:.3f}, fitted to the {n_validation:,} validation images; a "
        "calibrated model lies on the diagonal.",
        model_figures.reliability(
            {"before": routing.bins(before, labels), "after": routing.bins(*after["test"])}
        ),
    )
    curves, chosen = {}, {}
    for split in ("validation", "test"):
        curves[split] = routing.risk_coverage(*routing.confidence(*after[split]))
        of_split = routed[split]
        if of_split["accepted"]:
            chosen[split] = (of_split["accepted"] / of_split["n"], 1 - of_split["accuracy"])
    yield (
        "risk_coverage",
        "error rate among accepted images by the share accepted, highest confidence first, on "
        f"{n_validation:,} validation and {n_test:,} test images; dots mark the threshold "
        "chosen on validation images, the dashed line marks the target's error rate.",
        model_figures.risk_coverage(curves, chosen, 1 - routed["promise"]),
    )


def own_figures(test: Images, probabilities: np.ndarray) -> Iterator[Drawn]:
    """The figures of `own/figures.py`, captioned by their docstrings."""
    for name, draw in own.functions(figures).items():
        caption = " ".join((inspect.getdoc(draw) or name).partition("\n\n")[0].split())
        with canvas.style():
            yield name, caption, draw(test.pixels, test.labels, probabilities, test.classes)


def training_figures(folder: Path, winner: str, rows: list[dict]) -> Iterator[Drawn]:
    """Learning curves (kmnist_linear Fig. 5-7), and for a study its trials."""
    with (folder / "curves.csv").open(newline="") as table:
        curves = [row for row in csv.DictReader(table) if row["trial"] == winner]
    if len({row["epoch"] for row in curves}) > 1:
        fits = len({(row["seed"], row["fold"]) for row in curves})
        several = f"; mean and range over {fits} fits, one for each seed and fold"
        yield (
            "curves",
            "accuracy (left) and loss (right) by epoch on training and validation images"
            f"{several if fits > 1 else ''}.",
            model_figures.learning_curves(curves),
        )
    validation = numbers.read(folder / "validation.json")
    if "trials" in validation:
        chosen = {trial["name"]: trial["seeds"] for trial in validation["trials"]}
        tested = {row["name"]: row["seeds"]["accuracy"] for row in rows}
        names, n = list(chosen), chosen[validation["winner"]]["n"]
        is_search = "epochs" in validation["trials"][0]
        yield (
            "trials",
            f"validation accuracy of each of {len(names)} trials, which chose the winner"
            + (" and ended the others early" if is_search else "")
            + (", and test accuracy, measured afterwards" if names[0] in tested else "")
            + (f"; mean and standard deviation over {n} seeds." if n > 1 else "; one seed."),
            model_figures.trial_accuracies(
                names,
                list(chosen.values()),
                [tested.get(name) for name in names],
                names.index(validation["winner"]),
            ),
        )


if __name__ == "__main__":
    entrypoint(evaluate, kind="evaluate", items="models", libraries=LIBRARIES)

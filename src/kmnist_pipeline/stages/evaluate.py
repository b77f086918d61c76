"""Measure a model on the test set: the only stage that reads test images and labels."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from kmnist_pipeline.data import dataset, splits
from kmnist_pipeline.data.dataset import Images
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evaluation import metrics, routing
from kmnist_pipeline.evidence import numbers, paths
from kmnist_pipeline.evidence.stage import Stage, entrypoint
from kmnist_pipeline.families import file
from kmnist_pipeline.families.registry import FAMILIES
from kmnist_pipeline.figures import canvas
from kmnist_pipeline.figures import models as model_figures

Drawn = tuple[str, str, Figure]  # file name, caption, figure
SALIENT = 5  # test images whose saliency is shown


class MismatchError(UserError):
    """A model file that is not of the model or data set to be evaluated."""


def evaluate(stage: Stage, params: dict[str, Any]) -> None:
    """Score every trial and seed; write the numbers, the predictions and the figures."""
    about, shown_of = params["models"][stage.item], params["evaluation"]
    model = Model(Path(paths.weights(stage.item)), stage.item, about)
    processed = Path(paths.processed(about["dataset"]))
    test = dataset.load(processed, "test", model.about["classes"])
    train = dataset.load(processed, "train", model.about["classes"])
    training, validation = model.split(train)

    scored = [model.score(number, test) for number in range(len(model.about["trials"]))]
    trials = [
        {"name": trial["name"], **metrics.compared(seeds[0]), "seeds": metrics.spreads(seeds)}
        for trial, seeds in zip(model.about["trials"], scored, strict=True)
    ]
    shown = model.probabilities(test)
    held = model.probabilities(validation) if len(validation) else None
    predicted = shown.argmax(axis=1)
    scores = scored[model.winner][0]
    details: dict[str, Any] = {
        "per_class": scores["per_class"],
        "confusion": scores["confusion"],
        "seeds": trials[model.winner]["seeds"],
        "right": metrics.pack_bits(predicted == test.labels),
        "misclassified": np.flatnonzero(predicted != test.labels)[:10],
    }
    if about["kind"] == "study":
        details |= {"winner": model.trial["name"], "trials": trials}
    if model.is_one_shot:
        details["draws"] = model.draws(test)
    elif model.is_network and held is not None:
        promise = shown_of["promise"]
        details["routing"] = routing.route(held, validation.labels, shown, test.labels, promise)
    test_numbers = paths.numbers(about["report"], stage.item, "test.json")
    stage.write_numbers(test_numbers, metrics.compared(scores), details)

    arrays = _predictions("test", shown, test)
    if held is not None:
        arrays |= _predictions("validation", held, validation)
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays, classes=np.array(test.classes))
    stage.write(paths.predictions(stage.item), content.getvalue())

    drawn = [
        *prediction_figures(test, predicted, scores, shown_of["samples"]),
        *model_insight(model, test),
        *training_figures(Path(test_numbers).parent, model.trial["name"], trials),
    ]
    if about["kind"] == "study" and model.is_network:
        drawn.append(fit_figure(model, training))
    if "routing" in details and held is not None:
        drawn += routing_figures(details["routing"], held, validation.labels, shown, test.labels)
    with stage.directory(paths.figures(about["report"], stage.item)) as folder:
        for name, caption, figure in drawn:
            canvas.sign(figure, stage.item)
            text = stage.png_text(f"{stage.item}: {caption}", model.trial)
            (folder / f"{name}.png").write_bytes(canvas.png_bytes(figure, text))


class Model:
    """A model file with the module that understands it; the winner's first seed speaks for it."""

    def __init__(self, path: Path, name: str, about: dict[str, str]) -> None:
        """Read `path`; MismatchError where it is not the model `name` on its data set."""
        self._tensors, self.about = file.read(path)
        if (self.about["name"], self.about["dataset"]) != (name, about["dataset"]):
            raise MismatchError(
                f"{path} holds {self.about['name']} trained on {self.about['dataset']}, not {name} "
                f"on {about['dataset']}: `dvc repro evaluate@{name}` makes it again"
            )
        self.family = FAMILIES[about["family"]].model
        self.winner: int = self.about["winner"]
        self.trial: dict[str, Any] = self.about["trials"][self.winner]
        self.tensors = file.select(self._tensors, self.winner, 0)
        self.is_network = about["family"] == "cnn"
        self.is_one_shot = "supports" in self.tensors

    def probabilities(self, images: Images) -> np.ndarray:
        """Class probabilities (N, C)."""
        return self._call("probabilities", self.winner, 0, images)

    def score(self, number: int, test: Images) -> list[dict[str, Any]]:
        """The scores of one trial on the test images, by seed."""
        scores = []
        for seed in range(len(self.about["seeds"])):
            predicted = self._call("probabilities", number, seed, test).argmax(axis=1)
            counts = metrics.confusion(test.labels, predicted, len(test.classes))
            scores.append(metrics.scores(counts, test.classes))
        return scores

    def draws(self, test: Images) -> dict[str, Any]:
        """Of a one-shot model, how its scores spread over trainings and draws of the supports."""
        measured = []
        for seed in range(len(self.about["seeds"])):
            nearest = self._call("distances", self.winner, seed, test).argmin(axis=2)
            counts = (metrics.confusion(test.labels, own, len(test.classes)) for own in nearest.T)
            measured.append([metrics.scores(own, test.classes) for own in counts])
        return {
            score: metrics.nested([[draw[score] for draw in draws] for draws in measured])
            for score in metrics.SCORES
        }

    def _call(self, function: str, trial: int, seed: int, images: Images) -> np.ndarray:
        """What a function of the family says of images, with the weights of one trial and seed."""
        of_family = getattr(self.family, function)
        settings, tensors = self.about["trials"][trial]["model"], self._tensors
        chosen = file.select(tensors, trial, seed)
        return of_family(settings, chosen, images.pixels, len(images.classes))

    def split(self, images: Images) -> tuple[Images, Images]:
        """What the kept fold was trained on, and what it was validated with."""
        seed = self.about["seeds"][0]
        drawn = images.take(splits.subset(len(images), self.trial["subset"], seed))
        fold = self.about["kept_folds"][self.winner][0]
        training, validation = splits.folds(len(drawn), self.trial["validation"], seed)[fold]
        return drawn.take(training), drawn.take(validation)


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


def model_insight(model: Model, test: Images) -> Iterator[Drawn]:
    """The weights of each class (kmnist_linear Fig. 8), or saliency maps (kmnist_cnn Fig. 7)."""
    shape = test.pixels.shape[1:3]
    if hasattr(model.family, "class_weights"):
        weights = model.family.class_weights(model.tensors)
        caption = (
            "The weights of each class over the pixels: red speaks for the class, blue against it."
            if len(weights) > 1
            else f"The weights over the pixels: red speaks for {test.classes[1]}, blue for "
            f"{test.classes[0]}."
        )
        pictures = weights.reshape(len(weights), *shape)
        yield "weights", caption, model_figures.class_weights(pictures, test.classes)
    elif not model.is_one_shot:
        from kmnist_pipeline.families.cnn.insight import saliency  # torch, for networks alone

        few = test.take(np.arange(SALIENT))
        slopes = saliency.saliency(
            model.trial["model"], model.tensors, few.pixels, len(few.classes)
        )
        predicted = model.probabilities(few).argmax(axis=1)
        titles = [test.classes[label] for label in predicted]
        caption = (
            "Test images (above, with the predicted class) and their saliency (below): how much "
            "each pixel would change the logit of the predicted class, black for nothing."
        )
        top = int(test.pixels.max())
        yield "saliency", caption, model_figures.saliency(few.pixels, slopes, titles, top)


def fit_figure(model: Model, training: Images) -> Drawn:
    """Confusion matrix on the training images (kmnist_cnn Fig. 5a)."""
    predicted = model.probabilities(training).argmax(axis=1)
    counts = metrics.confusion(training.labels, predicted, len(training.classes))
    share = float(np.mean(predicted == training.labels))
    caption = (
        f"Confusion matrix on the {len(training)} images that the model was trained on, in counts: "
        f"{share:.4f} of them are predicted right."
    )
    return "confusion_train", caption, model_figures.confusion_matrix(counts, training.classes)


def routing_figures(
    routed: dict[str, Any],
    validation: np.ndarray,
    validation_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
) -> Iterator[Drawn]:
    """Reliability diagram and risk-coverage curve of confidence routing (kmnist_cnn III.D.2)."""
    t = routed["temperature"]
    after = routing.calibrated(test, t)
    yield (
        "reliability",
        f"Accuracy by confidence on the test set, before and after temperature scaling with T = "
        f"{t:.3f}, fitted on validation images: a calibrated model lies on the diagonal.",
        model_figures.reliability(
            {"before": routing.bins(test, test_labels), "after": routing.bins(after, test_labels)}
        ),
    )
    curves = {}
    for split, p, labels in (
        ("validation", routing.calibrated(validation, t), validation_labels),
        ("test", after, test_labels),
    ):
        curves[split] = routing.risk_coverage(p.max(axis=1), p.argmax(axis=1) == labels)
    chosen = {
        split: (routed[split]["accepted"] / routed[split]["n"], 1 - routed[split]["accuracy"])
        for split in curves
        if routed[split]["accuracy"] is not None
    }
    yield (
        "risk_coverage",
        "Error rate among the automatically accepted images by their share, the surest first; the "
        "dots are the threshold chosen on validation images, the dashed line what was promised.",
        model_figures.risk_coverage(curves, chosen, 1 - routed["promise"]),
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
    validation = numbers.read(folder / "validation.json")
    if "trials" in validation:
        names = [trial["name"] for trial in validation["trials"]]
        seeds = [trial["seeds"] for trial in validation["trials"]]
        measured = {trial["name"]: trial["seeds"]["accuracy"]["mean"] for trial in trials}
        yield (
            "trials",
            "Validation accuracy of each trial (mean and standard deviation over seeds), by "
            "which the winner was chosen"
            + (", and test accuracy, measured afterwards." if names[0] in measured else "."),
            model_figures.trials(
                names,
                np.array([spread["mean"] for spread in seeds]),
                np.array([spread["sd"] or 0 for spread in seeds]),
                [measured.get(name) for name in names],
                names.index(validation["winner"]),
            ),
        )


main = entrypoint(evaluate, kind="evaluate", items="models")

if __name__ == "__main__":
    main()

"""The time of predictions: of a whole test set, a folder, one image, and a command."""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measuring import PROCESSED, interleaved, prepare, run, verdict
from kmnist_pipeline.data import dataset
from kmnist_pipeline.evidence import paths
from kmnist_pipeline.serving import predict
from kmnist_pipeline.serving.classifier import Classifier
from kmnist_pipeline.serving.inputs import read

PREDICTED = "kmnist_softmax"
EVALUATED = 10_000  # images, as many as the test set has


def evaluation() -> bool:
    """Predicting, explaining, and one-shot recognition of 10,000 images with 100 draws."""
    from kmnist_pipeline.families.cnn import model as networks
    from kmnist_pipeline.families.cnn.insight.saliency import saliency

    images = _images()
    few, features = images.pixels[:EVALUATED], images.flat.shape[1]
    classes, shape = len(images.classes), few.shape[1:]

    def untrained(architecture: str) -> tuple[dict, dict[str, np.ndarray]]:
        model = {"architecture": architecture, "dropout": 0.0}
        scaled = {"shift": np.zeros(features), "scale": np.full(features, 255.0)}
        return model, scaled | networks.to_tensors(networks.build(model, shape, classes))

    model, tensors = untrained("improved")
    one_shot, pairs = untrained("siamese")
    draws = np.random.default_rng(0).integers(len(images), size=(100, classes))
    pairs["supports"] = images.flat[draws]
    seconds = interleaved(
        lambda: networks.probabilities(model, tensors, few, classes),
        lambda: saliency(model, tensors, few, classes),
        lambda: networks.distances(one_shot, pairs, few, classes),
    )
    predicted, explained, drawn = (f"{value:.1f} s" for value in seconds)
    detail = f"improved: predicted in {predicted}, explained in {explained}; 100 draws in {drawn}"
    return verdict(f"{EVALUATED} images evaluated, seconds", max(seconds), 60, False, detail)


def in_batch() -> bool:
    """Images a second from a folder of PNG files and from one NPZ, with reading and writing."""
    classifier, images, count = _predictor(), _images(), 2000
    with tempfile.TemporaryDirectory() as name:
        folder, array = Path(name) / "scans", Path(name) / "images.npz"
        folder.mkdir()
        for number, pixels in enumerate(images.pixels[:count]):
            _scan(pixels, folder / f"{number}.png")
        np.savez(array, images=images.pixels[: 10 * count])

        def answer(place: Path) -> None:
            to = Path(name) / "answers.csv"
            with contextlib.redirect_stderr(io.StringIO()):
                assert predict.predict(classifier, [str(place)], "csv", to, None)

        files, arrays = interleaved(lambda: answer(folder), lambda: answer(array))
    detail = f"64x64 PNG files by {PREDICTED}; {10 * count / arrays:.0f} from one NPZ"
    return verdict("predicted images a second", count / files, 500, True, detail)


def one() -> bool:
    """The latency of one image in a running process, from the PNG file to its answer."""
    classifier, count = _predictor(), 50
    form = classifier.form
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.png"
        _scan(_images().pixels[0], path)

        def answer() -> None:
            for _ in range(count):
                predict.answered(classifier, list(read([str(path)], form, print)))

        (seconds,) = interleaved(answer)
    detail = f"one 64x64 PNG by {PREDICTED}, mean of {count}"
    return verdict("latency of one image, ms", 1000 * seconds / count, 10, False, detail)


def start_up() -> bool:
    """`kmnist predict` of one image, from start to exit."""
    _predictor()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.png"
        _scan(_images().pixels[0], path)

        def command(*options: str) -> None:
            run("-m", "kmnist_pipeline.cli", "predict", str(path), *options)

        named, champion = interleaved(lambda: command("--model", PREDICTED), command)
    detail = f"one image by {PREDICTED}; by the champion, or else the best model, {champion:.2f}"
    return verdict("kmnist predict, seconds", named, 1.5, False, detail)


def _images() -> dataset.Images:
    prepare("kmnist")
    return dataset.load(PROCESSED, "train")


def _predictor() -> Classifier:
    """The softmax regression of the report, trained if necessary."""
    if not Path(paths.weights(PREDICTED)).exists():
        run("-m", "dvc", "repro", f"evaluate@{PREDICTED}")
    return predict.choose(PREDICTED, "kmnist")[0]


def _scan(pixels: np.ndarray, path: Path) -> None:
    """An image as a scanner would give it: larger, and dark on light."""
    Image.fromarray(255 - pixels).resize((64, 64), Image.Resampling.BICUBIC).save(path)

"""Simulate rounds of predicting and reviewing, and measure how many labels they save."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kmnist_pipeline.data import dataset
from kmnist_pipeline.evaluation import labelling, metrics
from kmnist_pipeline.evaluation.labelling import GUIDED, RANDOM, WAYS
from kmnist_pipeline.evidence import paths
from kmnist_pipeline.evidence.stage import Stage
from kmnist_pipeline.families.registry import FAMILIES
from kmnist_pipeline.figures import canvas
from kmnist_pipeline.figures import reviews as review_figures
from kmnist_pipeline.fits import given, key
from kmnist_pipeline.stages.frame import entrypoint

LIBRARIES = ("numpy", "scipy", *canvas.LIBRARIES)


def loop(stage: Stage, params: dict[str, Any]) -> None:
    """Read only training images: the model is trained on the labelled ones, measured on those that
    are never labelled, and says of which others the label is asked next."""
    settings = params["loops"][stage.item]
    images = dataset.load(Path(paths.processed(settings["dataset"])), "train")
    model, rounds, size = settings["model"], settings["rounds"], settings["size"]
    family, classes = FAMILIES[model["family"]].model, len(images.classes)
    parts = {seed: labelling.parts(len(images), settings, seed) for seed in settings["seeds"]}
    cases = [(way, seed) for way in WAYS for seed in settings["seeds"]]
    labelled = {(way, seed): parts[seed].labelled for way, seed in cases}
    waiting = {(way, seed): parts[seed].waiting for way, seed in cases}
    accuracies: dict[str, list[list[float]]] = {way: [] for way in WAYS}

    for number in range(rounds + 1):
        fitted = given.train(f"loop@{stage.item}", settings, images, labelled)
        measured: dict[str, list[float]] = {way: [] for way in WAYS}
        for case in cases:
            way, seed = case
            tensors, held_out = fitted[case].tensors, parts[seed].held_out
            found = family.probabilities(model, tensors, images.pixels[held_out], classes)
            right = found.argmax(axis=1) == images.labels[held_out]
            measured[way].append(float(right.mean()))
            if number < rounds:
                rows = waiting[case]
                doubts = family.probabilities(model, tensors, images.pixels[rows], classes)
                chosen = labelling.choose(way, doubts, size, seed, number)
                labelled[case] = np.concatenate([labelled[case], rows[chosen]])
                waiting[case] = np.delete(rows, chosen)
        for way in WAYS:
            accuracies[way].append(measured[way])

    counts = [settings["start"] + size * number for number in range(rounds + 1)]
    curves = {way: np.array(accuracies[way]).T for way in WAYS}
    means = (curves[way].mean(axis=0) for way in (GUIDED, RANDOM))
    details = {
        "held_out": settings["held_out"],
        "rounds": [
            {"labels": count, "accuracy": {w: metrics.spread(accuracies[w][n]) for w in WAYS}}
            for n, count in enumerate(counts)
        ],
        **labelling.saving(counts, *means)._asdict(),
        "environment": key.environment(model["family"]),
    }
    stage.write_details(paths.report_numbers(stage.item, stage.kind), details)
    with stage.directory(paths.figures(stage.item, stage.kind)) as folder:
        figure = review_figures.accuracy_by_labels(counts, curves)
        caption = (
            f"{stage.item}: accuracy on {settings['held_out']:,} training images that are never "
            f"labelled, by the number of labelled images; {size:,} more in each round, least "
            "confident first or at random. Mean and standard deviation over "
            f"{len(parts)} seeds, which draw the images."
        )
        text = stage.png_text(caption, settings)
        (folder / "accuracy.png").write_bytes(canvas.png_bytes(figure, text))


if __name__ == "__main__":
    entrypoint(loop, kind="loop", items="loops", libraries=LIBRARIES)

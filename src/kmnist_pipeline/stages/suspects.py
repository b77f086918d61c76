"""Find the training images whose label is probably wrong, and measure how many are found."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from kmnist_pipeline.data import dataset
from kmnist_pipeline.data.dataset import Images
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evaluation import out_of_fold
from kmnist_pipeline.evaluation import suspects as ranked
from kmnist_pipeline.evidence import paths
from kmnist_pipeline.evidence.stage import Stage
from kmnist_pipeline.figures import canvas
from kmnist_pipeline.figures import reviews as review_figures
from kmnist_pipeline.fits import key, results, swapped, training
from kmnist_pipeline.stages.frame import entrypoint

LIBRARIES = ("numpy", *canvas.LIBRARIES)


def suspects(stage: Stage, params: dict[str, Any]) -> None:
    """Read only training images. Rank them by what models that have not seen them say of their
    labels. Train again with some labels swapped on purpose, and count these among the first."""
    settings = params["suspects"][stage.item]
    experiment = params["experiments"][settings["experiment"]]
    processed = Path(paths.processed(settings["dataset"]))
    images = dataset.load(processed, "train", experiment["classes"])
    predictions = out_of_fold.load(Path(paths.out_of_fold(settings["experiment"])))
    order = ranked.ranking(predictions.probabilities, predictions.labels)
    margins = ranked.margins(predictions.probabilities, predictions.labels)
    first = order[: settings["shown"]]
    predicted = predictions.probabilities.argmax(axis=1)

    planned, wrong = swapped.of_suspects(stage.item, settings, experiment)
    (trials,) = training.train(planned)
    content = results.out_of_fold(trials[""], planned.validated(""), planned.images)
    with_wrong = out_of_fold.load(io.BytesIO(content))
    again = ranked.ranking(with_wrong.probabilities, with_wrong.labels)
    found = ranked.found(with_wrong.index[again], images.index[wrong], settings["ranks"])
    ranks = [
        {"rank": rank, "found": count, "share": count / len(wrong)}
        for rank, count in zip(settings["ranks"], found, strict=True)
    ]

    details = {
        "experiment": settings["experiment"],
        "n": len(order),
        "contradicted": int((margins < ranked.CONTRADICTED).sum()),
        "first": predictions.index[first],
        "swapped": {"n": len(wrong), "of": len(images), "ranks": ranks},
        "environment": key.environment(settings["family"]),
    }
    stage.write_details(paths.report_numbers(stage.item, stage.kind), details)

    about = params["datasets"][settings["dataset"]]
    labels = predictions.labels[first]
    titles = [
        f"{images.classes[label]} / {images.classes[other]}"
        for label, other in zip(labels, predicted[first], strict=True)
    ]
    sheet = canvas.labelled_images(
        _pixels(images, predictions.index[first], settings["experiment"]),
        titles,
        10,
        about["pixel_max"],
        font_size=7,
    )
    hits = np.isin(with_wrong.index[again], images.index[wrong])
    drawn = {
        "sheet": (
            f"the first {len(first)} suspects of {len(order):,} training images: label / what "
            f"{settings['experiment']} predicts without having seen the image.",
            sheet,
        ),
        "found": (
            f"of {len(wrong)} training labels that were swapped on purpose, the share among the "
            "first suspects; a dot for each number of suspects in the table, dashed: expected in "
            "random order.",
            review_figures.found(hits, settings["ranks"]),
        ),
    }
    with stage.directory(paths.figures(stage.item, stage.kind)) as folder:
        for name, (caption, figure) in drawn.items():
            canvas.sign(figure, settings["experiment"])
            text = stage.png_text(f"{about['title']}: {caption}", settings)
            (folder / f"{name}.png").write_bytes(canvas.png_bytes(figure, text))


def _pixels(images: Images, index: np.ndarray, experiment: str) -> np.ndarray:
    """The images at these positions in file order, of which `experiment` made predictions."""
    place = {row: n for n, row in enumerate(images.index.tolist())}
    if missing := [row for row in index.tolist() if row not in place]:
        raise UserError(
            f"image {missing[0]} has predictions but is not a training image: "
            f"`dvc repro kfold-train@{experiment}` makes the predictions again"
        )
    return images.pixels[[place[row] for row in index.tolist()]]


if __name__ == "__main__":
    entrypoint(suspects, kind="suspects", items="suspects", libraries=LIBRARIES)

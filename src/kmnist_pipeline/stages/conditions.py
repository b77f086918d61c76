"""Measure a model on pictures rendered from test images, prepared as `kmnist predict` does it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from kmnist_pipeline.data import dataset
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evaluation import acceptance
from kmnist_pipeline.evaluation import conditions as renderings
from kmnist_pipeline.evidence import numbers, paths
from kmnist_pipeline.evidence.stage import Stage
from kmnist_pipeline.families.registry import FAMILIES
from kmnist_pipeline.figures import canvas, thumbnails
from kmnist_pipeline.serving import character
from kmnist_pipeline.serving.classifier import Classifier
from kmnist_pipeline.stages.frame import entrypoint

LIBRARIES = ("numpy", "scipy", "scikit-image", *canvas.LIBRARIES)
SHOWN = 3  # pictures of each condition in the figure


def conditions(stage: Stage, params: dict[str, Any]) -> None:
    """Write accuracy and accepted answers under each condition, and a figure of the pictures."""
    settings = params["conditions"][stage.item]
    name, report = settings["dataset"], settings["report"]
    placement = numbers.read(Path(paths.data_numbers(name)))["placement"]
    about = {"name": name, **params["datasets"][name], "placement": placement}
    routing = numbers.read(Path(paths.numbers(report, stage.item, "test.json"))).get("routing")
    if routing is None:
        raise UserError(
            f"conditions.{stage.item}: the model has no confidence threshold, so it accepts nothing"
        )
    stage.libraries += FAMILIES[settings["family"]].libraries
    classifier = Classifier(Path(paths.weights(stage.item)), stage.item, about, routing)

    test = dataset.load(Path(paths.processed(name)), "test")
    rows = np.random.default_rng(settings["seed"]).permutation(len(test))[: settings["images"]]
    chosen = test.take(rows)
    drawings = chosen.pixels / np.float32(about["pixel_max"])
    if placement["dark_on_light"]:
        drawings = 1 - drawings

    def measured(pixels: np.ndarray, doubts: list[str | None]) -> dict[str, Any]:
        answers = classifier.answers(pixels, doubts)
        right = np.array([answer.label for answer in answers]) == chosen.labels
        accepted = np.array([answer.decision == "accept" for answer in answers])
        return acceptance.outcome(right, accepted, routing["promise"])

    results = [{"name": renderings.CLEAN, **measured(chosen.pixels, [])}]
    refused, shown, titles = [], [], []
    for condition in (*renderings.CONDITIONS, *renderings.UNANSWERABLE):
        drawn = renderings.rendered(condition, drawings, settings["seed"])
        prepared = [character.prepare(picture, classifier.form) for picture in drawn]
        doubts = [each.doubt for each in prepared]
        result = measured(np.stack([each.pixels for each in prepared]), doubts)
        kinds = (doubt.partition(" (")[0] for doubt in doubts if doubt)
        result["doubts"] = dict(Counter(kinds))
        if condition in renderings.CONDITIONS:
            results.append({"name": condition, **result})
        else:
            kept = {key: result[key] for key in ("n", "accepted", "doubts")}
            refused.append({"name": condition, **kept})
        titles.append(condition)
        for picture, each in zip(drawn[:SHOWN], prepared, strict=False):
            after = each.pixels / about["pixel_max"]
            shown.append(thumbnails.side_by_side(thumbnails.thumbnail(picture), after))

    file = paths.numbers(report, stage.item, "conditions.json")
    stage.write_details(
        file, {"promise": routing["promise"], "conditions": results, "unanswerable": refused}
    )
    figure = canvas.tiles(np.stack(shown), SHOWN, row_titles=titles, gap=8)
    canvas.sign(figure, stage.item)
    caption = (
        f"{stage.item} on {name}: three test images rendered under each condition, each next to "
        "the input of the model."
    )
    content = canvas.png_bytes(figure, stage.png_text(caption, settings))
    stage.write(f"{paths.figures(report, 'conditions')}/{stage.item}.png", content)


if __name__ == "__main__":
    entrypoint(conditions, kind="conditions", items="conditions", libraries=LIBRARIES)

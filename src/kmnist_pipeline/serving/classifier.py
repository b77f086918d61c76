"""A trained model that classifies images and decides which answers a person should review.

MLflow's registry gets a copy of this module, so it imports only the model families, confidence
routing and the preparation of pictures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kmnist_pipeline.families.trained import TrainedModel
from kmnist_pipeline.serving.character import Form

# The character of each class in these datasets; in other datasets it is the name of the class.
CHARACTERS = {
    "kmnist": {
        **{"o": "お", "ki": "き", "su": "す", "tsu": "つ", "na": "な"},
        **{"ha": "は", "ma": "ま", "ya": "や", "re": "れ", "wo": "を"},
    }
}


@dataclass(frozen=True)
class Answer:
    """The prediction of a model for one image.

    label: the number of the class in the dataset; probability: of that class, calibrated if the
    model has a threshold; decision: `accept` or `review`, None without a threshold.
    """

    label: int
    name: str
    character: str
    probability: float
    decision: str | None


class Classifier:
    """A trained model with the classes of its dataset and its confidence routing.

    form: of its images.
    """

    def __init__(
        self,
        weights: Path,
        name: str,
        dataset: dict[str, Any],
        routing: dict[str, Any] | None,
        lineage: str | None = None,
    ) -> None:
        """Read the model file `weights`, which must be from the model `name` of the dataset.

        dataset: its `name`, `classes`, `shape`, `pixel_max` and, if its images are grey,
        `placement`; routing: `temperature` and `threshold` in the model's `test.json`, None if it
        has none; lineage: the key of the stage that measured the model, None if it was measured by
        hand.

        Raises UserError if the file is from another model or not a model file.
        """
        self._model = TrainedModel.load(weights, name, dataset["name"])
        self.name = name
        self.dataset: str = dataset["name"]
        shape = tuple(dataset["shape"])
        self.form = Form(shape, dataset["pixel_max"], dataset.get("placement"))
        self.routing = routing
        self.lineage = lineage

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the model's classes."""
        return self._model.classes

    @property
    def labels(self) -> list[int]:
        """The label of each of the model's classes in the dataset."""
        return self._model.labels

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """Probabilities (N, C) of the model's classes, calibrated if it has a threshold.

        pixels: (N, *shape) uint8 in the model's form.
        """
        found = self._model.probabilities(pixels)
        if self.routing is None:
            return found
        from kmnist_pipeline.evaluation import routing

        return routing.calibrated(found, self.routing["temperature"])

    def answers(self, pixels: np.ndarray, doubts: Sequence[str | None] = ()) -> list[Answer]:
        """An Answer for each image; pixels as for `probabilities`.

        doubts: of each image (see `character.prepare`); an answer is not accepted if there is one.
        """
        found = self.probabilities(pixels)
        best = found.argmax(axis=1)
        kana = CHARACTERS.get(self.dataset, {})
        answers = []
        for position, probability, doubt in zip(
            best, found.max(axis=1), doubts or [None] * len(best), strict=True
        ):
            name = self._model.classes[position]
            label, character = self._model.labels[position], kana.get(name, name)
            sure = float(probability)
            decision = "review" if doubt else self._decision(sure)
            answers.append(Answer(label, name, character, sure, decision))
        return answers

    def _decision(self, sure: float) -> str | None:
        if self.routing is None:
            return None
        threshold = self.routing["threshold"]  # None: no threshold keeps the promise
        return "accept" if threshold is not None and sure >= threshold else "review"


def of_bundle(folder: Path) -> Classifier:
    """The classifier in a folder that `registry.promote` has registered."""
    about = json.loads((folder / "about.json").read_text("utf-8"))
    test = json.loads((folder / "test.json").read_text("utf-8"))
    weights = folder / "model.safetensors"
    routing, lineage = test.get("routing"), about["lineage"]
    return Classifier(weights, about["model"], about["dataset"], routing, lineage)

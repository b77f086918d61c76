"""A trained model that names the characters in images, and says which answers need a person.

It goes into MLflow's registry as it stands here, so it needs nothing of the pipeline but the model
families.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kmnist_pipeline import arithmetic
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.families import file
from kmnist_pipeline.families.registry import FAMILIES

# What a class of these data sets stands for; in others the name of the class says it.
CHARACTERS = {
    "kmnist": {
        **{"o": "お", "ki": "き", "su": "す", "tsu": "つ", "na": "な"},
        **{"ha": "は", "ma": "ま", "ya": "や", "re": "れ", "wo": "を"},
    }
}


@dataclass(frozen=True)
class Answer:
    """What a model says of one image.

    label: the class by its number in the data set; probability: of that class, calibrated where
    the model has a threshold; decision: `accept` or `review`, None where it has none.
    """

    label: int
    name: str
    character: str
    probability: float
    decision: str | None


class Classifier:
    """The weights of a model with all that is needed to use them.

    shape: height and width of its images, which are white on black; pixel_max: their white.
    """

    def __init__(
        self, weights: Path, name: str, dataset: dict[str, Any], routing: dict[str, Any] | None
    ) -> None:
        """Read the model file `weights`, which must be of the model `name` of the data set.

        dataset: its `name`, `classes`, `shape` and `pixel_max`; routing: `temperature` and
        `threshold` of the model's `test.json`, None where it has none.

        Raises UserError where the file is another model's or none.
        """
        tensors, about = file.read(weights)
        if (about["name"], about["dataset"]) != (name, dataset["name"]):
            raise UserError(
                f"{weights} holds {about['name']} of {about['dataset']}, not {name} of "
                f"{dataset['name']}: `dvc repro evaluate@{name}` makes it again"
            )
        trial = about["trials"][about["winner"]]
        self.name = name
        self.dataset: str = dataset["name"]
        self.shape: tuple[int, int] = tuple(dataset["shape"])
        self.pixel_max: int = dataset["pixel_max"]
        self.routing = routing
        self._labels = about["classes"] or list(range(len(dataset["classes"])))
        self._names = tuple(dataset["classes"][label] for label in self._labels)
        self._family = FAMILIES[trial["model"]["family"]].model
        self._model = trial["model"]
        self._tensors = file.select(tensors, about["winner"], 0)  # as in the stage evaluate

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """Probabilities (N, C) of the classes that the model knows, calibrated if it routes.

        pixels: (N, H, W) uint8 of the model's shape and range, white on black.
        """
        arithmetic.require()
        found = self._family.probabilities(self._model, self._tensors, pixels, len(self._names))
        if self.routing is None:
            return found
        from kmnist_pipeline.evaluation import routing

        return routing.calibrated(found, self.routing["temperature"])

    def answers(self, pixels: np.ndarray) -> list[Answer]:
        """An Answer for each image; pixels as for `probabilities`."""
        found = self.probabilities(pixels)
        best = found.argmax(axis=1)
        kana = CHARACTERS.get(self.dataset, {})
        answers = []
        for position, probability in zip(best, found.max(axis=1), strict=True):
            name = self._names[position]
            label, character = self._labels[position], kana.get(name, name)
            sure = float(probability)
            answers.append(Answer(label, name, character, sure, self._decision(sure)))
        return answers

    def _decision(self, sure: float) -> str | None:
        if self.routing is None:
            return None
        threshold = self.routing["threshold"]  # None: no threshold keeps the promise
        return "accept" if threshold is not None and sure >= threshold else "review"


def of_bundle(folder: Path) -> Classifier:
    """The classifier of a folder that `registry.promote` has registered."""
    about = json.loads((folder / "about.json").read_text())
    test = json.loads((folder / "test.json").read_text())
    weights = folder / "model.safetensors"
    return Classifier(weights, about["model"], about["dataset"], test.get("routing"))

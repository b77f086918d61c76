"""Trained models, for evaluation and serving: a model file, used with the code of its family."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kmnist_pipeline import arithmetic
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.families import file
from kmnist_pipeline.families.registry import FAMILIES, Family

# Images of 28x28; a multiple of the networks' chunks, so that the results are the same bytes.
BATCH, CHUNK, PIXELS = 20_000, 250, 28 * 28


class MismatchError(UserError):
    """A model file of the wrong model or dataset, or images of the wrong size."""


@dataclass(frozen=True)
class TrainedModel:
    """The weights and the scaling of one trial and seed in a model file.

    about: the metadata of the file; everything: the tensors of all its trials and seeds;
    trial, seed: the positions of the used trial and seed; fold: of the used member of an ensemble,
    None for all of them.
    """

    path: Path
    about: dict[str, Any]
    everything: dict[str, np.ndarray]
    trial: int
    seed: int = 0
    fold: int | None = None

    @classmethod
    def load(cls, path: Path, name: str, dataset: str) -> TrainedModel:
        """The model of the winner's first seed, which represents all of them.

        Raises MismatchError if the file has another model than `name` or another dataset, and
        ModelFileError if it is not a model file.
        """
        tensors, about = file.read(path)
        if (about["name"], about["dataset"]) != (name, dataset):
            raise MismatchError(
                f"{path} holds {about['name']} trained on {about['dataset']}, not {name} on "
                f"{dataset}: `dvc repro evaluate@{name}` makes it again"
            )
        return cls(path, about, tensors, about["winner"])

    def of(self, trial: int, seed: int) -> TrainedModel:
        """The model of another trial and seed in the same file, by their positions."""
        return replace(self, trial=trial, seed=seed)

    @property
    def parameters(self) -> dict[str, Any]:
        """The settings of the trial, which is an experiment, and its `name`."""
        return self.about["trials"][self.trial]

    @property
    def family(self) -> Family:
        """The family of the model."""
        return FAMILIES[self.parameters["model"]["family"]]

    @property
    def is_ensemble(self) -> bool:
        """Whether the file keeps the models of all folds."""
        return bool(self.parameters["validation"].get("ensemble"))

    @property
    def members(self) -> list[TrainedModel]:
        """The models that predict together: one for each fold of an ensemble, otherwise this."""
        if self.fold is not None or not self.is_ensemble:
            return [self]
        folds = range(self.parameters["validation"]["folds"])
        return [replace(self, fold=fold) for fold in folds]

    @property
    def best(self) -> TrainedModel:
        """The model of the best fold; or this one, if `fold` names one."""
        kept = self.about["kept_folds"][self.trial][self.seed]
        return self if self.fold is not None else replace(self, fold=kept)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the C classes."""
        return tuple(self.about["class_names"])

    @property
    def labels(self) -> list[int]:
        """The label of each class in the dataset."""
        return self.about["classes"] or list(range(len(self.classes)))

    @property
    def size(self) -> int:
        """The number of values in an image."""
        return len(self.tensors["shift"])

    @property
    def is_one_shot(self) -> bool:
        """Whether the model compares images with support images, one for each class and draw."""
        return "supports" in self.tensors

    @cached_property
    def tensors(self) -> dict[str, np.ndarray]:
        """Weights and scaling by name, of the best fold if there are several."""
        fold = self.best.fold if self.is_ensemble else None
        return file.select(self.everything, self.trial, self.seed, fold)

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """Class probabilities (N, C) float64 of unscaled images (N, ...) uint8.

        Those of an ensemble are the means of those of its members.
        """
        found = [member._predict("probabilities", pixels) for member in self.members]
        return np.mean(found, axis=0)

    def distances(self, pixels: np.ndarray) -> np.ndarray:
        """The distances (N, draws, C) float64 to the support images of a one-shot model."""
        return self._predict("distances", pixels)

    def class_weights(self) -> np.ndarray | None:
        """The weights of the scaled pixels, one row for each output, (K, D); None for a network."""
        of_family = getattr(self.family.model, "class_weights", None)
        return None if of_family is None else of_family(self.tensors)

    def _predict(self, function: str, pixels: np.ndarray) -> np.ndarray:
        """Call a function of the family in batches; the family applies the scaling."""
        arithmetic.require()
        if self.size != (size := int(np.prod(pixels.shape[1:]))):
            raise MismatchError(
                f"{self.path} takes images of {self.size} pixels, and these have {size}: "
                f"`dvc repro evaluate@{self.about['name']}` makes it again"
            )
        of_family = getattr(self.family.model, function)
        settings, classes = self.parameters["model"], len(self.classes)
        # Of larger images fewer, because the families scale a batch to float64.
        step = min(BATCH, max(CHUNK, BATCH * PIXELS // size // CHUNK * CHUNK))
        batches = [pixels[at : at + step] for at in range(0, len(pixels), step)]
        return np.concatenate([of_family(settings, self.tensors, b, classes) for b in batches])

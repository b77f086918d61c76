"""The families by name. A new family is a folder here, and a class and a line below.

A family's modules are imported on first use: torch and scikit-learn take seconds to load, and the
key of a fit does not need them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    import numpy as np

    from kmnist_pipeline.families.base import Checkpoint, Data, Fit, Fitted, Progress


class ModelModule(Protocol):
    """`model.py` of a family.

    It may also have `class_weights(tensors)`, which returns (K, D), and `distances`, which takes
    the arguments of `probabilities` and returns (N, draws, C).
    """

    def probabilities(
        self, model: dict, tensors: dict[str, np.ndarray], pixels: np.ndarray, classes: int
    ) -> np.ndarray:
        """Class probabilities (N, C) float64 for pixels (N, ...) uint8; model: its settings."""


class TrainModule(Protocol):
    """`train.py` of a family."""

    def fit(
        self,
        fit: Fit,
        data: Data,
        checkpoint: Checkpoint,
        progress: Progress,
        stop_after: int | None = None,
    ) -> Fitted:
        """Train one model; stop_after: the last epoch to train, None for all."""


class Family(ABC):
    """A kind of model.

    libraries: the libraries that its numbers depend on; choices: for each folder of exchangeable
    modules in the family's folder, the setting that names one of them.
    """

    libraries: ClassVar[tuple[str, ...]]
    choices: ClassVar[dict[str, str]] = {}

    @property
    @abstractmethod
    def model(self) -> ModelModule:
        """The module that predicts."""

    @property
    @abstractmethod
    def train(self) -> TrainModule:
        """The module that trains."""


class _Linear(Family):
    """Logistic and softmax regression in NumPy."""

    libraries = ("numpy",)

    @property
    def model(self) -> ModelModule:
        from kmnist_pipeline.families.linear import model

        return model

    @property
    def train(self) -> TrainModule:
        from kmnist_pipeline.families.linear import train

        return train


class _Sklearn(Family):
    """Logistic regression of scikit-learn."""

    libraries = ("numpy", "scipy", "scikit-learn")

    @property
    def model(self) -> ModelModule:
        from kmnist_pipeline.families.sklearn import model

        return model

    @property
    def train(self) -> TrainModule:
        from kmnist_pipeline.families.sklearn import train

        return train


class _Cnn(Family):
    """Convolutional networks in torch."""

    libraries = ("numpy", "torch")
    choices: ClassVar[dict[str, str]] = {
        "architectures": "model.architecture",
        "optimizers": "optimizer.name",
        "schedules": "trainer.schedule",
        "augmentations": "trainer.augmentation",
        "averaging": "trainer.averaging",
    }

    @property
    def model(self) -> ModelModule:
        from kmnist_pipeline.families.cnn import model

        return model

    @property
    def train(self) -> TrainModule:
        from kmnist_pipeline.families.cnn import train

        return train


FAMILIES: dict[str, Family] = {"linear": _Linear(), "sklearn": _Sklearn(), "cnn": _Cnn()}

"""The families by name. A new family is a folder here, a name and two imports below.

A family's modules are imported on first use: torch and scikit-learn take seconds to load, and the
key of a fit does not need them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

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


@dataclass(frozen=True)
class Family:
    """A kind of model; name: of its folder.

    libraries: the libraries that its numbers depend on; choices: for each folder of exchangeable
    modules in the family's folder, the setting that names one of them.
    """

    name: Literal["linear", "sklearn", "cnn"]
    libraries: tuple[str, ...]
    choices: Mapping[str, str] = field(default_factory=dict)

    @property
    def model(self) -> ModelModule:
        """The module that predicts."""
        match self.name:
            case "linear":
                from kmnist_pipeline.families.linear import model as linear

                return linear
            case "sklearn":
                from kmnist_pipeline.families.sklearn import model as sklearn

                return sklearn
            case "cnn":
                from kmnist_pipeline.families.cnn import model as cnn

                return cnn

    @property
    def train(self) -> TrainModule:
        """The module that trains."""
        match self.name:
            case "linear":
                from kmnist_pipeline.families.linear import train as linear

                return linear
            case "sklearn":
                from kmnist_pipeline.families.sklearn import train as sklearn

                return sklearn
            case "cnn":
                from kmnist_pipeline.families.cnn import train as cnn

                return cnn


_CNN = {
    "architectures": "model.architecture",
    "optimizers": "optimizer.name",
    "schedules": "trainer.schedule",
    "augmentations": "trainer.augmentation",
    "averaging": "trainer.averaging",
}
FAMILIES = {
    "linear": Family("linear", ("numpy",)),
    "sklearn": Family("sklearn", ("numpy", "scipy", "scikit-learn")),
    "cnn": Family("cnn", ("numpy", "torch"), _CNN),
}

"""The families by name. A new family is a folder here, and a class and a line below.

A family's modules are imported on first use: torch and scikit-learn take seconds to load, and the
key of a fit does not need them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

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

    name: str
    libraries: tuple[str, ...]
    choices: Mapping[str, str] = field(default_factory=dict)

    @property
    def model(self) -> ModelModule:
        """The module that predicts."""
        return self._module("model")

    @property
    def train(self) -> TrainModule:
        """The module that trains."""
        return self._module("train")

    def _module(self, name: str) -> Any:
        return import_module(f"{__package__}.{self.name}.{name}")


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

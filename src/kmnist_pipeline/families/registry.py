"""The families by name. A new one is a folder here and an entry below.

The modules of a family are imported when they are asked for, because torch and scikit-learn take
seconds, and because what a fit depends on is known without them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType


def _linear_model() -> ModuleType:
    from kmnist_pipeline.families.linear import model

    return model


def _linear_train() -> ModuleType:
    from kmnist_pipeline.families.linear import train

    return train


def _sklearn_model() -> ModuleType:
    from kmnist_pipeline.families.sklearn import model

    return model


def _sklearn_train() -> ModuleType:
    from kmnist_pipeline.families.sklearn import train

    return train


def _cnn_model() -> ModuleType:
    from kmnist_pipeline.families.cnn import model

    return model


def _cnn_train() -> ModuleType:
    from kmnist_pipeline.families.cnn import train

    return train


@dataclass(frozen=True)
class Family:
    """A kind of model.

    libraries: those that its numbers depend on; choices: for each folder of exchangeable modules
    in the family's folder, the setting that names one of them.
    """

    load_model: Callable[[], ModuleType]
    load_train: Callable[[], ModuleType]
    libraries: tuple[str, ...]
    choices: dict[str, str] = field(default_factory=dict)

    @property
    def model(self) -> ModuleType:
        """The module that predicts: `probabilities`."""
        return self.load_model()

    @property
    def train(self) -> ModuleType:
        """The module that trains: `fit`."""
        return self.load_train()


FAMILIES = {
    "linear": Family(_linear_model, _linear_train, ("numpy",)),
    "sklearn": Family(_sklearn_model, _sklearn_train, ("numpy", "scipy", "scikit-learn")),
    "cnn": Family(
        _cnn_model,
        _cnn_train,
        ("numpy", "torch"),
        {
            "architectures": "model.architecture",
            "optimizers": "optimizer.name",
            "schedules": "trainer.schedule",
            "augmentations": "trainer.augmentation",
            "averaging": "trainer.averaging",
        },
    ),
}

"""What the pool trains: tasks, each with one result in the store. Most of them are fits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from kmnist_pipeline.families.base import Checkpoint, Data, Fit, Progress, TrainingError
from kmnist_pipeline.families.registry import FAMILIES
from kmnist_pipeline.fits import key
from kmnist_pipeline.fits.store import Store

# The digest of each module and the version of each library that this process has loaded.
_loaded: dict[str, str] = {}


@dataclass(frozen=True)
class Task(ABC):
    """A training with one result; workers get it pickled.

    key: of the result; whole: the key that names the checkpoint; data: the digest of the `Data`;
    cost: roughly the floating-point operations; sets the order of tasks and their share of
    progress.
    """

    key: str
    whole: str
    data: str
    label: str
    cost: float

    @property
    @abstractmethod
    def about(self) -> dict[str, Any]:
        """What the store tells people about the result, beside its label and seconds."""

    @property
    @abstractmethod
    def kind(self) -> tuple[str, dict[str, Any]]:
        """The family and settings that its surroundings depend on."""

    def surroundings(self) -> dict[str, Any]:
        """The code, libraries and arithmetic of this process that the result depends on."""
        return surroundings(*self.kind)

    @abstractmethod
    def key_in(self, around: dict[str, Any]) -> str:
        """The key `whole` as a process with these surroundings computes it."""

    @abstractmethod
    def train(self, data: Data, checkpoint: Checkpoint, progress: Progress) -> bytes:
        """Train; returns the encoded result."""


@dataclass(frozen=True)
class FitTask(Task):
    """A fit; stop_after: the last epoch to train, None for all.

    `whole` is the key of the fit with all epochs, so that a longer training continues a shorter
    one.
    """

    fit: Fit
    stop_after: int | None = None

    @property
    def about(self) -> dict[str, Any]:
        """The values of the fit, without its arrays."""
        return {name: getattr(self.fit, name) for name in ("family", "settings", "seed", "fold")}

    @property
    def kind(self) -> tuple[str, dict[str, Any]]:
        """As `Task.kind`."""
        return self.fit.family, self.fit.settings

    def key_in(self, around: dict[str, Any]) -> str:
        """As `Task.key_in`."""
        return key.key(self.fit, self.data, around)

    def train(self, data: Data, checkpoint: Checkpoint, progress: Progress) -> bytes:
        """As `Task.train`. Raises TrainingError if the weights, as they are stored, are not
        finite."""
        fit, stop_after, family = self.fit, self.stop_after, FAMILIES[self.fit.family].train
        if stop_after is not None:
            stop_after = min(stop_after, fit.settings["trainer"].get("epochs", 1))
        fitted = family.fit(fit, data, checkpoint, progress, stop_after)
        if stop_after is not None and fitted.history[-1].epoch > stop_after:
            # The checkpoint is of a longer training; the result of this one was lost.
            fitted = family.fit(fit, data, Checkpoint(), progress, stop_after)
        for tensor, values in fitted.tensors.items():
            if not np.isfinite(values).all():
                raise TrainingError(
                    f"epoch {fitted.kept_epoch}: {tensor} is not finite as it is stored; a smaller "
                    "optimizer.lr may help"
                )
        return fitted.encode()


class Tasks(Protocol):
    """Tasks on the same data; some may be known only after others. digest: of the data."""

    label: str
    data: Data
    digest: str

    def tasks(self) -> Iterator[Task]:
        """The tasks until now."""

    def advance(self, store: Store) -> bool:
        """Add tasks that depend on finished ones; returns whether there are any."""


def surroundings(family: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The code, libraries and arithmetic of this process that a fit with these settings depends on.

    As on first use: a change on the disk does not change what a running worker computes.
    """
    _ = FAMILIES[family].train
    around = key.surroundings(family, settings)
    for part in ("code", "libraries"):
        around[part] = {name: _loaded.setdefault(name, now) for name, now in around[part].items()}
    return around

"""The trained weights themselves."""

from typing import Any

import numpy as np
from torch import nn


class Average:
    """Follows the weights of `trained`; `network` is what is validated and kept.

    settings: `trainer`.
    """

    def __init__(self, trained: nn.Module, settings: dict[str, Any]) -> None:
        self.network = trained

    def update(self) -> None:
        """Take note of the weights after an update."""

    def tensors(self) -> dict[str, np.ndarray]:
        """What a checkpoint needs beside the trained weights."""
        return {}

    def restore(self, tensors: dict[str, np.ndarray]) -> None:
        """The inverse of `tensors`."""

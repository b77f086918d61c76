"""No averaging: the trained weights."""

from typing import Any

import numpy as np
from torch import nn


class Average:
    """Follows the weights of `trained`; `network` is validated and kept.

    settings: `trainer`.
    """

    def __init__(self, trained: nn.Module, settings: dict[str, Any]) -> None:
        self.network = trained

    def update(self) -> None:
        """Include the weights after an update."""

    def tensors(self) -> dict[str, np.ndarray]:
        """The tensors that a checkpoint needs in addition to the trained weights."""
        return {}

    def restore(self, tensors: dict[str, np.ndarray]) -> None:
        """The inverse of `tensors`."""

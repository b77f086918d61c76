"""An exponential moving average of the weights.

Polyak and Juditsky 1992 average the weights of all updates; the exponential average forgets the
first ones (Izmailov et al. 2018, Averaging Weights Leads to Wider Optima). The running moments of
batch normalisation are averaged in the same way, so that they belong to the averaged weights.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import nn

from kmnist_pipeline.families.cnn import model


class Average:
    """Follows the weights of `trained`; `network` is validated and kept.

    settings: `decay`, the share of the average that each update leaves. The first updates leave
    less, so that the weights before the training count little.
    """

    def __init__(self, trained: nn.Module, settings: dict[str, Any]) -> None:
        self.network = copy.deepcopy(trained).requires_grad_(False)
        self._trained, self._decay, self._updates = trained, settings["decay"], 0

    @torch.no_grad()
    def update(self) -> None:
        """Include the weights after an update."""
        self._updates += 1
        left = min(self._decay, (1 + self._updates) / (10 + self._updates))
        current = self._trained.state_dict()
        for name, average in self.network.state_dict().items():
            if average.is_floating_point():
                average.lerp_(current[name], 1 - left)
            else:  # the number of batches that normalisation has seen
                average.copy_(current[name])

    def tensors(self) -> dict[str, np.ndarray]:
        """The tensors that a checkpoint needs in addition to the trained weights."""
        return {**model.to_tensors(self.network), "updates": np.array(self._updates)}

    def restore(self, tensors: dict[str, np.ndarray]) -> None:
        """The inverse of `tensors`."""
        self._updates = int(tensors["updates"])
        for name, average in self.network.state_dict().items():
            average.copy_(torch.from_numpy(tensors[f"network.{name}"]))

"""Stochastic gradient descent with Nesterov's momentum and weight decay.

Sutskever et al. 2013, On the Importance of Initialization and Momentum in Deep Learning.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kmnist_pipeline.families.cnn.optimizers import _penalties


def build(network: nn.Module, settings: dict[str, Any]) -> torch.optim.Optimizer:
    """The optimizer of a network's weights.

    settings: `lr`, `momentum`, `weight_decay`, `label_smoothing`.
    """
    _penalties.smooth_labels(network, settings.get("label_smoothing"))
    groups = _penalties.decayed(network, settings["weight_decay"])
    lr, momentum = settings["lr"], settings["momentum"]
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=True, fused=True)

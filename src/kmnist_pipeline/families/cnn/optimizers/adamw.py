"""Adam with decoupled weight decay; otherwise torch's defaults.

Loshchilov and Hutter 2019, Decoupled Weight Decay Regularization.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kmnist_pipeline.families.cnn.optimizers import _penalties


def build(network: nn.Module, settings: dict[str, Any]) -> torch.optim.Optimizer:
    """The optimizer of a network's weights; settings: `lr`, `weight_decay`, `label_smoothing`."""
    _penalties.smooth_labels(network, settings.get("label_smoothing"))
    groups = _penalties.decayed(network, settings["weight_decay"])
    return torch.optim.AdamW(groups, lr=settings["lr"], fused=True)

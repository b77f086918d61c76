"""Adam with torch's defaults except the learning rate (kmnist_cnn II.A)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def build(network: nn.Module, settings: dict[str, Any]) -> torch.optim.Optimizer:
    """The optimizer of a network's weights; settings: `lr`."""
    return torch.optim.Adam(network.parameters(), lr=settings["lr"], fused=True)

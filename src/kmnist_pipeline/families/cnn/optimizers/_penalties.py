"""Weight decay and label smoothing: penalties that an optimizer adds to the gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def decayed(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    """The parameters in two groups: weights, which decay, and biases and normalisations, which do
    not (He et al. 2019, Bag of Tricks for Image Classification, 3.1)."""
    parameters = list(network.parameters())
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


def smooth_labels(network: nn.Module, share: float | None) -> None:
    """Train a network on targets of which `share` is spread evenly over all classes (Szegedy et al.
    2016, Rethinking the Inception Architecture, 7).

    The cross-entropy with such a target is (1 - share) times that with the label, plus share times
    that with the even target. The second part needs no labels, so that it can be added to the
    gradient of the logits here. Reported losses stay those of the labels, as in validation.
    """
    if share is None:
        return

    def smooth(module: nn.Module, images: Any, logits: Tensor) -> None:
        if logits.requires_grad:
            even = _even(logits)  # a hook that holds its tensor would keep all of them in memory
            logits.register_hook(lambda gradient: gradient.lerp(even, share))

    network.register_forward_hook(smooth)


def _even(logits: Tensor) -> Tensor:
    """The gradient of the mean cross-entropy with the even target."""
    return (torch.softmax(logits.detach(), dim=1) - 1 / logits.shape[1]) / len(logits)

"""Thicker and thinner strokes, by grey-scale dilation and erosion (Serra 1982)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def change(images: Tensor, rng: np.random.Generator, strength: float) -> Tensor:
    """The images, each mixed with its dilation or its erosion by 3 x 3 pixels.

    strength: the largest share of these; 1 moves the edge of a stroke by up to a pixel.
    """
    drawn = rng.uniform(-strength, strength, (len(images), 1, 1, 1)).astype(np.float32)
    share = torch.from_numpy(drawn).to(images.device)
    thick = functional.max_pool2d(images, 3, stride=1, padding=1)
    thin = -functional.max_pool2d(-images, 3, stride=1, padding=1)
    return torch.lerp(images, torch.where(share > 0, thick, thin), share.abs())

"""Elastic deformations: smooth random displacements of the pixels.

Simard, Steinkraus and Platt 2003, Best Practices for Convolutional Neural Networks Applied to
Visual Document Analysis, smooth the displacements of all pixels with a Gaussian. Here a Gaussian
around each of a few knots spreads the displacement of the knot: two small matrix products.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

KNOTS = 6  # on each axis
WIDTH = 0.33  # standard deviation of the Gaussian, on an axis from -1 to 1: 4.6 of 28 pixels


def displacement(
    n: int, rng: np.random.Generator, strength: float, shape: tuple[int, int]
) -> Tensor:
    """Displacements (n, H * W, 2) in both directions, on axes from -1 to 1.

    strength: their standard deviation, as a share of the image's size.
    """
    knots = rng.standard_normal((n, 2, KNOTS, KNOTS), np.float32)
    down, right = map(_spread, shape)
    fields = 2 * strength * (down @ torch.from_numpy(knots) @ right.T)
    return fields.flatten(2).transpose(1, 2)


def _spread(pixels: int) -> Tensor:
    """The effect of each knot on each pixel of an axis, (pixels, KNOTS); squares sum to 1, so that
    displacements vary as much as those of the knots."""
    knots, centres = np.linspace(-1, 1, KNOTS), (2 * np.arange(pixels) + 1) / pixels - 1
    effect = np.exp(-0.5 * ((centres[:, None] - knots) / WIDTH) ** 2)
    effect /= np.linalg.norm(effect, axis=1, keepdims=True)
    return torch.from_numpy(effect.astype(np.float32))

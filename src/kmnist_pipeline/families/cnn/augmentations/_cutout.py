"""Cutout: a square of each image is blank.

DeVries and Taylor 2017, Improved Regularization of Convolutional Neural Networks with Cutout.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def erase(images: Tensor, rng: np.random.Generator, share: float, blank: Tensor) -> Tensor:
    """The images, each `blank` in a square around a random pixel, which the border may cut.

    share: the side of the square, as a share of the image's height.
    """
    n, _, height, width = images.shape
    side = round(share * height)
    inside = []
    for axis in (height, width):
        first = rng.integers(axis, size=(n, 1)) - side // 2
        inside.append((np.arange(axis) >= first) & (np.arange(axis) < first + side))
    square = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return torch.where(torch.from_numpy(square).to(images.device), blank, images)

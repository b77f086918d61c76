"""Affine maps, elastic deformations, stroke thickness and cutout, each with a setting of its own.

All images of a batch are changed at once. The affine map and the elastic deformation move the
points at which an image is read, and it is read once, because each interpolation blurs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

SHIFT = 0.5  # of the range of the entries of an affine map
KNOTS = 6  # of an elastic deformation, on each axis
WIDTH = 0.33  # standard deviation of their Gaussian, on an axis from -1 to 1: 4.6 of 28 pixels


def augment(images: Tensor, rng: np.random.Generator, settings: dict[str, Any]) -> Tensor:
    """The distorted batch (N, C, H, W) of scaled images.

    rng: the random stream of the epoch; settings: `affine`, `elastic`, `thickness`, `cutout`; those
    that are null are left out. The background, which is seen where an image is read outside of its
    border and in the cut out square, is the smallest value of the batch.
    """
    n, _, height, width = images.shape
    changed, blank = images.float(), images.min().float()
    points, moves = _points(height, width), list[Tensor]()
    if (affine := settings.get("affine")) is not None:
        moves.append(mapped(n, rng, affine, points))
    if (elastic := settings.get("elastic")) is not None:
        moves.append(deformed(n, rng, elastic, (height, width)))
    if moves:
        where = (points + sum(moves)).unflatten(1, (height, width)).to(images.device)
        changed = functional.grid_sample(changed - blank, where, align_corners=False) + blank
    if (thickness := settings.get("thickness")) is not None:
        changed = thickened(changed, rng, thickness)
    if (cutout := settings.get("cutout")) is not None:
        changed = erased(changed, rng, cutout, blank)
    return changed.to(images.dtype).contiguous(memory_format=torch.channels_last)


def mapped(n: int, rng: np.random.Generator, strength: float, points: Tensor) -> Tensor:
    """Where random affine maps read `n` images, relative to `points` (P, 2) in -1 to 1: (n, P, 2).

    A map turns, shears, scales and shifts at once. Its entries differ from those of the identity by
    up to `strength`, and it shifts by up to half of that. So 0.2 turns by up to 11 degrees and
    changes sizes by up to a fifth. Drawing the entries themselves needs no sine, which depends on
    the C library.
    """
    entries = rng.uniform(-strength, strength, (n, 2, 2)).astype(np.float32)
    shift = rng.uniform(-SHIFT * strength, SHIFT * strength, (n, 1, 2)).astype(np.float32)
    return points @ torch.from_numpy(entries) + torch.from_numpy(shift)


def deformed(n: int, rng: np.random.Generator, strength: float, shape: tuple[int, int]) -> Tensor:
    """Elastic displacements (n, H * W, 2) in both directions, on axes from -1 to 1.

    strength: their standard deviation, as a share of the image's size. Simard, Steinkraus and Platt
    2003, Best Practices for Convolutional Neural Networks Applied to Visual Document Analysis,
    smooth the displacements of all pixels with a Gaussian. Here a Gaussian around each of a few
    knots spreads the displacement of the knot: two small matrix products.
    """
    knots = rng.standard_normal((n, 2, KNOTS, KNOTS), np.float32)
    down, right = map(_spread, shape)
    fields = 2 * strength * (down @ torch.from_numpy(knots) @ right.T)
    return fields.flatten(2).transpose(1, 2)


def thickened(images: Tensor, rng: np.random.Generator, strength: float) -> Tensor:
    """The images, each mixed with its dilation or its erosion by 3 x 3 pixels (Serra 1982).

    strength: the largest share of these; 1 moves the edge of a stroke by up to a pixel.
    """
    drawn = rng.uniform(-strength, strength, (len(images), 1, 1, 1)).astype(np.float32)
    share = torch.from_numpy(drawn).to(images.device)
    thick, thin = _of_neighbours(images, torch.maximum), _of_neighbours(images, torch.minimum)
    return torch.lerp(images, torch.where(share > 0, thick, thin), share.abs())


def _of_neighbours(images: Tensor, better: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The largest or smallest of the 3 x 3 pixels around each, as `better` says.

    Rows and columns one after the other take a quarter of the time of torch's pooling.
    """
    for axis in (2, 3):
        size = images.shape[axis] - 1
        pairs = better(images.narrow(axis, 0, size), images.narrow(axis, 1, size))
        ends = images.narrow(axis, 0, 1), images.narrow(axis, size, 1)
        images = better(torch.cat([ends[0], pairs], axis), torch.cat([pairs, ends[1]], axis))
    return images


def erased(images: Tensor, rng: np.random.Generator, share: float, blank: Tensor) -> Tensor:
    """The images, each `blank` in a square around a random pixel, which the border may cut.

    share: the side of the square, as a share of the image's height. DeVries and Taylor 2017,
    Improved Regularization of Convolutional Neural Networks with Cutout.
    """
    n, _, height, width = images.shape
    side = round(share * height)
    inside = []
    for axis in (height, width):
        first = rng.integers(axis, size=(n, 1)) - side // 2
        inside.append((np.arange(axis) >= first) & (np.arange(axis) < first + side))
    square = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return torch.where(torch.from_numpy(square).to(images.device), blank, images)


def _spread(pixels: int) -> Tensor:
    """The effect of each knot on each pixel of an axis, (pixels, KNOTS); squares sum to 1, so that
    displacements vary as much as those of the knots."""
    knots, centres = np.linspace(-1, 1, KNOTS), (2 * np.arange(pixels) + 1) / pixels - 1
    effect = np.exp(-0.5 * ((centres[:, None] - knots) / WIDTH) ** 2)
    effect /= np.linalg.norm(effect, axis=1, keepdims=True)
    return torch.from_numpy(effect.astype(np.float32))


def _points(height: int, width: int) -> Tensor:
    """The centres of the pixels, row by row, (H * W, 2) from -1 to 1, the horizontal one first."""
    down, right = ((2 * np.arange(size) + 1) / size - 1 for size in (height, width))
    both = np.stack(np.broadcast_arrays(right[None, :], down[:, None]), axis=-1)
    return torch.from_numpy(both.reshape(-1, 2).astype(np.float32))

"""Affine maps, elastic deformations, stroke thickness and cutout, each with a setting of its own.

All images of a batch are changed at once. The affine map and the elastic deformation move the
points at which an image is read, and it is read once, because each interpolation blurs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kmnist_pipeline.families.cnn.augmentations import _affine, _cutout, _elastic, _thickness


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
        moves.append(_affine.displacement(n, rng, affine, points))
    if (elastic := settings.get("elastic")) is not None:
        moves.append(_elastic.displacement(n, rng, elastic, (height, width)))
    if moves:
        where = (points + sum(moves)).unflatten(1, (height, width)).to(images.device)
        changed = functional.grid_sample(changed - blank, where, align_corners=False) + blank
    if (thickness := settings.get("thickness")) is not None:
        changed = _thickness.change(changed, rng, thickness)
    if (cutout := settings.get("cutout")) is not None:
        changed = _cutout.erase(changed, rng, cutout, blank)
    return changed.to(images.dtype).contiguous(memory_format=torch.channels_last)


def _points(height: int, width: int) -> Tensor:
    """The centres of the pixels, row by row, (H * W, 2) from -1 to 1, the horizontal one first."""
    down, right = ((2 * np.arange(size) + 1) / size - 1 for size in (height, width))
    both = np.stack(np.broadcast_arrays(right[None, :], down[:, None]), axis=-1)
    return torch.from_numpy(both.reshape(-1, 2).astype(np.float32))

"""Random affine maps: rotation, shear, size and position, all at once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SHIFT = 0.5  # of the range of the map's entries


def displacement(n: int, rng: np.random.Generator, strength: float, points: Tensor) -> Tensor:
    """Where `n` images are read, relative to `points` (P, 2) from -1 to 1: (n, P, 2).

    The entries of each map differ from those of the identity by up to `strength`, and it shifts by
    up to half of that. So 0.2 turns by up to 11 degrees and changes sizes by up to a fifth. Drawing
    the entries themselves needs no sine, which depends on the C library.
    """
    entries = rng.uniform(-strength, strength, (n, 2, 2)).astype(np.float32)
    shift = rng.uniform(-SHIFT * strength, SHIFT * strength, (n, 1, 2)).astype(np.float32)
    return points @ torch.from_numpy(entries) + torch.from_numpy(shift)

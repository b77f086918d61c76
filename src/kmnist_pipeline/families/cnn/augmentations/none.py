"""Training images as they are."""

from typing import Any

import numpy as np
from torch import Tensor


def augment(images: Tensor, rng: np.random.Generator, settings: dict[str, Any]) -> Tensor:
    """A batch (N, C, H, W) of scaled images, varied.

    rng: the epoch's own random stream; settings: `trainer`.
    """
    return images

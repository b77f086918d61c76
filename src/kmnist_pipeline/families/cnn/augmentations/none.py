"""No augmentation."""

from typing import Any

import numpy as np
from torch import Tensor


def augment(images: Tensor, rng: np.random.Generator, settings: dict[str, Any]) -> Tensor:
    """The augmented batch (N, C, H, W) of scaled images.

    rng: the random stream of the epoch; settings: `trainer`.
    """
    return images

"""Training images as they are."""

import numpy as np
from torch import Tensor


def augment(images: Tensor, rng: np.random.Generator) -> Tensor:
    """A batch (N, C, H, W) of scaled images, varied; rng: the epoch's own random stream."""
    return images

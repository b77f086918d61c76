"""Random streams, one for each seed and purpose."""

from __future__ import annotations

import numpy as np


def generator(seed: int, *purpose: int) -> np.random.Generator:
    """The random stream of a seed and purpose; streams do not affect each other."""
    return np.random.default_rng((seed, *purpose))

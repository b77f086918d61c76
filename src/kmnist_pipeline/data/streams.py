"""Random streams: one of its own for each seed and purpose."""

from __future__ import annotations

import numpy as np


def generator(seed: int, *purpose: int) -> np.random.Generator:
    """A random stream of its own for each seed and purpose, so that no use shifts another."""
    return np.random.default_rng((seed, *purpose))

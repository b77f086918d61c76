"""Feature scaling x' = (x - shift) / scale, estimated on training images (kmnist_linear III)."""

from __future__ import annotations

import numpy as np


def estimate(method: str, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The shift and scale of each of the D features, both (D,) float64.

    images: (N, D) uint8, only training images. `minmax` and `zscore` take one minimum and maximum,
    or mean and deviation, over all pixels, as the report writes them; `zscore_pixel` takes a mean
    and deviation for each pixel, as scikit-learn's StandardScaler does. A feature that never
    varies is left unscaled.
    """
    features = images.shape[1]
    if method == "none":
        return np.zeros(features), np.ones(features)
    if method == "minmax":
        low, high = float(images.min()), float(images.max())
        return np.full(features, low), np.full(features, (high - low) or 1.0)
    # Sums of integers are exact in any order, and a constant pixel has the variance 0.
    total = images.sum(axis=0, dtype=np.int64)
    squares = np.einsum("nd,nd->d", images, images, dtype=np.int64, casting="unsafe")
    if method == "zscore_pixel":
        mean, variance = _moments(len(images), total, squares)
    elif method == "zscore":
        mean, variance = _moments(images.size, int(total.sum()), int(squares.sum()))
    else:
        raise ValueError(f"unknown scaling {method!r}")
    deviation = np.sqrt(np.broadcast_to(variance, features))
    return np.broadcast_to(mean, features).copy(), np.where(deviation > 0, deviation, 1.0)


def _moments(count, total, squares):
    return total / count, (squares * count - total * total) / count / count

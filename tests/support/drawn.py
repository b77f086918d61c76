"""Images that tests draw: stripes of several directions, a class each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

SHAPE = (12, 10)


def stripes(labels: Iterable[int], shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    """Noisy stripes, one image a label, uint8 of `shape`; a label gives the direction."""
    labels, rng = list(labels), np.random.default_rng(seed)
    y, x = np.indices(shape[:2])
    drawn = np.empty((len(labels), *shape), np.uint8)
    for row, label in enumerate(labels):
        down, right = 1 + label % 7, label // 7
        wave = (down * y + right * x) % 6 < 3
        noisy = 40 + 150 * wave + rng.normal(0, 30, shape[:2])
        noisy = noisy if len(shape) == 2 else noisy[..., None] * rng.uniform(0.4, 1, 3)
        drawn[row] = noisy.clip(0, 255)
    drawn[:, 0] = drawn[:, -1] = drawn[:, :, 0] = drawn[:, :, -1] = 0  # light on dark
    return drawn


def folder(
    place: Path, counts: dict[str, int], shape: tuple[int, ...] = SHAPE, seed: int = 0
) -> Path:
    """A folder with a sub-folder of PNG files for each class."""
    for label, (name, count) in enumerate(counts.items()):
        (place / name).mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(stripes([label] * count, shape, seed + 100 * label)):
            Image.fromarray(image).save(place / name / f"{number:03}.png")
    return place

"""Pictures before and after their preparation, side by side."""

from __future__ import annotations

import numpy as np
from PIL import Image

SIDE = 56  # pixels of each of the two
BETWEEN = 4


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """A picture (h, w) or (h, w, 3) from 0 to 1 in a square of grey, as RGB."""
    image = Image.fromarray(np.rint(picture * 255).astype(np.uint8)).convert("RGB")
    scale = SIDE / max(image.size)
    kind = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.BILINEAR
    image = image.resize([max(1, round(side * scale)) for side in image.size], kind)
    square = Image.new("RGB", (SIDE, SIDE), (190, 190, 190))
    square.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    return np.asarray(square)


def side_by_side(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """A thumbnail and what became of the picture, (H, W) from 0 to 1, as one RGB picture."""
    white = np.full((SIDE, BETWEEN, 3), 255, np.uint8)
    return np.concatenate([before, white, thumbnail(after)], axis=1)

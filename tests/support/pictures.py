"""Pictures in the form of two models, packed as the files that `kmnist predict` is given."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image
from support.project import ROOT

from kmnist_pipeline.evidence import numbers
from kmnist_pipeline.serving.character import Form

PLACEMENTS = {
    name: numbers.read(ROOT / f"metrics/data/{name}.json")["placement"]
    for name in ("kmnist", "digits")
}
KMNIST, DIGITS = Form((28, 28), 255, PLACEMENTS["kmnist"]), Form((8, 8), 16, PLACEMENTS["digits"])


def png(image: Image.Image, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, "png", **options)
    return content.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue()


def grid(form: Form) -> np.ndarray:
    """Three different images in a model's own form."""
    drawn = np.random.default_rng(0).integers(form.pixel_max + 1, size=(3, *form.shape))
    drawn[:, [0, -1]], drawn[:, :, [0, -1]] = 0, 0
    drawn[:, 3, 3] = form.pixel_max
    return drawn.astype(np.uint8)


GOOD = png(Image.fromarray(grid(KMNIST)[0]))

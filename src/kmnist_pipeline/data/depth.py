"""PNG files of 16 bits for each colour. Pillow keeps only the high ones, except of plain grey."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from kmnist_pipeline.data import pictures
from kmnist_pipeline.data.pictures import PictureError

DARK = 64  # of 255: a picture of 14 bits has less
BITS, COLOURS = 24, 25  # the places of the bit depth and of the colour type in a PNG
NOT_GREY = (2, 4, 6)  # RGB, grey with alpha, RGBA


def decode(content: bytes) -> np.ndarray:
    """The picture, as `pictures.decode` gives it. Raises PictureError also for lost low bits."""
    pixels = pictures.decode(content)
    if _is_cut(content) and (pixels.max() < DARK or _is_clear(content)):
        raise PictureError(
            "16 bits for each colour, of which only the low ones are used: save it with 8 bits"
        )
    return pixels


def _is_cut(content: bytes) -> bool:
    is_png = content.startswith(pictures.MAGIC[0])
    return is_png and content[BITS] == 16 and content[COLOURS] in NOT_GREY


def _is_clear(content: bytes) -> bool:
    """Whether all is nearly transparent, because the opacity lost its low bits too."""
    with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
        return "A" in image.getbands() and np.asarray(image.getchannel("A")).max() < DARK

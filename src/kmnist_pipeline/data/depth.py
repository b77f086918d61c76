"""PNG files that Pillow would read with a loss: 16 bits for each colour, or several frames.

Of 16 bits Pillow keeps only the high 8, except in plain grey.
"""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageOps

from kmnist_pipeline.data import pictures
from kmnist_pipeline.data.pictures import PictureError

DARK = 64  # of 255: a picture of 14 bits has less
BITS, COLOURS = 24, 25  # the places of the bit depth and of the colour type in a PNG
NOT_GREY = (2, 4, 6)  # RGB, grey with alpha, RGBA


def decode(content: bytes) -> np.ndarray:
    """The picture, as `pictures.decode` gives it.

    Raises PictureError also for lost low bits and for several frames.
    """
    if _frames(content) > 1:
        raise PictureError(f"has {_frames(content)} frames; save each as a picture of its own")
    pixels = pictures.decode(content)
    if _is_cut(content) and (pixels.max() < DARK or _is_clear(content)):
        raise PictureError(
            "16 bits for each colour, of which only the low ones are used: save it with 8 bits"
        )
    return pixels


def of_many(content: bytes) -> np.ndarray:
    """As `decode`, but uint16 if it is grey of 16 bits: `even` decides what white is."""
    pixels = decode(content)
    if content.startswith(pictures.MAGIC[0]) and content[BITS] == 16 and content[COLOURS] == 0:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            return np.asarray(ImageOps.exif_transpose(image)).clip(0, 0xFFFF).astype(np.uint16)
    return pixels


def even(images: Iterable[np.ndarray]) -> list[np.ndarray]:
    """The images as uint8: in those of uint16, equal values become equal, and one value is white.

    White is the smallest one of `pictures.DEEP` that none of them exceeds.
    """
    listed = list(images)
    most = max((int(image.max()) for image in listed if image.dtype == np.uint16), default=0)
    white = next(top for top in pictures.DEEP if most <= top)
    for row, image in enumerate(listed):
        if image.dtype == np.uint16:
            scaled = image.astype(np.float32) * (pictures.WHITE / white)
            listed[row] = np.rint(scaled).astype(np.uint8)
    return listed


def _frames(content: bytes) -> int:
    """The number of frames that an animated PNG states before its pixels, else 1."""
    if not content.startswith(pictures.MAGIC[0]):
        return 1
    head = content[: max(0, content.find(b"IDAT"))]
    place = head.find(b"acTL") + len(b"acTL")
    return int.from_bytes(head[place : place + 4]) if b"acTL" in head else 1


def _is_cut(content: bytes) -> bool:
    is_png = content.startswith(pictures.MAGIC[0])
    return is_png and content[BITS] == 16 and content[COLOURS] in NOT_GREY


def _is_clear(content: bytes) -> bool:
    """Whether all is nearly transparent, because the opacity lost its low bits too."""
    with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
        return "A" in image.getbands() and np.asarray(image.getchannel("A")).max() < DARK

"""PNG and JPEG files as arrays. The content is untrusted: no other format is opened."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import ExifTags, Image, ImageOps, ImageStat, UnidentifiedImageError

from kmnist_pipeline.errors import UserError

MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")  # the first bytes of PNG and of JPEG
WHITE = 255
# White in 16 bits, of which a camera may use the low ones, and another program as few as a PNG can.
DEEP = (1, 3, 15, 63, 255, 1023, 4095, 16383, 65535)
GREY = ("1", "L", "LA", "I", "I;16")  # modes without colours
RESAMPLE = Image.Resampling.BILINEAR  # keeps the accuracy on validation images; BOX does not


class PictureError(UserError):
    """Bytes that are no PNG or JPEG; the message says why."""


def decode(content: bytes, mode: str | None = None) -> np.ndarray:
    """The picture, uint8, rotated as its metadata says.

    mode: `L` for grey, (H, W), `RGB` for colours, (H, W, 3), or None for grey if it is grey.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
                turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
                upright = ImageOps.exif_transpose(image) if turned else image
                if mode is not None:
                    return _opaque(upright, mode)
                pixels = _opaque(upright, "L" if upright.mode in GREY else "RGB")
                is_grey = pixels.ndim == 3 and (pixels == pixels[..., :1]).all()
                return np.ascontiguousarray(pixels[..., 0]) if is_grey else pixels
    except UnidentifiedImageError as error:
        raise PictureError("broken image: its header cannot be read") from error
    except Exception as error:  # decoders raise anything, even SyntaxError
        raise PictureError(f"broken image: {str(error) or type(error).__name__}") from error


def _opaque(image: Image.Image, mode: str) -> np.ndarray:
    """The pixels of an image; mode: `L` for grey, `RGB` for colours."""
    if image.mode.startswith("I"):  # 16 bits, which `convert` would clip
        deep = np.clip(np.asarray(image, np.float32), 0, DEEP[-1])
        white = next(top for top in DEEP if deep.max() <= top)
        image = Image.fromarray(np.rint(deep * (WHITE / white)).astype(np.uint8))
    if not image.has_transparency_data:
        return np.asarray(image.convert(mode))
    # Ink may be drawn on a transparent ground, which becomes the opposite of the ink.
    drawn = image.convert("RGBA")
    ink, opacity = drawn.convert("LA").split()
    seen = ImageStat.Stat(ink, opacity)
    light = seen.count[0] and seen.mean[0] > WHITE / 2
    under = Image.new(mode, image.size, "black" if light else "white")
    return np.asarray(Image.composite(drawn.convert(mode), under, opacity))


def grey(pixels: np.ndarray) -> np.ndarray:
    """The grey values (H, W) of a picture, by the weights of ITU-R 601."""
    return pixels if pixels.ndim == 2 else np.asarray(Image.fromarray(pixels).convert("L"))


def scaled(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The largest picture without distortion that fits into a height and width."""
    height, width = pixels.shape[:2]
    scale = min(shape[0] / height, shape[1] / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, RESAMPLE))


def fitted(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The picture in another height and width: scaled as a whole, and filled up along its edges.

    What is filled up has the median of the edge, in each colour.
    """
    if pixels.shape[:2] == shape:
        return pixels
    pixels = scaled(pixels, shape)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    ground = np.median(edge, axis=0).astype(np.uint8)
    whole = np.empty((*shape, *pixels.shape[2:]), np.uint8)
    whole[:] = ground
    height, width = pixels.shape[:2]
    top, left = (shape[0] - height) // 2, (shape[1] - width) // 2
    whole[top : top + height, left : left + width] = pixels
    return whole

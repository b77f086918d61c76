"""PNG and JPEG files as arrays. The content is untrusted: no other format is opened."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import ExifTags, Image, ImageOps, ImageStat, UnidentifiedImageError

from kmnist_pipeline.errors import UserError

MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")  # the first bytes of PNG and of JPEG
WHITE = 255
DEEP = (255, 1023, 4095, 16383, 65535)  # white in 16 bits, of which a camera may use the low ones
RESAMPLE = Image.Resampling.BILINEAR  # keeps the accuracy on validation images; BOX does not


class PictureError(UserError):
    """Bytes that are no PNG or JPEG; the message says why."""


def decode(content: bytes) -> np.ndarray:
    """The picture, uint8, rotated as its metadata says: (H, W) if it is grey, else (H, W, 3)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
                turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
                return _pixels(ImageOps.exif_transpose(image) if turned else image)
    except UnidentifiedImageError as error:
        raise PictureError("broken image: its header cannot be read") from error
    except Exception as error:  # decoders raise anything, even SyntaxError
        raise PictureError(f"broken image: {error or type(error).__name__}") from error


def _pixels(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16 bits, which `convert` would clip
        deep = np.clip(np.asarray(image, np.float32), 0, DEEP[-1])
        white = next(top for top in DEEP if deep.max() <= top)
        return np.rint(deep * (WHITE / white)).astype(np.uint8)
    if image.mode in ("1", "L") and not image.has_transparency_data:
        return np.asarray(image.convert("L"))
    if image.has_transparency_data:
        image = _on_ground(image.convert("RGBA"))
    colours = np.asarray(image.convert("RGB"))
    is_grey = (colours == colours[..., :1]).all()
    return np.ascontiguousarray(colours[..., 0]) if is_grey else colours


def _on_ground(image: Image.Image) -> Image.Image:
    """The picture without transparency, on a ground that is the opposite of its ink."""
    ink, opacity = image.convert("LA").split()
    seen = ImageStat.Stat(ink, opacity)
    light = seen.count[0] and seen.mean[0] > WHITE / 2
    ground = Image.new("RGBA", image.size, (*[0 if light else WHITE] * 3, WHITE))
    return Image.alpha_composite(ground, image)


def grey(pixels: np.ndarray) -> np.ndarray:
    """The grey values (H, W) of a picture, by the weights of ITU-R 601."""
    return pixels if pixels.ndim == 2 else np.asarray(Image.fromarray(pixels).convert("L"))


def fitted(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The picture in another height and width: scaled as a whole, and filled up along its edges.

    What is filled up has the median of the edge, in each colour.
    """
    if pixels.shape[:2] == shape:
        return pixels
    height, width = pixels.shape[:2]
    scale = min(shape[0] / height, shape[1] / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    pixels = np.asarray(Image.fromarray(pixels).resize(size, RESAMPLE))
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    ground = np.median(edge, axis=0).astype(np.uint8)
    whole = np.empty((*shape, *pixels.shape[2:]), np.uint8)
    whole[:] = ground
    top, left = (shape[0] - size[1]) // 2, (shape[1] - size[0]) // 2
    whole[top : top + size[1], left : left + size[0]] = pixels
    return whole

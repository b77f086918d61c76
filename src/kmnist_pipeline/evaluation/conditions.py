"""Pictures as people send them, rendered from the images of a dataset with fixed seeds.

They measure the preparation of pictures and are used for no choice. A drawing is (h, w) from 0,
paper, to 1, ink; a picture is (h, w) or (h, w, 3) from 0, black, to 1, white.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

SIDE = 84  # pixels of an enlarged drawing, about

Random = np.random.Generator
Render = Callable[[np.ndarray, Random], np.ndarray]


def rendered(name: str, drawings: np.ndarray, seed: int) -> list[np.ndarray]:
    """A picture of each drawing (N, h, w) under a condition, in 256 levels as files have them."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    render = {**CONDITIONS, **UNANSWERABLE}[name]
    pictures = (render(drawing, rng) for drawing in drawings)
    return [np.rint(np.clip(picture, 0, 1) * 255) / np.float32(255) for picture in pictures]


# --- drawings ------------------------------------------------------------------------------------


def _resized(drawing: np.ndarray, height: int) -> np.ndarray:
    size = max(1, round(drawing.shape[1] * height / drawing.shape[0])), height
    image = Image.fromarray(drawing.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    return np.clip(np.asarray(image), 0, 1)


def _large(drawing: np.ndarray) -> np.ndarray:
    return _resized(drawing, drawing.shape[0] * max(1, round(SIDE / drawing.shape[0])))


def _apart(rng: Random, drawing: np.ndarray, down: int, right: int) -> np.ndarray:
    """The drawing on a larger sheet, with `down` and `right` pixels around it at random."""
    above, left = rng.integers(0, down + 1), rng.integers(0, right + 1)
    return np.pad(drawing, ((above, down - above), (left, right - left)))


def _margin(drawing: np.ndarray, share: float) -> np.ndarray:
    return np.pad(drawing, round(drawing.shape[0] * share / (1 - share) / 2))


def _ramp(shape: tuple[int, ...], angle: float) -> np.ndarray:
    """A plane from -1 to 1 in the direction of an angle."""
    y, x = (np.linspace(-1, 1, side) for side in shape[:2])
    return (np.sin(angle) * y[:, None] + np.cos(angle) * x) / np.sqrt(2)


def _written(
    rng: Random, drawing: np.ndarray, paper: Any, ink: Any, noise: float = 0.0
) -> np.ndarray:
    """A picture of ink on paper, each a grey or three colours, with noise."""
    paper, ink = np.asarray(paper, float), np.asarray(ink, float)
    cover = drawing[..., None] if paper.ndim else drawing
    picture = paper * (1 - cover) + ink * cover
    return picture + rng.normal(0, noise, picture.shape)


# --- conditions ----------------------------------------------------------------------------------


def _shifted(drawing: np.ndarray, rng: Random) -> np.ndarray:
    most = max(1, round(drawing.shape[0] * 3 / 28))
    return _apart(rng, drawing, 2 * most, 2 * most)


def _off_centre(drawing: np.ndarray, rng: Random) -> np.ndarray:
    large = _large(drawing)
    return _apart(rng, large, large.shape[0] // 2, large.shape[1] // 2)


def _wide(drawing: np.ndarray, rng: Random) -> np.ndarray:
    large = _large(drawing)
    return _apart(rng, large, large.shape[0] // 4, 2 * large.shape[1])


def _margin_40(drawing: np.ndarray, rng: Random) -> np.ndarray:
    return _margin(_large(drawing), 0.4)


def _margin_60(drawing: np.ndarray, rng: Random) -> np.ndarray:
    return _margin(_large(drawing), 0.6)


def _grey_paper(drawing: np.ndarray, rng: Random) -> np.ndarray:
    return _written(rng, _large(drawing), 0.8, 0.15, 0.05)


def _dark_paper(drawing: np.ndarray, rng: Random) -> np.ndarray:
    return _written(rng, _large(drawing), 0.4, 0.08, 0.02)


def _coloured_paper(drawing: np.ndarray, rng: Random) -> np.ndarray:
    return _written(rng, _large(drawing), (0.95, 0.85, 0.55), (0.15, 0.12, 0.1), 0.02)


def _coloured_ink(drawing: np.ndarray, rng: Random) -> np.ndarray:
    ink = ((0.1, 0.2, 0.7), (0.75, 0.15, 0.15), (0.1, 0.5, 0.2))[rng.integers(3)]
    return _written(rng, _large(drawing), (0.96, 0.95, 0.92), ink, 0.02)


def _gradient(drawing: np.ndarray, rng: Random) -> np.ndarray:
    picture = _written(rng, _large(drawing), 0.95, 0.15, 0.01)
    return picture * (0.75 + 0.25 * _ramp(picture.shape, rng.uniform(0, 2 * np.pi)))


def _pencil(drawing: np.ndarray, rng: Random) -> np.ndarray:
    large = _large(drawing)
    grain = ndimage.gaussian_filter(rng.normal(size=large.shape), 1)
    grain = 1 + 0.2 * grain / grain.std()
    return _written(rng, np.clip(large * grain, 0, 1), 0.95, 0.5, 0.02)


def _dark_on_light(drawing: np.ndarray, rng: Random) -> np.ndarray:
    return 1 - _large(drawing)


def _other_size(drawing: np.ndarray, rng: Random) -> np.ndarray:
    return 1 - _resized(drawing, round(drawing.shape[0] * rng.uniform(0.8, 6)))


def _specks(drawing: np.ndarray, rng: Random) -> np.ndarray:
    large = _margin(_large(drawing), 0.2)
    for y, x in zip(*(rng.integers(0, side - 1, 12) for side in large.shape), strict=True):
        large[y : y + 2, x : x + 2] = np.maximum(large[y : y + 2, x : x + 2], rng.uniform(0.3, 0.9))
    return _written(rng, large, 0.93, 0.1, 0.01)


def _photo(drawing: np.ndarray, rng: Random) -> np.ndarray:
    """Slightly turned and slanted, out of focus, unevenly lit, with noise, as a JPEG."""
    large = _margin(_large(drawing), 0.33)
    angle, slant = np.deg2rad(rng.uniform(-4, 4)), rng.uniform(-0.05, 0.05)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn = turn @ np.array([[1, slant], [0, 1]])
    middle = (np.array(large.shape) - 1) / 2
    large = ndimage.affine_transform(large, turn, middle - turn @ middle, order=1)
    large = ndimage.gaussian_filter(large, 1)
    light = 0.82 + 0.15 * _ramp(large.shape, rng.uniform(0, 2 * np.pi))
    picture = _written(rng, large, (1, 0.97, 0.9), (0.2, 0.2, 0.2), 0.02) * light[..., None]
    packed = io.BytesIO()
    Image.fromarray(np.uint8(np.clip(picture, 0, 1) * 255)).save(packed, "jpeg", quality=80)
    with Image.open(packed, formats=("JPEG",)) as image:
        return np.asarray(image) / 255


def _two(drawing: np.ndarray, rng: Random) -> np.ndarray:
    large = _large(drawing)
    gap = np.zeros((large.shape[0], large.shape[1] // 3))
    other = large[:, ::-1] if rng.random() < 0.5 else large
    return 1 - _margin(np.concatenate([large, gap, other], axis=1), 0.2)


def _two_above(drawing: np.ndarray, rng: Random) -> np.ndarray:
    return _two(drawing.T, rng).T


def _scribble(drawing: np.ndarray, rng: Random) -> np.ndarray:
    """Two to five curves at random, about as thick as strokes."""
    away = np.ones_like(_large(drawing))
    t = np.linspace(0, 1, 4 * SIDE)[:, None]
    for _ in range(rng.integers(2, 6)):
        a, b, c, d = rng.uniform(0.1, 0.9, (4, 2)) * away.shape
        curve = (1 - t) ** 3 * a + 3 * t * (1 - t) ** 2 * b + 3 * t**2 * (1 - t) * c + t**3 * d
        away[tuple(curve.astype(int).T)] = 0
    return _written(rng, ndimage.distance_transform_edt(away) < rng.uniform(2, 5), 0.95, 0.15, 0.01)


def _lined(drawing: np.ndarray, rng: Random) -> np.ndarray:
    box = np.pad(np.pad(_large(drawing), 8), 2, constant_values=1)
    return _written(rng, np.pad(box, 8), 0.95, 0.15, 0.01)


def _empty(drawing: np.ndarray, rng: Random) -> np.ndarray:
    return _written(rng, 0 * _large(drawing), rng.uniform(0.4, 1), 0, 0.02)


CLEAN = "test image, not prepared"
CONDITIONS: dict[str, Render] = {
    "test image, prepared": lambda drawing, rng: drawing,
    "shifted by a tenth": _shifted,
    "off centre": _off_centre,
    "off centre in a wide picture": _wide,
    "margins of 40 %": _margin_40,
    "margins of 60 %": _margin_60,
    "grey paper with noise": _grey_paper,
    "dark paper": _dark_paper,
    "coloured paper": _coloured_paper,
    "coloured ink": _coloured_ink,
    "uneven light": _gradient,
    "pencil": _pencil,
    "dark on light": _dark_on_light,
    "another size": _other_size,
    "specks on the paper": _specks,
    "mild photo": _photo,
}
# No answer to these can be right, so none should be accepted.
UNANSWERABLE: dict[str, Render] = {
    "two characters side by side": _two,
    "two characters one above the other": _two_above,
    "a line around it": _lined,
    "empty paper": _empty,
    "a scribble": _scribble,
}

"""Finding the character in a picture, and placing it as the images of a dataset are.

The paper is a smooth surface through the pixels that are not ink. Ink is what differs from it, in
one direction of colour. So grey, coloured and unevenly lit paper, and dark, light and coloured ink
need no rules of their own. MLflow's registry gets a copy of this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from kmnist_pipeline.data import pictures, placement
from kmnist_pipeline.errors import UserError

EMPTY, BLANK = "no character", "all pixels are alike"
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # the brightness of red, green and blue
LARGEST = 640  # pixels of the longer side; a larger picture is reduced first
ENOUGH = 4000  # pixels of paper, to fit a surface through them
FAINT = 0.06  # ink differs from the paper by more than this, on a scale from black to white
NOISE = 4.0  # and by more than this many standard deviations of the paper
PAPER = 2.5  # a pixel that differs by fewer standard deviations is paper
PART = 4  # pixels in each part of a character, on average at least
SPECK = 0.02  # a spot with less ink than this share of the largest one is not part of a character
SIDE = 0.9  # a line around a character covers this share of each side of its box,
LEAST = 16  # which has as many pixels
SHOWN = 0.1  # paper and ink that change by more than this are said


@dataclass(frozen=True)
class Form:
    """The form of a model's images: their shape, the value of white, the placement of characters.

    shape: (H, W) of grey images, or (H, W, 3) of coloured ones; placement: see
    `placement.measured`; None for coloured images, in which no character is looked for.
    """

    shape: tuple[int, ...]
    pixel_max: int
    placement: dict[str, Any] | None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.shape[0], self.shape[1]

    def __str__(self) -> str:
        kind = "coloured"
        if self.placement is not None:
            kind = "black on white" if self.placement["dark_on_light"] else "white on black"
        return f"{self.shape[0]}x{self.shape[1]}, {kind}, 0 to {self.pixel_max}"


def white(array: np.ndarray, form: Form) -> int:
    """The value of white in pictures of bytes: 1 for masks, that of the model's images, or 255."""
    brightest = int(array.max(initial=0))
    return next((top for top in (1, form.pixel_max) if brightest <= top), pictures.WHITE)


@dataclass(frozen=True)
class Prepared:
    """A picture in a model's form.

    pixels: (H, W) uint8; steps: what was done to the picture; doubt: why no answer for it can be
    accepted, None if there is no reason.
    """

    pixels: np.ndarray
    steps: tuple[str, ...] = ()
    doubt: str | None = None

    def __str__(self) -> str:
        return ", ".join((*self.steps, *([f"review: {self.doubt}"] if self.doubt else [])))


def as_it_is(picture: np.ndarray, form: Form) -> Prepared:
    """A picture (H, W) or (H, W, 3), from 0 to 1, that is cut as the training images.

    Raises UserError if it has another size.
    """
    if picture.shape[:2] != form.size:
        found = "x".join(map(str, picture.shape[:2]))
        raise UserError(f"images that are used as they are must be {form}, but this one is {found}")
    pixels = np.rint(_channels(picture, form) * form.pixel_max).astype(np.uint8)
    doubt = BLANK if form.placement is None else EMPTY
    return Prepared(pixels, (), None if np.ptp(pixels) else doubt)


def _channels(picture: np.ndarray, form: Form) -> np.ndarray:
    """The picture with the channels of the form: colours as their brightness, grey as three."""
    if len(form.shape) == 2:
        return picture if picture.ndim == 2 else picture @ LUMA
    return picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)


def prepare(picture: np.ndarray, form: Form) -> Prepared:
    """The character of a picture (h, w) or (h, w, 3), from 0 to 1, in a model's form.

    For coloured images the whole picture is fitted, as `kmnist import` does it.
    """
    if form.placement is None:
        return _whole(picture, form)
    steps: list[str] = []
    ink, noise = ink_on_paper(_reduced(picture, steps), steps)
    mask = strokes(ink, noise, steps)
    if mask is None:
        return Prepared(np.zeros(form.size, np.uint8), (), EMPTY)
    mask, doubt = without_line(mask)
    if doubt:
        steps.append("the line around the character removed")
    # The pale pixels next to a stroke belong to it.
    near = ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=1 + max(mask.shape) // 100)
    clean = np.where(near, np.maximum(ink - noise / 2, 0), 0)
    pixels = _placed(clean, form.size, form.placement, steps)
    unlike = placement.doubt(pixels, form.placement)
    if form.placement["dark_on_light"]:
        pixels = 1 - pixels
    whole = np.rint(pixels * form.pixel_max).astype(np.uint8)
    return Prepared(whole, tuple(steps), doubt or unlike)


def _whole(picture: np.ndarray, form: Form) -> Prepared:
    coloured = np.rint(_channels(picture, form) * pictures.WHITE).astype(np.uint8)
    steps = []
    if picture.shape[:2] != form.size:
        (height, width), (tall, wide) = picture.shape[:2], form.size
        steps.append(f"{width}x{height} to {wide}x{tall}")
    fitted = pictures.fitted(coloured, form.size)
    pixels = np.rint(fitted * (form.pixel_max / pictures.WHITE)).astype(np.uint8)
    return Prepared(pixels, tuple(steps), None if np.ptp(pixels) else BLANK)


def _placed(
    ink: np.ndarray, shape: tuple[int, int], usual: dict[str, Any], steps: list[str]
) -> np.ndarray:
    """The ink (h, w) where the dataset has it (H, W), and as strong; usual: its placement."""
    dark = placement.level(ink)
    even = ink / dark
    moved = placement.placed(even, shape, usual)
    if moved is even and placement.is_usual(usual, "level", dark):
        return ink
    if moved is not even:
        tall, wide = placement.sides(placement.box(even[None]))[0]
        steps.append(f"ink of {wide:.0f}x{tall:.0f} placed in {shape[1]}x{shape[0]}")
    pixels, gain = placement.levelled(moved, usual)
    if abs(np.log(gain / dark)) > SHOWN:
        steps.append(f"ink made {gain / dark:.1f} times as strong")
    return pixels


def _reduced(picture: np.ndarray, steps: list[str]) -> np.ndarray:
    """The picture (h, w, channels) with at most LARGEST pixels on its longer side."""
    channels = picture.reshape(*picture.shape[:2], -1).astype(np.float32)
    scale = LARGEST / max(channels.shape[:2])
    if scale >= 1:
        return channels
    width, height = (max(1, round(side * scale)) for side in channels.shape[1::-1])
    steps.append(f"reduced to {width}x{height}")
    layers = (Image.fromarray(layer) for layer in np.moveaxis(channels, 2, 0))
    box = Image.Resampling.BOX
    return np.stack([np.asarray(layer.resize((width, height), box)) for layer in layers], axis=2)


def ink_on_paper(picture: np.ndarray, steps: list[str]) -> tuple[np.ndarray, float]:
    """The strength of the ink (h, w) in a picture (h, w, channels), and the noise of the paper."""
    height, width, channels = picture.shape
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms = np.stack([np.ones_like(y), y, x, y * x, y**2, x**2], axis=2).reshape(-1, 6)
    flat = picture.reshape(-1, channels).astype(float)
    paper = _paper(flat, (height, width))
    for count in (3, 3, 6):  # a plane, then a curved surface if there is enough paper
        if count > 3 and len(paper) < len(flat) / 2:
            break
        some = paper[:: 1 + len(paper) // ENOUGH]
        surface = terms[:, :count] @ _fit(terms[some, :count], flat[some])
        apart = flat - surface
        far = np.abs(apart).max(axis=1)
        paper = np.flatnonzero(far < PAPER * max(_deviation(apart[paper]), FAINT / NOISE))
    colour = (apart * far[:, None] ** 2).sum(axis=0)
    colour /= max(float(np.linalg.norm(colour)), 1e-9)
    along = apart @ colour
    light = surface[paper].mean(axis=1) if len(paper) else surface.mean(axis=1)
    if np.ptp(np.quantile(light, [0.05, 0.95])) > SHOWN:
        steps.append("uneven paper removed")
    elif SHOWN < light.mean() < 1 - SHOWN:
        steps.append("paper removed")
    if colour.sum() < 0:
        steps.append("inverted")
    return np.maximum(along, 0).reshape(height, width), _deviation(along[paper])


def _paper(flat: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The pixels (P,) of the paper: of two groups by colour, the one with more of the edge."""
    from skimage import filters

    apart = flat - flat.mean(axis=0)
    tone = apart @ np.linalg.eigh(apart.T @ apart)[1][:, -1]
    if np.ptp(tone) < FAINT:
        return np.arange(len(flat))
    group = (tone > filters.threshold_otsu(tone)).reshape(shape)
    edge = np.concatenate([group[[0, -1]].ravel(), group[1:-1, [0, -1]].ravel()])
    return np.flatnonzero(group == (edge.mean() > 0.5))


def _fit(terms: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Coefficients of a least-squares fit in which values far off, such as ink, count little."""
    weights, count = np.ones((len(values), 1)), terms.shape[1]
    for _ in range(6):
        weighed = (terms * weights**2).T
        found = np.linalg.solve(weighed @ terms + 1e-9 * np.eye(count), weighed @ values)
        apart = np.abs(values - terms @ found).max(axis=1)
        weights = 1 / (1 + (apart / max(2 * _deviation(apart), 0.01)) ** 2)[:, None]
    return found


def _deviation(values: np.ndarray) -> float:
    """The standard deviation of values around 0, from the smaller ones: the larger may be ink."""
    return float(np.quantile(np.abs(values), 0.3)) / 0.385 if len(values) else 0.0


def strokes(ink: np.ndarray, noise: float, steps: list[str]) -> np.ndarray | None:
    """Which pixels (h, w) are ink of a character; None if none is."""
    from skimage import filters, measure

    seen = ink[ink > max(NOISE * noise, FAINT)]
    if not len(seen):
        return None
    strong = filters.threshold_otsu(seen) if np.ptp(seen) > FAINT else seen.min()
    dark = float(np.quantile(seen[seen >= strong], 0.75))
    low = max(placement.INK * dark, NOISE / 2 * noise)
    mask = filters.apply_hysteresis_threshold(ink, low, max(2 * placement.INK * dark, low))
    labels = measure.label(mask, connectivity=2)
    mass = np.bincount(labels.ravel(), ink.ravel() * mask.ravel())
    parts = (mass > 0) & (mass >= SPECK * mass.max())
    kept = parts[labels]
    if kept.sum() < PART * parts.sum():
        return None  # noise of the paper
    if (kept != mask).any():
        steps.append("specks removed")
    return kept


def without_line(mask: np.ndarray) -> tuple[np.ndarray, str | None]:
    """The strokes inside a line around them, and the doubt; unchanged if there is no such line."""
    from skimage import measure

    labels = measure.label(mask, connectivity=2)
    largest = max(measure.regionprops(labels), key=lambda region: region.area_bbox)
    part, band = largest.image, max(1, min(largest.image.shape) // 20)
    ends = [part[:band], part[-band:], part[:, :band].T, part[:, -band:].T]
    hollow = part.mean() < 0.5
    if not hollow or min(part.shape) < LEAST or any(end.any(axis=0).mean() < SIDE for end in ends):
        return mask, None
    inside = mask & (labels != largest.label)
    return (inside if inside.any() else mask), "a line around the character"

"""How a dataset places its characters, and which forms they have.

`preprocess` measures both on the training images. Prediction places the character of any picture in
the same way, and does not accept an answer for a form that nearly no training image has. Ink is
(h, w) or (N, H, W), with paper at 0 and the darkest ink near 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

INK = 0.3  # a pixel above this share of the darkest ink is ink
RARE = 0.01  # the share of training images that counts as unlike the others
PAIRS = 1500  # two training images side by side, and as many one above the other
GAP = 0.45  # at most between the two, as a share of the longer side of an image

FEATURES = (
    *("proportion", "amount of ink", "width of strokes", "sharpness of strokes"),
    *("height of parts side by side", "ink of parts side by side"),
    *("width of parts one above the other", "ink of parts one above the other"),
)
USUAL = ("size", "row", "column", "level")
PARTS = slice(4, 8)  # of FEATURES

Place = dict[str, Any]  # what `measured` returns


def measured(images: np.ndarray) -> Place:
    """The placement and the usual form of the characters in images (N, H, W) from 0 to 1.

    dark_on_light: whether the ink is black and the paper white; size: the longest side of the ink's
    box in pixels; centre: its row and column; centre_of: for each of these two, whether it is of
    the box or of the mass, whichever differs less between images; level: of the darkest ink; usual:
    the lowest and the highest usual value of what USUAL names; form: mean and inverse covariance of
    the features, and the greatest usual distance; several: for two characters side by side, and one
    above the other, the weights of the features in the linear discriminant that tells them from
    one, and its greatest usual value.
    """
    edge = np.concatenate([images[:, [0, -1]].ravel(), images[:, 1:-1, [0, -1]].ravel()])
    dark_on_light = bool(edge.mean() > 0.5)
    ink = 1 - images if dark_on_light else images
    boxes = box(ink)
    points = {of: centre(ink, boxes, (of, of)) for of in ("box", "mass")}
    spreads = {of: found.std(axis=0) for of, found in points.items()}
    of = [min(spreads, key=lambda name: spreads[name][axis]) for axis in (0, 1)]
    size, levels = sides(boxes).max(axis=1), [level(image) for image in ink]
    row, column = (points[kind][:, axis] for axis, kind in enumerate(of))
    place: Place = {
        "dark_on_light": dark_on_light,
        "size": float(np.median(size)),
        "centre": [float(np.median(row)), float(np.median(column))],
        "centre_of": of,
        "level": float(np.median(levels)),
        "usual": {
            name: np.quantile(values, [RARE, 1 - RARE]).tolist()
            for name, values in zip(USUAL, (size, row, column, levels), strict=True)
        },
    }
    found = _features(ink)
    mean, precision = found.mean(axis=0), np.linalg.inv(_spread(found))
    limit = np.quantile(_distances(found, mean, precision), 1 - RARE)
    place["form"] = {"mean": mean.tolist(), "precision": precision.tolist(), "limit": float(limit)}
    rng = np.random.default_rng(0)
    place["several"] = [_discriminant(found, _features(_pairs(ink, place, rng, k))) for k in (0, 1)]
    return place


def _spread(found: np.ndarray) -> np.ndarray:
    """The covariance of features (N, F), none of which is constant: most digits have one part."""
    return np.cov(found.T) + 1e-4 * np.eye(found.shape[1])


def _discriminant(one: np.ndarray, two: np.ndarray) -> dict[str, Any]:
    """Fisher's linear discriminant of two groups of features (N, F)."""
    weights = np.linalg.solve(_spread(one) + _spread(two), two.mean(axis=0) - one.mean(axis=0))
    return {"weights": weights.tolist(), "limit": float(np.quantile(one @ weights, 1 - RARE))}


def _pairs(ink: np.ndarray, place: Place, rng: np.random.Generator, axis: int) -> np.ndarray:
    """Two images at random each, with a gap along an axis, placed as one (PAIRS, H, W)."""
    pairs = []
    for one, two in rng.integers(len(ink), size=(PAIRS, 2)):
        parts = [_cropped(ink[k]).swapaxes(0, axis) for k in (one, two)]
        wide, room = max(part.shape[1] for part in parts), max(ink.shape[1:])
        parts = [
            np.pad(part, ((0, 0), ((wide - part.shape[1]) // 2, -((part.shape[1] - wide) // 2))))
            for part in parts
        ]
        gap = np.zeros((rng.integers(1, max(1, round(GAP * room)), endpoint=True), wide))
        both = np.concatenate([parts[0], gap, parts[1]]).swapaxes(0, axis)
        pairs.append(levelled(placed(both, ink.shape[1:], place), place)[0])
    return np.stack(pairs)


def _cropped(ink: np.ndarray) -> np.ndarray:
    top, left, bottom, right = box(ink[None])[0]
    return ink[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))]


def placed(ink: np.ndarray, shape: Sequence[int], place: Place) -> np.ndarray:
    """The ink (h, w), scaled and moved to where the dataset has it, (H, W).

    It is returned as it is if it has this shape and is placed as in most training images.
    """
    boxes = box(ink[None])
    longest = sides(boxes)[0].max()
    middle = centre(ink[None], boxes, place["centre_of"])[0]
    found = zip(USUAL, (longest, *middle), strict=False)
    if ink.shape == tuple(shape) and all(is_usual(place, *each) for each in found):
        return ink
    scale = place["size"] / longest
    first = middle - np.asarray(place["centre"]) / scale  # of the part that fills the new image
    if abs(longest - place["size"]) < 1:  # in the dataset's resolution: moved without a blur
        scale, first = 1.0, np.rint(middle - place["centre"])
    last = first + np.array(shape) / scale
    room = [
        (max(0, int(np.ceil(-low))), max(0, int(np.ceil(high - side))))
        for low, high, side in zip(first, last, ink.shape, strict=True)
    ]
    around = Image.fromarray(np.pad(ink, room).astype(np.float32))
    (top, left), (bottom, right) = (
        [edge + pad[0] for edge, pad in zip(ends, room, strict=True)] for ends in (first, last)
    )
    window = (max(0, left), max(0, top), min(right, around.width), min(bottom, around.height))
    way = Image.Resampling.BOX if scale <= 1 else Image.Resampling.BILINEAR
    return np.asarray(around.resize((shape[1], shape[0]), way, window), float)


def is_usual(place: Place, name: str, value: float) -> bool:
    """Whether most training images have about this value of what USUAL names."""
    low, high = place["usual"][name]
    return low <= value <= high


def levelled(ink: np.ndarray, place: Place) -> tuple[np.ndarray, float]:
    """The ink as strong as in the dataset, and how many times as strong as before it is."""
    gain = place["level"] / level(ink)
    return np.clip(ink * gain, 0, 1), gain


def level(image: np.ndarray) -> float:
    """The level of the darkest ink of one image, which a single pixel cannot set."""
    return max(float(np.quantile(image[image >= INK * image.max()], 0.9)), 1e-9)


def box(images: np.ndarray) -> np.ndarray:
    """The box of the ink: top, left, bottom and right (N, 4), in parts of pixels.

    A pixel at the border that is half as dark as ink is half covered by it.
    """
    ends = []
    for axis in (2, 1):
        most = images.max(axis=axis)
        ends.append((_first(most), most.shape[1] - _first(most[:, ::-1])))
    (top, bottom), (left, right) = ends
    return np.stack([top, left, bottom, right], axis=1)


def _first(most: np.ndarray) -> np.ndarray:
    """Where ink begins (N,), from the darkest pixel of each line."""
    line = (most > INK).argmax(axis=1)
    return line + 1 - np.minimum(most[np.arange(len(most)), line], 1)


def sides(boxes: np.ndarray) -> np.ndarray:
    """The height and width of boxes (N, 2)."""
    return boxes[:, 2:] - boxes[:, :2]


def centre(images: np.ndarray, boxes: np.ndarray, of: Sequence[str]) -> np.ndarray:
    """The row and column (N, 2) of the centre of the boxes, or of the mass."""
    found = (boxes[:, :2] + boxes[:, 2:]) / 2
    for axis in (0, 1):
        if of[axis] == "mass":
            sums = images.sum(axis=2 - axis)
            found[:, axis] = sums @ (np.arange(sums.shape[1]) + 0.5) / sums.sum(axis=1)
    return found


def _features(images: np.ndarray) -> np.ndarray:
    """What describes the form of characters (N, F), in the order of FEATURES.

    The logarithms of width by height, of the ink in the square of the longest side, and of the mean
    width of strokes; the share of ink that is neither dark nor light; then, for the parts beside
    the widest empty column, and for those beside the widest empty row, how high the lower one is
    and how much ink the lighter one has.
    """
    height, width = np.maximum(sides(box(images)), 1).T
    ink = images > INK
    area = np.maximum(ink.sum(axis=(1, 2)), 1)
    padded = np.pad(ink, ((0, 0), (1, 1), (1, 1)))
    outline = sum((np.diff(padded, axis=axis)).sum(axis=(1, 2)) for axis in (1, 2))
    beside, above = _parts(ink), _parts(ink.transpose(0, 2, 1))
    found = (
        np.log(width / height),
        np.log(0.01 + images.sum(axis=(1, 2)) / np.maximum(height, width) ** 2),
        np.log(2 * area / np.maximum(outline, 1)),
        1 - (images > 1 - INK).sum(axis=(1, 2)) / area,
        beside[0] * width / height,
        beside[1],
        above[0] * height / width,
        above[1],
    )
    return np.stack(found, axis=1)


def _parts(ink: np.ndarray) -> np.ndarray:
    """Of the two parts beside the widest gap, the height of the lower and the ink of the lighter.

    Both as shares of the whole (2, N); 0 if there is no empty column between columns with ink.
    """
    columns = np.asarray(ink.any(axis=1))
    widest, at, run = (np.zeros(len(ink), int) for _ in range(3))
    begun = np.zeros(len(ink), bool)
    for x, filled in enumerate(columns.T):
        wider = filled & begun & (run > widest)
        widest, at = np.where(wider, run, widest), np.where(wider, x, at)
        run = np.where(filled, 0, run + 1)
        begun |= filled
    right = np.arange(columns.shape[1]) >= at[:, None]
    one, other, both = (
        np.stack([_extent(np.asarray(part.any(axis=2))), part.sum(axis=(1, 2))])
        for part in (ink & ~right[:, None], ink & right[:, None], ink)
    )
    return np.where(widest > 0, np.minimum(one, other) / np.maximum(both, 1), 0.0)


def _extent(lines: np.ndarray) -> np.ndarray:
    """The number of lines from the first to the last that is set (N,)."""
    length = lines.shape[1] - lines[:, ::-1].argmax(axis=1) - lines.argmax(axis=1)
    return np.where(lines.any(axis=1), length, 0)


def _distances(found: np.ndarray, mean: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Mahalanobis distances (N,) of features (N, F) from those of the training images."""
    apart = found - mean
    return np.sqrt(np.maximum(np.einsum("ni,ij,nj->n", apart, precision, apart), 0))


def doubt(ink: np.ndarray, place: Place) -> str | None:
    """Why ink (H, W) may not be a character of the dataset; None if it looks like one."""
    found = _features(ink[None])[0]
    several = any(found @ each["weights"] > each["limit"] for each in place["several"])
    if several and found[PARTS].any():
        return "several characters"
    mean, precision = (np.asarray(place["form"][name]) for name in ("mean", "precision"))
    if not several and _distances(found[None], mean, precision)[0] <= place["form"]["limit"]:
        return None
    apart = np.abs(found - mean) * np.sqrt(np.diag(precision))
    return f"unlike the training images ({FEATURES[int(apart.argmax())]})"

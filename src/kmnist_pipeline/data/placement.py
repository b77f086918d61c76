"""How a dataset places its characters, and which forms they have.

`preprocess` measures both on the training images. Prediction places the character of any picture in
the same way, and does not accept an answer for a form that nearly no training image has. Images
here are (N, H, W), with paper at 0 and the darkest ink near 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

INK = 0.3  # a pixel above this share of the darkest ink is ink
RARE = 0.01  # the share of training images whose form counts as unlike the others


def measured(images: np.ndarray) -> dict[str, Any]:
    """The placement and the usual form of the characters of a dataset, from its training images.

    size: the longest side of the ink's box in pixels; centre: its row and column; centre_of: for
    each of these two, whether it is of the box or of the mass, whichever differs less between
    images; level: of the darkest ink; form: mean and inverse covariance of the features, and the
    greatest usual distance.
    """
    boxes = box(images)
    points = {of: centre(images, boxes, (of, of)) for of in ("box", "mass")}
    spreads = {of: found.std(axis=0) for of, found in points.items()}
    of = [min(spreads, key=lambda name: spreads[name][axis]) for axis in (0, 1)]
    found = np.stack(list(features(images).values()), axis=1)
    # No covariance is 0: the digits have no character in two parts.
    spread = np.cov(found.T) + 1e-4 * np.eye(found.shape[1])
    form = {"mean": found.mean(axis=0), "precision": np.linalg.inv(spread) + 0.0}  # no -0.0
    return {
        "size": float(np.median(sides(boxes).max(axis=1))),
        "centre": [float(np.median(points[kind][:, axis])) for axis, kind in enumerate(of)],
        "centre_of": of,
        "level": float(np.median([level(image) for image in images])),
        "form": {
            **{name: value.tolist() for name, value in form.items()},
            "limit": float(np.quantile(distances(found, form), 1 - RARE)),
        },
    }


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


def features(images: np.ndarray) -> dict[str, np.ndarray]:
    """What describes the form of characters: values (N,) by name.

    proportion: of width to height; fill: the ink in the square of the longest side; stroke: the
    mean width of strokes; edge: the share of ink that is neither dark nor light; columns, rows: how
    much the character looks like two side by side, or one above the other.
    """
    height, width = np.maximum(sides(box(images)), 1).T
    ink = images > INK
    area = np.maximum(ink.sum(axis=(1, 2)), 1)
    padded = np.pad(ink, ((0, 0), (1, 1), (1, 1)))
    outline = sum((np.diff(padded, axis=axis)).sum(axis=(1, 2)) for axis in (1, 2))
    return {
        "proportion": np.log(width / height),
        "fill": np.log(0.01 + images.sum(axis=(1, 2)) / np.maximum(height, width) ** 2),
        "stroke": np.log(2 * area / np.maximum(outline, 1)),
        "edge": 1 - (images > 1 - INK).sum(axis=(1, 2)) / area,
        "columns": _parts(ink) * width / height,
        "rows": _parts(ink.transpose(0, 2, 1)) * height / width,
    }


def _parts(ink: np.ndarray) -> np.ndarray:
    """The height of the lower of two parts beside the widest gap, as a share of the whole (N,).

    0 if there is no empty column between columns with ink.
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
    heights = [_extent(np.asarray((ink & side[:, None]).any(axis=2))) for side in (~right, right)]
    lower = np.minimum(*heights) / np.maximum(_extent(np.asarray(ink.any(axis=2))), 1)
    return np.where(widest > 0, lower, 0.0)


def _extent(lines: np.ndarray) -> np.ndarray:
    """The number of lines from the first to the last that is set (N,)."""
    length = lines.shape[1] - lines[:, ::-1].argmax(axis=1) - lines.argmax(axis=1)
    return np.where(lines.any(axis=1), length, 0)


def distances(found: np.ndarray, form: dict[str, Any]) -> np.ndarray:
    """Mahalanobis distances (N,) of features (N, F) from those of the training images."""
    apart = found - np.asarray(form["mean"])
    squares = np.einsum("ni,ij,nj->n", apart, np.asarray(form["precision"]), apart)
    return np.sqrt(np.maximum(squares, 0))


def unusual(image: np.ndarray, form: dict[str, Any]) -> str | None:
    """The feature that sets one image (H, W) apart from the training images; None if it is usual.

    form: that of `measured`.
    """
    by_name = features(image[None])
    found = np.stack(list(by_name.values()), axis=1)
    if distances(found, form)[0] <= form["limit"]:
        return None
    apart = np.abs(found[0] - form["mean"]) * np.sqrt(np.diag(form["precision"]))
    return list(by_name)[int(apart.argmax())]

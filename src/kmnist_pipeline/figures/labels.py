"""The names of classes along an axis: upright where they have room."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from kmnist_pipeline.figures import canvas

ROOM, LEAST_ROOM = 8, 2  # pixels between names of few and of many classes


def angles(names: Sequence[str], size: float, step: float) -> list[int]:
    """The rotation of each name in degrees, 0 or 90.

    size: the font size in points; step: the pixels from one name to the next. Few names have the
    same rotation; of many, each that fits is upright, such as a single kana.
    """
    widths = [canvas.text_width([name], size) for name in names]
    if len(names) <= canvas.MANY:
        return [0 if max(widths) < step - ROOM else 90] * len(names)
    return [0 if width <= step - LEAST_ROOM else 90 for width in widths]


def below(axes: Axes, names: Sequence[str], size: float, angles: Sequence[int]) -> None:
    """Write names below axes, at 0, 1, 2, ...; angles: the rotation of each."""
    axes.set_xticks(np.arange(len(names)), names, size=size)
    for text, angle in zip(axes.get_xticklabels(), angles, strict=True):
        text.set_rotation(angle)

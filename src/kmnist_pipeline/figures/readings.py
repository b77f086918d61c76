"""The specification curve of a study of readings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from kmnist_pipeline.figures import canvas


@canvas.style()
def specification_curve(
    choices: Mapping[str, Sequence[Any]],
    readings: Sequence[Sequence[Any]],
    agreed: canvas.Numbers,
    claims: int,
    own: int,
) -> Figure:
    """The number of claims that each reading agrees with, best first (above), and its choices
    (below).

    readings: one value of each of the choices; agreed: (R,) counts out of `claims`; own: the
    position of our protocol's reading.
    """
    agreed = np.asarray(agreed)
    order = np.argsort(-agreed, kind="stable")
    x = np.arange(len(order))
    rows = [(name, value) for name, values in choices.items() for value in values]
    figure = canvas.blank(canvas.WIDTH, 420 + 26 * len(rows), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[320, 26 * len(rows)])
    above.step(x, agreed[order], where="mid", color=canvas.BLUE)
    place = int(np.flatnonzero(order == own)[0])
    above.plot(place, agreed[own], "o", color=canvas.ORANGE, ms=7)
    above.annotate(
        "ours", (place, agreed[own]), (0, 9), textcoords="offset points", ha="center",
        color=canvas.ORANGE, weight="bold",
    )  # fmt: skip
    above.set_ylim(0, claims)
    above.set_title(f"claims that a reading agrees with, of {claims}", loc="left")
    above.grid(axis="y")
    for row, (name, value) in enumerate(rows):
        at = list(choices).index(name)
        chosen = [p for p, reading in enumerate(order) if readings[reading][at] == value]
        colour = canvas.ORANGE if readings[own][at] == value else canvas.BLUE
        below.plot(chosen, [row] * len(chosen), "|", color=colour, ms=8, mew=0.7)
    below.set_yticks(range(len(rows)), [f"{name} {value}" for name, value in rows])
    below.set_ylim(len(rows) - 0.5, -0.5)
    below.tick_params(axis="y", length=0)
    below.spines["left"].set_visible(False)
    starts = np.cumsum([0, *map(len, choices.values())])
    for start in starts[1:-1]:
        below.axhline(start - 0.5, color=canvas.RULE, lw=0.6)
    below.set_xlim(-1, len(order))
    below.set_xlabel("readings, from the one that agrees with most claims; our choices are orange")
    return figure

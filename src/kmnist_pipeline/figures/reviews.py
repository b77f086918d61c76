"""Figures of reviewing: the labels that it finds, and those that it saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from kmnist_pipeline.figures import canvas


@canvas.style()
def found(hits: np.ndarray, ranks: Sequence[int]) -> Figure:
    """The share of the wrong labels among the first suspects.

    hits: whether each suspect's label is wrong, in their order (N,); ranks: numbers of suspects.
    """
    shares = hits.cumsum() / max(hits.sum(), 1)
    last = min(len(hits), 2 * max(ranks))
    figure = canvas.blank(canvas.WIDTH, 460, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(np.arange(1, last + 1), shares[:last], color=canvas.BLUE)
    axes.plot([0, last], [0, last / len(hits)], color=canvas.FAINT, lw=0.9, ls="--")
    at = np.minimum(ranks, len(hits))
    axes.plot(at, shares[at - 1], "o", ms=7, color=canvas.ORANGE)
    axes.set_title("share of the swapped labels found", loc="left")
    axes.set_xlabel("suspects looked at")
    axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_ylim(0, 1.02)
    axes.set_xlim(left=0)
    axes.grid(axis="y")
    return figure


@canvas.style()
def accuracy_by_labels(labels: Sequence[int], curves: Mapping[str, np.ndarray]) -> Figure:
    """Accuracy by the number of labels: the mean over seeds, and one standard deviation around it.

    labels: (R,); curves: accuracies by seed and round, (S, R), by the order of labelling.
    """
    figure = canvas.blank(canvas.WIDTH, 500, layout="constrained")
    axes = figure.add_subplot()
    for (way, values), colour in zip(curves.items(), (canvas.ORANGE, canvas.BLUE), strict=True):
        mean = values.mean(axis=0)
        sd = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(len(mean))
        axes.plot(labels, mean, "o-", ms=5, color=colour, label=way.replace("_", " "))
        axes.fill_between(labels, mean - sd, mean + sd, color=colour, alpha=0.2, lw=0)
    axes.set_title("accuracy", loc="left")
    axes.set_xlabel("labelled images")
    axes.set_xticks(list(labels))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(axis="y")
    axes.legend(loc="upper left")
    return figure

"""Figures of trained models: functions from arrays to Matplotlib figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from kmnist_pipeline.figures import canvas, labels

MOST_CONFUSIONS = 20  # listed next to the confusion matrix of many classes
STEPS = 8  # of the colours of small cells
MOST_SCORES = 50  # classes with scores in one figure


def by_fold(rows: Iterable[Mapping[str, Any]], split: str, measure: str) -> np.ndarray:
    """The accuracy or loss of a split by fold and epoch, (folds, epochs).

    rows: rows of `curves.csv` of one trial, as numbers or text; the folds of all seeds count
    equally. A fold that stopped early keeps its last value in later epochs: a mean over the other
    folds would jump when one of them stops.
    """
    curves: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows:
        if row["split"] == split:
            fold = curves.setdefault((str(row["seed"]), str(row["fold"])), {})
            fold[int(row["epoch"])] = float(row[measure])
    epochs = range(1, max((max(fold) for fold in curves.values()), default=0) + 1)
    carried = [[fold[min(epoch, max(fold))] for epoch in epochs] for fold in curves.values()]
    return np.array(carried)


@canvas.style()
def learning_curves(rows: Iterable[Mapping[str, Any]]) -> Figure:
    """Accuracy (left) and loss (right) by epoch, train and validation (kmnist_linear Fig. 5-7).

    rows: as for `by_fold`. Lines are means over folds and seeds, bands show the range from lowest
    to highest.
    """
    rows = list(rows)
    figure = canvas.blank(canvas.WIDTH, 460, layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, measure in zip(panels, ("accuracy", "loss"), strict=True):
        for split, colour in (("train", canvas.BLUE), ("validation", canvas.ORANGE)):
            values = by_fold(rows, split, measure)
            if not values.size:
                continue
            epochs = np.arange(1, values.shape[1] + 1)
            marker = "o" if len(epochs) <= 15 else ""
            axes.plot(epochs, values.mean(axis=0), color=colour, marker=marker, ms=3.5, label=split)
            axes.fill_between(
                epochs, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, lw=0
            )
        axes.set_xlabel("epoch")
        axes.set_title(measure, loc="left")
        axes.grid(axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    panels[0].legend(loc="lower right")
    return figure


@canvas.style()
def confusion_matrix(counts: np.ndarray, names: Sequence[str]) -> Figure:
    """Counts by true class (rows) and predicted class (columns).

    It is Fig. 3-5 in kmnist_cnn and 4.7 in mnist_logistic. counts: (C, C) integers. The colour is
    the share of the row, on a square-root scale, so that rare confusions are visible. Where the
    cells are too small for counts, colours have steps, so that a single image is visible, and the
    most frequent confusions are listed next to the matrix.
    """
    classes, many = len(names), len(names) > canvas.MANY
    cell = 110 if classes <= 4 else 70 if classes <= 12 else 54
    if many:
        cell = max(1, 1000 // classes)
    size = 9 if cell > 20 else 7
    is_named = cell > 14
    names = [canvas.short(name, 12 if many else canvas.LONGEST) for name in names]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    if many:
        shares = (np.ceil(np.sqrt(shares) * STEPS) / STEPS) ** 2
    label = canvas.text_width(names if is_named else ["0000"], size)
    side = cell * classes
    left, top = 76 + label, canvas.MARGIN
    turned = labels.angles(names, size, cell) if is_named else []
    bottom = 64 + label if any(turned) else 84
    listed = 460 if many else 0
    figure = canvas.blank(left + side + 130 + listed, top + side + bottom)
    axes = canvas.place(figure, left, bottom, side, side)
    scale = PowerNorm(0.5, 0, 1)
    image = axes.imshow(shares, cmap="Blues", norm=scale, aspect="auto", interpolation="nearest")
    options: dict[str, Any] = {"ha": "center", "va": "center_baseline"}
    for (row, column), count in np.ndenumerate(counts) if not many else ():
        colour = "white" if shares[row, column] > 0.35 else canvas.INK if count else canvas.FAINT
        axes.text(column, row, str(count), color=colour, size=8 if classes <= 12 else 7, **options)
    if is_named:
        labels.below(axes, names, size, turned)
        axes.set_yticks(range(classes), names, size=size)
    if many:
        _list_confusions(figure, counts, names, left + side + 170, listed - 40)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    bar = canvas.place(figure, left + side + 24, bottom, 16, side)
    figure.colorbar(image, cax=bar, format=PercentFormatter(1, 0))
    bar.set_yticks([0, 0.01, 0.05, 0.2, 0.5, 1])
    bar.set_yticks([], minor=True)
    bar.tick_params(length=3)
    bar.set_ylabel("share of the true class")
    bar.spines[:].set_visible(False)
    return figure


def cells(classes: int) -> str:
    """What `confusion_matrix` shows for this many classes, in words."""
    axes = "rows are true, columns predicted classes"
    if classes <= canvas.MANY:
        return f"in counts; {axes}"
    return (
        f"as shares of the true class; {axes}; at the right are the {MOST_CONFUSIONS} most "
        "frequent confusions, in counts"
    )


def _list_confusions(
    figure: Figure, counts: np.ndarray, names: Sequence[str], left: int, width: int
) -> None:
    """Write the most frequent confusions (`true → predicted: count`) to the right."""
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_CONFUSIONS]
    canvas.write(figure, left, 40, "most frequent confusions", weight="bold", va="center")
    if not wrong.any():
        canvas.write(figure, left, 76, "none", va="center", size=8)
    for line, cell in enumerate(order[wrong.ravel()[order] > 0]):
        row, column = divmod(int(cell), len(names))
        y = 76 + 30 * line
        text = f"{names[row]} → {names[column]}"
        canvas.write(figure, left, y, text, va="center", size=8)
        end = left + width - canvas.MARGIN
        canvas.write(figure, end, y, str(wrong[row, column]), va="center", ha="right", size=8)


@canvas.style()
def class_weights(weights: np.ndarray, names: Sequence[str]) -> Figure:
    """The weights of each class as an image (kmnist_linear Fig. 8), on one symmetric scale.

    weights: (C, H, W) or (C, H, W, 3), or with C = 1 for a binary model, where positive weights are
    evidence for the second class. Weights of colours are shown as colours: grey is no weight.
    """
    largest = float(np.abs(weights).max()) or 1.0
    binary, short = len(weights) == 1, [canvas.short(name, 12) for name in names]
    scale = Normalize(-largest, largest)
    colours = matplotlib.colormaps["RdBu_r"]
    is_grey = weights.ndim == 3
    shown = colours(scale(weights))[..., :3] if is_grey else np.asarray(scale(weights))
    pictures = (shown * 255).round().astype(np.uint8)
    right = (190 if binary else 130) if is_grey else 0
    titles = canvas.class_titles(names)
    columns, size = (5, 10) if len(names) <= canvas.MANY else (10, 8)
    layout: dict[str, Any] = {"font_size": size, "gap": 18, "right": right}
    figure = canvas.tiles(pictures, columns, () if binary else titles, **layout)
    if not is_grey:
        return figure
    height = canvas.LARGEST_TILE if binary else figure.bbox.height - 2 * canvas.MARGIN
    bottom = (figure.bbox.height - height) / 2
    bar = canvas.place(figure, figure.bbox.width - right, bottom, 16, height)
    mappable = matplotlib.cm.ScalarMappable(scale, colours)
    figure.colorbar(mappable, cax=bar).outline.set_visible(False)
    bar.tick_params(length=3)
    if binary:
        bar.set_yticks([-largest, 0, largest], [f"for {short[0]}", "0", f"for {short[1]}"])
    else:
        bar.set_ylabel("weight")
    return figure


def saliency(
    images: np.ndarray, slopes: np.ndarray, titles: Sequence[str], pixel_max: int
) -> Figure:
    """Images (above) and their saliency maps (below) (kmnist_cnn Fig. 7).

    images: (N, H, W) or (N, H, W, 3); slopes: (N, H, W); each map has its own scale; titles: one
    for each image.
    """
    heat = slopes / np.maximum(slopes.max(axis=(1, 2), keepdims=True), np.finfo(float).tiny)
    lower = (matplotlib.colormaps["inferno"](heat)[..., :3] * 255).round().astype(np.uint8)
    pictures = np.concatenate([canvas.rgb(images, pixel_max), lower])
    lines = [*titles, *[""] * len(titles)]
    return canvas.tiles(pictures, len(images), lines, row_titles=("image", "saliency"))


@canvas.style()
def reliability(bins: Mapping[str, tuple[np.ndarray, ...]]) -> Figure:
    """Accuracy by confidence (left) and the number of predictions by confidence (right).

    bins: by name, the mean confidence, accuracy and count of the bins, (B,) each.
    """
    figure = canvas.blank(canvas.WIDTH, 460, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color=canvas.FAINT, lw=0.8)
    for (name, (mean, accuracy, count)), colour in zip(
        bins.items(), (canvas.BLUE, canvas.ORANGE), strict=True
    ):
        some = count > 0
        left.plot(mean[some], accuracy[some], "o-", ms=4, color=colour, label=name)
        right.plot(mean[some], count[some], "o-", ms=4, color=colour, label=name)
    left.set_title("accuracy", loc="left")
    right.set_title("predictions", loc="left")
    right.set_yscale("log")
    right.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    for axes in (left, right):
        axes.set_xlabel("confidence")
        axes.grid(axis="y")
    left.legend(loc="upper left")
    return figure


@canvas.style()
def risk_coverage(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    chosen: Mapping[str, tuple[float, float]],
    promised: float,
) -> Figure:
    """Error rate among accepted predictions by coverage, the share of accepted images.

    curves: by split, coverage and error rate, (N,) each; chosen: by split, both at the threshold;
    promised: the error rate of the target accuracy.
    """
    figure = canvas.blank(canvas.WIDTH, 500, layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(promised, color=canvas.FAINT, lw=0.9, ls="--")
    for (split, (coverage, risk)), colour in zip(
        curves.items(), (canvas.BLUE, canvas.ORANGE), strict=True
    ):
        shown = coverage > 0.02  # with fewer images an error rate means nothing
        axes.plot(coverage[shown], risk[shown], color=colour, label=split)
        if split in chosen:
            axes.plot(*chosen[split], "o", ms=7, color=colour)
    axes.set_title("error rate among accepted images", loc="left")
    axes.set_xlabel("share of images accepted")
    axes.yaxis.set_major_formatter(PercentFormatter(1, 1))
    axes.xaxis.set_major_formatter(PercentFormatter(1, 0))
    axes.set_ylim(bottom=0)
    axes.grid(axis="y")
    axes.legend(loc="upper left")
    return figure


@canvas.style()
def trial_accuracies(
    names: Sequence[str],
    validation: Sequence[Mapping[str, Any]],
    test: Sequence[Mapping[str, Any] | None],
    winner: int,
) -> Figure:
    """The trials of a study: validation accuracy (left) and, if known, test accuracy (right).

    names, validation, test: an entry for each trial, in the order of drawing; an accuracy is a
    `mean` with `sd`, which is None for one seed. Bars reach one `sd` to both sides. winner: the
    position of the trial with the best validation accuracy.
    """
    count = len(names)
    shown = [validation, test] if any(test) else [validation]
    height = max(canvas.LEAST_HEIGHT, 140 + 38 * count)
    figure = canvas.blank(canvas.WIDTH, height, layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, accuracies, face in zip(panels, shown, (None, "white"), strict=False):
        for row, accuracy in enumerate(accuracies):
            if accuracy is not None:
                colour = canvas.ORANGE if row == winner else canvas.BLUE
                bar = {"capsize": 3, "elinewidth": 1.2, "ms": 5.5, "mfc": face or colour}
                spread = accuracy["sd"] or 0.0
                axes.errorbar(accuracy["mean"], row, xerr=spread, fmt="o", color=colour, **bar)
    for axes, title in zip(panels, ("validation accuracy", "test accuracy"), strict=False):
        axes.set_title(title, loc="left")
        axes.grid(axis="y")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.margins(x=0.08)
    panels[0].set_yticks(range(count), names)
    panels[0].set_ylim(count - 0.5, -0.5)
    panels[0].get_yticklabels()[winner].set(weight="bold", color=canvas.ORANGE)
    return figure


def scored(classes: int) -> str:
    """The classes that `class_scores` shows, in words."""
    if classes <= MOST_SCORES:
        return "each class"
    return f"the {MOST_SCORES} of {classes:,} classes with the lowest F1"


@canvas.style()
def class_scores(
    names: Sequence[str], precision: canvas.Numbers, recall: canvas.Numbers, f1: canvas.Numbers
) -> Figure:
    """Precision, recall and F1 of each class; a line joins precision and recall.

    precision, recall, f1: (C,). Of very many classes those with the lowest F1 are shown.
    """
    title, classes = "score by class", len(names)
    names = [canvas.short(name) for name in names]
    if classes > MOST_SCORES:
        lowest = np.argsort(f1, kind="stable")[:MOST_SCORES]
        precision, recall, f1 = (np.asarray(score)[lowest] for score in (precision, recall, f1))
        names = [names[number] for number in lowest]
        title = f"score by class: {scored(classes)}"
    turned = labels.angles(names, 9, (canvas.WIDTH - 120) / len(names))
    height = 420 + canvas.text_width(names, 9) if any(turned) else 440
    figure = canvas.blank(canvas.WIDTH, height, layout="constrained")
    axes = figure.add_subplot()
    x = np.arange(len(names))
    low, high = np.minimum(precision, recall), np.maximum(precision, recall)
    axes.vlines(x, low, high, color=canvas.RULE, lw=3)
    axes.plot(x, precision, "^", color=canvas.BLUE, ms=7, label="precision")
    axes.plot(x, recall, "v", color=canvas.ORANGE, ms=7, label="recall")
    axes.plot(x, f1, "_", color=canvas.INK, ms=12, mew=1.8, label="F1")
    labels.below(axes, names, 9, turned)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y")
    axes.set_title(title, loc="left")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.2)
    return figure

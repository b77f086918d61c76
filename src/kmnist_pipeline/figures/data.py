"""Figures of a dataset: functions from arrays to Matplotlib figures.

Images are uint8 of any height and width, grey (H, W) or coloured (H, W, 3), from 0 (black) to
`pixel_max` (white). Labels count from 0. `names` has the name of each class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from kmnist_pipeline.figures import canvas
from kmnist_pipeline.figures import labels as axis_labels

SHADES = 3  # of each of ten colours
MOST_FEATURES = 1024  # of an image whose principal components are computed


def sample_per_class(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """The rows of `count` different images of each class, drawn by `rng`: (C, count).

    They are fewer if the smallest class has fewer images.
    """
    classes = range(int(labels.max()) + 1)
    count = min(count, int(np.bincount(labels).min()))
    chosen = [rng.choice(np.flatnonzero(labels == c), count, replace=False) for c in classes]
    return np.stack(chosen)


@canvas.style()
def class_table(
    names: Sequence[str], train_counts: canvas.Numbers, test_counts: canvas.Numbers
) -> Figure:
    """A table of class, name, train size and test size (kmnist_linear Fig. 1).

    train_counts, test_counts: (C,). There is no column of names if they are the class numbers.
    """
    sizes = zip(names, train_counts, test_counts, strict=True)
    table = [
        ["class", "name", "train size", "test size"],
        *([str(c), name, f"{train:,}", f"{test:,}"] for c, (name, train, test) in enumerate(sizes)),
        ["all", "", f"{sum(train_counts):,}", f"{sum(test_counts):,}"],
    ]
    beyond = max(0, canvas.text_width(names, 9.5) - 280)
    places = [110, 290 + beyond // 2, 550 + beyond, 710 + beyond]
    aligned = ["right", "center", "right", "right"]
    if all(name == str(number) for number, name in enumerate(names)):
        table = [[row[0], *row[2:]] for row in table]
        places, aligned = [110, 300, 460], ["right"] * 3

    step, edge = 38, canvas.MARGIN
    width = places[-1] + 2 * edge
    content = len(table) * step + 20
    height = max(canvas.LEAST_HEIGHT, content + 2 * edge)
    figure = canvas.blank(width, height)
    top = (height - content) / 2
    y = top + 6 + step / 2
    for number, cells in enumerate(table):
        if number in (1, len(table) - 1):
            y += 4
            _rule(figure, edge, width - edge, y - step / 2 - 4, 0.8)
        weight = "normal" if number else "bold"
        for place, cell, side in zip(places, cells, aligned, strict=True):
            canvas.write(figure, place, y, cell, ha=side, va="center", weight=weight, size=9.5)
        y += step
    _rule(figure, edge, width - edge, top, 1.4)
    _rule(figure, edge, width - edge, top + content, 1.4)
    return figure


@canvas.style()
def class_counts(
    names: Sequence[str], train_counts: canvas.Numbers, test_counts: canvas.Numbers
) -> Figure:
    """The sizes of many classes as lines, where a table would be too long.

    train_counts, test_counts: (C,). The names are below up to 60 classes, else the numbers.
    """
    figure = canvas.blank(canvas.WIDTH, 520, layout="constrained")
    axes = figure.add_subplot()
    x = np.arange(len(names))
    for counts, colour, label in (
        (train_counts, canvas.BLUE, "training images"),
        (test_counts, canvas.ORANGE, "test images"),
    ):
        axes.plot(x, counts, "o", ms=4 if len(names) <= 60 else 2, color=colour, label=label)
        axes.vlines(x, 0, counts, color=colour, lw=0.5, alpha=0.4)
    if len(names) <= 60:
        shown = [canvas.short(name) for name in names]
        step = (canvas.WIDTH - 120) / (len(names) + 1)
        axis_labels.below(axes, shown, 7, axis_labels.angles(shown, 7, step))
        axes.tick_params(axis="x", length=0)
    else:
        axes.set_xlabel("class")
    axes.set_xlim(-1, len(names))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(axis="y")
    axes.set_title("images of each class", loc="left")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.2)
    return figure


def _rule(figure: Figure, left: float, right: float, y: float, weight: float) -> None:
    x, y = np.array([left, right]) / figure.bbox.width, 1 - y / figure.bbox.height
    line = Line2D(x, [y, y], color=canvas.INK, lw=weight, transform=figure.transFigure)
    figure.add_artist(line)


def one_per_class(images: np.ndarray, names: Sequence[str], pixel_max: int) -> Figure:
    """One image of each class, titled with number and name (kmnist_linear Fig. 2 and 4).

    images: (C, H, W) or (C, H, W, 3), in the order of the classes.
    """
    titles = canvas.class_titles(names)
    columns, size = (5, 10) if len(names) <= canvas.MANY else (10, 8)
    return canvas.labelled_images(images, titles, columns, pixel_max, font_size=size, gap=18)


def ten_per_class(images: np.ndarray, names: Sequence[str], pixel_max: int) -> Figure:
    """Samples of each class, one row for each class (kmnist_linear Fig. 3).

    images: (C, K, H, W) or (C, K, H, W, 3), K of each class.
    """
    flat, titles = images.reshape(-1, *images.shape[2:]), canvas.class_titles(names)
    return canvas.tiles(canvas.rgb(flat, pixel_max), images.shape[1], row_titles=titles, gap=6)


@canvas.style()
def grey_matrix(image: np.ndarray, pixel_max: int) -> Figure:
    """The matrix of an image's grey values (mnist_logistic 3.2, image 9).

    image: (H, W).
    """
    height, width = image.shape
    cell = 38 if width > 12 else 72
    font_size = 6.5 if width > 12 else 11
    figure = canvas.blank(width * cell + 2 * canvas.MARGIN, height * cell + 2 * canvas.MARGIN)
    large = canvas.enlarged(canvas.rgb(image[None], pixel_max)[0], cell)
    canvas.paint(figure, large, canvas.MARGIN, canvas.MARGIN)
    for (row, column), value in np.ndenumerate(image):
        x, y = (canvas.MARGIN + (position + 0.5) * cell for position in (column, row))
        light = value > 0.5 * pixel_max
        colour = canvas.INK if light else canvas.FAINT if value == 0 else "white"
        options = {"ha": "center", "va": "center_baseline", "size": font_size, "color": colour}
        canvas.write(figure, x, y, str(value), **options)
    return figure


def reduction(shape: Sequence[int]) -> int:
    """The factor by which `pca` reduces images of this shape."""
    height, width, *channels = shape
    factor = 1
    while -(-height // factor) * -(-width // factor) * np.prod(channels or 1) > MOST_FEATURES:
        factor += 1
    return factor


def pca(images: np.ndarray, pixel_max: int) -> tuple[np.ndarray, np.ndarray]:
    """The first two principal components of pixels scaled to [0, 1], (N, 2), and their shares.

    images: (N, H, W) or (N, H, W, 3) uint8; larger ones are reduced by `reduction`, because the
    time grows with the third power of the number of features. The shares (2,) are explained
    variance over total variance. The second moments are exact integers for any order of images and
    any number of threads. The largest loading of each component is positive.
    """
    factor, count = reduction(images.shape[1:]), len(images)
    small = [canvas.reduced(images[at : at + 4096], factor) for at in range(0, count, 4096)]
    pixels = np.concatenate(small).reshape(count, -1)
    features = pixels.shape[1]
    moments = np.zeros((features, features))
    # Sums of products of bytes are below 2**53: float64 has them exactly, in any order.
    for start in range(0, count, 4096):
        block = pixels[start : start + 4096].astype(np.float64)
        moments += block.T @ block
    sums = pixels.sum(axis=0, dtype=np.int64)
    covariance = (count * moments.astype(np.int64) - np.outer(sums, sums)) / count**2
    variances, vectors = np.linalg.eigh(covariance)
    loadings = vectors[:, [-1, -2]]
    largest = np.abs(loadings).argmax(axis=0)
    loadings *= np.sign(loadings[largest, [0, 1]])
    blocks = np.array_split(pixels, -(-count // 4096))
    projected = np.concatenate([block @ loadings for block in blocks])
    components = (projected - sums / count @ loadings) / pixel_max
    return components, variances[[-1, -2]] / np.trace(covariance)


@canvas.style()
def pca_scatter(
    components: np.ndarray, labels: np.ndarray, names: Sequence[str], ratios: canvas.Numbers
) -> Figure:
    """Images on their first two principal components, coloured by class (kmnist_cnn Fig. 2).

    components: (N, 2) and ratios: (2,), both from `pca`; labels: (N,). Every image is a partly
    transparent point in one cell, and a cell blends its points. The name of a class, or the number
    if there are many classes, is where the class is both frequent and prevalent.
    """
    # Ten colours that all kinds of colour vision tell apart (arXiv:2107.02270), then darker ones.
    ten, number = np.array(matplotlib.color_sequences["petroff10"]), np.arange(len(names))
    many = len(names) > canvas.MANY
    colours = ten[number % 10] * 0.6 ** (number // 10 % SHADES)[:, None]
    crowded = len(components) > 5000
    zoom, opacity, bins = (3, 0.5, 20) if crowded else (6, 0.8, 10)
    low, high = components.min(axis=0), components.max(axis=0)
    low, high = low - 0.02 * (high - low), high + 0.02 * (high - low)
    scale = 900 / zoom / (high - low).max()
    columns, rows = np.ceil((high - low) * scale).astype(int)
    x, y = ((components - low) * scale).astype(int).T
    cell = (rows - 1 - y) * columns + x
    points = np.bincount(cell, minlength=rows * columns)
    blended = [np.bincount(cell, c[labels], rows * columns) for c in colours.T]
    mean = np.stack(blended, axis=-1) / np.maximum(points, 1)[:, None]
    cover = (1 - (1 - opacity) ** points)[:, None]
    field = np.rint(255 * (1 - cover * (1 - mean))).astype(np.uint8).reshape(rows, columns, 3)

    titles = canvas.class_titles(names)
    right = canvas.MARGIN if many else 80 + canvas.text_width(titles, 9)
    left, bottom, top = 104, 80, canvas.MARGIN
    width, height = columns * zoom, rows * zoom
    figure = canvas.blank(left + width + right, bottom + height + top)
    # Reduced before text is added, so that the file's palette has room for all greys of the text.
    field = canvas.fewer_colours(field, 96)
    canvas.paint(figure, canvas.enlarged(field, zoom), left, bottom)
    axes = canvas.place(figure, left, bottom, width, height)
    axes.set_xlim(low[0], low[0] + columns / scale)
    axes.set_ylim(low[1], low[1] + rows / scale)
    axes.set_xlabel(f"first component ({ratios[0]:.1%} of the variance)")
    axes.set_ylabel(f"second component ({ratios[1]:.1%})")
    halo = withStroke(linewidth=2.5, foreground="white")
    places = _label_places((components - low) / (high - low), labels, len(names), bins)
    places = low + places * (high - low)
    options: dict[str, Any] = {"weight": "bold", "path_effects": [halo]}
    for title, colour, name, place in zip(titles, colours, names, places, strict=True):
        axes.plot([], [], "o", color=colour, label=title)
        text = title.partition(" ")[0] if many else canvas.short(name)
        axes.text(place[0], place[1], text, ha="center", va="center", **options)
    if not many:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handletextpad=0.2)
    return figure


def colouring(classes: int) -> str:
    """How `pca_scatter` distinguishes this many classes, in words."""
    if classes <= canvas.MANY:
        return "coloured by class"
    repeated = f", in {10 * SHADES} colours that repeat" if classes > 10 * SHADES else ""
    return (
        f"coloured by the number of the class{repeated}; the number of a class is where it is "
        "both frequent and prevalent, if there is room"
    )


def _label_places(points: np.ndarray, labels: np.ndarray, classes: int, bins: int) -> np.ndarray:
    """A place for the name of each class, (C, 2); no two places are next to each other.

    points: (N, 2) in the unit square. A class without a free place gets NaN.
    """
    x, y = (points * bins).astype(int).T
    counts = np.zeros((classes, bins, bins))
    np.add.at(counts, (labels, x, y), 1)
    weight = counts**2 / np.maximum(counts.sum(axis=0), 1)
    places = np.full((classes, 2), np.nan)
    for number in np.argsort(-weight.max(axis=(1, 2)), kind="stable"):
        i, j = np.unravel_index(weight[number].argmax(), (bins, bins))
        if weight[number, i, j] > 0:
            places[number] = (i + 0.5) / bins, (j + 0.5) / bins
            weight[:, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2] = -1
    return places

"""The common parts of all figures: fonts, colours, grids of pictures, and reproducible PNG bytes.

The layout is in pixels: pictures are enlarged or reduced by whole numbers. The font is
DejaVu Sans, which is part of Matplotlib. For characters that it lacks there are Noto Sans CJK
(kana, Han, Hangul) and the Noto fonts of twenty other scripts. All come from pinned packages, never
from the machine.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import manimgx_fonts
import matplotlib.style
import noto_cjk_sans_jp_regular as noto
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry, FontProperties, findfont, fontManager, get_font
from PIL import Image
from PIL.PngImagePlugin import PngInfo

Numbers = Sequence[float] | np.ndarray
LIBRARIES = ("matplotlib", "pillow", "noto-cjk-sans-jp-regular", "manimgx-fonts")  # of a figure

DPI = 144
WIDTH, HEIGHT = 1200, 1300
LEAST_HEIGHT = 304
LARGEST_TILE = 224
MOST_TILES = 100  # pictures in one figure
MOST_PIXELS = 80_000  # of all pictures in one figure
MANY = 20  # classes; with more, figures have short names and leave out single numbers
LONGEST = 24  # characters of a class's name
MARGIN = 24
MAX_BYTES = 60_000
ADDED = 4_000  # bytes for what is drawn around pictures, and for the text entries
COLOURS = (256, 128, 64, 32, 16)  # of a file

INK = "#222222"
FAINT = "#8c8c8c"
RULE = "#d9d9d9"
BLUE, ORANGE = "#0072b2", "#d55e00"  # from Okabe and Ito's set

# They have names of our own, so that Matplotlib does not use a font of the machine instead.
_OTHERS = sorted(Path(manimgx_fonts.__path__[0]).glob("Noto*.ttf"))
_FILES = {"Noto Sans CJK": noto.FONT_PATH} | {file.stem.partition("[")[0]: file for file in _OTHERS}
_NAMED = {f"{name} of the package": str(file) for name, file in _FILES.items() if "-" not in name}
FONTS = ["DejaVu Sans", *_NAMED]
fontManager.ttflist += [
    FontEntry(fname=file, name=name, weight=weight)
    for name, file in _NAMED.items()
    for weight in ("normal", "bold")
]

STYLE: dict[Any, Any] = {
    "figure.dpi": DPI,
    "figure.constrained_layout.h_pad": MARGIN / DPI,
    "figure.constrained_layout.w_pad": MARGIN / DPI,
    "font.family": FONTS,
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlepad": 8,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}

# The project's style, for a block or, as a decorator, for a function. It starts from Matplotlib's
# defaults, so that a user's matplotlibrc does not change figures.
style = partial(matplotlib.style.context, STYLE, after_reset=True)


def blank(width: float, height: float, **options) -> Figure:
    """An empty figure of this size in pixels; options: those of Matplotlib's Figure."""
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, **options)
    FigureCanvasAgg(figure)
    return figure


def place(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at exactly this place in pixels, counted from the bottom left corner."""
    full_width, full_height = figure.bbox.size
    box = (left / full_width, bottom / full_height, width / full_width, height / full_height)
    return figure.add_axes(box, facecolor="none")


def enlarged(pixels: np.ndarray, zoom: int) -> np.ndarray:
    """The pixels (H, W, 3), each enlarged to a square of `zoom` by `zoom`."""
    return pixels.repeat(zoom, axis=0).repeat(zoom, axis=1)


def reduced(pictures: np.ndarray, factor: int) -> np.ndarray:
    """Pictures (N, H, W) or (N, H, W, 3) uint8; each square of `factor` by `factor` is its mean.

    The squares at the right and lower edge may be cut.
    """
    if factor == 1:
        return pictures
    sums, areas = pictures.astype(np.uint32), np.ones(())
    for axis in (1, 2):
        starts = np.arange(0, pictures.shape[axis], factor)
        sizes = np.diff(starts, append=pictures.shape[axis])
        sums, areas = np.add.reduceat(sums, starts, axis), np.multiply.outer(areas, sizes)
    shape = (*areas.shape, *[1] * (pictures.ndim - 3))
    return np.rint(sums / areas.reshape(shape)).astype(np.uint8)


def paint(figure: Figure, pixels: np.ndarray, left: int = 0, bottom: int = 0) -> None:
    """Put unscaled RGB pixels on the figure, behind its axes and texts."""
    figure.figimage(pixels, left, bottom, zorder=-1)


@cache
def _characters(font: str) -> frozenset[int]:
    return frozenset(get_font(findfont(font)).get_charmap())


def drawable(text: str) -> str:
    """The text; each character that our fonts lack is replaced by its code, such as `U+0F56`."""

    def drawn(letter: str) -> bool:
        return letter == "\n" or any(ord(letter) in _characters(font) for font in FONTS)

    return "".join(letter if drawn(letter) else f"U+{ord(letter):04X}" for letter in text)


def write(figure: Figure, x: float, y: float, text: str, **options) -> None:
    """Put text at a place in pixels, counted from the top left corner."""
    figure.text(x / figure.bbox.width, 1 - y / figure.bbox.height, drawable(text), **options)


def text_width(texts: Sequence[str], size: float) -> int:
    """The width in pixels of the widest text; size: the font size in points."""
    canvas = FigureCanvasAgg(Figure(dpi=DPI))
    font = FontProperties(family=FONTS, size=size)
    lines = [line for text in texts for line in drawable(text).split("\n")]
    measure = canvas.get_renderer().get_text_width_height_descent
    return max((int(np.ceil(measure(line, font, False)[0])) for line in lines), default=0)


def short(name: str, longest: int = LONGEST) -> str:
    """The drawable beginning of a class's name."""
    return drawable(name if len(name) <= longest else f"{name[: longest - 1].rstrip()}…")


def class_titles(names: Sequence[str]) -> list[str]:
    """The number and short name of each class, or one of them if they are the same."""
    longest = LONGEST if len(names) <= MANY else LONGEST // 2
    return [n if n == str(i) else f"{i}  {short(n, longest)}" for i, n in enumerate(names)]


def rgb(images: np.ndarray, pixel_max: float) -> np.ndarray:
    """Images (N, H, W) or (N, H, W, 3) as RGB pixels, 0 black and `pixel_max` white."""
    levels = np.rint(np.asarray(images, float) * (255 / pixel_max)).astype(np.uint8)
    return levels if images.ndim == 4 else np.repeat(levels[..., None], 3, axis=-1)


def fewer_colours(pixels: np.ndarray, count: int) -> np.ndarray:
    """RGB pixels (H, W, 3) uint8 reduced to at most `count` colours, without dithering."""
    return np.asarray(_quantized(Image.fromarray(pixels), count).convert("RGB"))


def _quantized(image: Image.Image, colours: int) -> Image.Image:
    return image.quantize(colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def tiles(
    pictures: np.ndarray,
    columns: int,
    titles: Sequence[str] = (),
    *,
    row_titles: Sequence[str] = (),
    font_size: float = 9,
    gap: int = 12,
    right: int = 0,
) -> Figure:
    """Pictures in rows and columns, enlarged or reduced by the same whole number.

    They are reduced until the file is small. pictures: (N, H, W, 3) uint8, row by row; titles: one
    above each picture; row_titles: one to the left of each row; gap: pixels between pictures;
    right: free pixels on the right.
    """
    count, height, width = pictures.shape[:3]
    columns = min(columns, count)
    layout = (columns, titles, row_titles, font_size, gap, right)
    for factor in range(1, max(height, width) + 1):
        if count * -(-height // factor) * -(-width // factor) <= MOST_PIXELS:
            figure = _tiled(reduced(pictures, factor), *layout)
            least = _encoded(_drawn(figure), COLOURS[-1], PngInfo())
            if len(least) < MAX_BYTES - ADDED:
                break
    return figure


@style()
def _tiled(
    pictures: np.ndarray,
    columns: int,
    titles: Sequence[str],
    row_titles: Sequence[str],
    font_size: float,
    gap: int,
    right: int,
) -> Figure:
    count, height, width = pictures.shape[:3]
    rows = -(-count // columns)
    line = round(1.25 * font_size * DPI / 72)
    head = 9 + line * max(title.count("\n") + 1 for title in titles) if titles else 0
    room = min(LARGEST_TILE, (WIDTH - 2 * MARGIN) // columns - gap)
    zoom = max(1, min(room // width, (HEIGHT // rows - head - gap) // height))
    tile_width, tile_height = zoom * width, zoom * height

    step_x = max(tile_width, text_width(titles, font_size)) + gap
    step_y = head + tile_height + gap
    left = MARGIN + (text_width(row_titles, font_size) + 16 if row_titles else 0)
    full_width = left + columns * step_x - gap + MARGIN + right
    content = rows * step_y - gap
    full_height = max(LEAST_HEIGHT, content + 2 * MARGIN)
    top = (full_height - content) // 2

    figure = blank(full_width, full_height)
    mosaic = np.full((full_height, full_width, 3), 255, np.uint8)
    for position, picture in enumerate(pictures):
        row, column = divmod(position, columns)
        middle = left + column * step_x + (step_x - gap) // 2
        x, y = middle - tile_width // 2, top + row * step_y + head
        mosaic[y : y + tile_height, x : x + tile_width] = enlarged(picture, zoom)
        lines = titles[position].split("\n") if titles else []
        for above, text in enumerate(reversed(lines)):
            write(figure, middle, y - 9 - above * line, text, ha="center", size=font_size)
        if row_titles and column == 0:
            options = {"ha": "right", "va": "center", "size": font_size}
            write(figure, x - 16, y + tile_height / 2, row_titles[row], **options)
    paint(figure, mosaic)
    return figure


def labelled_images(
    images: np.ndarray, titles: Sequence[str], columns: int, pixel_max: int, **layout: Any
) -> Figure:
    """Images with titles (kmnist_cnn Fig. 1 and 6, mnist_logistic 3.1, 4.9.1 and 4.9.2).

    images: (N, H, W) or (N, H, W, 3), row by row; titles: one for each; layout: options of
    `tiles`.
    """
    return tiles(rgb(images, pixel_max), columns, titles, **layout)


def sign(figure: Figure, name: str) -> None:
    """Write the name of the model into the lower left corner."""
    with style():
        x, y = 6 / figure.bbox.width, 5 / figure.bbox.height
        figure.text(x, y, name, ha="left", va="bottom", size=7, color=FAINT)


def png_bytes(figure: Figure, text: dict[str, str]) -> bytes:
    """The figure as a PNG with the given text entries; equal input gives equal bytes.

    The PNG has no program name and no date. It has a palette: the largest of 256, 128, 64, 32
    and 16 colours with which the file is below 60 kB, or 16 if none is.
    """
    drawn, entries = _drawn(figure), PngInfo()
    for key, value in text.items():
        entries.add_text(key, value)
    for colours in COLOURS:
        content = _encoded(drawn, colours, entries)
        if len(content) < MAX_BYTES:
            break
    return content


def _drawn(figure: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(figure)
    with style():
        canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _encoded(drawn: Image.Image, colours: int, entries: PngInfo) -> bytes:
    content = io.BytesIO()
    _quantized(drawn, colours).save(content, "png", optimize=True, pnginfo=entries)
    return content.getvalue()

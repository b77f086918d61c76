"""Images that tests draw: stripes of several directions, a class each; and imports of them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kmnist_pipeline.importing import content, reading
from kmnist_pipeline.importing.content import Content, Options

SHAPE = (12, 10)


def stripes(labels: Iterable[int], shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    """Noisy stripes, one image a label, uint8 of `shape`; a label gives the direction."""
    labels, rng = list(labels), np.random.default_rng(seed)
    y, x = np.indices(shape[:2])
    drawn = np.empty((len(labels), *shape), np.uint8)
    for row, label in enumerate(labels):
        down, right = 1 + label % 7, label // 7
        wave = (down * y + right * x) % 6 < 3
        noisy = 40 + 150 * wave + rng.normal(0, 30, shape[:2])
        noisy = noisy if len(shape) == 2 else noisy[..., None] * rng.uniform(0.4, 1, 3)
        drawn[row] = noisy.clip(0, 255)
    drawn[:, 0] = drawn[:, -1] = drawn[:, :, 0] = drawn[:, :, -1] = 0  # light on dark
    return drawn


def png(image: np.ndarray, kind: str = "PNG") -> bytes:
    """An image as a PNG, or as a file of another kind."""
    Image.fromarray(image).save(file := io.BytesIO(), kind)
    return file.getvalue()


def deep_png(levels: np.ndarray) -> bytes:
    """A PNG of 16 bits, which Pillow does not write: grey and alpha, RGB or RGBA (h, w, 2 to 4)."""
    height, width, channels = levels.shape
    kind = {2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def folder(
    place: Path, counts: dict[str, int], shape: tuple[int, ...] = SHAPE, seed: int = 0
) -> Path:
    """A folder with a sub-folder of PNG files for each class."""
    for label, (name, count) in enumerate(counts.items()):
        (place / name).mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(stripes([label] * count, shape, seed + 100 * label)):
            Image.fromarray(image).save(place / name / f"{number:03}.png")
    return place


def broken(place: Path) -> None:
    """A folder in which one image is cut."""
    file = folder(place, {"a": 3, "b": 3}) / "b/001.png"
    file.write_bytes(file.read_bytes()[:60])


def no_test(place: Path) -> None:
    """A folder of two splits, one of which lacks a class."""
    folder(place / "train", {"a": 3, "b": 3})
    folder(place / "test", {"a": 3})


def prepared(place: Path, **options: Any) -> Content:
    """What `kmnist import` makes of a source."""
    chosen = Options(**options)
    return content.prepare(reading.read(place, chosen.size), chosen)

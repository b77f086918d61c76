"""What one should know about a dataset before training: counts, duplicates, odd images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rich.cells import cell_len
from tqdm import tqdm

from kmnist_pipeline.importing.content import Content

NEAR = 0.99  # correlation of the pixels of two images that are near duplicates
BLOCKS, AXES, NEIGHBOURS = 64, 16, 8
CHUNK = 1 << 22  # pixels that are compared at a time
LUMINANCE = np.array([0.299, 0.587, 0.114])  # of red, green and blue, as Pillow has it
FEW, MOST = 3, 60  # examples of a finding; classes of the table


@dataclass(frozen=True)
class Survey:
    """The findings, as rows of images or pairs of rows.

    copies: pairs of images with equal pixels, the first one and a later one; near: pairs of nearly
    equal ones; blank: images of one value; dark_on_light: images that are bright along their edges.
    """

    copies: np.ndarray
    near: np.ndarray
    blank: np.ndarray
    dark_on_light: np.ndarray


def survey(content: Content) -> Survey:
    """Look at all images of a dataset."""
    first, copies = dict[bytes, int](), []
    for row, digest in enumerate(content.digests()):
        if (earlier := first.setdefault(digest, row)) != row:
            copies.append((earlier, row))
    flat = content.images.reshape(len(content.images), -1)
    is_blank = flat.min(axis=1) == flat.max(axis=1)
    distinct = np.array([row for row in first.values() if not is_blank[row]], np.int64)
    return Survey(
        _pairs(copies),
        near_duplicates(content.images, distinct),
        np.flatnonzero(is_blank),
        _dark_on_light(content, is_blank),
    )


def _pairs(pairs: list[tuple[int, int]]) -> np.ndarray:
    return np.array(pairs, np.int64).reshape(-1, 2)


def _dark_on_light(content: Content, is_blank: np.ndarray) -> np.ndarray:
    """Images that are brighter than half along their edges, where only paper is."""
    images = content.images
    edges = np.concatenate(
        [images[:, 0], images[:, -1], images[:, 1:-1, 0], images[:, 1:-1, -1]], axis=1
    )
    brightness = edges.mean(axis=1)
    if images.ndim == 4:
        brightness = brightness @ LUMINANCE
    return np.flatnonzero((2 * brightness > content.pixel_max) & ~is_blank)


def near_duplicates(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Pairs of rows whose images correlate by `NEAR` or more, (P, 2).

    Pixels minus their mean, divided by their length, are points whose distance tells the
    correlation. Sums over blocks and principal axes only shorten distances, so that the near
    neighbours on a few axes include all near duplicates, which are then compared in full. For an
    image with very many of them only some are found.
    """
    from scipy.spatial import cKDTree

    if len(rows) < 2:
        return _pairs([])
    size = max(1, CHUNK // images[0].size)
    parts = [*_chunks(len(rows), size)]
    blocks = np.concatenate([_blocks(_units(images[rows[at]])) for at in parts])
    _, axes = np.linalg.eigh(np.cov(blocks, rowvar=False))
    points = blocks @ axes[:, -AXES:]
    tree, limit = cKDTree(points), np.sqrt(2 - 2 * NEAR)
    found = set[tuple[int, int]]()
    for at in tqdm(parts, desc="near duplicates", unit=" parts", disable=None, leave=False):
        _, others = tree.query(
            points[at], k=min(NEIGHBOURS, len(rows)), distance_upper_bound=limit * 1.001
        )
        one, place = np.nonzero((others < len(rows)) & (others != at[:, None]))
        pairs = np.stack([at[one], others[one, place]], axis=1)
        pairs = np.unique(np.sort(pairs, axis=1), axis=0)
        for some in _chunks(len(pairs), size):
            part = pairs[some]
            left, right = (_units(images[rows[part[:, side]]]) for side in (0, 1))
            close = np.einsum("nd,nd->n", left, right) >= NEAR
            found.update(map(tuple, rows[part[close]].tolist()))
    return _pairs(sorted(found))


def _chunks(count: int, size: int) -> Iterator[np.ndarray]:
    return (np.arange(start, min(start + size, count)) for start in range(0, count, size))


def _units(images: np.ndarray) -> np.ndarray:
    """The pixels of images minus their mean, with the length 1, (N, D) float32."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def _blocks(units: np.ndarray) -> np.ndarray:
    """Sums over blocks of neighbouring features, divided so that no distance grows, (N, B)."""
    starts = np.unique(np.linspace(0, units.shape[1], BLOCKS + 1).astype(int)[:-1])
    sizes = np.diff([*starts, units.shape[1]])
    return np.add.reduceat(units, starts, axis=1) / np.sqrt(sizes)


def lines(content: Content, found: Survey, kind: str) -> Iterator[str]:
    """The findings, as text."""
    height, width = content.images.shape[1:3]
    what = "grey" if content.images.ndim == 3 else "colour"
    yield (
        f"{kind}: {len(content.images):,} images of {height}x{width} pixels (height x width), "
        f"{what}, in {len(content.classes)} classes"
    )
    yield from _table(content)
    if content.is_split_here:
        share = len(content.test) / len(content.images)
        yield (
            "each class was split by the pixels of its images, and rounded to whole images: "
            f"{100 * share:.1f} % of all are test images"
        )
    is_test = np.zeros(len(content.images), bool)
    is_test[content.test] = True
    for name, pairs in (("exact", found.copies), ("near", found.near)):
        both = is_test[pairs].sum(axis=1)
        numbers = [int((both == tests).sum()) for tests in (0, 2, 1)]
        yield (
            f"{name} duplicates: {numbers[0]} within training, {numbers[1]} within test, "
            f"{numbers[2]} across both"
        )
        yield from _pairs_named(content, pairs[np.argsort(both != 1, kind="stable")])
    differ = content.labels[found.copies]
    if len(odd := found.copies[differ[:, 0] != differ[:, 1]]):
        yield f"warning: {len(odd)} exact duplicates have another class"
        yield from _pairs_named(content, odd)
    yield f"blank images: {len(found.blank)}"
    yield from _examples([content.names[row] for row in found.blank])
    yield from _polarity(content, found)


def _polarity(content: Content, found: Survey) -> Iterator[str]:
    dark, seen = len(found.dark_on_light), len(content.images) - len(found.blank)
    if not dark:
        yield "polarity: all images are light on dark"
        return
    is_grey = content.images.ndim == 3
    does = "converts images to light on dark" if is_grey else "takes coloured images as they are"
    yield (
        f"warning: suspicious polarity: {dark:,} of {seen:,} images are dark on light; "
        f"`kmnist predict` {does}"
    )
    yield from _examples([content.names[row] for row in found.dark_on_light])


def _pairs_named(content: Content, pairs: np.ndarray) -> Iterator[str]:
    names = content.names
    return _examples([f"{names[one]} and {names[other]}" for one, other in pairs])


def _examples(names: Sequence[str]) -> Iterator[str]:
    """The first few names as lines, and how many more there are."""
    yield from (f"  {name}" for name in names[:FEW])
    if len(names) > FEW:
        yield f"  and {len(names) - FEW:,} more"


def _table(content: Content) -> Iterator[str]:
    """Counts for each class and split; only the smallest and largest classes if they are many."""
    size = len(content.classes)
    train, test = (
        np.bincount(content.labels[rows], minlength=size) for rows in (content.train, content.test)
    )
    rows = list(range(size))
    if size > MOST:
        by_size = sorted(rows, key=lambda label: int(train[label]))
        rows = by_size[:FEW] + by_size[-FEW:]
        yield f"the smallest and largest of {size} classes:"
    names = {label: content.classes[label] for label in rows}
    # Kana and Han take two columns of a terminal.
    width = max(map(cell_len, [*names.values(), "class", "all"]))
    yield f"{'class':{width}}  training    test"
    for label in rows:
        room = " " * (width - cell_len(names[label]))
        yield f"{names[label]}{room}  {train[label]:8,}  {test[label]:6,}"
    yield f"{'all':{width}}  {len(content.train):8,}  {len(content.test):6,}"

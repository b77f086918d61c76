"""Tables with a row for each image: CSV of a label and pixels, Parquet of encoded images."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from kmnist_pipeline.data import depth, pictures
from kmnist_pipeline.importing.source import (
    LABELS,
    SPLITS,
    ImportSourceError,
    Part,
    Source,
    one_each,
    reason,
    require_fits,
    shape_of_row,
    shown,
    split_word,
    words,
)

Row = tuple[np.ndarray, int | str, str]  # an image, its label, and what it is called
PIXEL = re.compile(r"\s*[0-9]{1,9}\s*", re.ASCII)


def read_csv(files: list[Path], size: tuple[int, int] | None) -> Source:
    """Rows of a label and pixels from 0 to 255, with or without a header.

    The label is in the column `label`, or in the first one. Raises ImportSourceError, which names
    file and line, for a row that has another number of pixels, or a cell that is not a pixel, and
    for a first line that may be a header or an image.
    """
    parts = [_csv(file, size) for file in files]
    labelled = "the column `label`, or of the first one if no header names it"
    return Source("CSV of a label and pixels", True, one_each(parts), labelled=labelled)


def _csv(file: Path, size: tuple[int, int] | None) -> Part:
    labels, rows, names = list[str](), bytearray(), list[str]()
    column, width, header = 0, 0, None
    try:
        with _text(file) as text:
            reader = csv.reader(text, strict=True)
            bar = tqdm(reader, desc=f"reading {file.name}", unit=" rows", disable=None, leave=False)
            for row in bar:
                where = f"{shown(file)}, line {reader.line_num}"
                if not row:
                    continue
                if header is None and not labels and _is_header(row, where):
                    header, column = row, _label_column(row) or 0
                    continue
                if column >= len(row):
                    raise ImportSourceError(f"{where}: has {len(row)} cells, but no label")
                label = row.pop(column).strip()
                if not label:
                    raise ImportSourceError(f"{where}: the cell of the label, {column}, is empty")
                width = width or len(row)
                if len(row) != width:
                    raise ImportSourceError(
                        f"{where}: has {len(row)} pixels, but the lines above have {width}"
                    )
                rows += _pixels(row, where)
                labels.append(label)
                names.append(where)
                require_fits(len(rows), shown(file))
    except csv.Error as error:
        raise ImportSourceError(f"{shown(file)}, line {reader.line_num}: {error}") from error
    except UnicodeDecodeError as error:
        raise ImportSourceError(f"{shown(file)}: is not UTF-8: {error}") from error
    except (OSError, EOFError) as error:
        raise ImportSourceError(f"{shown(file)}: cannot be read: {reason(error)}") from error
    if not labels:
        raise ImportSourceError(f"{shown(file)}: has no row of pixels")
    shape = _shape(width, header, file, size)
    images = np.frombuffer(rows, np.uint8).reshape(-1, *shape)
    word = split_word(file.name)
    return Part(None if word is None else SPLITS[word], images, labels, names)


def _text(file: Path) -> io.TextIOBase:
    with file.open("rb") as start:
        packed = start.read(2) == b"\x1f\x8b"
    opened: Any = gzip.open if packed else open
    return opened(file, "rt", encoding="utf-8-sig", newline="")


def _is_header(row: list[str], where: str) -> bool:
    """Whether the first line names the columns: by no number at all, or by numbers in order.

    Raises ImportSourceError for a line that may be either: a guess could add or lose an image.
    """
    column = _label_column(row)
    pixels = [cell for number, cell in enumerate(row) if number != (column or 0)]
    numbers = [int(cell) for cell in pixels if PIXEL.fullmatch(cell)]
    if not numbers:
        return True
    if len(numbers) != len(pixels):  # some cell is not a pixel, and is refused as such
        return False
    in_order = numbers[0] in (0, 1) and all(b - a == 1 for a, b in pairwise(numbers))
    is_numbered, is_labelled = in_order and len(numbers) > 1, column is not None
    if is_numbered and (is_labelled or numbers[-1] > pictures.WHITE):
        return True
    if is_numbered or is_labelled:
        shown_row = json.dumps(",".join(row)[:40], ensure_ascii=False)
        raise ImportSourceError(
            f"{where}: {shown_row} may be a header or an image; write a header such as "
            "label,p0,p1,... as the first line"
        )
    return False


def _label_column(header: list[str]) -> int | None:
    return next((n for n, name in enumerate(header) if LABELS & {*words(name)}), None)


def _shape(
    width: int, header: list[str] | None, file: Path, size: tuple[int, int] | None
) -> tuple[int, ...]:
    try:
        return shape_of_row(width, shown(file), size)
    except ImportSourceError as error:
        if not width or (header is not None and _label_column(header) is not None):
            raise
        try:
            shape_of_row(width + 1, shown(file), size)
        except ImportSourceError:
            raise error from None
    raise ImportSourceError(  # as Kaggle's test.csv
        f"{shown(file)}: has {width + 1} columns, as many as an image has pixels, so there are no "
        "labels; leave the file out, or add a column `label`"
    )


def _pixels(cells: list[str], where: str) -> bytes:
    text = "".join(cells).replace(" ", "")
    if text.isascii() and text.isdigit():  # `int` would also take 1_0, +5 and other digits
        with suppress(ValueError):
            return bytes(map(int, cells))
    for number, cell in enumerate(cells):
        if not PIXEL.fullmatch(cell) or int(cell) > pictures.WHITE:
            shown_cell = json.dumps(cell[:40], ensure_ascii=False)
            allowed = f"a whole number from 0 to {pictures.WHITE}"
            raise ImportSourceError(f"{where}: pixel {number} is {shown_cell}, not {allowed}")
    return bytes(map(int, cells))


def read_parquet(files: list[Path], root: Path) -> Source:
    """Rows of an encoded image and its label, as the Hugging Face Hub writes them.

    An image is PNG or JPEG: the bytes, or a struct with `bytes` and `path`. A label is a text or a
    number, whose names are in the metadata of the file, or else of another one. A folder or the
    file names the split.
    """
    tables = [_parquet(file) for file in files]
    known = next((names for _, names in tables if names is not None), None)
    parts = []
    for file, (rows, names) in zip(files, tables, strict=True):
        word = split_word(str(file.relative_to(root)))
        labels = [_label(value, names or known, where) for _, value, where in rows]
        split = None if word is None else SPLITS[word]
        parts.append(Part(split, [row[0] for row in rows], labels, [row[2] for row in rows]))
    return Source("Parquet of encoded images and labels", False, one_each(parts), known)


def _parquet(file: Path) -> tuple[list[Row], list[str] | None]:
    """The rows of a file, and the names of its labels if it has them."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as table:
            image, label = _columns(table.schema_arrow, file)
            names = _names(table.schema_arrow, label)
            found = _rows(table, image, label, file)
            bar = tqdm(
                found,
                desc=f"reading {file.name}",
                total=table.metadata.num_rows,
                unit=" images",
                disable=None,
                leave=False,
            )
            rows = list(bar)
    except (pyarrow.ArrowException, OSError) as error:
        raise ImportSourceError(f"{shown(file)}: broken Parquet: {error}") from error
    if not rows:
        raise ImportSourceError(f"{shown(file)}: has no rows")
    return rows, names


def _columns(schema: Any, file: Path) -> tuple[str, str]:
    """The names of the columns of images and of labels."""
    from pyarrow import types

    def is_bytes(kind: Any) -> bool:
        return types.is_binary(kind) or types.is_large_binary(kind)

    images = [
        f.name
        for f in schema
        if is_bytes(f.type)
        or (
            types.is_struct(f.type)
            and f.type.get_field_index("bytes") >= 0
            and is_bytes(f.type.field("bytes").type)
        )
    ]
    others = [
        f.name
        for f in schema
        if types.is_integer(f.type) or types.is_string(f.type) or types.is_large_string(f.type)
    ]
    labels = [name for name in others if LABELS & {*words(name)}] or others
    for found, what in ((images, "encoded images"), (labels, "labels")):
        if len(found) != 1:
            which = f"the columns {', '.join(found)} of {what}" if found else f"no column of {what}"
            raise ImportSourceError(f"{shown(file)}: has {which}; it must have one")
    return images[0], labels[0]


def _names(schema: Any, label: str) -> list[str] | None:
    """The names of the labels 0, 1, ... in the metadata of the Hub's library `datasets`."""
    try:
        about = json.loads((schema.metadata or {})[b"huggingface"])
        names = about["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


def _rows(table: Any, image: str, label: str, file: Path) -> Iterator[Row]:
    number = 0
    for batch in table.iter_batches(batch_size=1000, columns=[image, label]):
        for row in batch.to_pylist():
            where = f"{shown(file)}, row {number}"
            content = row[image]["bytes"] if isinstance(row[image], dict) else row[image]
            if not content:
                raise ImportSourceError(f"{where}: has no bytes of an image")
            if row[label] is None:
                raise ImportSourceError(f"{where}: has no label")
            if not content.startswith(pictures.MAGIC):
                raise ImportSourceError(f"{where}: the image is not a PNG or JPEG")
            try:
                yield depth.of_many(content), row[label], where
            except pictures.PictureError as error:
                raise ImportSourceError(f"{where}: {error}") from error
            number += 1


def _label(value: int | str, names: list[str] | None, where: str) -> str:
    if names is None or isinstance(value, str):
        return str(value)
    if not 0 <= value < len(names):
        raise ImportSourceError(f"{where}: label {value} has no name: there are {len(names)} names")
    return names[value]

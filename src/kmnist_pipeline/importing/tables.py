"""Tables with a row for each image: CSV of a label and pixels, Parquet of encoded images."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from kmnist_pipeline.data import depth, pictures
from kmnist_pipeline.importing.source import (
    LABELS,
    SPLITS,
    Part,
    Source,
    SourceError,
    one_each,
    reason,
    require_fits,
    shape_of_row,
    shown,
    split_word,
    words,
)


def read_csv(files: list[Path], size: tuple[int, int] | None) -> Source:
    """Rows of a label and pixels from 0 to 255, with or without a header.

    The label is in the column `label`, or in the first one. Raises SourceError, which names file
    and line, for a row that has another number of pixels, or something else as a pixel.
    """
    parts = [_csv(file, size) for file in files]
    labelled = "the column `label`, or of the first one if no header names it"
    return Source("CSV of a label and pixels", True, one_each(parts), labelled=labelled)


def _csv(file: Path, size: tuple[int, int] | None) -> Part:
    labels, rows, names = list[str](), bytearray(), list[str]()
    column, width = 0, 0
    try:
        with _text(file) as text:
            reader = csv.reader(text, strict=True)
            bar = tqdm(reader, desc=f"reading {file.name}", unit=" rows", disable=None, leave=False)
            for number, row in enumerate(bar):
                where = f"{shown(file)}, line {reader.line_num}"
                if number == 0 and not any(cell.strip().isdigit() for cell in row):
                    column = _label_column(row)
                    continue
                if not row:
                    continue
                if column >= len(row):
                    raise SourceError(f"{where}: has {len(row)} cells, but no label")
                label = row.pop(column).strip()
                width = width or len(row)
                if len(row) != width:
                    raise SourceError(f"{where}: has {len(row)} pixels, and lines above {width}")
                rows += _pixels(row, where)
                labels.append(label)
                names.append(where)
                require_fits(len(rows), shown(file))
    except csv.Error as error:
        raise SourceError(f"{shown(file)}, line {reader.line_num}: {error}") from error
    except UnicodeDecodeError as error:
        raise SourceError(f"{shown(file)}: is not UTF-8: {error}") from error
    except (OSError, EOFError) as error:
        raise SourceError(f"{shown(file)}: cannot be read: {reason(error)}") from error
    if not labels:
        raise SourceError(f"{shown(file)}: has no row of pixels")
    shape = shape_of_row(width, shown(file), size)
    images = np.frombuffer(rows, np.uint8).reshape(-1, *shape)
    word = split_word(file.name)
    return Part(None if word is None else SPLITS[word], images, labels, names)


def _text(file: Path) -> io.TextIOBase:
    with file.open("rb") as start:
        packed = start.read(2) == b"\x1f\x8b"
    opened: Any = gzip.open if packed else open
    return opened(file, "rt", encoding="utf-8-sig", newline="")


def _label_column(header: list[str]) -> int:
    found = [n for n, name in enumerate(header) if LABELS & {*words(name)}]
    return found[0] if found else 0


def _pixels(cells: list[str], where: str) -> bytes:
    try:
        return bytes(map(int, cells))
    except ValueError:
        for number, cell in enumerate(cells):
            if not (cell.strip().isdigit() and int(cell) <= pictures.WHITE):
                shown_cell = json.dumps(cell[:40], ensure_ascii=False)
                allowed = f"a whole number from 0 to {pictures.WHITE}"
                raise SourceError(
                    f"{where}: pixel {number} is {shown_cell}, not {allowed}"
                ) from None
        raise


def read_parquet(files: list[Path], root: Path) -> Source:
    """Rows of an encoded image and its label, as the Hugging Face Hub writes them.

    An image is PNG or JPEG: the bytes, or a struct with `bytes` and `path`. A label is a text or a
    number, whose names are in the metadata of the file. A folder or the file names the split.
    """
    parts, names = [], None
    for file in files:
        part, names = _parquet(file, split_word(str(file.relative_to(root))))
        parts.append(part)
    return Source("Parquet of encoded images and labels", False, one_each(parts), names)


def _parquet(file: Path, word: str | None) -> tuple[Part, list[str] | None]:
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
    except pyarrow.ArrowException as error:
        raise SourceError(f"{shown(file)}: broken Parquet: {error}") from error
    if not rows:
        raise SourceError(f"{shown(file)}: has no rows")
    labels = [_label(value, names, where) for _, value, where in rows]
    split = None if word is None else SPLITS[word]
    return Part(split, [row[0] for row in rows], labels, [row[2] for row in rows]), names


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
            raise SourceError(f"{shown(file)}: has {which}; it must have one")
    return images[0], labels[0]


def _names(schema: Any, label: str) -> list[str] | None:
    """The names of the labels 0, 1, ... in the metadata of the Hub's library `datasets`."""
    try:
        about = json.loads((schema.metadata or {})[b"huggingface"])
        names = about["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return [str(name) for name in names]


def _rows(
    table: Any, image: str, label: str, file: Path
) -> Iterator[tuple[np.ndarray, int | str, str]]:
    number = 0
    for batch in table.iter_batches(batch_size=1000, columns=[image, label]):
        for row in batch.to_pylist():
            where = f"{shown(file)}, row {number}"
            content = row[image]["bytes"] if isinstance(row[image], dict) else row[image]
            if not content:
                raise SourceError(f"{where}: has no bytes of an image")
            if row[label] is None:
                raise SourceError(f"{where}: has no label")
            if not content.startswith(pictures.MAGIC):
                raise SourceError(f"{where}: the image is no PNG or JPEG")
            try:
                yield depth.decode(content), row[label], where
            except pictures.PictureError as error:
                raise SourceError(f"{where}: {error}") from error
            number += 1


def _label(value: int | str, names: list[str] | None, where: str) -> str:
    if names is None or isinstance(value, str):
        return str(value)
    if not 0 <= value < len(names):
        raise SourceError(f"{where}: label {value} has no name: there are {len(names)}")
    return names[value]

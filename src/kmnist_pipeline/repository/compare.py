"""Comparing two versions of an out by their content instead of their bytes.

Numbers are equal if they differ by at most one unit in the sixth significant digit, which is the
precision of the evidence, or in the last digit of their type; figures are equal if no pixel differs
visibly. The lineage key and the machine type in an out state its origin. If only these differ, the
outs are `EQUAL`.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageChops

from kmnist_pipeline.evidence import lineage, numbers

RELATIVE = 1e-5  # one unit in the sixth digit
ABSOLUTE = 1e-9  # rounding errors around zero
LEVELS = 2  # of 255: the effect of a sixth digit on antialiasing
ORIGIN = ("made_by", "environment")
SHOWN, LONGEST = 3, 40

# Limits of what is read, far above all evidence, because a file may come from anyone.
PIXELS = 1 << 21
DIGITS = 30  # of a whole number
NAME, NAMES = 1000, 1 << 24  # characters of a value's name, and of all names in a file


class Verdict(IntEnum):
    """The result of comparing two outs; larger is worse, so `max` is the verdict on several."""

    IDENTICAL = 0
    EQUAL = 1
    DIFFERENT = 2

    @property
    def words(self) -> str:
        """The verdict in words."""
        return ("identical", "equal numbers, other bytes", "different")[self]


@dataclass(frozen=True)
class ChangedValue:
    """A changed value: its dotted name, and the change in words.

    old, new: the values if they are plain; None for arrays and for a missing value.
    """

    name: str
    amount: str
    old: Any = None
    new: Any = None

    def __str__(self) -> str:
        return f"{self.name} {self.amount}"


@dataclass(frozen=True)
class Difference:
    """The difference of two versions of an out: the verdict, a line of text, and the values.

    changes: the values that differ by more than the tolerance, the outermost names first.
    """

    path: str
    verdict: Verdict
    line: str
    changes: tuple[ChangedValue, ...] = ()


def compare(path: str, old: bytes | None, new: bytes | None) -> Difference:
    """Compare two versions of a file, in the format of its suffix.

    old, new: its contents, None if there is no file. Bytes are compared if the content cannot be
    read.
    """
    if old == new:
        return Difference(path, Verdict.IDENTICAL, Verdict.IDENTICAL.words)
    if old is None or new is None:
        return Difference(path, Verdict.DIFFERENT, "is new" if old is None else "is missing")
    read, equal = _KINDS.get(PurePosixPath(path).suffix, (None, ""))
    before, after = (_read(read, content) for content in (old, new))
    if before is None or after is None:
        return Difference(path, Verdict.DIFFERENT, _between_bytes(old, new, before, after))
    changes = [
        change
        for name in {**before, **after}
        if (change := _change(name, before.get(name, _NOTHING), after.get(name, _NOTHING)))
    ]
    if not changes:
        return Difference(path, Verdict.EQUAL, equal)
    changes.sort(key=lambda change: change.name.count(".") + change.name.count("["))
    line = ", ".join(map(str, changes[:SHOWN]))
    if len(changes) > SHOWN:
        line += f" and {len(changes) - SHOWN} more"
    return Difference(path, Verdict.DIFFERENT, line, tuple(changes))


def _read(read: Reader | None, content: bytes) -> dict[str, Any] | None:
    """The values in a file by name; None if it is damaged or of an unknown format."""
    try:
        return read(content) if read else None
    except Exception:  # decoders raise anything on damaged bytes, even SyntaxError
        return None


def _change(name: str, old: Any, new: Any) -> ChangedValue | None:
    """The change of a value; None if it is within the tolerance."""
    if old is _NOTHING:
        amount = f"is new: {_plain(new)}"
    elif new is _NOTHING:
        amount = f"is gone: {_plain(old)}"
    elif isinstance(old, np.ndarray) and isinstance(new, np.ndarray):
        amount = _between_arrays(old, new)
    elif isinstance(old, Image.Image) and isinstance(new, Image.Image):
        amount = _between_images(old, new)
    elif isinstance(old, list) and isinstance(new, list):
        amount = _between_texts(old, new)
    else:
        amount = "" if are_close(old, new) else _between_values(old, new)
    plain = (value if isinstance(value, str | int | float) else None for value in (old, new))
    return ChangedValue(name, amount, *plain) if amount else None


def are_close(old: Any, new: Any) -> bool:
    """Whether values are equal, or numbers within the tolerance; counts must be equal."""
    kinds = {type(old), type(new)}
    if kinds <= {int, float} and float in kinds:
        return math.isclose(old, new, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    return len(kinds) == 1 and old == new


def _between_arrays(old: np.ndarray, new: np.ndarray) -> str:
    if old.shape != new.shape or old.dtype != new.dtype:
        return f"{_plain(old)} -> {_plain(new)}"
    unequal = old != new
    if old.dtype.kind != "f":
        return f"differs in {unequal.sum()} of {old.size}" if unequal.any() else ""
    finite = np.isfinite(old) & np.isfinite(new)
    odd = int((unequal & ~finite & ~(np.isnan(old) & np.isnan(new))).sum())
    if odd:
        return f"is infinite or not a number on one side in {odd} of {old.size}"
    apart = np.abs(old[finite].astype(float) - new[finite].astype(float)).max(initial=0)
    largest = np.abs(old[finite]).max(initial=0)
    if apart <= max(float(max(RELATIVE, np.finfo(old.dtype).eps)) * largest, ABSOLUTE):
        return ""
    return f"differs by up to {apart:.2g} (largest value {largest:.3g})"


def _between_images(old: Image.Image, new: Image.Image) -> str:
    if old.size != new.size:
        return f"{_plain(old)} -> {_plain(new)}"
    apart = np.asarray(ImageChops.difference(old, new)).max(axis=-1)
    if apart.max() <= LEVELS:
        return ""
    count = np.count_nonzero(apart)
    return f"differ in {count} of {apart.size} by up to {apart.max()} of 255 levels"


def _between_texts(old: list[str], new: list[str]) -> str:
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    blocks = [block[1:] for block in matcher.get_opcodes() if block[0] != "equal"]
    if not blocks:
        return ""
    count = sum(max(a_end - a, b_end - b) for a, a_end, b, b_end in blocks)
    a, a_end, b, b_end = blocks[0]
    first = _between_values(" ".join(old[a:a_end]), " ".join(new[b:b_end]))
    return f"differs in {count} {'line' if count == 1 else 'lines'}, first: {first}"


def _between_values(old: Any, new: Any) -> str:
    before, after = _plain(old), _plain(new)
    if isinstance(old, str) and isinstance(new, str) and max(len(old), len(new)) > LONGEST:
        pairs = enumerate(zip(old, new, strict=False))
        same = next((place for place, (a, b) in pairs if a != b), min(len(old), len(new)))
        start = max(old.rfind(" ", 0, same) + 1, same - LONGEST // 2)
        before, after = (f"...{_plain(text[start:])}" for text in (old, new))
    return f"{before} -> {after}"


def _between_bytes(old: bytes, new: bytes, before: Any, after: Any) -> str:
    """before, after: the content, or None if it is unreadable."""
    if len(old) != len(new):
        line = f"{len(old)} -> {len(new)} bytes"
    else:
        count = np.count_nonzero(np.frombuffer(old, np.uint8) != np.frombuffer(new, np.uint8))
        line = f"{count} of {len(old)} bytes {'differs' if count == 1 else 'differ'}"
    if before is not None or after is not None:
        line += f"; the {'old' if before is None else 'new'} file cannot be read"
    return line


def _plain(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, np.ndarray):
        return f"{'x'.join(map(str, value.shape))} {value.dtype}"
    if isinstance(value, Image.Image):
        return f"{value.width}x{value.height}"
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


# The values in a file, by name: plain values, arrays, an image, or the lines of a text.

_NOTHING = object()


def of_json(content: bytes) -> Any:
    """The value of a JSON text. Raises ValueError if it is damaged, or has a very long number."""
    return json.loads(content, parse_int=_whole)


def _whole(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"a number has {len(text)} digits")
    return int(text)


def _json(content: bytes) -> dict[str, Any]:
    value = numbers.decode(of_json(content))
    if isinstance(value, dict):
        value = {name: part for name, part in value.items() if name not in ORIGIN}
    return _bounded(lineage.leaves("", value))


def _bounded(values: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The values by name. Raises ValueError if the names are long: nesting multiplies them."""
    found, room = {}, NAMES
    for name, value in values:
        room -= len(name)
        if len(name) > NAME or room < 0:
            raise ValueError("the names are too long")
        found[name] = value
    return found


def _csv(content: bytes) -> dict[str, Any]:
    header, *rows = csv.reader(io.StringIO(content.decode(), newline=""))
    return {"columns": ",".join(header), "rows": len(rows), **_bounded(_cells(header, rows))}


def _cells(header: list[str], rows: list[list[str]]) -> Iterator[tuple[str, Any]]:
    """Each cell by line and column: counts as int, other numbers as float, the rest as text."""
    for line, row in enumerate(rows, 2):
        for column, cell in zip(header, row, strict=True):
            yield f"line {line}.{column}", _number(cell)


def _number(text: str) -> Any:
    for kind in (_whole, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _png(content: bytes) -> dict[str, Any]:
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        if image.width * image.height > PIXELS:
            raise ValueError(f"{_plain(image)} pixels are more than {PIXELS}")
        return {"pixels": image.convert("RGBA")}


def _npz(content: bytes) -> dict[str, Any]:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _safetensors(content: bytes) -> dict[str, Any]:
    from kmnist_pipeline.families import file

    tensors, metadata = file.decode(content)
    return {**tensors, **_bounded(lineage.leaves("metadata", metadata))}


# Ignored in a page: its figures, which are also files; the hashes of its origin; and tags.
_NOT_TEXT = re.compile(r"data:[\w/+.-]+;base64,[\w/+=]+|\b(?=[0-9]*[a-f])[0-9a-f]{12,}\b|<[^>]*>")


def _page(content: bytes) -> dict[str, Any]:
    lines = (" ".join(_NOT_TEXT.sub(" ", line).split()) for line in content.decode().splitlines())
    return {"text": [line for line in lines if line]}


Reader = Callable[[bytes], dict[str, Any]]
_KINDS: dict[str, tuple[Reader | None, str]] = {
    ".json": (_json, "equal to six digits"),
    ".csv": (_csv, "equal to six digits"),
    ".npz": (_npz, "equal to six digits"),
    ".safetensors": (_safetensors, "equal to six digits"),
    ".png": (_png, "no pixel differs visibly"),
    ".html": (_page, "the same text"),
    ".md": (_page, "the same text"),
}

"""Writing results: complete or not at all, and equal content as equal bytes."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

# The names of unfinished files and folders have this prefix and suffix, and Git ignores them. They
# are in the folders of their targets, because renaming is atomic only within a file system.
BEGINS, ENDS = ".kmnist-", ".unfinished"
LEFTOVERS = f"{BEGINS}*{ENDS}"
DAY = 24 * 60 * 60


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it, so that it is never incomplete."""
    with writing(path) as file:
        file.write(content)


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """As `replacing`, but makes the folder too, and a disk error in the block names the out."""
    with _named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            yield file


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that replaces `path` when the block ends without an error."""
    with _named(path):
        remove_leftovers(path.parent.glob(LEFTOVERS))
        handle, temporary = tempfile.mkstemp(prefix=BEGINS, suffix=ENDS, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def fresh_directory(path: Path) -> Iterator[Path]:
    """A new directory that replaces `path` when the block ends without an error."""
    with _named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent.glob(LEFTOVERS))
        temporary = Path(tempfile.mkdtemp(prefix=BEGINS, suffix=ENDS, dir=path.parent))
        try:
            yield temporary
            os.chmod(temporary, 0o755)
            shutil.rmtree(path, ignore_errors=True)
            os.replace(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Remove those files and folders that no process has changed for a day."""
    for left in paths:
        with suppress(OSError):  # another process removes it too, or it is another user's
            inside = left.rglob("*") if left.is_dir() else ()
            if max(path.lstat().st_mtime for path in (left, *inside)) < time.time() - DAY:
                shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Make a disk error name the out, instead of a temporary file or no file."""
    try:
        yield
    except OSError as error:
        named = Path(error.filename or "")
        if error.filename and ENDS not in str(named) and path.name not in named.name:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


# The format of a table's row on one line.
ROW: dict[str, Any] = {"sort_keys": True, "ensure_ascii": False, "allow_nan": False}


def rounded(value: Any) -> Any:
    """`value` with floats of six significant digits, and plain values for NumPy's."""
    if isinstance(value, dict):
        return {str(key): rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return rounded(value.tolist())
    return float(f"{value:.6g}") if isinstance(value, float) else value


def json_bytes(content: Any) -> bytes:
    """Canonical JSON for people: sorted keys, six significant digits, flat lists on one line."""
    return (_lay_out(rounded(content), "") + "\n").encode()


def _lay_out(value: Any, indent: str) -> str:
    inner = indent + "  "
    if isinstance(value, dict) and value:
        is_table = all(key.startswith("#") for key in value)  # each row on one line
        rows = [
            f"{json.dumps(k)}: {json.dumps(v, **ROW) if is_table else _lay_out(v, inner)}"
            for k, v in sorted(value.items(), key=_order)
        ]
        return "{\n" + ",\n".join(inner + row for row in rows) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        rows = [json.dumps(item, **ROW) for item in value]
        return "[\n" + ",\n".join(inner + row for row in rows) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _order(item: tuple[str, Any]) -> tuple[int, str]:
    """Sort keys by name, and positions (`#2`, `#10`) by number."""
    return (len(item[0]) if item[0].startswith("#") else 0, item[0])


def csv_bytes(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> bytes:
    """A CSV table with floats of six significant digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rounded(list(row)) for row in rows)
    return text.getvalue().encode()

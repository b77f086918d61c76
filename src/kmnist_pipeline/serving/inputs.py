"""Reading pictures from files, folders and standard input, and preparing them for a model.

The first bytes of a file decide its format, never its name. All input is untrusted: no pickle is
loaded, only PNG, JPEG, IDX (plain or gzip) and NPZ are read, sizes are limited before memory is
allocated, and links in a folder are not followed out of it. A file that cannot be used is reported,
and the next one is read.
"""

from __future__ import annotations

import errno
import gzip
import io
import os
import stat
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from kmnist_pipeline.data import depth, idx, pictures
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.figures import thumbnails
from kmnist_pipeline.repository.names import printable
from kmnist_pipeline.serving import character
from kmnist_pipeline.serving.character import Form, Prepared

STDIN = "-"
IDX = tuple(b"\0\0" + bytes([kind]) for kind in (8, 9, 11, 12, 13, 14))  # HEIC has a third zero
LARGEST = 1 << 29  # bytes of one file, packed or unpacked

Skip = Callable[[str, str], object]  # gets the name of a file and the problem


class InputError(UserError):
    """A file that is not a usable image; the message says what was found."""


@dataclass(frozen=True)
class Picture:
    """One picture in a model's form.

    name: the file's name, and the picture's number if the file has several, without unprintable
    characters; before: a thumbnail of it as it was sent.
    """

    name: str
    before: np.ndarray
    prepared: Prepared


Make = Callable[[str, np.ndarray, int], Picture]  # from a name, its pixels and their white


def read(places: Iterable[str], form: Form, skip: Skip, as_is: bool = False) -> Iterator[Picture]:
    """The pictures of files, folders and `-` (standard input), one after the other, in order.

    A folder means all files in it and in its subfolders, sorted by name, without hidden ones.
    `skip` is called for files that cannot be used. as_is: the pictures are in the model's form.
    """
    make = partial(_as_it_is if as_is else _prepared, form)
    for place in places:
        for path in _files(place, skip):
            try:
                yield from _pictures(_called(path), _content(path), form, make, skip)
            except (UserError, OSError, MemoryError) as error:
                skip(_called(path), _words(error))


def require(places: Sequence[str]) -> None:
    """Raise UserError if none of the places exists: then no model is needed to say so."""
    missing = [place for place in places if place != STDIN and not os.path.lexists(place)]
    if len(missing) == len(places):
        lines = (f"{_called(place)}: {os.strerror(errno.ENOENT)}" for place in missing)
        raise UserError("\n".join(lines))


def require_apart(places: Sequence[str], files: Sequence[Path]) -> None:
    """Raise UserError if a file to write is also an image to read, or the other file to write."""
    written = [os.path.realpath(file) for file in files]
    if len(written) > len({*written}):
        raise UserError(f"{files[0]}: is named twice, for the table and the sheet; name two files")
    for place in places:
        read = os.path.realpath("/dev/stdin" if place == STDIN else place)
        for file, path in zip(files, written, strict=True):
            if path == read or (os.path.exists(path) and _is_read_in(read, path)):
                raise UserError(
                    f"{file}: is among the files to classify, and would be replaced; name another"
                )


def _is_read_in(folder: str, path: str) -> bool:
    """Whether a file is in a folder or its subfolders, and neither it nor they are hidden."""
    above, _, below = path.partition(f"{folder.rstrip(os.sep)}{os.sep}")
    return not above and not any(part.startswith(".") for part in below.split(os.sep))


def _called(path: str) -> str:
    return "stdin" if path == STDIN else printable(path)


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return printable(str(error)) or type(error).__name__


def _files(place: str, skip: Skip) -> Iterator[str]:
    """The place itself, or the files of a folder."""
    if place == STDIN or not os.path.isdir(place):
        yield place
        return
    root, found = os.path.realpath(place), False
    walk = os.walk(place, onerror=lambda error: skip(printable(str(error.filename)), _words(error)))
    for folder, below, names in walk:
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in (name for name in below if os.path.islink(os.path.join(folder, name))):
            skip(printable(os.path.join(folder, name)), "is a link to a folder; it is not followed")
        for name in sorted(name for name in names if not name.startswith(".")):
            found = True
            path = os.path.join(folder, name)
            problem = _confined(path, root)
            if problem:
                skip(printable(path), problem)
            else:
                yield path
    if not found:
        skip(printable(place), "there is no file in this folder")


def _confined(path: str, root: str) -> str | None:
    """Why a file found in a folder must not be opened; None if it may be."""
    try:
        target = os.path.realpath(path, strict=True) if os.path.islink(path) else path
        if target is not path and os.path.commonpath([target, root]) != root:
            return "is a link out of the folder; it is not followed"
        return None if stat.S_ISREG(os.stat(target).st_mode) else "is not a regular file"
    except OSError as error:
        return _words(error)


def _content(path: str) -> bytes:
    """The bytes of a file or of standard input. Raises InputError if there are too many."""
    if path == STDIN:
        return _bounded(sys.stdin.buffer.read(LARGEST + 1))
    with open(path, "rb") as file:
        about = os.fstat(file.fileno())
        known = stat.S_ISREG(about.st_mode) and about.st_size <= LARGEST
        return file.read() if known else _bounded(file.read(LARGEST + 1))


def _bounded(content: bytes) -> bytes:
    if len(content) > LARGEST:
        raise InputError(f"more than {LARGEST >> 20} MiB; split it into several files")
    return content


def _pictures(name: str, content: bytes, form: Form, make: Make, skip: Skip) -> Iterator[Picture]:
    if content.startswith(b"\x1f\x8b"):
        content = _unzipped(content)
    if content.startswith(pictures.MAGIC):
        yield make(name, depth.decode(content), pictures.WHITE)
    elif content.startswith(IDX):
        yield from _of_array(name, idx.decode(content), form, make, skip)
    elif content.startswith(b"PK"):
        yield from _of_array(name, _of_npz(content), form, make, skip)
    else:
        raise InputError("is neither PNG nor JPEG, IDX nor NPZ" if content else "is empty")


def _unzipped(content: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            return _bounded(file.read(LARGEST + 1))
    except Exception as error:
        raise _broken("gzip", error) from error


def _broken(what: str, error: Exception) -> UserError:
    """The error for a broken file, on which decoders raise anything, even SyntaxError."""
    return error if isinstance(error, UserError) else InputError(f"broken {what}: {_words(error)}")


def _of_npz(content: bytes) -> np.ndarray:
    """The array `images` of an NPZ, or its only array."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(member.file_size for member in archive.infolist()) > LARGEST:
                raise InputError(f"has more than {LARGEST >> 20} MiB; split it")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            names = arrays.files
            if "images" not in names and len(names) != 1:
                found = printable(", ".join(names)) or "none"
                raise InputError(f"has no array `images` and not exactly one array, but {found}")
            return np.asarray(arrays["images" if "images" in names else names[0]])
    except Exception as error:
        raise _broken("NPZ", error) from error


def _of_array(
    name: str, array: np.ndarray, form: Form, make: Make, skip: Skip
) -> Iterator[Picture]:
    """The pictures of an array (N, H, W) or (N, H, W, 3), which all have the same range."""
    if array.ndim != 3 and (array.ndim != 4 or array.shape[3] != 3):
        raise InputError(
            f"has an array of shape {array.shape}, not images (N, height, width) or "
            "(N, height, width, 3)"
        )
    if not array.size:
        raise InputError(f"has no images: its shape is {array.shape}")
    white = _white(array, form)
    for number, pixels in enumerate(array):
        try:
            yield make(f"{name}[{number}]", pixels, white)
        except UserError as error:
            skip(f"{name}[{number}]", str(error))


def _white(array: np.ndarray, form: Form) -> int:
    """The value of white in an array: 1 for masks and fractions, else the white of bytes.

    Files of datasets with a white of 16 use 16.
    """
    if array.dtype in (np.uint8, np.bool_):
        return character.white(array, form)
    if np.issubdtype(array.dtype, np.floating) and array.min() >= 0 and array.max() <= 1:
        return 1
    raise InputError(
        f"has pixels of type {array.dtype}; they must be bytes or fractions from 0 to 1"
    )


def _prepared(form: Form, name: str, pixels: np.ndarray, white: int) -> Picture:
    picture = pixels / np.float32(white)
    return Picture(name, thumbnails.thumbnail(picture), character.prepare(picture, form))


def _as_it_is(form: Form, name: str, pixels: np.ndarray, white: int) -> Picture:
    picture = pixels / np.float32(white)
    return Picture(name, thumbnails.thumbnail(picture), character.as_it_is(picture, form))

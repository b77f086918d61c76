"""Reading images from files, folders and standard input, and converting them for a model.

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

import numpy as np

from kmnist_pipeline.data import idx, pictures
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.repository.names import printable

STDIN = "-"
IDX = tuple(b"\0\0" + bytes([kind]) for kind in (8, 9, 11, 12, 13, 14))  # HEIC has a third zero
LARGEST = 1 << 29  # bytes of one file, packed or unpacked
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # the brightness of red, green and blue

Fault = Callable[[str, str], object]  # gets the name of a file and the problem


class InputError(UserError):
    """A file that is not a usable image; the message says what was found."""


@dataclass(frozen=True)
class Form:
    """The form of a model's training images: their shape and the value of white.

    shape: (height, width) of grey images, white on black, or (height, width, 3) of coloured ones.
    """

    shape: tuple[int, ...]
    pixel_max: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.shape[0], self.shape[1]

    @property
    def is_grey(self) -> bool:
        """Whether the images have no colours."""
        return len(self.shape) == 2

    def __str__(self) -> str:
        kind = "white on black" if self.is_grey else "coloured"
        return f"{self.shape[0]}x{self.shape[1]}, {kind}, 0 to {self.pixel_max}"


@dataclass(frozen=True)
class Picture:
    """One image in a model's form.

    name: the file's name, and the image's number if the file has several, without unprintable
    characters; pixels: uint8 of the form's shape; prepared: the conversions, empty if there were
    none.
    """

    name: str
    pixels: np.ndarray
    prepared: str


def read(places: Iterable[str], form: Form, fault: Fault) -> Iterator[Picture]:
    """The images of files, folders and `-` (standard input), one after the other, in order.

    A folder means all files in it and in its subfolders, sorted by name, without hidden ones.
    `fault` is called for files that cannot be used.
    """
    for place in places:
        for path in _files(place, fault):
            try:
                yield from _pictures(_called(path), _content(path), form, fault)
            except (UserError, OSError, MemoryError) as error:
                fault(_called(path), _words(error))


def require(places: Sequence[str]) -> None:
    """Raise UserError if none of the places exists: then no model is needed to say so."""
    missing = [place for place in places if place != STDIN and not os.path.lexists(place)]
    if len(missing) == len(places):
        lines = (f"{_called(place)}: {os.strerror(errno.ENOENT)}" for place in missing)
        raise UserError("\n".join(lines))


def _called(path: str) -> str:
    return "stdin" if path == STDIN else printable(path)


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return printable(str(error)) or type(error).__name__


def _files(place: str, fault: Fault) -> Iterator[str]:
    """The place itself, or the files of a folder."""
    if place == STDIN or not os.path.isdir(place):
        yield place
        return
    root, found = os.path.realpath(place), False
    walk = os.walk(
        place, onerror=lambda error: fault(printable(str(error.filename)), _words(error))
    )
    for folder, below, names in walk:
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in (name for name in below if os.path.islink(os.path.join(folder, name))):
            fault(
                printable(os.path.join(folder, name)), "is a link to a folder; it is not followed"
            )
        for name in sorted(name for name in names if not name.startswith(".")):
            found = True
            path = os.path.join(folder, name)
            problem = _confined(path, root)
            if problem:
                fault(printable(path), problem)
            else:
                yield path
    if not found:
        fault(printable(place), "there is no file in this folder")


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


def _pictures(name: str, content: bytes, form: Form, fault: Fault) -> Iterator[Picture]:
    if content.startswith(b"\x1f\x8b"):
        content = _unzipped(content)
    if content.startswith(pictures.MAGIC):
        yield _fitted(
            name, pictures.decode(content, "L" if form.is_grey else "RGB"), form, pictures.WHITE
        )
    elif content.startswith(IDX):
        yield from _of_array(name, idx.decode(content), form, fault)
    elif content.startswith(b"PK"):
        yield from _of_array(name, _of_npz(content), form, fault)
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


def _of_array(name: str, array: np.ndarray, form: Form, fault: Fault) -> Iterator[Picture]:
    """The images of an array (N, H, W) or (N, H, W, 3), of the same polarity and range."""
    if array.ndim != 3 and (array.ndim != 4 or array.shape[3] != 3):
        raise InputError(
            f"has an array of shape {array.shape}, not images (N, height, width) or "
            "(N, height, width, 3)"
        )
    if not array.size:
        raise InputError(f"has no images: its shape is {array.shape}")
    white = _white(array, form)
    inverted = array.ndim == 3 and form.is_grey and _is_dark_on_light(array, white)
    for number, image in enumerate(_channels(image, form) for image in array):
        try:
            yield _fitted(f"{name}[{number}]", image, form, white, inverted)
        except InputError as error:
            fault(f"{name}[{number}]", str(error))


def _channels(image: np.ndarray, form: Form) -> np.ndarray:
    """The image with the channels of the form: colours as their brightness, grey as three equal."""
    if form.is_grey and image.ndim == 3:
        brightness = image @ LUMA
        return brightness if image.dtype.kind == "f" else np.rint(brightness).astype(np.uint8)
    if not form.is_grey and image.ndim == 2:
        return np.repeat(image[..., None], 3, axis=2)
    return image


def _white(array: np.ndarray, form: Form) -> int:
    """The value of white in an array: 1 for masks and fractions, else the white of bytes.

    Files of datasets with a white of 16 use 16.
    """
    if array.dtype in (np.uint8, np.bool_):
        brightest = int(array.max())
        return next((top for top in (1, form.pixel_max) if brightest <= top), pictures.WHITE)
    if np.issubdtype(array.dtype, np.floating) and array.min() >= 0 and array.max() <= 1:
        return 1
    raise InputError(
        f"has pixels of type {array.dtype}; they must be bytes or fractions from 0 to 1"
    )


def _fitted(
    name: str, pixels: np.ndarray, form: Form, white: int, inverted: bool | None = None
) -> Picture:
    """An image (h, w) or (h, w, 3), converted to the model's form.

    inverted: dark on light, None: unknown. Colours are never inverted.
    """
    if pixels.min() == pixels.max():
        raise InputError("is blank: all its pixels are alike")
    height, width = pixels.shape[:2]
    level, done = white, []
    if (height, width) != form.size or white not in (form.pixel_max, pictures.WHITE):
        pixels, level = _scaled(pixels, white, pictures.WHITE), pictures.WHITE
    if (height, width) != form.size:
        pixels = pictures.scaled(pixels, form.size)
        done.append(f"{width}x{height} to {form.shape[1]}x{form.shape[0]}")
    if inverted is None:
        inverted = form.is_grey and _is_dark_on_light(pixels[None], level)
    if inverted:
        pixels = level - pixels
        done.append("inverted")
    if pixels.shape != form.shape:
        free = np.subtract(form.shape, pixels.shape)
        pixels = np.pad(pixels, [(room // 2, room - room // 2) for room in free])
        done.append("filled up to a square" if form.shape[0] == form.shape[1] else "filled up")
    if white != form.pixel_max:
        done.append(f"0..{white} to 0..{form.pixel_max}")
    return Picture(name, _scaled(pixels, level, form.pixel_max), ", ".join(done))


def _scaled(pixels: np.ndarray, white: int, to: int) -> np.ndarray:
    return pixels if white == to else np.rint(pixels * (to / white)).astype(np.uint8)


def _is_dark_on_light(pixels: np.ndarray, white: int) -> bool:
    """Whether images (N, H, W) are brighter than half along their edges, where only paper is.

    None of the 141,797 images of digits, KMNIST and MNIST is, and each is when inverted.
    """
    rows, columns = pixels[:, [0, -1]], pixels[:, 1:-1, [0, -1]]
    edge = rows.sum(dtype=np.float64) + columns.sum(dtype=np.float64)
    return bool(2 * edge > white * (rows.size + columns.size))

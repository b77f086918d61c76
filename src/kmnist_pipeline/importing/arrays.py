"""Files of arrays: NPZ and IDX, with images and labels in one file or in several."""

from __future__ import annotations

import csv
import gzip
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kmnist_pipeline.data import idx
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.importing.source import (
    IMAGES,
    LABELS,
    LARGEST,
    SPLITS,
    ImportSourceError,
    Part,
    Source,
    named,
    one_each,
    pixels_of,
    require_fits,
    shown,
    split_word,
    words,
)
from kmnist_pipeline.repository.names import printable

UNNAMED = "arr_0"  # the array of an NPZ that was saved without a name
NAMES = "classes"
# Words of an array that is about images or labels, such as `image_id` and `target_names`.
ABOUT = {"id", "ids", "name", "names", "path", "paths", "file", "files", "filename", "filenames",
         "index", "size", "sizes", "shape", "shapes"}  # fmt: skip

Found = dict[tuple[str, str | None], tuple[str, np.ndarray]]  # by content and word of the split


def read(files: list[Path], kind: str, size: tuple[int, int] | None) -> Source:
    """The images and labels of NPZ or IDX files.

    The name of an array or file says what it has, such as `train-images`, `y_test` or `labels`. An
    array `classes`, or a file `*classmap.csv` in the same folder, has the names of the classes.
    """
    found: Found = {}
    names = None
    for file in files:
        for name, array in _arrays(file, kind):
            if name == NAMES and array.dtype.kind == "U":
                names = [str(text) for text in array.ravel()]
            else:
                _add(found, file, name, array)
    names = names or next(map(_class_map, files[0].parent.glob("*classmap.csv")), None)
    parts = []
    for (what, word), (where, array) in found.items():
        other = "labels" if what == "images" else "images"
        if (other, word) not in found:
            raise ImportSourceError(f"{where}: has {what}, but {_no(other, word, files)}")
        if what == "labels":
            continue
        place, labels = found["labels", word]
        images = pixels_of(array, where, size)
        if len(labels) != len(images):
            raise ImportSourceError(f"{place}: has {len(labels)} labels for {len(images)} images")
        numbered = [f"{where}[{number}]" for number in range(len(images))]
        split = None if word is None else SPLITS[word]
        parts.append(Part(split, images, named(labels, names, place), numbered))
    if not parts:
        raise ImportSourceError(f"{shown(files[0])}: {_no('images', None, files)}")
    return Source(f"{kind} of images and labels", True, one_each(parts), names)


def _no(what: str, word: str | None, files: list[Path]) -> str:
    known = ", ".join(sorted(IMAGES if what == "images" else LABELS))
    of = f" of {word}" if word else ""
    hint = "; if they are in another file, give the folder of both" if len(files) == 1 else ""
    return f"there is no array of {what}{of} (its name has one of the words {known}){hint}"


def _add(found: Found, file: Path, name: str, array: np.ndarray) -> None:
    """Add an array of images or of labels; one of other content is left out."""
    where = shown(file) if name == UNNAMED else f"{shown(file)}: {name}"
    if ABOUT & {*words(name)}:
        return
    for text in (name, file.name):
        for what, known in (("images", IMAGES), ("labels", LABELS)):
            if known & {*words(text)}:
                key = (what, split_word(name) or split_word(file.name))
                if key in found:
                    raise ImportSourceError(
                        f"{where}: is also in {found[key][0]}; remove one of them"
                    )
                found[key] = (where, array)
                return


def _arrays(file: Path, kind: str) -> Iterator[tuple[str, np.ndarray]]:
    try:
        if kind == "IDX":
            content = file.read_bytes()
            if content.startswith(b"\x1f\x8b"):
                with gzip.open(file) as packed:
                    content = packed.read(LARGEST + 1)
                require_fits(len(content), shown(file))
            yield UNNAMED, idx.decode(content)
            return
        with zipfile.ZipFile(file) as archive:
            require_fits(sum(member.file_size for member in archive.infolist()), shown(file))
        with np.load(file, allow_pickle=False) as arrays:
            for name in arrays.files:
                if not isinstance(array := arrays[name], np.ndarray):
                    raise ImportSourceError(
                        f"{shown(file)}: {printable(name)}: is not a NumPy array"
                    )
                yield name, array
    except ImportSourceError:
        raise
    except UserError as error:
        raise ImportSourceError(f"{shown(file)}: {error}") from error
    except Exception as error:  # decoders raise anything
        raise ImportSourceError(f"{shown(file)}: broken {kind}: {error}") from error


def _class_map(file: Path) -> list[str]:
    """The names in the table index, codepoint, char that Kuzushiji-49 has."""
    try:
        with file.open(encoding="utf-8", newline="") as text:
            rows = list(csv.DictReader(text))
        names = {int(row["index"]): str(row["char"]) for row in rows}
    except (csv.Error, UnicodeDecodeError, KeyError, TypeError, ValueError):
        raise ImportSourceError(f"{shown(file)}: needs the columns index and char") from None
    if [*names] != [*range(len(names))]:
        raise ImportSourceError(f"{shown(file)}: the column index must count from 0")
    return [*names.values()]

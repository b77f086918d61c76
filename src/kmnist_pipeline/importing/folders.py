"""A folder with one sub-folder for each class, alone or in `train/` and `test/`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from kmnist_pipeline.data import depth, pictures
from kmnist_pipeline.importing.source import SPLITS, ImportSourceError, Part, Source, shown

KIND = "a folder with one sub-folder for each class"


def read(folder: Path) -> Source:
    """The images in the sub-folders; the name of a sub-folder is the class of its images.

    Raises ImportSourceError for a file in them that is not a PNG or JPEG, and for a class without
    images.
    """
    splits = [f for f in _folders(folder) if f.name.lower() in SPLITS and _folders(f)]
    others = [f for f in _folders(folder) if f not in splits]
    if splits and others:
        raise ImportSourceError(
            f"{shown(others[0])}: is a class next to the split {shown(splits[0])}; move it into a "
            "split, or move the splits elsewhere"
        )
    parts = [_part(f, SPLITS[f.name.lower()], folder) for f in splits] or [
        _part(folder, None, folder)
    ]
    return Source(KIND, False, parts)


def _part(folder: Path, split: str | None, root: Path) -> Part:
    files = []
    for entry in sorted(folder.iterdir()):
        if entry.is_file() and not entry.name.startswith(".") and is_picture(entry):
            raise ImportSourceError(
                f"{shown(entry)}: is in no class; put it into a sub-folder of a class"
            )
    for below in _folders(folder):
        found = list(_files(below, root))
        if not found:
            raise ImportSourceError(f"{shown(below)}: the class has no image; remove the folder")
        files += [(file, below.name) for file in found]
    if not files:
        raise ImportSourceError(
            f"{shown(folder)}: has no sub-folders with images and no known file"
        )
    bar = tqdm(files, desc=f"reading {folder.name}", unit=" images", disable=None, leave=False)
    images = [_image(file) for file, _ in bar]
    return Part(split, images, [name for _, name in files], [shown(file) for file, _ in files])


def is_picture(file: Path) -> bool:
    """Whether a file begins as PNG and JPEG do."""
    with file.open("rb") as content:
        return content.read(8).startswith(pictures.MAGIC)


def _image(file: Path) -> np.ndarray:
    content = file.read_bytes()
    if not content.startswith(pictures.MAGIC):
        raise ImportSourceError(f"{shown(file)}: is not a PNG or JPEG; remove it from the folder")
    try:
        return depth.of_many(content)
    except pictures.PictureError as error:
        raise ImportSourceError(f"{shown(file)}: {error}") from error


def _folders(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def _files(folder: Path, root: Path) -> Iterator[Path]:
    """The files in a folder and its sub-folders, without hidden ones.

    Raises ImportSourceError for a link out of the source, which could bring in any file.
    """
    top = root.resolve()
    if not folder.resolve().is_relative_to(top):
        raise ImportSourceError(
            f"{shown(folder)}: is a link out of the folder; put the images there"
        )
    for here, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted([*names, *(n for n in below if (Path(here) / n).is_symlink())]):
            file = Path(here) / name
            if name.startswith("."):
                continue
            if not file.resolve().is_relative_to(top) or not file.is_file():
                reason = "is a link out of the folder or not a regular file; put the image there"
                raise ImportSourceError(f"{shown(file)}: {reason}")
            yield file

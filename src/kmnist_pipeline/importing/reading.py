"""Finding out what a source is, by the first bytes of its files, and reading it."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

from kmnist_pipeline.data import pictures
from kmnist_pipeline.importing import arrays, folders, tables
from kmnist_pipeline.importing.source import ImportSourceError, Source, shown

KINDS = "a folder with one sub-folder for each class, NPZ, IDX, CSV or Parquet"
GZIP = b"\x1f\x8b"


def read(source: Path, size: tuple[int, int] | None) -> Source:
    """The images and labels of a folder or file. size: of images that are rows of pixels.

    Raises ImportSourceError, which names the file and the reason, for what cannot be read.
    """
    if not source.exists():
        raise ImportSourceError(f"{shown(source)}: there is no such file or folder")
    if not (source.is_file() or source.is_dir()):
        raise ImportSourceError(f"{shown(source)}: is neither a regular file nor a folder")
    if source.is_file():
        return _of_kind(_kind(source), [source], source.parent, size)
    files = _files(source)
    kinds = {file: _kind(file) for file in files}
    # A file among the images of a class is not a table, but a misplaced file.
    classes = {file.parent for file in files if kinds[file] == "picture"} - {source}
    for kind in ("NPZ", "IDX", "Parquet"):
        if chosen := [f for f in files if kinds[f] == kind and f.parent not in classes]:
            return _of_kind(kind, chosen, source, size)
    if any(path.is_dir() and not path.name.startswith(".") for path in source.iterdir()):
        return folders.read(source)
    if chosen := [file for file in files if kinds[file] == "CSV"]:
        return _of_kind("CSV", chosen, source, size)
    raise ImportSourceError(f"{shown(source)}: is not a known source; known are {KINDS}")


def _of_kind(
    kind: str | None, files: list[Path], root: Path, size: tuple[int, int] | None
) -> Source:
    match kind:
        case "NPZ" | "IDX":
            return arrays.read(files, kind, size)
        case "Parquet":
            return tables.read_parquet(files, root)
        case "CSV":
            return tables.read_csv(files, size)
        case "picture":
            raise ImportSourceError(f"{shown(files[0])}: is one image; give a folder of classes")
        case "ZIP":
            raise ImportSourceError(
                f"{shown(files[0])}: is a ZIP archive; unpack it, and give the folder"
            )
    raise ImportSourceError(f"{shown(files[0])}: is not a known source; known are {KINDS}")


def _files(source: Path) -> list[Path]:
    """The files in a folder and its sub-folders, without hidden ones."""
    found = (path for path in source.rglob("*") if path.is_file())
    return sorted(
        path
        for path in found
        if not any(part.startswith(".") for part in path.relative_to(source).parts)
    )


def _kind(file: Path) -> str | None:
    with file.open("rb") as content:
        start = content.read(8)
    if start.startswith(GZIP):
        try:
            with gzip.open(file) as unpacked:
                start = unpacked.read(8)
        except (OSError, EOFError):
            start = b""
    if start.startswith(pictures.MAGIC):
        return "picture"
    if start.startswith(b"PK"):  # so do the files of office programs
        return "NPZ" if file.suffix.lower() == ".npz" or _has_arrays(file) else "ZIP"
    for kind, magic in {"IDX": b"\0\0\x08", "Parquet": b"PAR1"}.items():
        if start.startswith(magic):
            return kind
    return "CSV" if ".csv" in map(str.lower, file.suffixes) else None


def _has_arrays(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except Exception:  # decoders raise anything
        return False

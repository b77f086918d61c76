"""The store of fits: results of fits and checkpoints of unfinished fits, by key.

It is a cache: deleting it only costs time. Each file begins with the sha256 of its key and content,
so that a damaged or misplaced file is detected, reported, deleted and computed again. KMNIST_FITS
can name another folder than `.kmnist/fits`, such as one that a team shares.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import outs
from kmnist_pipeline.families.base import Checkpoint

VARIABLE = "KMNIST_FITS"
DEFAULT = ".kmnist/fits"
FINISHED, UNFINISHED = ".fit", ".checkpoint"


class LostError(RuntimeError):
    """The store has lost a fit."""


@dataclass(frozen=True)
class Entry:
    """A file of the store: its key, whether the fit is finished, its size, and the `about` of
    `write` (empty for checkpoints and damaged files)."""

    path: Path
    key: str
    finished: bool
    size: int
    about: dict[str, Any]


class Store:
    """Finished fits and checkpoints in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __contains__(self, key: str) -> bool:
        """Whether the store has the finished fit, undamaged."""
        return self.read(key) is not None

    def read(self, key: str) -> bytes | None:
        """The result of a fit, None if the store lacks it; deletes a damaged file."""
        return self._read(key, FINISHED)

    def take(self, key: str, label: str) -> bytes:
        """The result of a fit. Raises LostError, with the fit's label, if the store lacks it."""
        if (content := self.read(key)) is None:
            raise LostError(f"{label} is not in {self.folder}")
        return content

    def write(self, key: str, result: bytes, about: dict[str, Any]) -> None:
        """Store the result of a fit, and delete its checkpoint.

        about: plain values that describe the fit to people, such as its `seconds`.
        """
        self._write(key, FINISHED, result, about)
        self.checkpoint(key).drop()

    def checkpoint(self, key: str) -> FileCheckpoint:
        """The checkpoint of an unfinished fit."""
        return FileCheckpoint(self, key)

    def entries(self) -> Iterator[Entry]:
        """All files of the store, by key."""
        for path in sorted(self.folder.glob("??/*")):
            if path.suffix in (FINISHED, UNFINISHED):
                # Skips what another process has just deleted, and what is not a readable file.
                with suppress(FileNotFoundError, IsADirectoryError, PermissionError):
                    size, about = path.stat().st_size, _about(path)
                    yield Entry(path, path.stem, path.suffix == FINISHED, size, about)

    def _path(self, key: str, suffix: str) -> Path:
        return self.folder / key[:2] / f"{key}{suffix}"

    def _read(self, key: str, suffix: str) -> bytes | None:
        path = self._path(key, suffix)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(
                f"{path} cannot be read: {error.strerror}. Remove it to compute the fit again"
            ) from error
        digest, _, rest = content.partition(b"\n")
        if digest != _digest(key, rest):
            tqdm.write(f"{path} is damaged: deleted, the fit is computed again", file=sys.stderr)
            path.unlink(missing_ok=True)
            return None
        return rest.partition(b"\n")[2]

    def _write(self, key: str, suffix: str, content: bytes, about: dict[str, Any]) -> None:
        path = self._path(key, suffix)
        rest = json.dumps(about, sort_keys=True).encode() + b"\n" + content
        if not path.parent.exists():  # with the store's permissions, whatever the umask
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(PermissionError):
                path.parent.chmod(self.folder.stat().st_mode & 0o7777)
        outs.write_bytes(path, _digest(key, rest) + b"\n" + rest)


@dataclass(frozen=True)
class FileCheckpoint(Checkpoint):
    """The checkpoint of one fit, as a file of the store."""

    store: Store
    key: str

    def load(self) -> bytes | None:
        """The last state, None if there is none or it is damaged."""
        return self.store._read(self.key, UNFINISHED)

    def save(self, state: bytes) -> None:
        """Replace the last state."""
        self.store._write(self.key, UNFINISHED, state, {})

    def drop(self) -> None:
        """Delete the checkpoint."""
        self.store._path(self.key, UNFINISHED).unlink(missing_ok=True)


def default() -> Store:
    """The store that KMNIST_FITS names, or this project's. Raises UserError if it is unusable."""
    named = os.environ.get(VARIABLE)
    folder = Path(named or DEFAULT)
    place = f"{VARIABLE}={named}" if named else str(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{place}: cannot be the folder of fits: {error.strerror}") from error
    outs.remove_leftovers(folder.glob(f"??/{outs.LEFTOVERS}"))
    folders = [folder, *(part for part in folder.glob("??") if part.is_dir())]
    closed = [part for part in folders if not os.access(part, os.W_OK | os.X_OK)]
    if closed:
        raise UserError(
            f"{place}: you may not write to {closed[0]}, where fits are stored. Its owner can "
            f"allow it to a group: `chmod -R g+ws {folder}`"
        )
    return Store(folder)


def _about(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        file.readline()
        try:
            about = json.loads(file.readline())
        except ValueError:
            return {}
    return about if isinstance(about, dict) else {}


def _digest(key: str, rest: bytes) -> bytes:
    return hashlib.sha256(key.encode() + rest).hexdigest().encode()

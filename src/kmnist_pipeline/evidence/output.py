"""Files that a user names, such as a table of predictions: their permissions are the user's."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from kmnist_pipeline.evidence import outs


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """As `outs.replacing`, which makes every file readable for all, but keeps the permissions."""
    mode = permissions(path)
    with outs.replacing(path) as file:
        yield file
    path.chmod(mode)


def permissions(path: Path, new: int = 0o666) -> int:
    """The permissions of a file or folder; of a new one those of `new` that the umask leaves."""
    if path.exists():
        return stat.S_IMODE(path.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return new & ~mask

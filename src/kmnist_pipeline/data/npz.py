"""NPZ files whose bytes depend on nothing but their arrays.

`np.savez` asks for the ZIP64 format, which Python 3.11.4 and later write differently.
"""

from __future__ import annotations

import io
import zipfile
from typing import BinaryIO

import numpy as np


def write(file: BinaryIO, **arrays: np.ndarray) -> None:
    """Write arrays as `np.savez` does, uncompressed and without a time; no array of objects."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.file_size = array.nbytes  # ZIP64 only if it is needed
            with archive.open(entry, "w") as opened:
                np.lib.format.write_array(opened, array, allow_pickle=False)


def encode(**arrays: np.ndarray) -> bytes:
    """The bytes that `write` writes."""
    content = io.BytesIO()
    write(content, **arrays)
    return content.getvalue()

"""The IDX format of MNIST: a big-endian header, then bytes."""

from __future__ import annotations

import struct

import numpy as np

from kmnist_pipeline.errors import UserError

UNSIGNED_BYTE = 0x08


class FormatError(UserError, ValueError):
    """Bytes that are not a valid IDX array; the message says why."""


def decode(content: bytes) -> np.ndarray:
    """The array in `content`, uint8, of the shape that its header states.

    Raises FormatError on a wrong magic number and on content that is too short or too long.
    """
    if len(content) < 4:
        raise FormatError(f"{len(content)} bytes are too short for an IDX header")
    zeros, kind, dimensions = struct.unpack(">HBB", content[:4])
    if zeros != 0 or kind != UNSIGNED_BYTE or not 1 <= dimensions <= 4:
        raise FormatError(
            f"wrong magic 0x{content[:4].hex()}: an IDX array of bytes starts with 0x00000801 "
            "(labels) or 0x00000803 (images)"
        )
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise FormatError(f"{len(content)} bytes are too short for the header's {header}")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    expected = header + int(np.prod(shape, dtype=object))
    if len(content) != expected:
        state = "truncated" if len(content) < expected else "too long"
        raise FormatError(f"{state}: {len(content)} bytes, where shape {shape} needs {expected}")
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def encode(array: np.ndarray) -> bytes:
    """`array` (uint8, one to four dimensions) as IDX bytes; the inverse of `decode`."""
    if array.dtype != np.uint8 or not 1 <= array.ndim <= 4:
        raise FormatError(f"IDX needs uint8 in 1 to 4 dimensions, not {array.dtype} {array.shape}")
    header = struct.pack(f">HBB{array.ndim}I", 0, UNSIGNED_BYTE, array.ndim, *array.shape)
    return header + array.tobytes()

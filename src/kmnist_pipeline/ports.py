"""The ports that the servers of this project listen at."""

from __future__ import annotations

import re
import socket
from argparse import ArgumentTypeError

from kmnist_pipeline.errors import UserError

LAST = 65535


def number(text: str) -> int:
    """The type of an option with the number of a port."""
    if re.fullmatch("[0-9]{1,5}", text) and int(text) <= LAST:
        return int(text)
    raise ArgumentTypeError(f"{text}: must be a whole number from 0 to {LAST}")


def require_free(host: str, port: int) -> None:
    """Raise UserError if another process listens at a port of a target of `make`."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"port {port}: {error.strerror}; choose another: PORT=...") from error

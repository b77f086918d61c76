"""Addresses of Dask schedulers, and which of them are safe to use.

Dask executes what it receives: whoever reaches a scheduler or a worker can run code there.
"""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit

from kmnist_pipeline.errors import UserError

INSECURE = "KMNIST_SCHEDULER_INSECURE"


def checked(address: str) -> str:
    """The address with its scheme. Raises UserError where it is invalid or not safe."""
    full = address if "://" in address else f"tcp://{address}"
    try:
        parts = urlsplit(full)
        port = parts.port
    except ValueError:
        port = None
    if not port or not parts.hostname or parts.scheme not in ("tcp", "tls"):
        raise UserError(
            f"{address}: not the address of a scheduler, which looks like tcp://127.0.0.1:8786 "
            "or tls://cluster.example.org:8786; KMNIST_SCHEDULER names it"
        )
    if parts.scheme == "tcp" and not is_loopback(full) and os.environ.get(INSECURE) != "1":
        raise UserError(
            f"{address}: refused, because Dask executes what it receives, and beyond this "
            "machine anybody could send it. Have KMNIST_SCHEDULER name "
            "a tls:// address, with certificates (docs/cluster.md), or "
            f"set {INSECURE}=1 in a network that you trust"
        )
    return full


def is_loopback(address: str) -> bool:
    """Whether an address with a scheme is one of this machine only."""
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

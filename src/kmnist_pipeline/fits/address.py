"""Addresses of Dask schedulers, and the check that they are safe to use.

Dask executes what it receives: anyone who reaches a scheduler or worker can run code there.
"""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit

from kmnist_pipeline.errors import UserError

INSECURE = "KMNIST_SCHEDULER_INSECURE"


def checked(address: str) -> str:
    """The address with its scheme. Raises UserError if it is invalid or not safe."""
    full = address if "://" in address else f"tcp://{address}"
    try:
        parts = urlsplit(full)
        port = parts.port
    except ValueError:
        port = None
    if not port or not parts.hostname or parts.scheme not in ("tcp", "tls"):
        raise UserError(
            f"{address}: not the address of a scheduler. Set KMNIST_SCHEDULER to one, such as "
            "tcp://127.0.0.1:8786 or tls://cluster.example.org:8786"
        )
    if parts.scheme == "tcp" and not is_loopback(full) and os.environ.get(INSECURE) != "1":
        raise UserError(
            f"{address}: refused, because Dask executes what it receives, and anyone in the "
            "network could send it code. Set KMNIST_SCHEDULER to a tls:// address, with "
            f"certificates (docs/cluster.md), or set {INSECURE}=1 if you trust the network"
        )
    return full


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach an address (with a scheme)."""
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

"""A constant learning rate."""

from typing import Any


def factor(done: float, settings: dict[str, Any]) -> float:
    """The factor of the learning rate.

    done: the finished share of the updates, 0 to 1; settings: `trainer`.
    """
    return 1.0

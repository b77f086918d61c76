"""A linear warm-up, then a linear decay to zero.

The warm-up is that of Goyal et al. 2017, Accurate, Large Minibatch SGD, 2.2. Defazio et al. 2023,
When, Why and How Much?, find no better decay than the linear one; it also needs no cosine, which
the C library computes.
"""

from typing import Any


def factor(done: float, settings: dict[str, Any]) -> float:
    """The factor of the learning rate.

    done: the finished share of the updates, 0 to 1; settings: `warmup`, the share of the warm-up.
    """
    warmup: float = settings["warmup"]
    return done / warmup if done < warmup else (1 - done) / (1 - warmup)

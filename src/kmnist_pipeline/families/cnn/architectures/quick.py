"""A small network that trains fast: about 135,000 weights, 3 million multiplications for an image.

The first convolution reads patches of 2x2 pixels, so that no layer has the image's full size. Every
block halves the image before it normalises, unless one pixel is left; the second block has a
residual layer (He et al. 2016).
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

PAIRED = False
WIDTHS = (16, 32, 64, 128)  # channels after the patches and after each block
RESIDUAL = 2  # the block that has a residual layer


class Layer(nn.Module):
    """A 3x3 convolution, pooling to half the size or none, normalisation and ReLU."""

    def __init__(self, channels_in: int, channels_out: int, pools: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2) if pools else nn.Identity()
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, H / 2, W / 2), or without pooling (N, C_out, H, W)."""
        return functional.relu(self.norm(self.pool(self.conv(x))), inplace=True)


class Block(nn.Module):
    """A layer that may halve the size, and perhaps another one, which is added to it."""

    def __init__(self, channels_in: int, channels_out: int, pools: bool, residual: bool) -> None:
        super().__init__()
        self.first = Layer(channels_in, channels_out, pools)
        self.second = Layer(channels_out, channels_out, pools=False) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, H / 2, W / 2), or without pooling (N, C_out, H, W)."""
        x = self.first(x)
        return x if self.second is None else x + self.second(x)


def build(shape: tuple[int, int, int], classes: int, dropout: float) -> nn.Module:
    """The untrained network; shape: height, width and channels of an image."""
    layers: list[nn.Module] = [
        nn.Conv2d(shape[2], WIDTHS[0], 2, stride=2, bias=False),
        nn.BatchNorm2d(WIDTHS[0]),
        nn.ReLU(inplace=True),
    ]
    size = min(shape[:2]) // 2
    for number, (narrower, wider) in enumerate(pairwise(WIDTHS), start=1):
        layers.append(Block(narrower, wider, size > 1, number == RESIDUAL))
        size //= 2
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(WIDTHS[-1], classes, bias=False))

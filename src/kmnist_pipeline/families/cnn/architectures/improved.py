"""The Improved CNN: three residual blocks with batch normalisation (kmnist_cnn II.C.3)."""

from __future__ import annotations

from torch import nn

from kmnist_pipeline.families.cnn.layers import ResidualBlock, head

PAIRED = False


def build(shape: tuple[int, int, int], classes: int, dropout: float) -> nn.Module:
    """The untrained network; shape: height, width and channels of an image."""
    height, width, channels = shape
    return nn.Sequential(
        ResidualBlock(channels, 32, normalised=True),
        nn.MaxPool2d(2),
        ResidualBlock(32, 64, normalised=True),
        nn.MaxPool2d(2),
        ResidualBlock(64, 128, normalised=True),
        *head(128 * (height // 4) * (width // 4), 256, classes, dropout),
    )

"""The ResNet-like CNN: two residual blocks without batch normalisation (kmnist_cnn II.C.2)."""

from __future__ import annotations

from torch import nn

from kmnist_pipeline.families.cnn.layers import ResidualBlock, head

PAIRED = False


def build(shape: tuple[int, int, int], classes: int, dropout: float) -> nn.Module:
    """The untrained network; shape: height, width and channels of an image."""
    height, width, channels = shape
    return nn.Sequential(
        ResidualBlock(channels, 32, normalised=False),
        nn.MaxPool2d(2),
        ResidualBlock(32, 64, normalised=False),
        *head(64 * (height // 2) * (width // 2), 128, classes, dropout),
    )

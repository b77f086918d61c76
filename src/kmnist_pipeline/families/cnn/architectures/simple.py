"""The Simple CNN: two convolutions and one pooling (kmnist_cnn II.C.1)."""

from __future__ import annotations

from torch import nn

from kmnist_pipeline.families.cnn.layers import head

PAIRED = False


def build(shape: tuple[int, int, int], classes: int, dropout: float) -> nn.Module:
    """The untrained network; shape: height, width and channels of an image."""
    height, width, channels = shape
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.MaxPool2d(2),  # before the ReLU, with which it commutes: a quarter of the work
        nn.ReLU(),
        *head(64 * (height // 2) * (width // 2), 128, classes, dropout),
    )

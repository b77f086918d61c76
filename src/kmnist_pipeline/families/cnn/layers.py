"""Layers that several networks share."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, added to the input; ReLU between them and after the addition.

    A 1x1 convolution brings the input to the number of channels, as kmnist_cnn II.C.3 says;
    without batch normalisation the convolutions have a bias instead.
    """

    def __init__(self, channels_in: int, channels_out: int, normalised: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(channels_out) if normalised else nn.Identity()
        self.norm2 = nn.BatchNorm2d(channels_out) if normalised else nn.Identity()
        same = channels_in == channels_out
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, H, W)."""
        inner = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


def head(features: int, hidden: int, outputs: int, dropout: float) -> list[nn.Module]:
    """One hidden layer with ReLU and dropout over flattened features."""
    drop = [nn.Dropout(dropout)] if dropout else []
    return [
        nn.Flatten(),
        nn.Linear(features, hidden),
        nn.ReLU(),
        *drop,
        nn.Linear(hidden, outputs),
    ]

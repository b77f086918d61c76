"""A residual network with pre-activation blocks for small grey images, about 600,000 weights.

He et al. 2016, Identity Mappings in Deep Residual Networks. The stem halves the image after one
convolution, because further ones of the full size would take most of the time.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

PAIRED = False
STEM = 32  # channels
STAGES = ((48, 2), (128, 2))  # channels and blocks; each stage but the first halves the image


class Block(nn.Module):
    """Normalisation, ReLU and a 3x3 convolution, twice, added to the input.

    If the number of channels changes, the first convolution has the given stride, and a 1x1
    convolution of the normalised input replaces the input.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(channels_in), nn.BatchNorm2d(channels_out)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.shortcut = None
        if channels_in != channels_out:
            self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, H / stride, W / stride)."""
        inner = functional.relu(self.norm1(x))
        kept = x if self.shortcut is None else self.shortcut(inner)
        return kept + self.conv2(functional.relu(self.norm2(self.conv1(inner))))


def build(shape: tuple[int, int, int], classes: int, dropout: float) -> nn.Module:
    """The untrained network; shape: height, width and channels of an image."""
    layers: list[nn.Module] = [nn.Conv2d(shape[2], STEM, 3, padding=1, bias=False), nn.MaxPool2d(2)]
    channels = STEM
    for stage, (wider, blocks) in enumerate(STAGES):
        for number in range(blocks):
            layers.append(Block(channels, wider, stride=2 if stage and not number else 1))
            channels = wider
    layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(channels, classes))

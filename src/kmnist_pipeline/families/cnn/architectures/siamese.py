"""The Siamese network of kmnist_cnn IV, whose classes are `different` and `same`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kmnist_pipeline.families.cnn.layers import head

PAIRED = True
EMBEDDING = 64  # numbers that the encoder computes for an image


class Siamese(nn.Module):
    """A shared encoder, and a linear classifier of the difference of two embeddings.

    The paper names the two parts but not their sizes. Here the encoder is the Simple CNN with a
    second pooling, and the classifier gets the absolute differences, as in Koch et al.
    """

    def __init__(self, shape: tuple[int, int, int], dropout: float) -> None:
        super().__init__()
        height, width, channels = shape
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            *head(64 * (height // 4) * (width // 4), 128, EMBEDDING, dropout),
        )
        self.classifier = nn.Linear(EMBEDDING, 1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Logits (N, 2) of `different` and `same`; their difference is g in equation 1 of IV."""
        embedded = self.encoder(torch.cat([left, right]))
        first, second = embedded.chunk(2)
        same = self.classifier((first - second).abs())
        return torch.cat([torch.zeros_like(same), same], dim=1)


def build(shape: tuple[int, int, int], classes: int, dropout: float) -> nn.Module:
    """The untrained network; shape: height, width and channels of an image."""
    return Siamese(shape, dropout)

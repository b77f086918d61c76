"""Saliency maps: how strongly each pixel affects the output of a network."""

from __future__ import annotations

import numpy as np
import torch

from kmnist_pipeline.families.cnn import model as networks


def saliency(
    model: dict, tensors: dict[str, np.ndarray], pixels: np.ndarray, classes: int
) -> np.ndarray:
    """|d logit of the predicted class / d pixel| for each image, (N, H, W) float32.

    kmnist_cnn III.D.1 after Simonyan et al., with the maximum over channels.
    """
    network = networks.from_tensors(model, tensors, pixels.shape[1:], classes)
    slopes = []
    for chunk in networks.inputs(tensors, pixels).split(networks.CHUNK):
        chunk.requires_grad_()
        chosen = network(chunk).max(dim=1).values.sum()
        (slope,) = torch.autograd.grad(chosen, chunk)
        slopes.append(slope.abs().amax(dim=1))
    return torch.cat(slopes).cpu().numpy()

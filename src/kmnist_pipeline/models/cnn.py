"""The convolutional networks of kmnist_cnn (II.C and IV), what they predict and look at."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kmnist_pipeline.data.dataset import Images
from kmnist_pipeline.errors import UserError

CHUNK = 500  # images at once where nothing is learnt
EMBEDDING = 64  # numbers that a Siamese encoder makes of an image
THREADS = 2  # of a prediction on the CPU: its last bits depend on it


class ArchitectureError(UserError):
    """Weights that do not fit the network they are said to belong to."""


def simple(height: int, width: int, classes: int, dropout: float) -> nn.Module:
    """The Simple CNN: two convolutions and one pooling (kmnist_cnn II.C.1)."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.MaxPool2d(2),  # before the ReLU, with which it commutes: a quarter of the work
        nn.ReLU(),
        *_head(64 * (height // 2) * (width // 2), 128, classes, dropout),
    )


def resnet_like(height: int, width: int, classes: int, dropout: float) -> nn.Module:
    """The ResNet-like CNN: two residual blocks without batch normalisation (II.C.2)."""
    return nn.Sequential(
        ResidualBlock(1, 32, normalised=False),
        nn.MaxPool2d(2),
        ResidualBlock(32, 64, normalised=False),
        *_head(64 * (height // 2) * (width // 2), 128, classes, dropout),
    )


def improved(height: int, width: int, classes: int, dropout: float) -> nn.Module:
    """The Improved CNN: three residual blocks with batch normalisation (II.C.3)."""
    return nn.Sequential(
        ResidualBlock(1, 32, normalised=True),
        nn.MaxPool2d(2),
        ResidualBlock(32, 64, normalised=True),
        nn.MaxPool2d(2),
        ResidualBlock(64, 128, normalised=True),
        *_head(128 * (height // 4) * (width // 4), 256, classes, dropout),
    )


def siamese(height: int, width: int, classes: int, dropout: float) -> nn.Module:
    """The Siamese network of IV, whose classes are `different` and `same`."""
    return Siamese(height, width, dropout)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, added to the input; ReLU between them and after the addition.

    A 1x1 convolution brings the input to the number of channels, as II.C.3 says; without
    batch normalisation the convolutions have a bias instead.
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


class Siamese(nn.Module):
    """A shared encoder, and a linear classifier of the distance of two embeddings (IV).

    The text names the two parts and leaves their sizes open: the encoder is the Simple CNN with
    a second pooling, and the classifier sees the absolute differences, as in Koch et al.
    """

    def __init__(self, height: int, width: int, dropout: float) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            *_head(64 * (height // 4) * (width // 4), 128, EMBEDDING, dropout),
        )
        self.classifier = nn.Linear(EMBEDDING, 1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Logits (N, 2) of `different` and `same`, whose difference is g of IV's equation 1."""
        embedded = self.encoder(torch.cat([left, right]))
        first, second = embedded.chunk(2)
        same = self.classifier((first - second).abs())
        return torch.cat([torch.zeros_like(same), same], dim=1)


ARCHITECTURES: dict[str, Callable[[int, int, int, float], nn.Module]] = {
    "simple": simple,
    "resnet_like": resnet_like,
    "improved": improved,
    "siamese": siamese,
}


def _head(features: int, hidden: int, outputs: int, dropout: float) -> list[nn.Module]:
    drop = [nn.Dropout(dropout)] if dropout else []
    return [
        nn.Flatten(),
        nn.Linear(features, hidden),
        nn.ReLU(),
        *drop,
        nn.Linear(hidden, outputs),
    ]


def build(model: dict, shape: tuple[int, int], classes: int) -> nn.Module:
    """The untrained network; its weights come from torch's global random stream.

    model: `architecture` and `dropout`; shape: height and width of an image. Convolutions run
    channels-last, the faster layout on every device.
    """
    network = ARCHITECTURES[model["architecture"]](*shape, classes, model["dropout"])
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def device() -> torch.device:
    """The GPU where there is one, set to give the same bytes each time."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def deterministic() -> None:
    """From now on, kernels that give the same bytes each time.

    Torch would also fill what it allocates, in case a kernel reads memory before it writes it;
    no kernel here does, and filling costs a tenth of a training.
    """
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def inputs(tensors: dict[str, np.ndarray], pixels: np.ndarray) -> Tensor:
    """Scaled images (N, 1, H, W) float32 on the device, from pixels (N, H, W) uint8."""
    shift, scale = (tensors[name].astype(np.float32) for name in ("shift", "scale"))
    height, width = pixels.shape[1:]
    scaled = (pixels.reshape(len(pixels), -1) - shift) / scale
    on_device = torch.from_numpy(scaled.reshape(-1, 1, height, width)).to(device())
    return on_device.contiguous(memory_format=torch.channels_last)


def to_tensors(network: nn.Module) -> dict[str, np.ndarray]:
    """The network's weights and running moments by name, as arrays of their own."""
    state = network.state_dict()
    return {f"network.{name}": tensor.cpu().numpy().copy() for name, tensor in state.items()}


def from_tensors(
    model: dict, tensors: dict[str, np.ndarray], shape: tuple[int, int], classes: int
) -> nn.Module:
    """The network with the given weights, ready to predict.

    Raises ArchitectureError where the weights are another network's.
    """
    network = build(model, shape, classes)
    state = {
        name.removeprefix("network."): torch.from_numpy(array)
        for name, array in tensors.items()
        if name.startswith("network.")
    }
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[1:2] or [str(error)]
        raise ArchitectureError(
            f"the weights are not those of a {model['architecture']} network for {classes} "
            f"classes of {shape[0]}x{shape[1]} pixels: {first[0].strip()}"
        ) from error
    return network.to(device()).eval()


def probabilities(model: dict, tensors: dict[str, np.ndarray], images: Images) -> np.ndarray:
    """Class probabilities (N, C) float64.

    A Siamese network's are the softmax of the negative Euclidean distances to the one support
    image of each class (IV) in its first draw.
    """
    if "supports" in tensors:
        nearness = torch.from_numpy(-distances(model, tensors, images)[:, 0])
        return nearness.softmax(dim=1).numpy()
    network = from_tensors(model, tensors, images.pixels.shape[1:], len(images.classes))
    with _exact(), torch.no_grad():
        logits = [network(chunk) for chunk in inputs(tensors, images.pixels).split(CHUNK)]
        return torch.cat(logits).double().softmax(dim=1).cpu().numpy()


def distances(model: dict, tensors: dict[str, np.ndarray], images: Images) -> np.ndarray:
    """Euclidean distances (N, draws, C) float64 of images to the support images, in embedding.

    tensors: those of a Siamese network, with `supports` (draws, C, H * W) uint8.
    """
    supports = tensors["supports"]
    shape = images.pixels.shape[1:]
    network = from_tensors(model, tensors, shape, len(images.classes))

    def embed(pixels: np.ndarray) -> np.ndarray:
        with _exact(), torch.no_grad():
            chunks = [
                network.encoder(chunk)  # type: ignore[operator]
                for chunk in inputs(tensors, pixels).split(CHUNK)
            ]
            return torch.cat(chunks).cpu().numpy().astype(np.float64)

    points, centres = embed(images.pixels), embed(supports.reshape(-1, *shape))
    squares = (points**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1) - 2 * points @ centres.T
    return np.sqrt(np.maximum(squares, 0)).reshape(len(points), *supports.shape[:2])


def saliency(model: dict, tensors: dict[str, np.ndarray], images: Images) -> np.ndarray:
    """|d logit of the predicted class / d pixel| of each image, (N, H, W) float32.

    kmnist_cnn III.D.1 after Simonyan et al.; its maximum over channels is over one channel here.
    """
    network = from_tensors(model, tensors, images.pixels.shape[1:], len(images.classes))
    slopes = []
    with _exact():
        for chunk in inputs(tensors, images.pixels).split(CHUNK):
            chunk.requires_grad_()
            chosen = network(chunk).max(dim=1).values.sum()
            (slope,) = torch.autograd.grad(chosen, chunk)
            slopes.append(slope.abs().amax(dim=1))
    return torch.cat(slopes).cpu().numpy()


@contextmanager
def _exact() -> Iterator[None]:
    """Kernels that give the same bytes each time, on one thread count that is always the same."""
    deterministic()
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

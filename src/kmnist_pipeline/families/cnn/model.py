"""The predictions of trained networks, and the conversion of images and weights."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from kmnist_pipeline import arithmetic
from kmnist_pipeline.errors import UserError

CHUNK = 250  # images at once in prediction
MOST_THREADS = 8  # in prediction; each holds the activations of a chunk


class ArchitectureError(UserError):
    """Weights that do not fit the network that the model file names."""


def choice(folder: str, name: str) -> ModuleType:
    """The module `name` of a folder of this package, such as `architectures`."""
    return importlib.import_module(f"{__package__}.{folder}.{name}")


def build(model: dict, shape: tuple[int, ...], classes: int) -> nn.Module:
    """The untrained network; its weights come from torch's global random stream.

    model: `architecture` and `dropout`; shape: (H, W) or (H, W, C) of an image. Convolutions run
    channels-last, the faster layout on every device.
    """
    height, width, *channels = shape
    architecture = choice("architectures", model["architecture"])
    network = architecture.build((height, width, *(channels or [1])), classes, model["dropout"])
    return network.to(memory_format=torch.channels_last)


def device() -> torch.device:
    """The CPU, because only its portable arithmetic gives equal bytes on all machines.

    In native arithmetic the GPU if there is one, set to give the same bytes each time.
    """
    if arithmetic.name() != "native" or not torch.cuda.is_available():
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    return torch.device("cuda")


def inputs(tensors: dict[str, np.ndarray], pixels: np.ndarray) -> Tensor:
    """Scaled images (N, C, H, W) float32 on the device, from pixels (N, H, W[, C]) uint8."""
    shift, scale = (tensors[name].astype(np.float32) for name in ("shift", "scale"))
    height, width, *channels = pixels.shape[1:]
    scaled = (pixels.reshape(len(pixels), -1) - shift) / scale
    images = torch.from_numpy(scaled.reshape(-1, height, width, *(channels or [1])))
    return images.to(device()).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def to_tensors(network: nn.Module) -> dict[str, np.ndarray]:
    """Copies of the network's weights and running moments, by name."""
    state = network.state_dict()
    return {f"network.{name}": tensor.cpu().numpy().copy() for name, tensor in state.items()}


def from_tensors(
    model: dict, tensors: dict[str, np.ndarray], shape: tuple[int, ...], classes: int
) -> nn.Module:
    """The network with the given weights, ready to predict.

    Raises ArchitectureError if the weights belong to another network.
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
            f"classes of {'x'.join(map(str, shape))} pixels: {first[0].strip()}"
        ) from error
    return network.to(device()).eval()


def probabilities(
    model: dict, tensors: dict[str, np.ndarray], pixels: np.ndarray, classes: int
) -> np.ndarray:
    """Class probabilities (N, C) float64 for pixels (N, H, W[, C]) uint8.

    For a Siamese network, the softmax of the negative Euclidean distances to the support image
    of each class (IV) in the first draw.
    """
    if "supports" in tensors:
        nearness = torch.from_numpy(-distances(model, tensors, pixels, classes)[:, 0])
        return nearness.softmax(dim=1).numpy()
    network = from_tensors(model, tensors, pixels.shape[1:], classes)
    logits = torch.cat(list(_by_chunk(network, tensors, pixels)))
    return logits.double().softmax(dim=1).numpy()


def distances(
    model: dict, tensors: dict[str, np.ndarray], pixels: np.ndarray, classes: int
) -> np.ndarray:
    """Euclidean distances (N, draws, C) float64 between embeddings of images and support images.

    tensors: the weights of a Siamese network, with `supports` (draws, C, ...) uint8.
    """
    supports = tensors["supports"]
    shape = pixels.shape[1:]
    encoder = from_tensors(model, tensors, shape, classes).get_submodule("encoder")

    def embed(pixels: np.ndarray) -> np.ndarray:
        return torch.cat(list(_by_chunk(encoder, tensors, pixels))).numpy().astype(np.float64)

    points, centres = embed(pixels), embed(supports.reshape(-1, *shape))
    squares = (points**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1) - 2 * points @ centres.T
    return np.sqrt(np.maximum(squares, 0)).reshape(len(points), *supports.shape[:2])


def _by_chunk(
    network: Callable[[Tensor], Tensor], tensors: dict[str, np.ndarray], pixels: np.ndarray
) -> Iterator[Tensor]:
    """The outputs of a network for images, chunk by chunk.

    One thread computes each chunk, so that the result does not depend on the number of threads.
    """
    arithmetic.require()

    def answer(start: int) -> Tensor:
        with torch.inference_mode():
            return network(inputs(tensors, pixels[start : start + CHUNK])).float().cpu()

    threads = (os.cpu_count() or 1) // torch.get_num_threads()
    with ThreadPoolExecutor(max(1, min(threads, MOST_THREADS))) as pool:
        yield from pool.map(answer, range(0, len(pixels), CHUNK))

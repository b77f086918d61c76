"""Our training loops and those of a textbook, to be timed in their own processes.

Each function trains once. It returns the `seconds` from the arrays to the trained weights, and the
`accuracy` on held-out images; measuring this is not timed if it takes long.
"""

from __future__ import annotations

import copy
import os
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.candidate import THREADS
from benchmarks.measuring import PROCESSED, Answer
from kmnist_pipeline import arithmetic
from kmnist_pipeline.data import dataset, scaling, splits, streams
from kmnist_pipeline.families.base import Checkpoint, Data, Fit
from kmnist_pipeline.families.cnn import model as networks
from kmnist_pipeline.families.cnn import train as cnn
from kmnist_pipeline.families.linear import train as linear
from kmnist_pipeline.fits import plan
from kmnist_pipeline.repository import locks

# The networks, and how many images of kmnist in one epoch are enough to measure the throughput.
TRAINED, HELD_OUT = 9600, 5000
MATRIX = 2048  # rows of the matrices whose product shows the machine's maximum speed
CNNS = {"simple": "kmnist_simple_cnn", "improved": "kmnist_improved_cnn"}
SOFTMAX, PAIR = "kmnist_softmax", "kmnist_logistic_0_6"
SINGLE = {"optimizer": {"name": "sgd", "lr": 0.001, "batch_size": 1}, "epochs": 2}


def load() -> None:
    """Read the data, and set the threads."""
    torch.set_num_threads(int(os.environ[THREADS]))
    arithmetic.require()
    _few()


@cache
def _images() -> dataset.Images:
    return dataset.load(PROCESSED, "train")


@cache
def _few() -> dataset.Images:
    """The images for the networks: first training images, then held-out images."""
    chosen = np.random.default_rng(0).permutation(len(_images()))[: TRAINED + HELD_OUT]
    return _images().take(chosen)


def _experiment(name: str) -> dict[str, Any]:
    """An experiment of params.yaml, as a map to change."""
    params = locks.load(Path("params.yaml").read_text(), "params.yaml")
    return copy.deepcopy(params["experiments"][name])


def _data(images: dataset.Images) -> Data:
    return Data(images.pixels, images.labels, len(images.classes))


# --- networks ------------------------------------------------------------------------------------


def _settings(architecture: str, precision: str) -> dict[str, Any]:
    """The settings of a network's experiment, for one epoch."""
    experiment = _experiment(CNNS[architecture])
    experiment["trainer"] |= {"epochs": 1, "precision": precision}
    return {part: experiment[part] for part in ("model", "optimizer", "trainer")}


def network(architecture: str, precision: str, seed: int) -> Answer:
    """One epoch of our loop."""
    images, settings = _few(), _settings(architecture, precision)
    training, held_out = np.arange(TRAINED), np.arange(TRAINED, len(images))
    features = images.flat.shape[1]
    zeros, whites = np.zeros(features), np.full(features, 255.0)
    fit = Fit("cnn", settings, seed, 0, training, np.arange(0), zeros, whites)
    return _trained(fit, images, images.take(held_out))


def textbook_network(architecture: str, seed: int) -> Answer:
    """The same in the style of a tutorial: DataLoader, NCHW, float32, Adam.

    It has our first weights and our batches, so that only rounding and dropout differ.
    """
    images, settings = _few(), _settings(architecture, "float32")
    optimizer_settings = settings["optimizer"]
    shuffle = streams.generator(seed, 0, 1, cnn.SHUFFLE)
    ((order,), _) = cnn._singles(images.labels, np.arange(TRAINED), shuffle)
    torch.manual_seed(cnn._number(seed, 0, cnn.WEIGHTS))
    build = networks.choice("architectures", architecture).build
    shape = (*images.pixels.shape[1:], 1)
    model = build(shape, len(images.classes), settings["model"]["dropout"])
    began = time.perf_counter()
    x = torch.tensor(images.pixels[:, None] / 255, dtype=torch.float32)
    y = torch.tensor(images.labels)
    loader = DataLoader(
        TensorDataset(x, y), batch_size=optimizer_settings["batch_size"], sampler=order.tolist()
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=optimizer_settings["lr"])
    loss_of = torch.nn.CrossEntropyLoss()
    model.train()
    for inputs, labels in loader:
        optimizer.zero_grad()
        loss_of(model(inputs), labels).backward()
        optimizer.step()
    seconds = time.perf_counter() - began
    model.eval()
    with torch.no_grad():
        parts = zip(x[TRAINED:].split(500), y[TRAINED:].split(500), strict=True)
        hits = sum(int((model(a).argmax(dim=1) == b).sum()) for a, b in parts)
    return {"seconds": seconds, "accuracy": hits / (len(y) - TRAINED)}


def operations(architecture: str) -> Answer:
    """The floating-point `operations` of a training step for one image: forward, and twice that
    backward; and the number of `images` in a call of `network`."""
    count = 0.0

    def hear(layer: torch.nn.Module, _: object, out: torch.Tensor) -> None:
        nonlocal count
        weights = layer.get_parameter("weight").numel()
        places = out[0, 0].numel() if out.ndim == 4 else 1
        count += 2 * weights * places

    shape = _few().pixels.shape[1:]
    model = networks.build({"architecture": architecture, "dropout": 0.0}, shape, 10)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.register_forward_hook(hear)
    model(torch.zeros(1, 1, *shape))
    return {"operations": 3 * count, "images": TRAINED}


def matrix() -> Answer:
    """A large matrix product in float32, and its `operations`."""
    a = torch.rand(MATRIX, MATRIX)
    began = time.perf_counter()
    (a @ a).sum().item()
    return {"seconds": time.perf_counter() - began, "operations": 2 * MATRIX**3}


def record(settings: dict[str, Any], seed: int) -> Answer:
    """A training with `settings` on all training images, with the accuracy on the test images."""
    images, test = _images(), dataset.load(PROCESSED, "test")
    shift, scale = scaling.estimate("zscore", images.flat)
    fit = Fit("cnn", settings, seed, 0, np.arange(len(images)), np.arange(0), shift, scale)
    return _trained(fit, images, test)


def _trained(fit: Fit, images: dataset.Images, measured: dataset.Images) -> Answer:
    """A training on `images`, with the accuracy on the `measured` ones."""
    began = time.perf_counter()
    fitted = cnn.fit(fit, _data(images), Checkpoint(), lambda _: None)
    seconds = time.perf_counter() - began
    p = networks.probabilities(
        fit.settings["model"], fitted.tensors, measured.pixels, len(measured.classes)
    )
    return {"seconds": seconds, "accuracy": float((p.argmax(axis=1) == measured.labels).mean())}


# --- softmax regression --------------------------------------------------------------------------


def softmax() -> Answer:
    """Our softmax regression of the report: the fits of one seed, fold by fold."""
    experiment = {**_experiment(SOFTMAX), "seeds": [0]}
    began = time.perf_counter()
    planned = plan.of_experiment("bench", experiment, _images())
    best = []
    for task in planned.tasks():
        fitted = linear.fit(task.fit, planned.data, Checkpoint(), lambda _: None)
        kept = fitted.kept("validation")
        assert kept is not None
        best.append(kept.accuracy)
    return {"seconds": time.perf_counter() - began, "accuracy": float(np.mean(best))}


def textbook_softmax() -> Answer:
    """The same training in the style of a tutorial, in torch (float32)."""
    experiment, images = _experiment(SOFTMAX), _images()
    optimizer_settings = experiment["optimizer"]
    torch.manual_seed(0)
    began = time.perf_counter()
    best, rows = [], np.arange(len(images))
    for training, validation in splits.folds(images, rows, experiment["validation"], 0):
        shift, scale = scaling.estimate(experiment["model"]["scaling"], images.flat[training])
        x = torch.tensor((images.flat - shift) / scale, dtype=torch.float32)
        y = torch.tensor(images.labels)
        loader = DataLoader(
            TensorDataset(x[training], y[training]),
            batch_size=optimizer_settings["batch_size"],
            shuffle=True,
        )
        model = torch.nn.Linear(x.shape[1], len(images.classes))
        optimizer = torch.optim.SGD(model.parameters(), lr=optimizer_settings["lr"])
        loss_of = torch.nn.CrossEntropyLoss()
        accuracy = 0.0
        for _ in range(experiment["trainer"]["epochs"]):
            for inputs, labels in loader:
                optimizer.zero_grad()
                loss_of(model(inputs), labels).backward()
                optimizer.step()
            with torch.no_grad():
                hits = model(x[validation]).argmax(dim=1) == y[validation]
            accuracy = max(accuracy, hits.float().mean().item())
        best.append(accuracy)
    return {"seconds": time.perf_counter() - began, "accuracy": float(np.mean(best))}


# --- batches of one image ------------------------------------------------------------------------


@cache
def _single() -> tuple[Fit, Data]:
    """The first fold of logistic regression with batches of one image, for a few epochs."""
    experiment = _experiment(PAIR) | {"seeds": [0], "optimizer": SINGLE["optimizer"]}
    experiment["trainer"] |= {"epochs": SINGLE["epochs"]}
    planned = plan.of_experiment("bench", experiment, _images().of_classes(experiment["classes"]))
    return next(planned.tasks()).fit, planned.data


def single() -> Answer:
    """Our training in batches of one image; also returns the number of `steps`."""
    fit, data = _single()
    began = time.perf_counter()
    fitted = linear.fit(fit, data, Checkpoint(), lambda _: None)
    seconds = time.perf_counter() - began
    kept = fitted.kept("validation")
    assert kept is not None
    return {"seconds": seconds, "accuracy": kept.accuracy, "steps": _steps(fit)}


def textbook_single() -> Answer:
    """The same in the style of a tutorial, in torch (float32), from our first weights."""
    fit, data = _single()
    began = time.perf_counter()
    x = torch.tensor((data.flat - fit.shift) / fit.scale, dtype=torch.float32)
    y = torch.tensor(data.labels, dtype=torch.float32)[:, None]
    rows = TensorDataset(x[fit.training], y[fit.training])
    loader = DataLoader(rows, batch_size=1, shuffle=True)
    model = torch.nn.Linear(x.shape[1], 1)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=fit.settings["optimizer"]["lr"])
    loss_of = torch.nn.BCEWithLogitsLoss()
    accuracy = 0.0
    for _ in range(fit.settings["trainer"]["epochs"]):
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss_of(model(inputs), labels).backward()
            optimizer.step()
        with torch.no_grad():
            hits = (model(x[fit.validation]) > 0) == (y[fit.validation] > 0)
        accuracy = max(accuracy, hits.float().mean().item())
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "accuracy": accuracy, "steps": _steps(fit)}


def _steps(fit: Fit) -> int:
    return fit.settings["trainer"]["epochs"] * len(fit.training)

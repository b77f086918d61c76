"""The networks: their parameters, their predictions, and what is special about a Siamese one."""

from typing import Any

import numpy as np
import pytest
import torch
from support.networks import digits, fits, noise, run, trained, trial

from kmnist_pipeline.data.dataset import Images
from kmnist_pipeline.families.base import Fitted, TrainingError
from kmnist_pipeline.families.cnn import model as models
from kmnist_pipeline.families.cnn import train
from kmnist_pipeline.families.cnn.insight.saliency import saliency


def probabilities(experiment: dict[str, Any], fitted: Fitted, images: Images) -> np.ndarray:
    classes = len(images.classes)
    return models.probabilities(experiment["model"], fitted.tensors, images.pixels, classes)


# The published networks


@pytest.mark.parametrize(
    ("architecture", "parameters"),
    [
        # Each convolution has C_in * C_out * 9 + C_out, each linear layer D * K + K.
        ("simple", 320 + 18_496 + (64 * 14 * 14 * 128 + 128) + 1_290),
        (
            "resnet_like",
            (320 + 9_248 + 64) + (18_496 + 36_928 + 2_112) + (64 * 14 * 14 * 128 + 128) + 1_290,
        ),
        (
            "improved",
            (320 + 9_248 + 64 + 2 * 64)
            + (18_496 + 36_928 + 2_112 + 2 * 128)
            + (73_856 + 147_584 + 8_320 + 2 * 256)
            + (128 * 7 * 7 * 256 + 256)
            + 2_570,
        ),
    ],
)
def test_a_network_has_the_parameters_of_its_description(architecture, parameters):
    network = models.build({"architecture": architecture, "dropout": 0.4}, (28, 28), 10)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_pooling_before_relu_is_pooling_after_it():
    x = torch.randn(4, 3, 6, 6)
    pool, relu = torch.nn.MaxPool2d(2), torch.nn.ReLU()
    assert torch.equal(pool(relu(x)), relu(pool(x)))


# Predictions


def test_probabilities_are_those_of_the_kept_epoch():
    images, experiment = digits(), trial(epochs=6, keep="best_accuracy")
    (fit,) = fits(experiment, images)
    fitted = run(fit, images)
    held = images.take(fit.validation)
    p = probabilities(experiment, fitted, held)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    kept = fitted.kept("validation")
    assert kept is not None
    assert (p.argmax(axis=1) == held.labels).mean() == kept.accuracy > 0.8
    assert (probabilities(experiment, fitted, held) == p).all()


@pytest.mark.parametrize("shape", [(8, 8), (6, 10, 3)])
def test_saliency_is_the_slope_of_the_predicted_logit(shape):
    images = digits(120) if shape == (8, 8) else noise(shape, 120)
    experiment = trial(epochs=1)
    fitted = trained(experiment, images)
    few = images.take(np.arange(3))
    slopes = saliency(experiment["model"], fitted.tensors, few.pixels, 10)
    assert slopes.shape == (3, *shape[:2])
    network = models.from_tensors(experiment["model"], fitted.tensors, shape, 10).double()
    x = models.inputs(fitted.tensors, few.pixels).double()
    base, top = network(x).max(dim=1)
    for row, column in [(3, 3), (4, 2), (0, 0)]:
        expected = torch.zeros(3, dtype=torch.double)
        for channel in range(x.shape[1]):
            moved = x.clone()
            moved[:, channel, row, column] += 1e-4
            logits = network(moved)[torch.arange(3), top]
            expected = torch.maximum(expected, ((logits - base) / 1e-4).abs().detach())
        np.testing.assert_allclose(slopes[:, row, column], expected, rtol=1e-2, atol=1e-4)


def test_weights_of_another_architecture_are_refused():
    fitted = trained(trial(epochs=1), digits(60))
    with pytest.raises(models.ArchitectureError, match="not those of a improved network"):
        probabilities(trial("improved"), fitted, digits(5))
    wider = Images(np.zeros((2, 10, 10), np.uint8), np.zeros(2, int), np.arange(2), ("a", "b"))
    with pytest.raises(models.ArchitectureError, match="2 classes of 10x10 pixels"):
        probabilities(trial(), fitted, wider)


# The Siamese network


def test_pairs_are_balanced_and_true_to_their_targets():
    labels = np.repeat(np.arange(4), [50, 30, 20, 10])
    rows = np.arange(110)
    inputs, targets = train._pairs(labels, rows, np.random.default_rng(0))
    left, right = (of_input.numpy() for of_input in inputs)
    assert sorted(left.tolist()) == rows.tolist()
    assert ((labels[left] == labels[right]) == targets.numpy().astype(bool)).all()
    assert targets.sum() == 55 and not (left == right).any()


def test_one_shot_takes_the_nearest_support():
    images, experiment = digits(), trial("siamese", epochs=25)
    (fit,) = fits(experiment, images)
    fitted = run(fit, images)
    supports = fitted.tensors["supports"]
    assert supports.shape == (5, 10, 64) and supports.dtype == np.uint8
    of_class = [images.flat[fit.validation[images.labels[fit.validation] == c]] for c in range(10)]
    assert all(
        (supports[d, c] == of_class[c]).all(axis=1).any() for d in range(5) for c in range(10)
    )
    queries = images.take(np.arange(50))
    distances = models.distances(experiment["model"], fitted.tensors, queries.pixels, 10)
    network = models.from_tensors(experiment["model"], fitted.tensors, (8, 8), 10)
    with torch.no_grad():
        of = [
            network.encoder(  # type: ignore[operator]
                torch.from_numpy(p.reshape(-1, 1, 8, 8).astype(np.float32) / 16)
            )
            for p in (queries.pixels, supports[2])
        ]
    np.testing.assert_allclose(distances[:, 2], torch.cdist(*of), rtol=1e-3, atol=1e-3)
    p = probabilities(experiment, fitted, queries)
    assert (p.argmax(axis=1) == distances[:, 0].argmin(axis=1)).all()
    assert (p.argmax(axis=1) == queries.labels).mean() > 0.5


def test_a_class_without_support_is_named():
    images = digits(100)
    few = images.take(np.flatnonzero(images.labels != 7))
    with pytest.raises(TrainingError, match="there is none of class 7 among the"):
        trained(trial("siamese", epochs=1), few)

"""The exchangeable parts of the networks' training: what each does, and that it can be resumed."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support.networks import Memory, digits, noise, trained, trial
from torch.nn import functional

from kmnist_pipeline.families.cnn import model as models
from kmnist_pipeline.families.cnn import train
from kmnist_pipeline.families.cnn.architectures import residual
from kmnist_pipeline.families.cnn.augmentations import distortions
from kmnist_pipeline.families.cnn.averaging import exponential
from kmnist_pipeline.families.cnn.optimizers import _penalties, adamw, nesterov
from kmnist_pipeline.families.cnn.schedules import linear
from kmnist_pipeline.fits import key

OFF = {"affine": None, "elastic": None, "thickness": None, "cutout": None}
STRENGTHS: dict[str, Any] = {"affine": 0.2, "elastic": 0.04, "thickness": 0.5, "cutout": 0.3}
RECIPE = {
    "optimizer": {
        "name": "nesterov", "lr": 0.05, "batch_size": 32, "momentum": 0.9, "weight_decay": 0.001,
        "label_smoothing": 0.1,
    },
    "trainer": {
        **trial()["trainer"], "schedule": "linear", "warmup": 0.2, "augmentation": "distortions",
        **STRENGTHS, "averaging": "exponential", "decay": 0.99,
    },
}  # fmt: skip


def recipe(architecture: str = "residual", **changes: Any) -> dict[str, Any]:
    experiment = trial(architecture) | RECIPE
    for name, value in changes.items():
        holder = next(part for part in ("optimizer", "trainer") if name in experiment[part])
        experiment[holder] = {**experiment[holder], name: value}
    return experiment


def augmented(images: torch.Tensor, seed: int = 0, **settings: Any) -> torch.Tensor:
    return distortions.augment(images, np.random.default_rng(seed), OFF | settings)


def pictures(n: int = 4, shape: tuple[int, ...] = (1, 28, 28), seed: int = 0) -> torch.Tensor:
    """Blank images with a block of ink, which is not at the border."""
    images = torch.zeros(n, *shape)
    rng = torch.Generator().manual_seed(seed)
    images[..., 8:-8, 10:-9] = torch.rand(n, shape[0], shape[1] - 16, shape[2] - 19, generator=rng)
    return images


# The whole training


@pytest.mark.parametrize(
    ("architecture", "shape", "changes"),
    [
        ("residual", (8, 8), {}),
        ("residual", (10, 6, 3), {"name": "adamw", "lr": 0.002}),
        ("siamese", (8, 8), {"label_smoothing": None}),
    ],
)
def test_a_resumed_training_ends_with_the_bytes_of_an_undisturbed_one(architecture, shape, changes):
    images = digits(300) if shape == (8, 8) else noise(shape, 200)
    experiment = recipe(architecture, **changes)
    whole, memory = trained(experiment, images), Memory()
    for epoch in (1, 2):
        trained(experiment, images, memory, stop_after=epoch)
    assert trained(experiment, images, memory).encode() == whole.encode()
    assert trained(experiment, images).encode() == whole.encode()


@pytest.mark.parametrize("architecture", ["simple", "residual", "siamese"])
@pytest.mark.parametrize("shape", [(8, 8), (10, 6, 3)])
def test_images_that_are_scaled_batch_by_batch_give_the_same_bytes(
    architecture, shape, monkeypatch
):
    images = digits(300) if shape == (8, 8) else noise(shape, 200)
    at_once = trained(trial(architecture), images).encode()
    monkeypatch.setattr(train, "AT_ONCE", 0)
    assert trained(trial(architecture), images).encode() == at_once


def test_the_whole_recipe_learns_and_each_part_changes_the_result():
    images = digits(300)
    whole = trained(recipe(epochs=8), images)
    kept = whole.kept("validation")
    assert kept is not None and kept.accuracy > 0.7
    images = digits(90)
    first = trained(recipe(), images, stop_after=1).digests
    others: list[dict[str, Any]] = [
        {"lr": 0.01}, {"momentum": 0.5}, {"weight_decay": 0.1}, {"label_smoothing": None},
        {"warmup": 0.0}, *({name: None} for name in STRENGTHS),
    ]  # fmt: skip
    found = {trained(recipe(**each), images, stop_after=1).digests[0] for each in others}
    assert len(found) == len(others) and first[0] not in found


def test_the_quick_network_learns_images_of_any_size():
    kept = trained(recipe("quick", lr=0.2, epochs=10), digits(900)).kept("validation")
    assert kept is not None and kept.accuracy > 0.8
    assert trained(recipe("quick"), noise((2, 5, 3), 40), stop_after=1).history


def test_a_fit_without_the_new_settings_has_the_key_that_it_had():
    """Null does not count, and neither does code that the settings do not name."""
    settings = {part: trial()[part] for part in ("model", "optimizer", "trainer")}
    new = {**settings, "trainer": {**settings["trainer"], "warmup": None, **OFF}}
    assert key._without_null(new) == key._without_null(settings)
    code = key.code("cnn", settings)
    assert not [path for path in code if "distortions" in path or "_penalties" in path]
    used = key.code("cnn", {**settings, **RECIPE})
    assert {
        "families/cnn/augmentations/distortions.py",
        "families/cnn/optimizers/_penalties.py",
    } <= used.keys()


# The network


@pytest.mark.parametrize("shape", [(28, 28), (8, 8), (10, 6, 3)])
def test_gradients_reach_every_weight_of_the_residual_network(shape):
    torch.manual_seed(0)
    network = models.build({"architecture": "residual", "dropout": 0.0}, shape, 10)
    height, width, *channels = shape
    logits = network(torch.rand(5, *(channels or [1]), height, width))
    assert logits.shape == (5, 10)
    functional.cross_entropy(logits, torch.arange(5)).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


def test_the_residual_network_has_about_a_million_weights():
    network = models.build({"architecture": "residual", "dropout": 0.0}, (28, 28), 10)
    assert 0.9e6 < sum(p.numel() for p in network.parameters()) < 1.2e6


def test_a_block_with_silent_convolutions_is_the_identity():
    block = residual.Block(6, 6, 1)
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 6, 5, 7)
    assert torch.equal(block(x), x)
    assert residual.Block(6, 8, 2)(x).shape == (2, 8, 3, 4)


# Optimizers, label smoothing and schedule


@pytest.mark.parametrize("build", [nesterov.build, adamw.build])
def test_label_smoothing_has_the_gradient_of_torch(build):
    x, y = torch.randn(16, 6), torch.arange(16) % 4
    gradients = []
    for built in (True, False):
        torch.manual_seed(0)
        layer = torch.nn.Linear(6, 4)
        if built:
            settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "label_smoothing": 0.2}
            build(layer, settings)
        loss = functional.cross_entropy(layer(x), y, label_smoothing=0.0 if built else 0.2)
        loss.backward()
        gradients.append(layer.weight.grad)
    torch.testing.assert_close(*gradients)


def test_label_smoothing_keeps_nothing_of_a_step_in_memory():
    layer = torch.nn.Linear(6, 4)
    _penalties.smooth_labels(layer, 0.1)
    logits = layer(torch.randn(3, 6))
    logits.sum().backward()
    step = weakref.ref(logits)
    del logits
    assert step() is None


def test_biases_and_normalisations_do_not_decay():
    network = models.build({"architecture": "residual", "dropout": 0.0}, (8, 8), 10)
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.5, "label_smoothing": None}
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer = nesterov.build(network, settings)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in network.named_parameters():
        decays = parameter.dim() > 1
        assert torch.equal(parameter, before[name]) != decays, name


def test_nesterov_is_the_published_one():
    """Sutskever et al.: v <- mu v - lr g(w + mu v), seen from the moved weights."""
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "label_smoothing": None}
    layer = torch.nn.Linear(3, 1, bias=False)
    optimizer = nesterov.build(layer, settings)
    w, v = layer.weight.detach().double().clone(), torch.zeros(1, 3, dtype=torch.float64)
    slopes = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    for _ in range(20):
        layer.weight.grad = (slopes * layer.weight.detach()).float()
        optimizer.step()
        before, v = v, 0.9 * v - 0.1 * slopes * w
        w = w - 0.9 * before + 1.9 * v  # w is the weights moved by 0.9 v
    torch.testing.assert_close(layer.weight.detach().double(), w, rtol=1e-4, atol=1e-6)


@given(st.floats(0, 0.9), st.floats(0, 1))
def test_the_rate_rises_to_its_value_and_falls_to_zero(warmup, done):
    def factor(done: float) -> float:
        return linear.factor(done, {"warmup": warmup})

    assert 0 <= factor(done) <= 1
    assert factor(warmup) == pytest.approx(1) and factor(1) == 0
    half = (done + warmup) / 2  # between a point and the end of the warm-up
    assert factor(done) <= factor(half) + 1e-12


# The average


def test_the_average_forgets_and_takes_the_running_moments_along():
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    average = exponential.Average(layers, {"decay": 0.3})
    names = ("0.weight", "1.running_mean", "1.running_var")
    expected = {name: layers.state_dict()[name].double() for name in names}
    for update in range(1, 6):
        layers(torch.randn(8, 3) * update)
        with torch.no_grad():
            next(layers.parameters()).add_(1.0)
        average.update()
        left = min(0.3, (1 + update) / (10 + update))  # 2/11 and 3/12 at first
        for name, before in expected.items():
            expected[name] = left * before + (1 - left) * layers.state_dict()[name]
    own = average.network.state_dict()
    for name in names:
        torch.testing.assert_close(own[name].double(), expected[name], rtol=1e-5, atol=1e-6)
    assert own["1.num_batches_tracked"] == 5
    assert not any(p.requires_grad for p in average.network.parameters())


def test_the_average_of_equal_weights_is_these_weights():
    layer = torch.nn.Linear(3, 2)
    average = exponential.Average(layer, {"decay": 0.9})
    for _ in range(3):
        average.update()
    torch.testing.assert_close(average.network.weight, layer.weight)


# Augmentations


def test_augmentations_that_are_off_change_nothing():
    images = pictures()
    assert torch.equal(augmented(images), images)
    assert torch.equal(distortions.augment(images, np.random.default_rng(0), {}), images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 10, 6)])
def test_an_augmented_batch_has_the_form_of_the_batch(shape, dtype):
    images = torch.rand(4, *shape).to(dtype)
    found = augmented(images, **STRENGTHS)
    assert (found.shape, found.dtype) == (images.shape, dtype)
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", STRENGTHS)
def test_each_augmentation_takes_its_numbers_from_the_stream_alone(name):
    images = pictures()
    strength: dict[str, Any] = {name: STRENGTHS[name]}
    torch.manual_seed(1)
    first = augmented(images, **strength)
    torch.manual_seed(2)
    np.random.seed(3)
    assert torch.equal(augmented(images, **strength), first)
    other = augmented(images, seed=1, **strength)
    assert not torch.equal(other, first)
    assert not torch.equal(first[0] - first[1], images[0] - images[1]), "each image has its own"


@hypothesis_settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    names=st.sets(st.sampled_from(sorted(STRENGTHS))),
    low=st.sampled_from([-3.0, 0.0, 0.5]),
)
def test_no_new_grey_values_appear_beyond_those_of_the_batch(seed, names, low):
    images = pictures(seed=seed % 7) + low
    found = augmented(images, seed, **{name: STRENGTHS[name] for name in names})
    assert found.min() >= images.min() - 1e-5 and found.max() <= images.max() + 1e-5
    if "cutout" not in names:  # the ink stays inside
        assert (found > low + 1e-3).flatten(1).any(dim=1).all()


@given(st.integers(0, 2**32 - 1))
@hypothesis_settings(deadline=None, max_examples=20)
def test_thickness_keeps_the_order_of_erosion_image_and_dilation(seed):
    images = pictures()
    found = augmented(images, seed, thickness=1.0)
    thick = functional.max_pool2d(images, 3, 1, 1)
    thin = -functional.max_pool2d(-images, 3, 1, 1)
    assert ((found >= thin - 1e-6) & (found <= thick + 1e-6)).all()
    for image, changed in zip(images, found, strict=True):
        assert (changed >= image - 1e-6).all() or (changed <= image + 1e-6).all()


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 1))
@hypothesis_settings(deadline=None, max_examples=20)
def test_cutout_blanks_one_square_at_most(seed, share):
    images = torch.ones(6, 1, 20, 20)
    images[:, :, 0, 0] = 0  # the background
    found = augmented(images, seed, cutout=share)
    side = round(share * 20)
    for image, changed in zip(images[:, 0], found[:, 0], strict=True):
        rows, columns = torch.nonzero((changed != image) & (image > 0), as_tuple=True)
        if len(rows):
            height, width = (int(each.max() - each.min()) + 1 for each in (rows, columns))
            assert max(height, width) <= side
            assert height * width - 1 <= len(rows) <= height * width


def test_an_elastic_field_is_smooth_and_as_strong_as_its_setting():
    field = distortions.deformed(400, np.random.default_rng(0), 0.04, (28, 28))
    field = field.reshape(400, 28, 28, 2)
    assert field.std() == pytest.approx(2 * 0.04, rel=0.1)
    assert (field[:, 1:] - field[:, :-1]).abs().mean() < 0.35 * field.abs().mean()


def test_an_affine_map_is_the_same_for_all_points_and_within_its_strength():
    points = distortions._points(28, 28)
    moves = distortions.mapped(50, np.random.default_rng(0), 0.2, points)
    assert moves.abs().max() <= 0.2 + 0.2 + 0.1
    ones = torch.cat([points, torch.ones(len(points), 1)], dim=1)
    solved = torch.linalg.lstsq(ones.expand(50, -1, -1), moves).solution
    torch.testing.assert_close(ones @ solved, moves, atol=1e-5, rtol=0)

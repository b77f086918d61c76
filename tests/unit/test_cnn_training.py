"""The training loop of the networks: the textbook's, stopped, killed, resumed and refused."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.networks import NONE, Memory, digits, fits, noise, run, trained, trial

from kmnist_pipeline import arithmetic
from kmnist_pipeline.data import streams
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.families.base import TrainingError
from kmnist_pipeline.families.cnn import model as models
from kmnist_pipeline.families.cnn import train
from kmnist_pipeline.families.cnn.averaging import none as averaging
from kmnist_pipeline.families.cnn.optimizers import adam


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)


@pytest.mark.parametrize("loss", ["mean", "sum"])
@pytest.mark.parametrize("shape", [(8, 8), (6, 10), (10, 4, 3)])
def test_one_epoch_is_that_of_the_textbook_loop(shape, loss):
    images = digits(320) if shape == (8, 8) else noise(shape)
    experiment = trial(epochs=1, validation=NONE, dropout=0.0, loss=loss)
    fitted = trained(experiment, images)

    torch.manual_seed(train._number(0, 0, train.WEIGHTS))
    network = models.build(experiment["model"], shape, 10)
    # Unfused, Adam rounds differently, and makes steps of what is left of gradients that cancel.
    optimizer = torch.optim.Adam(network.parameters(), lr=0.002, fused=True)
    low, high = int(images.pixels.min()), int(images.pixels.max())
    scaled = (images.pixels.astype(np.float32) - low) / np.float32(high - low)
    x = torch.from_numpy(scaled.reshape(*scaled.shape[:3], -1)).permute(0, 3, 1, 2)
    order = streams.generator(0, 0, 1, train.SHUFFLE).permutation(320)
    total = 0.0
    for start in range(0, 320, 32):
        rows = order[start : start + 32]
        optimizer.zero_grad()
        y = torch.from_numpy(images.labels[rows])
        error = torch.nn.functional.cross_entropy(network(x[rows]), y, reduction=loss)
        error.backward()
        optimizer.step()
        total += float(error.detach()) * (32 if loss == "mean" else 1)
    for name, expected in network.state_dict().items():
        np.testing.assert_array_equal(fitted.tensors[f"network.{name}"], expected)
    (epoch,) = fitted.history
    assert epoch.loss == pytest.approx(total / 320, rel=1e-5)


def test_adam_is_the_published_one():
    torch.manual_seed(0)
    layer = torch.nn.Linear(7, 5, bias=False)
    built = adam.build(layer, {"lr": 0.002})
    weights = layer.weight.detach().double().clone()
    mean, square = torch.zeros_like(weights), torch.zeros_like(weights)
    for step in range(1, 30):
        gradient = torch.randn(5, 7)
        layer.weight.grad = gradient.clone()
        built.step()
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient.double() ** 2
        unbiased = mean / (1 - 0.9**step), square / (1 - 0.999**step)
        weights -= 0.002 * unbiased[0] / (unbiased[1].sqrt() + 1e-8)
    torch.testing.assert_close(layer.weight.detach().double(), weights, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [
        ("simple", (8, 8)),
        ("resnet_like", (8, 8)),
        ("improved", (8, 8)),
        ("siamese", (8, 8)),
        ("simple", (6, 10)),
        ("improved", (10, 6, 3)),
        ("siamese", (6, 10, 3)),
    ],
)
def test_a_killed_training_ends_with_the_bytes_of_an_undisturbed_one(architecture, shape):
    images = digits() if shape == (8, 8) else noise(shape, 600)
    experiment = trial(architecture, keep="best_accuracy", patience=5)
    whole = trained(experiment, images)
    calls = itertools.count(1)

    def killed(_: float) -> None:
        if next(calls) == 4:  # of two in an epoch of 15 updates: in the middle of the second one
            raise KeyboardInterrupt

    memory = Memory()
    with pytest.raises(KeyboardInterrupt):
        trained(experiment, images, memory, killed)
    told: list[float] = []
    again = trained(experiment, images, memory, told.append)
    assert told[0] == pytest.approx(1 / 3) and told == sorted(told) and told[-1] == 1
    assert again.encode() == whole.encode()


@pytest.mark.parametrize("keep", ["last", "best_accuracy", "best_loss"])
def test_it_does_not_matter_after_which_epochs_a_training_was_killed(keep):
    images, experiment = digits(150), trial(epochs=20, patience=2, keep=keep, lr=0.02)
    whole = trained(experiment, images)
    epochs = len(whole.digests)
    assert 3 < epochs < 20, "what a checkpoint knows must end it early"
    memory = Memory()
    for epoch in range(1, epochs + 2):  # the last time it is over already
        part = trained(experiment, images, memory, stop_after=epoch)
        assert part.digests == whole.digests[:epoch]
    assert part.encode() == whole.encode()


def test_patience_stops_and_the_best_or_the_last_weights_are_kept():
    images = digits(200)
    best = trained(trial(epochs=30, patience=2, keep="best_accuracy"), images)
    assert best.history[-1].epoch == best.kept_epoch + 2 < 30
    accuracies = [e.accuracy for e in best.history if e.split == "validation"]
    kept = best.kept("validation")
    assert kept is not None and kept.accuracy == max(accuracies)
    stopped = trained(trial(epochs=30, patience=2), images)
    assert stopped.kept_epoch == stopped.history[-1].epoch == best.history[-1].epoch
    last = trained(trial(epochs=4, keep="last"), images)
    assert last.kept_epoch == last.history[-1].epoch == 4
    lowest = trained(trial(epochs=6, keep="best_loss", lr=0.02), images)
    losses = [e.loss for e in lowest.history if e.split == "validation"]
    assert losses[lowest.kept_epoch - 1] == min(losses)


def test_folds_and_seeds_differ_and_hold_each_image_out_once():
    images = digits(90)
    experiment = trial(epochs=1, validation={"method": "kfold", "folds": 3}, seeds=[0, 1])
    planned = fits(experiment, images)
    assert [(fit.seed, fit.fold) for fit in planned] == [(s, f) for s in (0, 1) for f in range(3)]
    for folds in (planned[:3], planned[3:]):
        assert sorted(np.concatenate([fit.validation for fit in folds])) == list(range(90))
    first, second, other = (run(planned[position], images) for position in (0, 1, 3))
    assert (first.n_train, first.n_validation) == (60, 30)
    assert not same(first.tensors, second.tensors)
    assert not same(first.tensors, other.tensors)


def test_a_loss_that_is_not_finite_stops_training_and_keeps_the_last_good_weights():
    images, memory = digits(200), Memory()
    with pytest.raises(
        TrainingError, match=r"step \d of epoch 1 with optimizer.lr=1e\+30: a small"
    ):
        trained(trial(lr=1e30), images, memory)
    assert memory.state is None
    good = trial(epochs=2)
    trained(good, images, memory, stop_after=1)
    kept = memory.state
    assert kept is not None
    with pytest.raises(TrainingError, match=r"epoch 2 .*: a smaller learning rate may help"):
        trained(trial(epochs=2, lr=1e30), images, memory)
    assert memory.state == kept
    assert trained(good, images, memory).encode() == trained(good, images).encode()


def test_a_validation_loss_that_is_not_finite_stops_training():
    wild = trial(lr=1e38, batch_size=1024)  # one update an epoch, so that its loss is finite
    with pytest.raises(TrainingError, match="the validation loss is nan at the end of epoch 1 "):
        trained(wild, digits(200), Memory())


def test_settings_reach_every_choice_and_numbers_of_an_optimizer_are_resumed(monkeypatch):
    """With choices that nothing here offers yet."""
    given = []

    class Slower(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                group["steps"] = group.get("steps", 0) + 1
                group["lr"] /= group["steps"]
            return super().step(closure)

    def note(kind, settings):
        given.append((kind, settings["epochs"]))

    class Average(averaging.Average):
        def __init__(self, trained, settings):
            note("averaging", settings)
            super().__init__(trained, settings)

    def factor(done, settings):
        note("schedule", settings)
        return 1 - done / 2

    def augment(images, rng, settings):
        note("augmentation", settings)
        return images * float(rng.random())

    chosen = {
        "optimizers": SimpleNamespace(build=lambda network, _: Slower(network.parameters())),
        "schedules": SimpleNamespace(factor=factor),
        "augmentations": SimpleNamespace(augment=augment),
        "averaging": SimpleNamespace(Average=Average),
    }
    real = models.choice
    monkeypatch.setattr(
        models, "choice", lambda folder, name: chosen.get(folder) or real(folder, name)
    )
    images, memory = digits(200), Memory()
    whole = trained(trial(), images)
    assert set(given) == {(kind, 3) for kind in ("schedule", "augmentation", "averaging")}
    trained(trial(), images, memory, stop_after=1)
    assert trained(trial(), images, memory).encode() == whole.encode()


def test_bfloat16_trains_in_native_arithmetic_alone_and_keeps_float32(monkeypatch):
    images = digits(300)
    with pytest.raises(UserError, match=r"trainer\.precision=bfloat16: evidence needs"):
        trained(trial(epochs=1, precision="bfloat16"), images)
    monkeypatch.setattr(arithmetic, "name", lambda: arithmetic.NATIVE)
    fitted, exact = (
        trained(trial(epochs=4, precision=precision), images)
        for precision in ("bfloat16", "float32")
    )
    assert {a.dtype for n, a in fitted.tensors.items() if "network." in n} == {np.dtype("float32")}
    assert fitted.digests != exact.digests
    assert fitted.history[-1].loss == pytest.approx(exact.history[-1].loss, rel=0.2)

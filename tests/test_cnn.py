"""The networks and their training loop, on scikit-learn's digits."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from kmnist_pipeline import schema
from kmnist_pipeline.data.dataset import Images
from kmnist_pipeline.evidence.outs import Folder
from kmnist_pipeline.models import cnn as models
from kmnist_pipeline.training import cnn
from kmnist_pipeline.training.fit import Memory, TrainingError


def digits(n: int = 600) -> Images:
    loaded = load_digits()
    names = tuple(map(str, range(10)))
    pixels = loaded.images[:n].astype(np.uint8)
    return Images(pixels, loaded.target[:n].astype(np.int64), np.arange(n), names)


def trial(architecture: str = "simple", **changes) -> schema.Experiment:
    trainer: dict[str, Any] = {"epochs": 3, "keep": "last", "precision": "float32", "threads": 1}
    model: dict[str, Any] = {
        "architecture": architecture,
        "dropout": changes.pop("dropout", 0.2),
        "scaling": "minmax",
    }
    model["draws"] = 5 if architecture == "siamese" else None
    return schema.Experiment(
        report="r",
        dataset="d",
        classes=None,
        subset=None,
        model=schema.CnnModel(**model),
        optimizer=schema.Optimizer(
            lr=changes.pop("lr", 0.002), batch_size=changes.pop("batch_size", 32)
        ),
        validation=changes.pop("validation", schema.Holdout(fraction=0.2)),
        trainer=schema.Trainer(**trainer | changes),
        seeds=[0],
    )


def fit(experiment: schema.Experiment, images: Images, memory: Memory, progress=lambda _: None):
    ((fold, *others),) = cnn.fit([experiment], images, 0, memory, progress)
    return fold, others


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)


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


# Training


def test_one_epoch_is_that_of_the_textbook_loop(tmp_path):
    images = digits(320)
    experiment = trial(epochs=1, validation=schema.NoValidation(), dropout=0.0)
    fold, _ = fit(experiment, images, Folder(tmp_path))

    torch.manual_seed(cnn._number(0, 0, cnn.WEIGHTS))
    network = models.build(dataclasses.asdict(experiment.model), (8, 8), 10)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.002)
    x = torch.from_numpy(images.pixels[:, None].astype(np.float32) / 16)
    rng = cnn.splits.generator(0, 0, 1, cnn.SHUFFLE)
    order = rng.permutation(320)
    for start in range(0, 320, 32):
        rows = order[start : start + 32]
        optimizer.zero_grad()
        y = torch.from_numpy(images.labels[rows])
        torch.nn.functional.cross_entropy(network(x[rows]), y).backward()
        optimizer.step()
    for name, expected in network.state_dict().items():
        np.testing.assert_allclose(fold.tensors[f"network.{name}"], expected, atol=2e-5)


@pytest.mark.parametrize("architecture", ["simple", "resnet_like", "improved", "siamese"])
def test_a_killed_training_ends_with_the_bytes_of_an_undisturbed_one(architecture, tmp_path):
    images, experiment = digits(), trial(architecture, keep="best", batch_size=96)
    whole, _ = fit(experiment, images, Folder(tmp_path / "whole"))
    told = itertools.count(1)

    def killed(_: int) -> None:
        if next(told) == 9:  # of 5 updates an epoch: in the second one
            raise KeyboardInterrupt

    memory = Folder(tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        fit(experiment, images, memory, killed)
    steps: list[int] = []
    again, _ = fit(experiment, images, memory, steps.append)
    assert steps[0] == 5 and sum(steps) == 15 == cnn.steps(experiment, 600)
    assert again.history == whole.history and again.best_epoch == whole.best_epoch
    assert same(again.tensors, whole.tensors)


def test_patience_stops_and_the_best_or_the_last_weights_are_kept(tmp_path):
    images = digits(200)
    best, _ = fit(trial(epochs=30, patience=2, keep="best"), images, Folder(tmp_path / "best"))
    assert best.history[-1].epoch == best.best_epoch + 2 < 30
    accuracies = [e.accuracy for e in best.history if e.split == "validation"]
    assert best.best("validation").accuracy == max(accuracies)
    stopped, _ = fit(trial(epochs=30, patience=2), images, Folder(tmp_path / "stopped"))
    assert stopped.best_epoch == stopped.history[-1].epoch == best.history[-1].epoch
    last, _ = fit(trial(epochs=4, keep="last"), images, Folder(tmp_path / "last"))
    assert last.best_epoch == last.history[-1].epoch == 4


def test_folds_and_seeds_differ_and_hold_each_image_out_once(tmp_path):
    images, experiment = digits(90), trial(epochs=1, validation=schema.KFold(folds=3))
    first, others = fit(experiment, images, Folder(tmp_path / "0"))
    assert [fold.n_validation for fold in (first, *others)] == [30, 30, 30]
    assert not same(first.tensors, others[0].tensors)
    ((other, *_),) = cnn.fit([experiment], images, 1, Folder(tmp_path / "1"), lambda _: None)
    assert not same(first.tensors, other.tensors)


def test_a_loss_that_is_not_finite_stops_training_and_keeps_the_last_good_weights(tmp_path):
    images, memory = digits(200), Folder(tmp_path)
    with pytest.raises(TrainingError, match=r"step \d of epoch 1 with optimizer.lr=1e\+30"):
        fit(trial(lr=1e30), images, memory)
    good = Folder(tmp_path / "good")
    fit(trial(epochs=1), images, good)
    kept = good.within("fold0")["checkpoint"]
    with pytest.raises(TrainingError, match=r"epoch 2 .* are kept in .*good/fold0"):
        fit(trial(epochs=2, lr=1e30), images, good)
    assert good.within("fold0")["checkpoint"] == kept


# Predictions


def test_probabilities_are_those_of_the_best_epoch(tmp_path):
    images, experiment = digits(), trial(epochs=6, keep="best")
    fold, _ = fit(experiment, images, Folder(tmp_path))
    _, validation = cnn.splits.folds(600, {"method": "holdout", "fraction": 0.2}, 0)[0]
    model = dataclasses.asdict(experiment.model)
    held = images.take(validation)
    p = models.probabilities(model, fold.tensors, held)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert (p.argmax(axis=1) == held.labels).mean() == fold.best("validation").accuracy > 0.8
    assert (models.probabilities(model, fold.tensors, held) == p).all()


def test_saliency_is_the_slope_of_the_predicted_logit(tmp_path):
    images, experiment = digits(120), trial(epochs=1)
    fold, _ = fit(experiment, images, Folder(tmp_path))
    model, few = dataclasses.asdict(experiment.model), images.take(np.arange(3))
    slopes = models.saliency(model, fold.tensors, few)
    network = models.from_tensors(model, fold.tensors, (8, 8), 10).double()
    x = torch.from_numpy(few.pixels[:, None] / 16)
    base, top = network(x).max(dim=1)
    for row, column in [(3, 3), (4, 2), (0, 0)]:
        moved = x.clone()
        moved[:, 0, row, column] += 1e-4
        logits = network(moved)[torch.arange(3), top]
        expected = ((logits - base) / 1e-4).abs().detach()
        np.testing.assert_allclose(slopes[:, row, column], expected, rtol=1e-2, atol=1e-4)


def test_weights_of_another_architecture_are_refused(tmp_path):
    fold, _ = fit(trial(epochs=1), digits(60), Folder(tmp_path))
    other = dataclasses.asdict(trial("improved").model)
    with pytest.raises(models.ArchitectureError, match="not those of a improved network"):
        models.probabilities(other, fold.tensors, digits(5))
    simple = dataclasses.asdict(trial().model)
    wider = Images(np.zeros((2, 10, 10), np.uint8), np.zeros(2, int), np.arange(2), ("a", "b"))
    with pytest.raises(models.ArchitectureError, match="2 classes of 10x10 pixels"):
        models.probabilities(simple, fold.tensors, wider)


# The Siamese network


def test_pairs_are_balanced_and_true_to_their_targets():
    labels = np.repeat(np.arange(4), [50, 30, 20, 10])
    rows = np.arange(110)
    (left, right), targets = cnn._pairs(labels, rows, np.random.default_rng(0))
    assert sorted(left.tolist()) == rows.tolist()
    assert ((labels[left] == labels[right]) == targets.numpy().astype(bool)).all()
    assert targets.sum() == 55 and not (left == right).any()


def test_one_shot_takes_the_nearest_support(tmp_path):
    images, experiment = digits(), trial("siamese", epochs=25)
    fold, _ = fit(experiment, images, Folder(tmp_path))
    supports = fold.tensors["supports"]
    assert supports.shape == (5, 10, 64) and supports.dtype == np.uint8
    model = dataclasses.asdict(experiment.model)
    queries = images.take(np.arange(50))
    distances = models.distances(model, fold.tensors, queries)
    network = models.from_tensors(model, fold.tensors, (8, 8), 10)
    with torch.no_grad():
        of = [
            network.encoder(  # type: ignore[operator]
                torch.from_numpy(p.reshape(-1, 1, 8, 8).astype(np.float32) / 16)
            )
            for p in (queries.pixels, supports[2])
        ]
    np.testing.assert_allclose(distances[:, 2], torch.cdist(*of), rtol=1e-3, atol=1e-3)
    p = models.probabilities(model, fold.tensors, queries)
    assert (p.argmax(axis=1) == distances[:, 0].argmin(axis=1)).all()
    assert (p.argmax(axis=1) == queries.labels).mean() > 0.5


def test_a_class_without_support_is_named(tmp_path):
    images = digits(100)
    few = images.take(np.flatnonzero(images.labels != 7))
    with pytest.raises(TrainingError, match="there is none of 7 among the"):
        fit(trial("siamese", epochs=1), few, Folder(tmp_path))


@pytest.mark.parametrize("asked", ["float32", "bfloat16"])
def test_a_precision_can_be_forced(asked, tmp_path):
    fold, _ = fit(trial(epochs=4, precision=asked), digits(), Folder(tmp_path))
    assert cnn.precision(asked) == asked
    assert all(a.dtype != np.float16 for a in fold.tensors.values())
    assert fold.history[-1].accuracy > 0.5

"""What every family of models does: the images it takes, the epochs it trains, what it refuses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from support.small_fits import SETTINGS, a_fit, data_of, images, run, task_of

from kmnist_pipeline.families import selection
from kmnist_pipeline.families.base import Checkpoint, Fit, TrainingError
from kmnist_pipeline.families.registry import FAMILIES, ModelModule, TrainModule


def test_every_family_has_the_functions_that_the_registry_describes():
    """mypy compares their arguments."""
    from kmnist_pipeline.families.cnn import model as cnn_model
    from kmnist_pipeline.families.cnn import train as cnn_train
    from kmnist_pipeline.families.linear import model as linear_model
    from kmnist_pipeline.families.linear import train as linear_train
    from kmnist_pipeline.families.sklearn import model as sklearn_model
    from kmnist_pipeline.families.sklearn import train as sklearn_train

    models: dict[str, ModelModule] = {
        "linear": linear_model, "sklearn": sklearn_model, "cnn": cnn_model,
    }  # fmt: skip
    trains: dict[str, TrainModule] = {
        "linear": linear_train, "sklearn": sklearn_train, "cnn": cnn_train,
    }  # fmt: skip
    assert models == {name: family.model for name, family in FAMILIES.items()}
    assert trains == {name: family.train for name, family in FAMILIES.items()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", [(6, 5), (5, 8, 3)])
def test_a_family_takes_images_of_any_shape_and_colour(family: str, shape: tuple[int, ...]):
    data = images(shape=shape)
    fitted = run(a_fit(family, data), data)
    p = FAMILIES[family].model.probabilities(
        SETTINGS[family]["model"], fitted.tensors, data.pixels, 3
    )
    assert p.shape == (60, 3)
    np.testing.assert_allclose(p.sum(axis=1), 1)


@pytest.mark.parametrize("family", ["linear", "cnn"])
def test_the_sum_over_a_batch_is_the_mean_with_a_larger_rate(family: str):
    data = images()
    fit = a_fit(family, data, training=np.arange(48), validation=np.arange(48, 60))

    def changed(loss: str, lr: float) -> Fit:
        settings = {
            "model": SETTINGS[family]["model"],
            "optimizer": {**SETTINGS[family]["optimizer"], "lr": lr},
            "trainer": {**SETTINGS[family]["trainer"], "loss": loss},
        }
        return dataclasses.replace(fit, settings=settings)

    mean, total = run(changed("mean", 0.016), data), run(changed("sum", 0.001), data)
    if family == "linear":  # Adam's step does not depend on the size of the gradient
        for one, other in zip(mean.history, total.history, strict=True):
            assert one.loss == pytest.approx(other.loss, rel=1e-9)
    else:
        total = run(changed("sum", 0.016), data)
        for one, other in zip(mean.history, total.history, strict=True):
            assert one.loss == pytest.approx(other.loss, rel=1e-2)


@pytest.mark.parametrize(("keep", "kept"), [("last", 5), ("best_accuracy", 4), ("best_loss", 2)])
def test_the_epoch_is_kept_that_the_settings_say(keep: str, kept: int):
    follow = selection.Selection(keep, None)
    epochs = {}
    measured = [(0.9, 0.5), (0.2, 0.7), (0.5, 0.8), (0.4, 0.8), (0.3, 0.6)]  # loss and accuracy
    for epoch, validation in enumerate(measured, start=1):
        if follow.keeps(epoch, validation):
            epochs[keep] = epoch
    assert epochs[keep] == kept


def test_patience_counts_epochs_without_a_better_one():
    follow = selection.Selection("best_loss", 2)
    over = []
    for epoch, loss in enumerate([3.0, 2.0, 2.5, 2.4, 2.3], start=1):
        follow.keeps(epoch, (loss, 0.5))
        over.append(follow.is_over(epoch))
    assert over == [False, False, False, True, True]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_epoch_is_that_of_the_whole_training(family: str):
    data = images()
    whole, first = run(a_fit(family, data), data), run(a_fit(family, data), data, stop_after=1)
    assert first.digests == whole.digests[:1]
    assert first.history == [epoch for epoch in whole.history if epoch.epoch == 1]


def test_more_epochs_than_a_fit_has_are_all_of_it():
    data = images()
    several = [task_of(a_fit("cnn", data), data_of(data), stop) for stop in (None, 99)]
    found = [task.train(data_of(data), Checkpoint(), lambda _: None) for task in several]
    assert found[0] == found[1]


def test_scikit_learn_must_see_each_class():
    data = images()
    fit = a_fit("sklearn", data, training=np.flatnonzero(data.labels != 1))
    with pytest.raises(TrainingError, match="no image of class 1 is among the 40 training images"):
        run(fit, data)


def test_precision_is_that_of_every_family():
    data = images()
    for family, settings in SETTINGS.items():
        if settings["trainer"]["precision"] == "float64":
            other = {**settings, "trainer": {**settings["trainer"], "precision": "float32"}}
            found = [run(a_fit(family, data, settings=each), data) for each in (settings, other)]
            assert found[0].digests != found[1].digests, family


def test_weights_that_are_not_finite_as_they_are_stored_are_refused():
    """Also where float64 holds them and the measurements look well."""
    data = data_of(images())
    settings = {**SETTINGS["linear"], "optimizer": {"name": "sgd", "lr": 1e300, "batch_size": 8}}
    fit = a_fit("linear", images(), settings=settings)
    with pytest.raises(TrainingError, match=r"weights.* not finite .*a smaller optimizer.lr"):
        task_of(fit, data).train(data, Checkpoint(), print)


def test_batches_of_one_are_the_same_mathematics():
    """The path for one image a batch against the textbook, in float64."""
    data = images()
    settings = {**SETTINGS["linear"], "optimizer": {"name": "sgd", "lr": 0.05, "batch_size": 1}}
    fit = a_fit("linear", data, settings=settings)
    fitted = run(fit, data, stop_after=1)

    from kmnist_pipeline.data import streams
    from kmnist_pipeline.families.linear import model, train

    order = streams.generator(0, train.SHUFFLE, 0).permutation(45)
    x = np.hstack([np.ones((60, 1)), data.flat / 255.0])
    weights = np.zeros((x.shape[1], 3))
    for row in fit.training[order]:
        error = model.softmax(x[row] @ weights) - np.eye(3)[data.labels[row]]
        weights -= 0.05 * np.outer(x[row], error)
    np.testing.assert_allclose(fitted.tensors["weights"], weights, rtol=1e-6, atol=1e-7)
    held = model.cross_entropy("softmax", x[fit.validation] @ weights, data.labels[fit.validation])
    assert fitted.history[-1].loss == pytest.approx(held.mean(), rel=1e-9)

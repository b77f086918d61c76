"""The from-scratch models against closed forms, finite differences, scikit-learn and torch."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kmnist_pipeline.data import scaling, splits, streams
from kmnist_pipeline.families.base import Checkpoint, Data, Fit, Fitted, TrainingError
from kmnist_pipeline.families.linear import model as models
from kmnist_pipeline.families.linear import train

logits = arrays(np.float64, (5, 4), elements=st.floats(-1e4, 1e4))


def blobs(classes=3, n=600, features=12, seed=0, noise=45):
    """Overlapping classes of random uint8 images."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    centres = rng.uniform(60, 190, (classes, features))
    pixels = np.clip(centres[labels] + rng.normal(0, noise, (n, features)), 0, 255).astype(np.uint8)
    return pixels, labels


def fit_fold(pixels, labels, *, held_out=None, **changes) -> Fitted:
    """Train on all but the last fifth of the images, or the last `held_out`, which validate."""
    n = len(labels)
    setting: dict[str, Any] = {
        "kind": "softmax",
        "scaling": "zscore",
        "lr": 0.1,
        "batch_size": 32,
        "epochs": 1,
        "patience": None,
        "keep": "best_accuracy",
        "loss": "mean",
        "precision": "float64",
    }
    assert changes.keys() <= setting.keys()
    setting |= changes
    parts = {
        "model": ("kind",),
        "optimizer": ("lr", "batch_size"),
        "trainer": ("epochs", "patience", "keep", "loss", "precision"),
    }
    held = n // 5 if held_out is None else held_out
    training = np.arange(n - held)
    shift, scale = scaling.estimate(setting["scaling"], pixels[training])
    fit = Fit(
        "linear",
        {part: {name: setting[name] for name in names} for part, names in parts.items()},
        seed=0,
        fold=0,
        training=training,
        validation=np.arange(n - held, n),
        shift=shift,
        scale=scale,
    )
    data = Data(pixels, labels, int(labels.max()) + 1)
    return train.fit(fit, data, Checkpoint(), lambda _: None)


@given(logits)
def test_softmax_is_a_distribution_and_ignores_a_shift(a):
    p = models.softmax(a)
    assert np.isfinite(p).all() and (p >= 0).all()
    np.testing.assert_allclose(p.sum(axis=1), 1)
    np.testing.assert_allclose(models.softmax(a + 7.0), p, atol=1e-9)


@given(arrays(np.float64, 20, elements=st.floats(-1e6, 1e6)))
def test_sigmoid_is_softmax_of_two_classes(a):
    two = models.softmax(np.stack([np.zeros_like(a), a], axis=1))[:, 1]
    np.testing.assert_allclose(models.sigmoid(a), two, atol=1e-15)


@given(logits, st.integers(0, 3))
def test_cross_entropy_of_large_logits_is_finite_and_exact(a, label):
    labels = np.full(5, label)
    loss = models.cross_entropy("softmax", a, labels)
    assert np.isfinite(loss).all() and (loss >= -1e-9).all()
    from scipy.special import log_softmax

    np.testing.assert_allclose(loss, -log_softmax(a, axis=1)[:, label], atol=1e-9)
    binary = models.cross_entropy("logistic", a[:, :1], labels % 2)
    signed = np.where(labels % 2 == 1, -a[:, 0], a[:, 0])
    np.testing.assert_allclose(binary, np.logaddexp(0, signed))


@pytest.mark.parametrize("kind", ["softmax", "logistic"])
def test_the_first_step_is_minus_the_gradient_by_finite_differences(kind):
    pixels, labels = blobs(classes=3 if kind == "softmax" else 2, n=50)
    lr = 0.3
    fit = fit_fold(pixels, labels, kind=kind, batch_size=1000, lr=lr)
    training = slice(0, 40)
    shift, scale = scaling.estimate("zscore", pixels[training])
    x = np.hstack([np.ones((40, 1)), (pixels[training] - shift) / scale])
    columns = 3 if kind == "softmax" else 1

    def loss(weights):
        return models.cross_entropy(kind, x @ weights, labels[training]).mean()

    gradient = np.zeros((x.shape[1], columns))
    for index in np.ndindex(gradient.shape):
        nudge = np.zeros_like(gradient)
        nudge[index] = 1e-6
        gradient[index] = (loss(nudge) - loss(-nudge)) / 2e-6
    np.testing.assert_allclose(fit.tensors["weights"], -lr * gradient, atol=1e-8, rtol=1e-6)


def test_logistic_regression_of_balanced_constant_data_has_a_closed_form():
    # One constant feature carries nothing, so the bias alone is learnt: the log-odds of class 1.
    labels = np.tile([1, 1, 1, 0], 250)
    pixels = np.full((1000, 1), 7, np.uint8)
    fit = fit_fold(pixels, labels, kind="logistic", batch_size=800, epochs=400, lr=2.0, keep="last")
    assert fit.tensors["weights"][0, 0] == pytest.approx(np.log(3), abs=1e-4)
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert fit.history[-1].loss == pytest.approx(entropy, abs=1e-6)


@pytest.mark.parametrize("kind", ["softmax", "logistic"])
def test_full_batches_reach_the_solution_of_scikit_learn(kind):
    from sklearn.linear_model import LogisticRegression

    pixels, labels = blobs(classes=4 if kind == "softmax" else 2, n=1000, features=6, noise=110)
    fit = fit_fold(
        pixels,
        labels,
        kind=kind,
        batch_size=10_000,
        epochs=4000,
        lr=1.0,
        scaling="zscore_pixel",
    )
    shift, scale = scaling.estimate("zscore_pixel", pixels[:800])
    x = (pixels - shift) / scale
    reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(x[:800], labels[:800])
    p = reference.predict_proba(x)
    train = -np.log(p[np.arange(800), labels[:800]]).mean()
    held_out = -np.log(p[np.arange(800, 1000), labels[800:]]).mean()
    *_, (_, _, train_loss, _), (_, _, loss, _) = fit.history
    assert train_loss == pytest.approx(train, abs=1e-5)
    assert loss == pytest.approx(held_out, abs=1e-4)


@pytest.mark.parametrize("loss", ["mean", "sum"])
@pytest.mark.parametrize("batch_size", [48, 1])
@pytest.mark.parametrize(
    ("kind", "scaler"), [("softmax", "zscore"), ("logistic", "minmax"), ("softmax", "zscore_pixel")]
)
def test_one_epoch_equals_torch_sgd_on_the_same_batches(
    kind, scaler, batch_size, loss, monkeypatch
):
    import torch

    pixels, labels = blobs(classes=5 if kind == "softmax" else 2, n=700, features=30)
    n = 560
    lr = 0.2 if loss == "mean" and batch_size > 1 else 0.01
    monkeypatch.setattr(train, "STORED", "float64")
    fit = fit_fold(
        pixels, labels, kind=kind, scaling=scaler, lr=lr, batch_size=batch_size, loss=loss
    )

    shift, scale = scaling.estimate(scaler, pixels[:n])
    x = torch.tensor((pixels - shift) / scale, dtype=torch.float64)
    y = torch.tensor(labels)
    layer = torch.nn.Linear(30, 5 if kind == "softmax" else 1, dtype=torch.float64)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=lr)

    def error(rows, reduction):
        out = layer(x[rows])
        if kind == "softmax":
            return torch.nn.functional.cross_entropy(out, y[rows], reduction=reduction)
        return torch.nn.functional.binary_cross_entropy_with_logits(
            out[:, 0], y[rows].double(), reduction=reduction
        )

    order = np.arange(n)[streams.generator(0, train.SHUFFLE, 0).permutation(n)]
    seen = 0.0
    for start in range(0, n, batch_size):
        rows = order[start : start + batch_size]
        optimizer.zero_grad()
        of_batch = error(rows, loss)
        of_batch.backward()
        optimizer.step()
        seen += float(of_batch.detach()) * (len(rows) if loss == "mean" else 1)
    expected = np.vstack([layer.bias.detach().numpy(), layer.weight.detach().numpy().T])
    assert np.abs(fit.tensors["weights"] - expected).max() <= 1e-10
    # Whatever the gradient is of, losses are told as means: before each update, and after all.
    told, held_out = fit.history
    assert told.loss == pytest.approx(seen / n, rel=1e-9)
    assert held_out.loss == pytest.approx(
        float(error(np.arange(n, 700), "mean").detach()), rel=1e-9
    )


def test_a_fit_is_a_function_of_its_own_rows():
    pixels, labels = blobs(n=500)
    fit = fit_fold(pixels, labels, epochs=4)
    assert fit_fold(pixels, labels, epochs=4).encode() == fit.encode()
    held = np.arange(400, 500)
    other, answers = pixels.copy(), labels.copy()
    other[held], answers[held] = 255 - other[held], (labels[held] + 1) % 3
    unseen = fit_fold(other, answers, epochs=4)
    assert unseen.digests == fit.digests
    assert unseen.kept("train") and unseen.history != fit.history


def test_many_validation_images_are_measured_in_parts_with_the_same_result(monkeypatch):
    pixels, labels = blobs(n=500)
    whole = fit_fold(pixels, labels, epochs=3)
    monkeypatch.setattr(train, "AT_ONCE", 7 * pixels.shape[1])
    parts = fit_fold(pixels, labels, epochs=3)
    assert parts.digests == whole.digests
    for ours, theirs in zip(parts.history, whole.history, strict=True):
        assert ours.accuracy == theirs.accuracy
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-12)


def test_float32_is_nearly_float64():
    pixels, labels = blobs(n=500)
    one, two = (fit_fold(pixels, labels, precision=f"float{bits}", epochs=3) for bits in (32, 64))
    assert one.digests != two.digests
    for ours, theirs in zip(one.history, two.history, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-4)


@pytest.mark.parametrize("keep", ["best_accuracy", "best_loss", "last"])
def test_patience_stops_and_the_asked_weights_are_kept(keep):
    pixels, labels = blobs(n=300, seed=3)
    fit = fit_fold(pixels, labels, lr=5.0, epochs=200, patience=4, batch_size=8, keep=keep)
    last = fit.history[-1].epoch
    validation = [e for e in fit.history if e.split == "validation"]
    assert len(validation) == len(fit.digests) == last < 200
    kept = fit.kept("validation")
    assert kept is not None
    if keep == "last":
        assert fit.kept_epoch == last
    else:
        assert fit.kept_epoch == last - 4
        best = max(e.accuracy for e in validation), min(e.loss for e in validation)
        assert (kept.accuracy if keep == "best_accuracy" else kept.loss) in best
    p = models.probabilities({"kind": "softmax"}, fit.tensors, pixels[240:].reshape(-1, 3, 4), 3)
    assert (p.argmax(axis=1) == labels[240:]).mean() == kept.accuracy


def test_without_validation_the_last_weights_are_kept():
    pixels, labels = blobs(n=300)
    fit = fit_fold(pixels, labels, held_out=0, epochs=5, keep="last")
    assert (fit.n_train, fit.n_validation, fit.kept_epoch) == (300, 0, 5)
    assert {epoch.split for epoch in fit.history} == {"train"}
    assert fit.kept("validation") is None


@pytest.mark.parametrize("batch_size", [32, 1])
def test_divergence_is_an_error_that_names_the_learning_rate(batch_size):
    pixels, labels = blobs(n=200)
    with pytest.raises(TrainingError, match=r"optimizer\.lr=1e\+308"):
        fit_fold(pixels, labels, lr=1e308, epochs=5, batch_size=batch_size)


@settings(max_examples=30)
@given(arrays(np.uint8, (20, 6)))
def test_scalers_equal_scikit_learn(images):
    from sklearn.preprocessing import StandardScaler

    shift, scale = scaling.estimate("zscore_pixel", images)
    reference = StandardScaler().fit(images)
    np.testing.assert_allclose(shift, reference.mean_, atol=1e-9)
    np.testing.assert_allclose(scale, reference.scale_, rtol=1e-9)
    shift, scale = scaling.estimate("zscore", images)
    assert shift[0] == pytest.approx(images.mean())
    assert scale[0] == pytest.approx(images.std() or 1.0)
    shift, scale = scaling.estimate("minmax", images)
    scaled = (images - shift) / scale
    assert scaled.min() >= 0 and scaled.max() <= 1


@given(st.integers(2, 60), st.integers(2, 10), st.integers(0, 5))
def test_kfold_validates_every_row_once(n, folds, seed):
    if folds > n:
        with pytest.raises(splits.SplitError):
            list(splits.kfold(n, folds, seed))
        return
    pairs = list(splits.kfold(n, folds, seed))
    assert sorted(np.concatenate([validation for _, validation in pairs])) == list(range(n))
    for training, validation in pairs:
        assert sorted([*training, *validation]) == list(range(n))
    sizes = [len(validation) for _, validation in pairs]
    assert max(sizes) - min(sizes) <= 1

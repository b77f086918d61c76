"""What a fit's key sees, and what becomes of damaged files of the store."""

from __future__ import annotations

import ast
import dataclasses
import errno
import importlib.metadata
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kmnist_pipeline import arithmetic
from kmnist_pipeline.data.dataset import Images
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.families import selection
from kmnist_pipeline.families.base import Checkpoint, Data, Fit, Fitted, TrainingError, decode
from kmnist_pipeline.families.modules import NEUTRAL
from kmnist_pipeline.families.registry import FAMILIES, ModelModule, TrainModule
from kmnist_pipeline.fits import key, plan, results, work
from kmnist_pipeline.fits.store import Store, default

OPTIMIZER = {"lr": 0.1, "batch_size": 16}
TRAINER = {"epochs": 2, "patience": None, "keep": "last", "loss": "mean"}
SETTINGS: dict[str, dict[str, Any]] = {
    "linear": {
        "model": {"kind": "softmax"},
        "optimizer": {"name": "sgd", **OPTIMIZER},
        "trainer": {**TRAINER, "precision": "float64"},
    },
    "sklearn": {
        "model": {"solver": "lbfgs", "max_iter": 5},
        "optimizer": None,
        "trainer": {"precision": "float64"},
    },
    "cnn": {
        "model": {"architecture": "simple", "dropout": 0.1, "draws": None},
        "optimizer": {"name": "adam", **OPTIMIZER, "lr": 0.001},
        "trainer": {
            **TRAINER,
            "precision": "float32",
            "schedule": "constant",
            "augmentation": "none",
            "averaging": "none",
        },
    },
}


def images(n: int = 60, shape: tuple[int, ...] = (6, 5), classes: int = 3) -> Images:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % classes
    pixels = rng.integers(0, 200, (n, *shape)) + 20 * labels.reshape(-1, *[1] * len(shape))
    names = tuple("abcdefgh"[:classes])
    return Images(pixels.astype(np.uint8), labels, np.arange(n), names)


def a_fit(family: str, data: Images, **changes: Any) -> Fit:
    features = data.flat.shape[1]
    fit = Fit(
        family,
        SETTINGS[family],
        seed=0,
        fold=0,
        training=np.arange(45),
        validation=np.arange(45, 60),
        shift=np.zeros(features),
        scale=np.full(features, 255.0),
    )
    return dataclasses.replace(fit, **changes)


def data_of(data: Images) -> Data:
    return Data(data.pixels, data.labels, len(data.classes))


def run(fit: Fit, data: Images, stop_after: int | None = None) -> Fitted:
    train = FAMILIES[fit.family].train
    return train.fit(fit, data_of(data), Checkpoint(), lambda _: None, stop_after)


# What both own families take


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
    fit, digest = a_fit("cnn", data), key.digest(data_of(data))
    found = [
        work.train(
            work.encode(fit), key.key(fit, digest), data_of(data), digest,
            Checkpoint(), lambda _: None, stop_after,
        )[0]
        for stop_after in (None, 99)
    ]  # fmt: skip
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
    digest = key.digest(data)
    with pytest.raises(TrainingError, match=r"weights.* not finite .*a smaller optimizer.lr"):
        work.train(work.encode(fit), key.key(fit, digest), data, digest, Checkpoint(), print, None)


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


# The key


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package to change the code of."""
    return Path(shutil.copytree(key.PACKAGE, tmp_path / key.PACKAGE.name))


def modules() -> Iterator[tuple[str, str]]:
    for family in FAMILIES:
        for path in key.code(family, SETTINGS[family]):
            yield family, path


@pytest.mark.parametrize(("family", "path"), list(modules()))
def test_one_number_changes_the_key_and_words_do_not(family: str, path: str, package: Path):
    settings, file = SETTINGS[family], package / path
    before = key.code(family, settings, package)
    assert before == key.code(family, settings)
    text = file.read_text()
    assert text.startswith('"""')
    words = re.sub(r'"""(.*?)"""', '"""Other words."""', text, count=1, flags=re.DOTALL)
    file.write_text(f"# a comment\n{words}\nimport os as another\n")
    assert key.code(family, settings, package) == before
    constants = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant)]
    number = next((n for n in constants if type(n.value) in (int, float)), None)
    if number is None:
        file.write_text(f"{text}\nNUMBER = 1\n")
    else:
        lines = text.encode().splitlines(keepends=True)
        line = lines[number.lineno - 1]
        lines[number.lineno - 1] = line[: number.col_offset] + b"7" + line[number.col_offset :]
        file.write_bytes(b"".join(lines))
    assert key.code(family, settings, package) != before


def test_all_modules_of_a_family_are_in_its_key():
    for family in FAMILIES:
        found = key.code(family, SETTINGS[family])
        folder = key.PACKAGE / "families" / family
        own = {f"families/{family}/{file.name}" for file in folder.glob("*.py")}
        assert own <= found.keys()


def test_a_new_choice_changes_no_key(package: Path):
    before = key.code("cnn", SETTINGS["cnn"], package)
    for folder in FAMILIES["cnn"].choices:
        (package / "families/cnn" / folder / "another.py").write_text("NUMBER = 1\n")
    assert key.code("cnn", SETTINGS["cnn"], package) == before
    for folder, setting in FAMILIES["cnn"].choices.items():
        part, name = setting.split(".")
        settings = SETTINGS["cnn"] | {part: SETTINGS["cnn"][part] | {name: "another"}}
        assert f"families/cnn/{folder}/another.py" in key.code("cnn", settings, package)


@pytest.mark.parametrize(
    ("family", "file", "old", "new"),
    [
        ("sklearn", "model.py", "import Logistic", "import Perceptron as Logistic"),
        ("linear", "train.py", "import numpy as np", "import numpy.ma as np"),
        ("cnn", "layers.py", "from torch import Tensor, nn", "from torch.ao import nn, Tensor"),
        ("cnn", "architectures/simple.py", "import head", "import ResidualBlock as head"),
    ],
)
def test_what_a_name_is_bound_to_is_in_the_key(family, file, old, new, package):
    before = key.code(family, SETTINGS[family], package)
    module = package / "families" / family / file
    text = module.read_text()
    assert old in text
    module.write_text(text.replace(old, new))
    after = key.code(family, SETTINGS[family], package)
    assert {path for path in before if before[path] != after[path]} == {f"families/{family}/{file}"}


@pytest.mark.parametrize(
    "imported", ["from . import {}", "from .{} import NUMBER", "from ..adams.{} import *"]
)
def test_modules_are_followed_whatever_way_they_are_imported(imported, package):
    folder = package / "families/cnn/optimizers"
    name = "helper"
    if ".." in imported:
        folder, name = package / "families/cnn/adams", "another"
        folder.mkdir()
    (folder / f"{name}.py").write_text("NUMBER = 1\n")
    adam = package / "families/cnn/optimizers/adam.py"
    adam.write_text(f"{adam.read_text()}\n{imported.format(name)}\n")
    before = key.code("cnn", SETTINGS["cnn"], package)
    (folder / f"{name}.py").write_text("NUMBER = 2\n")
    after = key.code("cnn", SETTINGS["cnn"], package)
    (changed,) = {path for path in before if before[path] != after[path]}
    assert changed == (folder / f"{name}.py").relative_to(package).as_posix()


def test_editor_files_are_ignored_and_a_broken_module_is_reported(package: Path):
    folder = package / "families/linear"
    before = key.code("linear", SETTINGS["linear"], package)
    (folder / ".#train.py").symlink_to("someone@somewhere")
    assert key.code("linear", SETTINGS["linear"], package) == before
    (folder / "half.py").write_text("def half(:\n")
    with pytest.raises(UserError, match=r"linear/half.py:1: not valid Python: "):
        key.code("linear", SETTINGS["linear"], package)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_code_that_runs_in_a_fit_is_in_its_key(family: str):
    data = images()
    fit = a_fit(family, data)
    run(fit, data)  # imports are done with
    executed: set[str] = set()

    def trace(frame: Any, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if file.startswith(str(key.PACKAGE)):
            executed.add(Path(file).relative_to(key.PACKAGE).as_posix())

    sys.setprofile(trace)
    try:
        run(fit, data)
    finally:
        sys.setprofile(None)
    assert executed - NEUTRAL <= key.code(family, fit.settings).keys()
    assert f"families/{family}/train.py" in executed


@pytest.mark.parametrize("family", FAMILIES)
def test_settings_arrays_libraries_and_arithmetic_change_the_key(family: str, monkeypatch):
    data = images()
    fit, digest = a_fit(family, data), key.digest(data_of(data))
    known = {key.key(fit, digest)}

    def is_new(fit: Fit, digest: str = digest) -> None:
        found = key.key(fit, digest)
        assert found not in known
        known.add(found)

    assert key.key(a_fit(family, data), digest) in known
    for part, values in fit.settings.items():
        for name in values or {}:
            if f"{part}.{name}" not in FAMILIES[family].choices.values():
                is_new(a_fit(family, data, settings=fit.settings | {part: values | {name: 7}}))
    is_new(a_fit(family, data, seed=1))
    is_new(a_fit(family, data, fold=1))
    for name in ("training", "validation", "shift", "scale"):
        is_new(a_fit(family, data, **{name: getattr(fit, name) + 1}))
    pixels = data.pixels.copy()
    pixels[3, 2, 1] += 1
    is_new(fit, key.digest(Data(pixels, data.labels, 3)))
    is_new(fit, key.digest(Data(data.pixels, data.labels[::-1], 3)))
    version = importlib.metadata.version
    for library in FAMILIES[family].libraries:
        monkeypatch.setattr(
            importlib.metadata,
            "version",
            lambda name, changed=library: "0.1" if name == changed else version(name),
        )
        is_new(fit)
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(key, "FORMAT", key.FORMAT + 1)
    is_new(fit)
    monkeypatch.setitem(arithmetic.THREADS, "OMP_NUM_THREADS", "3")
    is_new(fit)
    monkeypatch.setattr(arithmetic, "name", lambda: "native")
    is_new(fit)


def test_a_setting_that_is_null_changes_no_key():
    fit, digest = a_fit("cnn", images()), key.digest(data_of(images()))
    trainer = fit.settings["trainer"] | {"new": None}
    wider = dataclasses.replace(fit, settings=fit.settings | {"trainer": trainer})
    assert key.key(wider, digest) == key.key(fit, digest)


def test_a_worker_counts_what_it_has_loaded(monkeypatch):
    data = images()
    fit, digest = a_fit("linear", data), key.digest(data_of(data))
    work.surroundings("linear", fit.settings)
    code = key.code("linear", fit.settings) | {"families/linear/model.py": "edited"}
    monkeypatch.setattr(key, "code", lambda *_: dict(code))
    arguments = (data_of(data), digest, Checkpoint(), lambda _: None, None)
    with pytest.raises(work.RefusedError) as refused:
        work.train(work.encode(fit), key.key(fit, digest), *arguments)
    mine = key.surroundings("linear", fit.settings)
    assert work.differences(mine, refused.value.surroundings) == [
        "another families/linear/model.py"
    ]


def test_another_build_of_a_library_changes_no_key(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.13.0+cpu")
    assert key.libraries("cnn") == {"numpy": "2.13.0", "torch": "2.13.0"}


# Plans


def experiment(**changes: Any) -> dict[str, Any]:
    return {
        "report": "r",
        "dataset": "d",
        "classes": None,
        "subset": None,
        "model": {"family": "linear", "kind": "softmax", "scaling": "minmax"},
        "optimizer": SETTINGS["linear"]["optimizer"],
        "validation": {"method": "kfold", "folds": 3},
        "trainer": SETTINGS["linear"]["trainer"],
        "seeds": [0, 1],
    } | changes


def keys(planned: plan.Plan) -> set[str]:
    return {task.key for task in planned.tasks()}


def test_one_more_seed_or_trial_is_all_that_is_new():
    data = images()
    before = keys(plan.of_experiment("a", experiment(), data))
    assert len(before) == 6
    more = keys(plan.of_experiment("b", experiment(seeds=[0, 1, 2]), data))
    assert before < more and len(more) == 9
    study = {"points": [{"optimizer.lr": 0.1}], "product": {}, "trial": {}, "retrain": False}
    assert keys(plan.of_study("s", study, experiment(), data)) == before
    study["points"] = [{"optimizer.lr": 0.1}, {"optimizer.lr": 0.2}]
    assert len(keys(plan.of_study("s", study, experiment(), data)) - before) == 6


def test_a_key_that_every_point_overrides_and_the_report_change_nothing():
    data = images()
    study = {"points": [{"optimizer.lr": 0.1}], "product": {}, "trial": {}, "retrain": False}
    other = {**SETTINGS["linear"]["optimizer"], "lr": 0.7}
    one, two = (
        keys(plan.of_study("s", study, base, data))
        for base in (experiment(), experiment(optimizer=other, report="other"))
    )
    assert one == two


def test_folds_of_a_subset_draw_from_all_images():
    data = images()
    planned = plan.of_experiment("a", experiment(subset=30, seeds=[4]), data)
    rows = [(set(t.fit.training), set(t.fit.validation)) for t in planned.tasks()]
    assert all(len(training) == 20 and not training & held for training, held in rows)
    held = set.union(*(held for _, held in rows))
    assert len(held) == 30 and max(held) > 30


def test_out_of_fold_probabilities_are_those_of_the_model_that_did_not_see_the_image(tmp_path):
    data = images()
    planned = plan.of_experiment("a", experiment(), data)
    fits = [[run(task.fit, data) for task in folds] for folds in planned.waves[0][""]]
    content = tmp_path / "out.npz"
    content.write_bytes(
        results.out_of_fold(results.Trial(experiment(), fits), planned.validated(""), data)
    )
    with np.load(content) as arrays:
        assert sorted(arrays["index"][arrays["seed"] == 1]) == list(range(60))
        row = int(np.flatnonzero((arrays["index"] == 17) & (arrays["seed"] == 1))[0])
        fitted = fits[1][arrays["fold"][row]]
        task = planned.waves[0][""][1][arrays["fold"][row]]
        assert 17 in task.fit.validation and 17 not in task.fit.training
        p = FAMILIES["linear"].model.probabilities(
            experiment()["model"], fitted.tensors, data.pixels[17:18], 3
        )
        np.testing.assert_allclose(arrays["probabilities"][row], p[0], rtol=1e-6)
        assert arrays["labels"][row] == data.labels[17]


@pytest.mark.parametrize("ensemble", [None, True])
def test_an_ensemble_keeps_all_folds_and_anything_else_the_best_one(ensemble, tmp_path):
    from kmnist_pipeline.families.trained import TrainedModel
    from kmnist_pipeline.stages import evaluate

    data = images()
    base = experiment(validation={"method": "kfold", "folds": 3, "ensemble": ensemble})
    planned = plan.of_experiment("a", base, data)
    assert keys(planned) == keys(plan.of_experiment("a", experiment(), data))
    fits = [[run(task.fit, data) for task in folds] for folds in planned.waves[0][""]]
    path = tmp_path / "m.safetensors"
    path.write_bytes(results.model_bytes("m", {"": results.Trial(base, fits)}, "", data.classes))
    model = TrainedModel.load(path, "m", "d").of(0, 1)

    def alone(fitted: Fitted, rows: np.ndarray) -> np.ndarray:
        linear = FAMILIES["linear"].model
        return linear.probabilities(base["model"], fitted.tensors, data.pixels[rows], 3)

    every, best = np.arange(60), results.kept_fold(fits[1])
    members = fits[1] if ensemble else [fits[1][best]]
    expected = np.mean([alone(fitted, every) for fitted in members], axis=0)
    assert np.array_equal(model.probabilities(data.pixels), expected)

    held = planned.validated("")[1] if ensemble else [planned.validated("")[1][best]]
    found, validation = evaluate.held_out(model, data)
    assert np.array_equal(validation.index, np.concatenate(held))
    own = [alone(*each) for each in zip(members, held, strict=True)]
    assert np.array_equal(found, np.concatenate(own))


# The store


def test_what_is_written_is_read_back(tmp_path: Path):
    store, data = Store(tmp_path), images()
    fitted = run(a_fit("linear", data), data)
    store.checkpoint("ab" * 32).save(b"state")
    store.write("ab" * 32, fitted.encode(), {"label": "x", "seconds": 1.5})
    again = decode(store.read("ab" * 32) or b"")
    assert again.history == fitted.history and again.digests == fitted.digests
    assert (again.tensors["weights"] == fitted.tensors["weights"]).all()
    (entry,) = store.entries()  # the checkpoint is gone
    assert entry.finished and entry.about == {"label": "x", "seconds": 1.5}


def damaged(kind: str, file: Path, other: Path) -> None:
    content = file.read_bytes()
    if kind == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "bit flipped":
        position = len(content) - 3
        file.write_bytes(
            content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
        )
    else:
        file.write_bytes(other.read_bytes())


@pytest.mark.parametrize("kind", ["truncated", "empty", "bit flipped", "swapped"])
@pytest.mark.parametrize("suffix", [".fit", ".checkpoint"])
def test_a_damaged_file_is_named_dropped_and_missed(kind, suffix, tmp_path, capsys):
    store = Store(tmp_path)
    one, other = "ab" * 32, "cd" * 32
    for name in (one, other):
        store.write(name, name.encode() * 9, {})
        store.checkpoint(name).save(name.encode() * 9)
    file = tmp_path / "ab" / f"{one}{suffix}"
    damaged(kind, file, tmp_path / "cd" / f"{other}{suffix}")
    read = store.read if suffix == ".fit" else lambda name: store.checkpoint(name).load()
    assert read(one) is None and not file.exists()
    assert f"{file} is damaged: deleted" in capsys.readouterr().err
    assert read(other) == other.encode() * 9


def test_what_is_no_file_of_the_store_is_named_or_passed_over(tmp_path, monkeypatch):
    (tmp_path / "ls").write_text("")  # of two letters, as the folders of the store
    (tmp_path / "ab" / f"{'ab' * 32}.fit").mkdir(parents=True)
    (tmp_path / "cd").mkdir()
    (tmp_path / "cd" / f"{'cd' * 32}.fit").write_bytes(b"digest\n[1]\n")
    monkeypatch.setenv("KMNIST_FITS", str(tmp_path))
    store = default()
    assert [entry.about for entry in store.entries()] == [{}]
    with pytest.raises(UserError, match=r"ab.fit cannot be read: Is a directory. Remove it"):
        store.read("ab" * 32)


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=rf"No space left on device: '.*{'ab' * 32}.fit'"):
        Store(tmp_path).write("ab" * 32, b"result", {})


def test_stored_files_inherit_the_permissions_of_the_folder(tmp_path, monkeypatch):
    folder = tmp_path / "fits"
    folder.mkdir()
    folder.chmod(0o2775)
    Store(folder).write("ab" * 32, b"result", {})
    assert (folder / "ab").stat().st_mode & 0o7777 == 0o2775
    assert (folder / "ab" / f"{'ab' * 32}.fit").stat().st_mode & 0o777 == 0o644
    monkeypatch.setenv("KMNIST_FITS", str(folder))
    assert "ab" * 32 in default()
    monkeypatch.setattr(os, "access", lambda path, _: path != folder / "ab")  # as for another user
    with pytest.raises(UserError, match=r"KMNIST_FITS=.*you may not write to .*ab, .*chmod -R"):
        default()


def test_a_folder_that_cannot_be_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KMNIST_FITS", str(tmp_path / "file/fits"))
    with pytest.raises(Exception, match=r"KMNIST_FITS=.*file/fits: cannot be the folder"):
        default()

"""The fits that a plan asks for, and what becomes of damaged files of the store that keeps them."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.small_fits import SETTINGS, a_fit, experiment, images, run

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evaluation import out_of_fold
from kmnist_pipeline.evidence import paths
from kmnist_pipeline.families.base import Fitted, decode
from kmnist_pipeline.families.registry import FAMILIES
from kmnist_pipeline.fits import plan, results
from kmnist_pipeline.fits.store import Store, default

# Plans


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
        results.out_of_fold(results.TrainedTrial(experiment(), fits), planned.validated(""), data)
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
    path.write_bytes(
        results.model_bytes("m", {"": results.TrainedTrial(base, fits)}, "", data.classes)
    )
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


def test_a_model_of_all_images_is_judged_by_what_models_on_folds_predict(tmp_path, monkeypatch):
    from kmnist_pipeline.families.trained import TrainedModel
    from kmnist_pipeline.stages import evaluate

    monkeypatch.chdir(tmp_path)
    data = replace(images(), index=np.random.default_rng(0).permutation(60))
    folded = plan.of_experiment("folds", experiment(), data)
    fits = [[run(task.fit, data) for task in folds] for folds in folded.waves[0][""]]
    out = Path(paths.out_of_fold("folds"))
    out.parent.mkdir(parents=True)
    out.write_bytes(
        results.out_of_fold(results.TrainedTrial(experiment(), fits), folded.validated(""), data)
    )
    whole = experiment(validation={"method": "none", "folds_of": "folds"})
    planned = plan.of_experiment("m", whole, data)
    trained = [[run(task.fit, data) for task in folds] for folds in planned.waves[0][""]]
    content = results.model_bytes("m", {"": results.TrainedTrial(whole, trained)}, "", data.classes)
    Path("m.safetensors").write_bytes(content)
    found, held = evaluate.held_out(TrainedModel.load(Path("m.safetensors"), "m", "d"), data)
    assert held.index.tolist() == list(range(60))
    assert (held.labels[data.index] == data.labels).all()
    np.testing.assert_allclose(found, out_of_fold.load(out).probabilities)


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

"""`kmnist fit` and `kmnist fits`: what is trained, and what is not trained again."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from support.project import Project

from kmnist_pipeline.commands import fit, fits
from kmnist_pipeline.fits.store import Store

POOLS = re.compile(r"fits: (\d+) known, (\d+) to train")


# The stages of the digits that train.
TRAINED = (
    *(f"kfold-train@digits_{name}" for name in ("cnn", "sklearn_logistic", "softmax")),
    *("tune@digits_softmax_grid", "suspects@digits"),
)


def counts(printed: str) -> list[tuple[int, int]]:
    """Known fits and those to train, of each pool in what was printed."""
    return [(int(known), int(missing)) for known, missing in POOLS.findall(printed)]


def run(project: Project, *command: str) -> str:
    done = project.run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_one_pool_trains_what_all_stale_stages_lack_and_repro_trains_nothing(digits: Project):
    assert "no stage that trains is stale" in run(digits, "kmnist", "fit", "report@digits")
    digits.replace("conf/experiment/digits_softmax.yaml", "lr: 0.5", "lr: 0.4")
    digits.replace("conf/experiment/digits_sklearn_logistic.yaml", "[0]", "[0, 1]")
    run(digits, "kmnist", "compose")
    printed = run(digits, "kmnist", "fit", "report@digits")
    # 25 of softmax, 5 with swapped labels, and one more seed of five folds; every point of the grid
    # has its own rate.
    assert counts(printed) == [(105, 35)]
    assert "digits_softmax" in printed and "digits_sklearn_logistic" in printed
    assert counts(run(digits, "dvc", "repro", *TRAINED)) == []
    assert "no stage that trains is stale" in run(digits, "kmnist", "fit", "report@digits")


def test_changed_comments_and_labels_make_stages_stale_and_train_nothing(digits: Project):
    for module in (
        "families/linear/train.py",
        "families/cnn/model.py",
        "families/sklearn/model.py",
        "evidence/stage.py",
        "fits/pool.py",
    ):
        file = digits.folder / "src/kmnist_pipeline" / module
        file.write_text(file.read_text().replace('"""', '"""Other words. ', 1) + "\n# a comment\n")
    digits.replace(
        "src/kmnist_pipeline/stages/evaluate.py", "The weights of each class", "Weights by class"
    )
    printed = run(digits, "dvc", "repro", *TRAINED, "evaluate@digits_softmax")
    assert printed.count("Running stage 'kfold-train@") == 3
    assert "Running stage 'tune@" in printed and "Running stage 'evaluate@" in printed
    assert counts(printed) == []
    assert "metrics/digits/digits_softmax/curves.csv" not in digits.changed()  # the same bytes


def test_a_fit_that_reads_what_its_key_does_not_contain_fails(digits: Project):
    digits.replace(
        "src/kmnist_pipeline/families/sklearn/train.py",
        "    missing = np.setdiff1d",
        '    open("README.md").close()\n    missing = np.setdiff1d',
    )
    done = digits.run("kmnist", "fit", "kfold-train@digits_sklearn_logistic")
    assert "the fit reads README.md, which its key does not contain" in done.stderr
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)


def test_all_stages_of_a_kind_are_a_target(project: Project, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(project.folder)
    found = fit.stale(["kfold-train"])  # nothing is in the cache of a new clone
    assert set(TRAINED[:3]) <= set(found)
    assert {stage.partition("@")[0] for stage in found} == {"download", "preprocess", "kfold-train"}


def test_an_unknown_target_and_a_bad_store_are_named(digits: Project):
    done = digits.run("kmnist", "fit", "report@nothing")
    assert done.returncode == 1
    assert "dvc.yaml has no stage report@nothing; did you mean report@" in done.stderr
    (digits.folder / "file").write_text("")
    done = digits.run("kmnist", "fits", KMNIST_FITS="file/fits")
    assert done.returncode == 1 and "KMNIST_FITS=file/fits: cannot be the folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_store_is_listed_and_cleaned(full_run: Project):
    listed = run(full_run, "kmnist", "fits")
    assert ".kmnist/fits: 140 fits" in listed and "digits_cnn" in listed
    full_run.replace("conf/experiment/digits_sklearn_logistic.yaml", "[0]", "[1]")
    run(full_run, "kmnist", "compose")
    done = full_run.run("kmnist", "fits", "--clean")
    assert done.returncode == 1
    assert (
        "data/processed lacks kmnist, mnist" in done.stderr and "preprocess@kmnist" in done.stderr
    )
    assert run(full_run, "kmnist", "fits") == listed
    assert "removed: 140 fits" in run(full_run, "kmnist", "fits", "--clear")
    assert ".kmnist/fits: 0 fits" in run(full_run, "kmnist", "fits")


def test_cleaning_keeps_what_stages_use(tmp_path: Path):
    store = Store(tmp_path)
    for key in ("ab" * 32, "cd" * 32):
        store.write(key, b"result", {"label": "model seed 0 fold 0", "seconds": 90.0})
        store.checkpoint(key).save(b"state")
    left, new = (tmp_path / "ab" / name for name in (".left", ".new"))
    for file in (left, new):
        file.write_bytes(b"half")
    os.utime(left, (0, 0))
    removed = fits.clean(store, {"ab" * 32})
    assert new.exists() and not left.exists()
    assert fits.summary(removed).startswith("1 fit, 1 checkpoint, ")
    assert "ab" * 32 in store and "cd" * 32 not in store
    assert list(fits.lines(store))[1].split() == (
        ["model", "1", "fit,", "0.0", "MB,", "90", "s", "of", "training"]
    )

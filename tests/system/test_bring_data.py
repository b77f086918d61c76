"""Bring your own data, from a bare clone: prune, import, a new report, and its page read back."""

from __future__ import annotations

import csv
import html
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from support import drawn
from support.project import Project, hide_mlflow

from kmnist_pipeline.data import dataset

COUNTS = {"rows, wide": 30, "や": 24, "<b>bold</b>": 36}
SHAPE = (20, 16, 3)
MODELS = ("leaves_softmax", "leaves_simple_cnn", "leaves_softmax_rates")


def done(project: Project, *command: str, **environment: str) -> str:
    """What a command prints; it must succeed."""
    ran = project.run(*command, **environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def faster(project: Project, name: str, epochs: int) -> None:
    """Give an experiment fewer epochs."""
    file = project.folder / f"conf/experiment/{name}.yaml"
    file.write_text(f"{file.read_text()}trainer:\n  epochs: {epochs}\n")
    done(project, "kmnist", "compose")


@pytest.fixture(scope="module")
def brought(full_clone: Project, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Path]:
    """The project after the three commands, committed, and the folder that it has imported."""
    place = tmp_path_factory.mktemp("own")
    project = hide_mlflow(full_clone.copy(place / "project"))
    images = drawn.folder(place / "leaves", COUNTS, SHAPE)
    done(project, "kmnist", "prune", "--yes", "--all-but", "digits")
    project.commit()
    done(project, "kmnist", "import", "leaves", "../leaves")
    done(project, "kmnist", "new", "report", "leaves", "--dataset", "leaves")
    faster(project, "leaves_softmax", 20)
    faster(project, "leaves_simple_cnn", 3)
    done(project, "dvc", "repro", "report@leaves")
    project.commit()
    return project, images


def test_the_page_shows_the_data_and_the_models(brought):
    project, _ = brought
    page = (project.folder / "reports/leaves/index.html").read_text()
    words = html.unescape(re.sub("<[^>]*>", "", page))
    assert "leaves: first models" in words
    assert all(f"<code>{model}</code>" in page for model in MODELS)
    assert "72 training and 18 test images of 20 × 16 coloured pixels in 3 classes" in words
    assert "<b>bold" not in page
    assert project.json("metrics/leaves/leaves_softmax/test.json")["accuracy"] > 0.6
    details = project.json("metrics/data/leaves.json")
    assert (details["n_train"], details["n_test"]) == (72, 18)


def test_everything_of_the_extension_is_in_git_or_tracked_by_dvc(brought):
    project, _ = brought
    files = set(project.git("ls-files").splitlines())
    assert "data/imported/leaves.npz.dvc" in files
    assert "data/imported/leaves.npz" not in files
    checked = project.run("kmnist", "check")
    assert "leaves" not in checked.stdout + checked.stderr


def test_the_figures_of_imported_data_are_traced_to_their_file(brought):
    project, _ = brought
    traced = done(project, "kmnist", "trace", "figures/leaves/leaves_softmax/confusion.png")
    assert "download@leaves" in traced


def test_a_second_version_is_made_again_and_the_first_can_be_had_back(brought, tmp_path):
    project, images = brought[0].copy(tmp_path / "project"), brought[1]
    first = project.git("rev-parse", "HEAD")
    numbers = (project.folder / "metrics/leaves/leaves_softmax/test.json").read_bytes()
    changed = tmp_path / "leaves"
    subprocess.run(["cp", "-r", images, changed], check=True)
    drawn.folder(changed, {name: count + 10 for name, count in COUNTS.items()}, SHAPE)
    (changed / "や/000.png").unlink()
    (changed / "や/001.png").rename(changed / "rows, wide/moved.png")
    out = done(project, "kmnist", "import", "leaves", str(changed), "--yes")
    for line in ("removed: 1 (や 1)", "relabelled: 1 (や -> rows, wide 1)"):
        assert line in out.splitlines()
    assert "added: 30 " in out
    impact = done(project, "kmnist", "impact")
    assert "datasets.leaves.imported.sha256 changed" in impact
    for stage in ("download", "preprocess", "report"):
        assert f"{stage}@leaves" in impact
    done(project, "dvc", "repro", "report@leaves")
    project.commit()
    assert project.json("metrics/data/leaves.json")["n"] == sum(COUNTS.values()) + 29

    project.git("checkout", "--quiet", first)
    done(project, "dvc", "checkout", "--allow-missing")
    held = dataset.load(project.folder / "data/imported/leaves.npz", "train")
    assert len(held) == 72
    assert (project.folder / "metrics/leaves/leaves_softmax/test.json").read_bytes() == numbers
    assert "didn't change" in done(project, "dvc", "repro", "preprocess@leaves")


def test_kuzushiji_49_with_its_unequal_classes(clone, tmp_path):
    """Four NPZ files and the table of names, as they are published."""
    project = hide_mlflow(clone.copy(tmp_path / "project"))
    names = [chr(0x3042 + n) for n in range(48)] + ["ゝ"]
    for split, least in (("train", 4), ("test", 1)):
        labels = np.repeat(np.arange(49), least + np.arange(49) % 9)
        images = drawn.stripes(labels, (28, 28), seed=least)
        (tmp_path / "k49").mkdir(exist_ok=True)
        np.savez_compressed(tmp_path / f"k49/k49-{split}-imgs.npz", images)
        np.savez_compressed(tmp_path / f"k49/k49-{split}-labels.npz", labels.astype(np.uint8))
    with (tmp_path / "k49/k49_classmap.csv").open("w", newline="") as file:
        rows = [[n, f"U+{ord(name):X}", name] for n, name in enumerate(names)]
        csv.writer(file).writerows([["index", "codepoint", "char"], *rows])
    out = done(project, "kmnist", "import", "k49", "../k49")
    assert "grey, in 49 classes" in out
    done(project, "kmnist", "new", "report", "k49", "--dataset", "k49", "--models", "softmax")
    faster(project, "k49_softmax", 5)
    done(project, "dvc", "repro", "report@k49")
    page = (project.folder / "reports/k49/index.html").read_text()
    assert all(name in page for name in names)
    per_class = project.json("metrics/data/k49.json")["per_class"]
    assert sorted(c["train"] for c in per_class.values()) == sorted(4 + np.arange(49) % 9)

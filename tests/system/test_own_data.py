"""Imported images, coloured or grey, of 2, 49 and 300 classes, through the real stages."""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from support.odd_report import NAMES as ODD_NAMES
from support.project import Project, hide_mlflow

from kmnist_pipeline.data import dataset
from kmnist_pipeline.evidence import paths
from kmnist_pipeline.figures import canvas

OF_FAMILY = {
    "softmax": ("/optimizer: sgd, ", "sgd", "trainer: {epochs: 2}"),
    "sklearn_logistic": ("", "fit", "model: {max_iter: 20}"),
    "simple_cnn": ("/optimizer: adam, ", "adam", "trainer: {epochs: 2}"),
}
EXPERIMENT = """\
defaults: [base, /model: {model}, {optimizer}/validation: kfold, /trainer: {trainer}, _self_]
report: {name}
dataset: {name}
validation: {{folds: 2}}
{more}
seeds: [0]
"""
REPORT = """\
defaults: [base, _self_]
title: Drawn {name}
summary: Made by a test.
dataset: {name}
"""
# By name: images, shape, classes and models.
DRAWN = {
    "leaves": (300, (20, 12, 3), 2, list(OF_FAMILY)),
    "letters": (2000, (28, 28), 49, ["softmax"]),
    "signs": (3000, (16, 24, 3), 300, ["softmax"]),
}


def names_of(classes: int) -> list[str]:
    many = [*ODD_NAMES, "oak, red", "a <script>alert(1)</script> of 45 letters, all"]
    return [many[c] if c < len(many) else f"{many[c % len(many)]} {c}" for c in range(classes)]


def draw(project: Project, name: str, seed: int = 0) -> dict:
    """Write the file that `kmnist import` would make; returns its description."""
    count, shape, classes, _ = DRAWN[name]
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % classes)
    labels[labels > 3] = np.where(rng.random((labels > 3).sum()) < 0.3, 1, labels[labels > 3])
    labels[: 4 * classes] = np.arange(4 * classes) % classes  # unequal, but none without images
    typical = rng.integers(0, 256, (classes, *shape))
    noise = rng.integers(0, 256, (count, *shape))
    images = (0.7 * typical[labels] + 0.3 * noise).astype(np.uint8)
    rows = np.arange(count)
    test, train = rows[3 * classes : 3 * classes + count // 5], np.r_[: 3 * classes]
    train = np.concatenate([train, rows[3 * classes + count // 5 :]])
    file = project.folder / paths.imported(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as opened:
        dataset.save(opened, images, labels, train, test, names_of(classes))
    about = {
        "title": f"Drawn {name}",
        "licence": "made by a test",
        "shape": list(shape),
        "pixel_max": 255,
        "classes": names_of(classes),
        "imported": {
            "file": paths.imported(name),
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "train": len(train),
            "test": len(test),
        },
    }
    content = yaml.safe_dump(about, sort_keys=False, allow_unicode=True)
    (project.folder / f"conf/dataset/{name}.yaml").write_text(content)
    return about


def configure(project: Project, name: str) -> None:
    """Write the experiments and the report of a dataset, and their menu lines."""
    menu = f"  - dataset@datasets.{name}: {name}\n"
    for model in DRAWN[name][3]:
        optimizer, trainer, more = OF_FAMILY[model]
        text = EXPERIMENT.format(
            model=model, optimizer=optimizer, trainer=trainer, more=more, name=name
        )
        (project.folder / f"conf/experiment/{name}_{model}.yaml").write_text(text)
        menu += f"  - experiment@experiments.{name}_{model}: {name}_{model}\n"
    (project.folder / f"conf/report/{name}.yaml").write_text(REPORT.format(name=name))
    menu += f"  - report@reports.{name}: {name}\n"
    project.replace("conf/config.yaml", "  - _self_\n", f"{menu}  - _self_\n")


@pytest.fixture(scope="module")
def drawn(clone: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project with the reports of all drawn datasets. Not to be changed by a test."""
    project = hide_mlflow(clone.copy(tmp_path_factory.mktemp("drawn") / "project"))
    for name in DRAWN:
        draw(project, name)
        configure(project, name)
    succeeds(project, "kmnist", "compose")
    succeeds(project, "dvc", "add", *(paths.imported(name) for name in DRAWN))
    succeeds(project, "dvc", "repro", *(f"report@{name}" for name in DRAWN))
    project.commit()
    return project


def succeeds(project: Project, *command: str) -> str:
    done = project.run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def own(drawn: Project, tmp_path: Path) -> Project:
    return drawn.copy(tmp_path / "project")


def figures(project: Project, name: str) -> Iterator[Path]:
    yield from (project.folder / f"figures/data/{name}").glob("*.png")
    yield from (project.folder / f"figures/{name}").rglob("*.png")


@pytest.mark.parametrize("name", DRAWN)
def test_pages_figures_and_numbers_are_complete_and_small(name: str, drawn: Project) -> None:
    page = (drawn.folder / f"reports/{name}/index.html").read_text()
    assert len(page.encode()) < 1_500_000
    shown = {path.stem for path in figures(drawn, name)}
    assert shown >= {"classes", "samples", "averages", "pca", "confusion", "scores", "weights"}
    for path in figures(drawn, name):
        assert path.stat().st_size < canvas.MAX_BYTES, path
        with Image.open(path) as image:
            image.load()
            assert max(image.size) < 2600, path
    for path in (drawn.folder / "metrics" / name).rglob("*.json"):
        assert path.stat().st_size < 100_000, path
    assert not re.search("<script>|<b>&amp;", page.partition("</style>")[2])
    classes = DRAWN[name][2]
    assert all(f">{html.escape(one)}</th>" in page for one in names_of(classes)[:9])


@pytest.mark.parametrize("name", DRAWN)
def test_every_family_learns_from_the_images(name: str, drawn: Project) -> None:
    for model in DRAWN[name][3]:
        found = drawn.json(f"metrics/{name}/{name}_{model}/test.json")
        assert found["accuracy"] > 3 / DRAWN[name][2] or found["accuracy"] > 0.6
        assert found["per_class"].keys() == {*names_of(DRAWN[name][2])}


def test_dvc_keeps_the_images_once(drawn: Project) -> None:
    raw, processed = (
        drawn.folder / path / "leaves.npz" for path in ("data/raw/leaves", "data/processed")
    )
    file = drawn.folder / paths.imported("leaves")
    assert file.read_bytes() == raw.read_bytes() == processed.read_bytes()


def test_a_trace_leads_back_to_the_imported_file(drawn: Project) -> None:
    said = succeeds(drawn, "kmnist", "trace", "figures/leaves/leaves_simple_cnn/saliency.png")
    sha256 = hashlib.sha256((drawn.folder / paths.imported("leaves")).read_bytes()).hexdigest()
    assert sha256 in " ".join(said.split()) and "from: data/imported/leaves.npz" in said


def test_a_new_version_makes_its_stages_stale_and_both_versions_can_be_had(own: Project) -> None:
    first = own.git("rev-parse", "HEAD")
    before = (own.folder / paths.imported("leaves")).read_bytes()
    draw(own, "leaves", seed=1)
    said = succeeds(own, "kmnist", "impact")
    assert "download@leaves" in said and "preprocess@leaves" in said and "letters" not in said
    succeeds(own, "kmnist", "compose")
    succeeds(own, "dvc", "add", paths.imported("leaves"))
    succeeds(own, "dvc", "repro", "preprocess@leaves")
    own.commit("version 2")

    # Git alone goes back: DVC's file is the new version, and nothing takes it for the old one.
    own.git("checkout", "--quiet", "--force", first)
    pointer = (own.folder / f"{paths.imported('leaves')}.dvc").read_bytes()
    failed = own.run("dvc", "repro", "--force", "--single-item", "download@leaves")
    assert failed.returncode and "but conf/ says" in failed.stderr
    (remedy,) = re.findall(r"`(dvc checkout [^`]*)`", failed.stderr)
    assert (own.folder / f"{paths.imported('leaves')}.dvc").read_bytes() == pointer
    succeeds(own, *remedy.split())
    assert (own.folder / paths.imported("leaves")).read_bytes() == before
    succeeds(own, "dvc", "repro", "preprocess@leaves")
    assert own.changed() == ""


def test_without_the_imported_file_results_come_from_the_cache(own: Project) -> None:
    (own.folder / paths.imported("leaves")).unlink()
    assert "didn't change, skipping" in succeeds(own, "dvc", "repro", "preprocess@leaves")
    assert not [line for line in own.run("kmnist", "check").stderr.splitlines() if "leaves" in line]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shape": [12, 20, 3]}, "has images uint8 (20, 12, 3), but shape is [12, 20, 3]"),
        ({"pixel_max": 16}, "but pixel_max is 16"),
        ({"classes": ["a", "b"]}, "has other classes than the configuration"),
    ],
)
def test_preprocess_refuses_a_file_that_is_not_as_described(
    change: dict, words: str, own: Project
) -> None:
    path = own.folder / "conf/dataset/leaves.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change, allow_unicode=True))
    succeeds(own, "kmnist", "compose")
    failed = own.stage("preprocess", "name=leaves")
    assert failed.returncode == 1
    assert failed.stderr.startswith("error in preprocess: data/raw/leaves/leaves.npz: ")
    assert words in failed.stderr and "Traceback" not in failed.stderr


def test_predict_takes_coloured_images(drawn: Project, tmp_path: Path) -> None:
    images = dataset.load(drawn.folder / paths.processed("leaves"), "test")
    for number in range(3):
        Image.fromarray(images.pixels[number]).save(tmp_path / f"{number}.png")
    command = (
        "kmnist",
        "predict",
        str(tmp_path),
        "--model",
        "leaves_simple_cnn",
        "--output",
        "csv",
    )
    done = drawn.run(*command, "--sheet", str(tmp_path / "sheet.png"))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 4 and "were converted" not in done.stderr
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert len({*np.asarray(sheet.convert("RGB")).reshape(-1, 3).std(axis=1)}) > 3  # colours

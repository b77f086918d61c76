"""A dataset, experiments, a study and a report by YAML alone; a network, a metric and a figure
by one function each; and what each stage reads.

`extended` is the project after `make demo` with them; `by_hand` runs a stage there and watches what
it reads.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import re
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from support import pages
from support.project import Project, files_under, hide_mlflow, lines_with

from kmnist_pipeline.data import idx
from kmnist_pipeline.evidence import reads
from kmnist_pipeline.repository import locks

# A dataset, experiments, a study and a report without code

CLASSES = {"rows": (1, 0), "columns": (0, 1), "falling": (1, 3), "rising": (1, 1), "steep": (2, 1)}
SHAPE = (12, 10)
COUNTS = {"train": 300, "t10k": 100}

EXPERIMENT = """\
defaults: [base, /model: {model}, /optimizer: sgd, /validation: kfold, /trainer: sgd, _self_]
report: stripes
dataset: stripes
validation: {{folds: 3}}
trainer: {{epochs: 5}}
seeds: [0, 1]
"""

CONF = {
    "experiment/stripes_softmax": EXPERIMENT.format(model="softmax"),
    "experiment/stripes_logistic": EXPERIMENT.format(model="logistic") + "classes: [0, 3]\n",
    "experiment/stripes_sklearn": """\
defaults: [base, /model: sklearn_logistic, /validation: kfold, /trainer: fit, _self_]
report: stripes
dataset: stripes
subset: 240
model: {scaling: zscore}
validation: {folds: 3}
seeds: [7]
""",
    "study/stripes_grid": """\
defaults: [base, _self_]
base: stripes_softmax
points:
  - {optimizer.lr: 0.001}
  - {optimizer.lr: 0.1}
""",
    "report/stripes": """\
defaults: [base, _self_]
title: Stripes of five kinds
summary: Made by a test.
dataset: stripes
figures:
  "1": data/stripes/samples.png
  "2": stripes/stripes_softmax/weights.png
""",
}


@dataclass
class Extended:
    """The project after `dvc repro report@stripes`, and what Git then said had changed."""

    project: Project
    status: str


@pytest.fixture(scope="session")
def extended(digits_run: Project, tmp_path_factory: pytest.TempPathFactory) -> Extended:
    """The demo's project with stripes added. Not to be changed by a test."""
    folder = tmp_path_factory.mktemp("extended")
    project = digits_run.copy(folder / "project")
    project.commit()
    hide_mlflow(project)

    digests = write_stripes(folder / "mirror/stripes")
    about = {
        "title": "Stripes",
        "licence": "made by a test",
        "shape": list(SHAPE),
        "pixel_max": 255,
        "classes": list(CLASSES),
        "parts": [{"name": n, "count": count, **digests[n]} for n, count in COUNTS.items()],
        "sources": [],
        "split": {"method": "files"},
    }
    menu = ""
    for name, text in {"dataset/stripes": yaml.safe_dump(about, sort_keys=False), **CONF}.items():
        (project.folder / f"conf/{name}.yaml").write_text(text)
        group, item = name.split("/")
        section = {"study": "studies"}.get(group, f"{group}s")
        menu += f"  - {group}@{section}.{item}: {item}\n"
    project.replace("conf/config.yaml", "  - _self_\n", f"{menu}  - _self_\n")

    composed = project.run("kmnist", "compose")
    assert composed.returncode == 0, composed.stderr
    mirror = str(folder / "mirror")
    repro = project.run("dvc", "repro", "report@stripes", KMNIST_PIPELINE_MIRROR=mirror)
    assert repro.returncode == 0, repro.stdout + repro.stderr
    status = project.run("git", "status", "--porcelain", "--untracked-files=all").stdout
    project.commit()
    return Extended(project, status)


def write_stripes(folder: Path) -> dict[str, dict[str, str]]:
    """Write the IDX files of noisy stripes; the sha256 of their content by part and kind."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    y, x = np.indices(SHAPE)
    stripes = np.array([(down * y + right * x) % 4 < 2 for down, right in CLASSES.values()])
    digests: dict[str, dict[str, str]] = {}
    for part, count in COUNTS.items():
        labels = rng.permutation(np.arange(count) % len(CLASSES)).astype(np.uint8)
        noisy = 64 + 128 * stripes[labels] + rng.normal(0, 64, (count, *SHAPE))
        arrays = {"images": noisy.clip(0, 255).astype(np.uint8), "labels": labels}
        digests[part] = {}
        for kind, array in arrays.items():
            content = idx.encode(array)
            packed = folder / f"{part}-{kind}-idx{array.ndim}-ubyte.gz"
            packed.write_bytes(gzip.compress(content))
            digests[part][kind] = hashlib.sha256(content).hexdigest()
    return digests


STRIPES = ("stripes_softmax", "stripes_logistic", "stripes_sklearn", "stripes_grid")


def test_an_extension_runs_to_its_report(extended: Extended) -> None:
    page = (extended.project.folder / "reports/stripes/index.html").read_text()
    assert "<h1>Stripes of five kinds</h1>" in page
    words = re.sub("<[^>]*>", "", page)
    assert "300 training and 100 test images of 12 × 10 pixels in 5 classes" in words
    assert "<b>Figure 1.</b>" in page and "<b>Figure 2.</b>" in page
    assert all(f"<code>{model}</code>" in page for model in STRIPES)


@pytest.mark.parametrize("model", STRIPES)
def test_the_models_of_an_extension_have_learnt(extended: Extended, model: str) -> None:
    measured = extended.project.json(f"metrics/stripes/{model}/test.json")
    names = ["rows", "rising"] if model == "stripes_logistic" else list(CLASSES)
    assert list(measured["per_class"]) == sorted(names)
    assert measured["n"] == 20 * len(names)
    assert measured["accuracy"] > 0.9


def test_an_extension_needs_yaml_and_menu_lines_alone(extended: Extended) -> None:
    changes = [line.split(maxsplit=1) for line in extended.status.splitlines()]
    modified = {path for state, path in changes if state != "??"}
    assert modified == {"conf/config.yaml", "dvc.lock", "params.yaml"}
    new = [path for state, path in changes if state == "??"]
    assert {path for path in new if path.startswith("conf/")} == {
        f"conf/{name}.yaml" for name in ("dataset/stripes", *CONF)
    }
    assert all("stripes" in path for path in new)


def test_an_extension_is_checked_like_everything_else(extended: Extended) -> None:
    checked = extended.project.run("kmnist", "check")
    assert checked.returncode == 0, checked.stderr
    assert not lines_with("stripes", checked)


# A network, a metric and a figure, as docs/extending.md says


def test_a_network_a_metric_and_a_figure_are_one_function_each(digits: Project) -> None:
    digits.commit()
    printed = {}
    for language, text in pages.blocks("docs/extending.md"):
        if language in ("yaml", "python"):
            pages.place_file(digits, text)
        for command in pages.commands(text) if language == "sh" else ():
            done = digits.run("bash", "-euo", "pipefail", "-c", command)
            assert done.returncode == 0, done.stdout + done.stderr
            printed[command] = done.stdout

    # The network makes nothing stale but what reads its outs.
    named = set(re.findall(r"[\w-]+@digits\w*", printed["kmnist impact"]))
    assert named == {"kfold-train@digits_pooled", "evaluate@digits_pooled", "report@digits"}
    trained = printed["dvc repro report@digits"]
    assert "kfold-train" not in "".join(re.findall("Running stage '([^']+)'", trained))

    models = ("digits_softmax", "digits_cnn", "digits_pooled", "digits_softmax_grid")
    page = (digits.folder / "reports/digits/index.html").read_text()
    assert '<th scope="col" class="n">Top 3</th>' in page
    assert page.count("How often the model gave each probability to the class") >= len(models)
    for model in models:
        measured = digits.json(f"metrics/digits/{model}/test.json")
        assert measured["accuracy"] < measured["top_3"] <= 1
        assert f"{measured['top_3']:.4f}</a>" in page
        assert (digits.folder / f"figures/digits/{model}/confidence.png").exists()
    shown = digits.run("dvc", "metrics", "show").stdout
    assert "top_3" in shown
    with contextlib.closing(sqlite3.connect(digits.folder / "mlflow.db")) as store:
        logged = store.execute("SELECT COUNT(*) FROM metrics WHERE key = 'test_top_3'").fetchone()
    assert logged[0] >= len(models)


# What a stage reads

# Runs a stage as `python -m` does, and then writes which modules of the project were imported and
# which files of it were opened for reading.
WATCH = """
import json, os, runpy, sys
from pathlib import Path

here, (log, module) = Path.cwd(), sys.argv[1:3]
opened = set()

def hear(event, about):
    if event == "open" and isinstance(about[0], str) and "r" in (about[1] or ""):
        opened.add(about[0])

sys.addaudithook(hear)
sys.argv[1:3] = []
runpy.run_module(module, run_name="__main__", alter_sys=True)

files = [getattr(m, "__file__", None) for m in list(sys.modules.values())]
files.append(__import__("importlib.util").util.find_spec(module).origin)
files += [file for file in opened if not file.endswith((".py", ".pyc"))]
paths = {Path(file).resolve() for file in files if file}
inside = [path for path in paths if path.is_relative_to(here)]
used = [path.relative_to(here).as_posix() for path in inside if path.exists()]  # torch._ops is none
Path(log).write_text(json.dumps(sorted(used)))
"""

# What changes no result, because it comes after the outs, or as the schema does by way of the
# parameters alone; and what a stage has itself kept.
NO_DEPENDENCY = re.compile(
    r"params\.yaml|src/hydra_plugins/kmnist_pipeline_schema/.*|\.kmnist/(fits|partial)/.*"
    r"|src/kmnist_pipeline/(config/(node|rules|schema|training)|tracking/\w+)\.py"
)
RULES_BRING = "src/kmnist_pipeline/config/grid.py"
FAMILIES = "src/kmnist_pipeline/families/"
# What is imported where fits are trained, which a run by hand that finds them known does not do.
WORKERS_READ = {
    f"src/kmnist_pipeline/{module}.py"
    for module in ("families/selection", "fits/local", "fits/local_worker")
}
# What only a run by hand reads, to name the inputs that are missing.
HAND_READS = {"dvc.yaml"} | {
    f"src/kmnist_pipeline/repository/{module}.py" for module in ("dvc", "git", "locks")
}


@dataclass
class Watched:
    """A run of a stage by hand: what it read of the project, and the folder of its results."""

    read: set[str]
    results: Path


ByHand = Callable[..., Watched]  # the stage's address, overrides


@pytest.fixture(scope="session")
def by_hand(extended: Extended, tmp_path_factory: pytest.TempPathFactory) -> ByHand:
    """Runs a stage of the extended project by hand, each once."""
    project, logs = extended.project, tmp_path_factory.mktemp("watched")

    @cache
    def run(address: str, *overrides: str) -> Watched:
        kind, item = address.split("@")
        module = f"kmnist_pipeline.stages.{kind.replace('-', '_')}"
        log = logs / address
        command = [sys.executable, "-c", WATCH, str(log), module, f"name={item}"]
        done = project.run(*command, *overrides)
        assert done.returncode == 0, done.stderr
        with contextlib.chdir(project.folder):
            read = {
                path
                for path in json.loads(log.read_text())
                if not (NO_DEPENDENCY.fullmatch(path) or reads._is_bare(path))
            }
        changes = ",".join(overrides) or "unchanged"
        return Watched(read, project.folder / "multirun" / kind / item / changes)

    return run


@pytest.mark.parametrize(
    "address",
    [
        "download@digits",
        "preprocess@digits",
        "kfold-train@digits_softmax",
        "kfold-train@digits_cnn",
        "kfold-train@stripes_sklearn",
        "tune@stripes_grid",
        "evaluate@digits_cnn",
        "evaluate@stripes_grid",
        "evaluate@stripes_sklearn",
        "suspects@digits",
        "loop@digits",
        "conditions@digits_cnn",
        "weights@digits_cnn",
        "report@stripes",
    ],
)
def test_a_stage_depends_on_exactly_what_it_reads(
    address: str, by_hand: ByHand, extended: Extended
) -> None:
    read = by_hand(address).read
    assert read >= HAND_READS
    read = read - HAND_READS
    lock = locks.parse((extended.project.folder / "dvc.lock").read_text())
    dependencies = lock.stages[address].deps.keys()
    if address.startswith(("kfold-train", "tune", "suspects", "loop")):
        read = read | WORKERS_READ
        read |= {path for path in dependencies if path.startswith(FAMILIES)}
    if not any(uses_trials(extended.project.folder / path) for path in read - {RULES_BRING}):
        read = read - {RULES_BRING}
    folders = {path for path in dependencies if (extended.project.folder / path).is_dir()}
    read = {
        next((folder for folder in folders if path.startswith(f"{folder}/")), path) for path in read
    }
    assert read == dependencies


def uses_trials(path: Path) -> bool:
    """Whether a module uses config/grid.py itself, not by way of config/rules.py."""
    return path.suffix == ".py" and "config import grid" in path.read_text()


# Test labels


def permute_labels(project: Project, split: str) -> None:
    """Permute the labels of one split in the processed digits; nothing else changes."""
    path = project.folder / "data/processed/digits.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    rows, before = arrays[split], arrays["labels"].copy()
    arrays["labels"][rows] = np.random.default_rng(0).permutation(before[rows])
    assert (arrays["labels"] != before).mean() > 0.1
    np.savez(path, **arrays)


FEWER_EPOCHS = "experiments.digits_softmax.trainer.epochs=5"


@pytest.mark.parametrize("address", ["kfold-train@digits_softmax", "tune@digits_softmax_grid"])
def test_permuted_test_labels_change_no_byte_of_what_training_makes(
    address: str, without_mlflow: Project, by_hand: ByHand
) -> None:
    before = files_under(by_hand(address, FEWER_EPOCHS).results)
    assert {Path(path).name for path in before} >= {
        *("validation.json", "validation_details.json", "curves.csv")
    }
    permute_labels(without_mlflow, "test")
    assert results(address, without_mlflow) == before


def test_permuted_training_labels_change_all_that_training_makes(
    without_mlflow: Project, by_hand: ByHand
) -> None:
    address = "kfold-train@digits_softmax"
    before = files_under(by_hand(address, FEWER_EPOCHS).results)
    permute_labels(without_mlflow, "train")
    after = results(address, without_mlflow)
    assert after.keys() == before.keys()
    assert all(after[path] != before[path] for path in before)


def results(address: str, project: Project) -> dict[str, bytes]:
    """What a training stage makes by hand, all of it trained."""
    kind, item = address.split("@")
    store = {"KMNIST_FITS": str(project.folder / ".kmnist/others")}
    done = project.stage(kind.replace("-", "_"), f"name={item}", FEWER_EPOCHS, **store)
    assert done.returncode == 0, done.stderr
    return files_under(project.folder / "multirun" / kind / item / FEWER_EPOCHS)

"""The pipeline as its users run it: DVC, Git and the six stages, in repositories of their own.

`digits_run` is the project after `make demo`; `extended` is that with a data set, experiments, a
study and a report that came by YAML alone; `by_hand` runs a stage there and watches what it reads.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support.project import ROOT, Project

from kmnist_pipeline import arithmetic
from kmnist_pipeline.config import rules
from kmnist_pipeline.data import idx
from kmnist_pipeline.evidence import numbers
from kmnist_pipeline.stages import preprocess

KINDS = {"download", "preprocess", "kfold-train", "tune", "evaluate", "report"}
LEAST_ACCURACY = 0.93  # of the demo's softmax regression on the test images
OTHER_MACHINE = 1e-4  # how far numbers may lie apart where another machine type made them
MODELS = ("digits_softmax", "digits_softmax_grid")


def lines_with(word: str, done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in (done.stdout + done.stderr).splitlines() if word in line]


def files_under(folder: Path) -> dict[str, bytes]:
    """The content of every file by its path in `folder`."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def lock(project: Project) -> dict[str, Any]:
    """The entries of dvc.lock by the stages' addresses."""
    return yaml.safe_load((project.folder / "dvc.lock").read_text())["stages"]


def commit(project: Project) -> None:
    """From here on, `project.changed()` is empty unless something changes."""
    project.run("git", "add", "--all")
    done = project.run("git", "commit", "--quiet", "--allow-empty", "--message", "so far")
    assert done.returncode == 0 and not project.changed()


def put(project: Project, path: str, text: str) -> None:
    """Put a file into the copy that Git does not report."""
    (project.folder / path).write_text(text)
    with (project.folder / ".git/info/exclude").open("a") as excluded:
        excluded.write(f"/{path}\n")


def hide_mlflow(project: Project) -> Project:
    """Stages there find no MLflow, and do not wait for it. Their commands say PYTHONPATH=src."""
    put(project, "src/mlflow.py", 'raise ImportError("there is no mlflow here")\n')
    return project


@pytest.fixture
def digits(digits: Project) -> Project:
    """A copy of the project after `make demo`, committed, without MLflow from here on."""
    commit(digits)
    return hide_mlflow(digits)


# The demo


def test_the_demo_runs_a_stage_of_every_kind(digits_run: tuple[Project, str]) -> None:
    assert set(re.findall(r"^Running stage '([^@]+)@", digits_run[1], re.MULTILINE)) == KINDS


def test_the_demo_makes_the_committed_evidence_again(digits_run: tuple[Project, str]) -> None:
    project, _ = digits_run
    details = "metrics/digits/digits_softmax/validation_details.json"
    committed = json.loads(at_commit(project, details))
    if arithmetic.is_portable():
        assert committed["environment"]["arithmetic"] == arithmetic.V3
        assert project.changed() == ""
        return
    for model in MODELS:
        for name in ("validation", "validation_details", "test", "test_details"):
            path = f"metrics/digits/{model}/{name}.json"
            made = json.loads((project.folder / path).read_text())
            assert_alike(json.loads(at_commit(project, path)), made, path)
    path = "metrics/digits/digits_softmax_grid/trials.csv"
    made = (project.folder / path).read_text()
    assert_alike(table(at_commit(project, path)), table(made), path)


def at_commit(project: Project, path: str) -> str:
    return project.run("git", "show", f"HEAD:{path}").stdout


def table(text: str) -> list[list[str | float]]:
    def cell(value: str) -> str | float:
        try:
            return float(value)
        except ValueError:
            return value

    return [[cell(value) for value in row] for row in csv.reader(io.StringIO(text))]


def assert_alike(old: Any, new: Any, where: str) -> None:
    """Numbers agree to OTHER_MACHINE and all else agrees, but for what tells of the machine."""
    if isinstance(old, dict):
        assert old.keys() == new.keys(), where
        for key in old.keys() - {"environment", "made_by"}:
            assert_alike(old[key], new[key], f"{where}: {key}")
    elif isinstance(old, list):
        assert len(old) == len(new), where
        for position, (left, right) in enumerate(zip(old, new, strict=True)):
            assert_alike(left, right, f"{where}[{position}]")
    elif isinstance(old, float):
        assert new == pytest.approx(old, rel=OTHER_MACHINE, abs=OTHER_MACHINE), where
    else:
        assert new == old, where


def test_the_demos_softmax_is_right_of_most_test_images(digits_run: tuple[Project, str]) -> None:
    project, _ = digits_run
    assert project.json("metrics/digits/digits_softmax/test.json")["accuracy"] > LEAST_ACCURACY


# A data set, experiments, a study and a report without code

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
def extended(digits_run: tuple[Project, str], tmp_path_factory: pytest.TempPathFactory) -> Extended:
    """The demo's project with stripes added. Not to be changed by a test."""
    folder = tmp_path_factory.mktemp("extended")
    project = digits_run[0].copy(folder / "project")
    commit(project)
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
    commit(project)
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
    assert checked.stderr.startswith("not fresh") or checked.stdout.startswith("fresh")
    assert not lines_with("stripes", checked)


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

# What changes no result, or as the schema does by way of the parameters alone; and what a stage
# has itself kept.
NO_DEPENDENCY = re.compile(
    r"params\.yaml|src/hydra_plugins/.*|.*/__init__\.py|\.kmnist/(fits|partial)/.*"
    r"|src/kmnist_pipeline/(config/(node|rules|schema)|tracking/\w+)\.py"
)
RULES_BRING = "src/kmnist_pipeline/config/grid.py"
FAMILIES = "src/kmnist_pipeline/families/"
# What is imported where fits are trained, which a run by hand that finds them known does not do.
WORKERS_READ = {
    f"src/kmnist_pipeline/{module}.py"
    for module in ("families/selection", "fits/local", "fits/local_worker")
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
        read = {path for path in json.loads(log.read_text()) if not NO_DEPENDENCY.fullmatch(path)}
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
        "report@stripes",
    ],
)
def test_a_stage_depends_on_exactly_what_it_reads(
    address: str, by_hand: ByHand, extended: Extended
) -> None:
    read = by_hand(address).read
    dependencies = {dep["path"] for dep in lock(extended.project)[address]["deps"]}
    if address.startswith(("kfold-train", "tune")):
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
    address: str, digits: Project, by_hand: ByHand
) -> None:
    before = files_under(by_hand(address, FEWER_EPOCHS).results)
    assert {Path(path).name for path in before} >= {
        *("validation.json", "validation_details.json", "curves.csv")
    }
    permute_labels(digits, "test")
    assert results(address, digits) == before


def test_permuted_training_labels_change_all_that_training_makes(
    digits: Project, by_hand: ByHand
) -> None:
    address = "kfold-train@digits_softmax"
    before = files_under(by_hand(address, FEWER_EPOCHS).results)
    permute_labels(digits, "train")
    after = results(address, digits)
    assert after.keys() == before.keys()
    assert all(after[path] != before[path] for path in before)


def results(address: str, project: Project) -> dict[str, bytes]:
    """What a training stage makes by hand, all of it trained."""
    kind, item = address.split("@")
    store = {"KMNIST_FITS": str(project.folder / ".kmnist/others")}
    done = project.stage(kind.replace("-", "_"), f"name={item}", FEWER_EPOCHS, **store)
    assert done.returncode == 0, done.stderr
    return files_under(project.folder / "multirun" / kind / item / FEWER_EPOCHS)


# A killed study

TUNE = ("dvc", "repro", "--single-item", "--force", "tune@digits_softmax_grid")
FITS = 100  # of it


def test_a_study_killed_twice_goes_on_where_it_stopped(digits: Project) -> None:
    undisturbed = tuned(digits)
    shutil.rmtree(digits.folder / ".kmnist/fits")

    kept: dict[str, int] = {}
    for least in (5, 30):
        before, kept = kept, killed_after(least, digits)
        assert before.items() <= kept.items()  # none was trained again
        assert least <= len(kept) < FITS
        assert not (digits.folder / "models/digits_softmax_grid.safetensors").exists()

    again = digits.run(*TUNE)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"fits: {len(kept)} known, {FITS - len(kept)} to train" in again.stdout + again.stderr
    assert kept.items() < finished(digits).items()
    assert tuned(digits) == undisturbed
    assert digits.changed() == ""


def finished(project: Project) -> dict[str, int]:
    """When each finished fit was written, by its file."""
    fits = (project.folder / ".kmnist/fits").glob("*/*.fit")
    return {fit.name: fit.stat().st_mtime_ns for fit in fits}


def tuned(project: Project) -> dict[str, bytes]:
    """All that the study makes, and the lock."""
    metrics = files_under(project.folder / "metrics/digits/digits_softmax_grid")
    assert {"validation.json", "curves.csv", "trials.csv"} <= metrics.keys()
    others = ("models/digits_softmax_grid.safetensors", "dvc.lock")
    return metrics | {path: (project.folder / path).read_bytes() for path in others}


def killed_after(least: int, project: Project) -> dict[str, int]:
    """Start the study, kill it once it has so many fits, and say which are finished."""
    process = subprocess.Popen(
        TUNE,
        cwd=project.folder,
        env=project.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until = time.monotonic() + 240
        while len(finished(project)) < least:
            assert process.poll() is None, "the study ended before it could be killed"
            assert time.monotonic() < until, "the study did not get far enough"
            time.sleep(0.002)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return finished(project)


def test_a_bar_shows_progress_on_a_terminal_alone(digits: Project) -> None:
    of = "experiments.digits_softmax"
    quick = ("name=digits_softmax", f"{of}.seeds=[0]")
    piped = digits.stage("kfold_train", *quick, f"{of}.trainer.epochs=1")
    assert piped.returncode == 0 and "%" not in piped.stdout + piped.stderr
    assert "fits: 0 known, 5 to train" in piped.stderr
    module = "kmnist_pipeline.stages.kfold_train"
    command = [sys.executable, "-m", module, *quick, f"{of}.trainer.epochs=2"]
    shown = on_terminal(command, digits)
    assert "5 of 5 fits 100%" in shown


def on_terminal(command: list[str], project: Project) -> str:
    """What a command prints where its output is a terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    with subprocess.Popen(
        command,
        cwd=project.folder,
        env=project.environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ):
        os.close(theirs)
        return b"".join(read_terminal(ours)).decode()


def read_terminal(descriptor: int) -> Iterator[bytes]:
    with os.fdopen(descriptor, "rb", buffering=0) as terminal:
        while True:
            try:
                chunk = terminal.read(1 << 16)
            except OSError:  # how Linux says that the other end is closed
                return
            if not chunk:
                return
            yield chunk


# MLflow is a view


def test_without_mlflow_the_results_are_the_same(digits: Project) -> None:
    stages = ["kfold-train@digits_softmax", "evaluate@digits_softmax"]
    done = digits.run("dvc", "repro", "--single-item", "--force", *stages)
    assert done.returncode == 0, done.stdout + done.stderr
    warnings = lines_with("warning", done)
    assert len(warnings) == len(stages)
    for warning, address in zip(warnings, stages, strict=True):
        assert warning.startswith(f"warning: {address} was not published to MLflow ")
        assert "there is no mlflow here" in warning
    assert digits.changed() == ""  # dvc.lock among the rest, with the md5 of every out


# A trial that is an experiment

PLAIN = yaml.safe_load((ROOT / "params.yaml").read_text())
PARAMS = rules.check(PLAIN)
SAME = [
    (name, trial, study.base)
    for name, study in PARAMS.studies.items()
    for trial, settings in rules.trials(study, PARAMS.experiments[study.base], name).items()
    if settings == PARAMS.experiments[study.base]
]


def test_every_study_tries_its_base_experiment_too() -> None:
    shortened = {name for name, study in PARAMS.studies.items() if study.trial}
    assert {study for study, _, _ in SAME} == set(PARAMS.studies) - shortened


@pytest.mark.parametrize(("study", "trial", "experiment"), SAME)
def test_a_trial_that_is_an_experiment_has_its_numbers(
    study: str, trial: str, experiment: str
) -> None:
    metrics = ROOT / "metrics" / PARAMS.studies[study].report
    for file in ("validation.json", "test.json"):
        alone = numbers.read(metrics / experiment / file)
        trials = numbers.read(metrics / study / file)["trials"]
        (among,) = [row for row in trials if row["name"] == trial]
        names = {"n", "correct", "accuracy", "loss", "seeds"} & alone.keys()
        assert {"n", "accuracy", "seeds"} <= names
        assert {name: among[name] for name in names} == {name: alone[name] for name in names}


# Failures

IMAGES, LABELS = "all-images-idx3-ubyte", "all-labels-idx1-ubyte"


def at(position: int, value: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:position] + bytes([value]) + content[position + 1 :]


def without_last(count: int) -> Callable[[bytes], bytes]:
    """One item less than the header's count, of `count` bytes, and the header level with that."""
    return lambda content: content[:4] + (1796).to_bytes(4) + content[8:-count]


@pytest.mark.parametrize(
    ("file", "spoil", "problem"),
    [
        (IMAGES, at(2, 0x0D), "wrong magic 0x00000d03"),
        (LABELS, at(3, 3), "truncated: 1805 bytes"),
        (IMAGES, without_last(64), "has the shape (1796, 8, 8), but the dataset's parts say "),
        (LABELS, without_last(1), "has the shape (1796,), but the dataset's parts say (1797,)"),
        (LABELS, at(8 + 3, 10), "label 10 of image 3 is outside the 10 classes"),
        (IMAGES, at(16 + 3, 17), "has a pixel 17, but pixel_max is 16"),
        (IMAGES, lambda content: content[:-1], "truncated: 115023 bytes"),
        (LABELS, lambda content: content + b"\0", "too long: 1806 bytes"),
    ],
    ids=[
        "magic",
        "dimensions",
        "count of images",
        "count of labels",
        "label",
        "pixel",
        "truncated",
        "too long",
    ],
)
def test_preprocess_refuses_wrong_raw_files(
    *,
    file: str,
    spoil: Callable[[bytes], bytes],
    problem: str,
    digits_run: tuple[Project, str],
    tmp_path: Path,
) -> None:
    raw = shutil.copytree(digits_run[0].folder / "data/raw/digits", tmp_path / "raw")
    preprocess.read(raw, PLAIN["datasets"]["digits"])
    (raw / file).write_bytes(spoil((raw / file).read_bytes()))
    with pytest.raises(preprocess.DataError, match=re.escape(f"{raw / file}: {problem}")):
        preprocess.read(raw, PLAIN["datasets"]["digits"])


@pytest.mark.parametrize(
    ("address", "file", "problem"),
    [
        (
            "evaluate@digits_softmax",
            "models/{}.safetensors",
            "holds digits_cnn trained on digits, not digits_softmax on digits: `dvc repro ",
        ),
        (
            "report@digits",
            "metrics/digits/{}/test_details.json",
            "was made by evaluate@digits_cnn, not for digits_softmax: `dvc repro evaluate@",
        ),
    ],
)
def test_what_another_experiment_made_is_refused(
    address: str, file: str, problem: str, digits: Project
) -> None:
    mixed_up = digits.folder / file.format("digits_softmax")
    mixed_up.unlink()
    shutil.copy(digits.folder / file.format("digits_cnn"), mixed_up)
    kind, item = address.split("@")
    done = digits.stage(kind, f"name={item}")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error in {kind}: {file.format('digits_softmax')} {problem}")
    assert len(done.stderr.splitlines()) == 1
    assert not files_under(digits.folder / f"multirun/{kind}")


def test_a_figure_that_no_stage_of_the_report_made_is_refused(digits: Project) -> None:
    shutil.rmtree(digits.folder / "metrics/digits/digits_softmax_grid")
    done = digits.stage("report", "name=digits")
    assert done.returncode == 1
    assert re.fullmatch(
        "error in report: figures/digits/digits_softmax_grid/[a-z_]+.png was made by "
        "evaluate@digits_softmax_grid, of which there are no numbers in metrics/digits/: "
        "delete it, or make them too\n",
        done.stderr,
    )


def test_a_stage_that_fails_under_dvc_leaves_nothing_half_written(digits: Project) -> None:
    raw = digits.folder / "data/raw/digits" / IMAGES
    whole = raw.read_bytes()
    raw.write_bytes(whole[:1000])
    repro = ("dvc", "repro", "--single-item", "preprocess@digits")
    failed = digits.run(*repro)
    assert failed.returncode != 0
    assert f"error in preprocess: data/raw/digits/{IMAGES}: truncated" in failed.stderr
    assert not lines_with("Traceback", failed)
    outs = ("data/processed/digits.npz", "metrics/data/digits.json", "figures/data/digits")
    assert not any((digits.folder / out).exists() for out in outs)
    assert not files_under(digits.folder / ".kmnist/unfinished")

    raw.write_bytes(whole)
    assert digits.run(*repro).returncode == 0
    assert digits.changed() == ""


# A process of its own, because a limit cannot be lifted again.
FULL = """
import os, resource, sys

largest = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
os.execv(sys.executable, [sys.executable, "-m", *sys.argv[2:]])
"""


@pytest.mark.parametrize(
    ("address", "largest", "failing", "whole"),
    [
        ("download@digits", 60_000, "data/raw/digits", set()),
        ("preprocess@digits", 60_000, "data/processed/digits.npz", set()),
        (
            "evaluate@digits_softmax",
            30_000,
            "predictions/digits_softmax.npz",
            {f"metrics/digits/digits_softmax/test{part}.json" for part in ("", "_details")},
        ),
        ("report@digits", 60_000, "reports/digits", set()),
    ],
)
def test_a_full_disk_leaves_no_out_half_written(
    *, address: str, largest: int, failing: str, whole: set[str], digits: Project
) -> None:
    kind, item = address.split("@")
    module = f"kmnist_pipeline.stages.{kind}"
    command = [sys.executable, "-c", FULL, str(largest), module, f"name={item}"]
    done = digits.run(*command)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error in {kind}: ") and "File too large" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert files_under(digits.folder / f"multirun/{kind}/{item}/unchanged").keys() == whole
    assert not files_under(digits.folder / ".kmnist/unfinished")
    assert failing in done.stderr

"""The demo, what the committed numbers have in common, and how stages fail."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import wording
from support.project import ROOT, Project, files_under, hide_mlflow, lines_with

from kmnist_pipeline import arithmetic
from kmnist_pipeline.config import rules
from kmnist_pipeline.evidence import lineage, numbers
from kmnist_pipeline.repository import locks
from kmnist_pipeline.stages import preprocess

KINDS = {
    *("download", "preprocess", "kfold-train", "tune", "evaluate", "conditions", "suspects"),
    *("loop", "weights", "report"),
}
LEAST_ACCURACY = 0.93  # of the demo's softmax regression on the test images
OTHER_MACHINE = 1e-4  # how far numbers may lie apart where another machine type made them
MODELS = ("digits_softmax", "digits_softmax_grid")


# The demo


def test_the_demo_runs_a_stage_of_every_kind(demo_printed: str) -> None:
    assert set(re.findall(r"^Running stage '([^@]+)@", demo_printed, re.MULTILINE)) == KINDS


def test_the_demo_makes_the_committed_evidence_again(digits_run: Project) -> None:
    details = "metrics/digits/digits_softmax/validation_details.json"
    committed = json.loads(at_commit(digits_run, details))
    if arithmetic.is_portable():
        assert committed["environment"]["arithmetic"] == arithmetic.V3
        assert digits_run.changed() == ""
        return
    for model in MODELS:
        for name in ("validation", "validation_details", "test", "test_details"):
            path = f"metrics/digits/{model}/{name}.json"
            made = json.loads((digits_run.folder / path).read_text())
            assert_alike(json.loads(at_commit(digits_run, path)), made, path)
    path = "metrics/digits/digits_softmax_grid/trials.csv"
    made = (digits_run.folder / path).read_text()
    assert_alike(table(at_commit(digits_run, path)), table(made), path)


def test_after_the_demo_nothing_is_left_to_run(full_run: Project) -> None:
    done = full_run.run("dvc", "repro", "report@digits", "weights@digits_cnn")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Data and pipelines are up to date." in done.stdout
    assert not lines_with("Running stage", done)


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


def test_the_demos_softmax_is_right_of_most_test_images(digits_run: Project) -> None:
    assert digits_run.json("metrics/digits/digits_softmax/test.json")["accuracy"] > LEAST_ACCURACY


def test_digests_are_those_of_dvc(digits_run: Project, demo_printed: str) -> None:
    stages = locks.parse((digits_run.folder / "dvc.lock").read_text()).stages
    ran = [stages[name] for name in re.findall(r"Running stage '(.+)'", demo_printed)]
    files = [(path, md5) for stage in ran for path, md5 in (stage.deps | stage.outs).items()]
    assert len(files) > 50
    for path, md5 in files:
        assert lineage.digest(digits_run.folder / path) == md5, path


def test_dvc_shows_what_one_compares_and_draws_no_details(without_mlflow: Project):
    shown = json.loads(without_mlflow.run("dvc", "metrics", "show", "--json").stdout)[""]["data"]
    of_digits = {file: told["data"] for file, told in shown.items() if "/digits/" in file}
    assert len(of_digits) == 8
    for file, told in of_digits.items():
        scores = {"accuracy", "precision", "recall", "f1", "n", "correct"}
        assert told.keys() == (scores if file.endswith("/test.json") else {"accuracy", "loss", "n"})
    drawn = json.loads(without_mlflow.run("dvc", "plots", "show", "--json").stdout)["data"]
    assert any(file.startswith("metrics/digits/") for file in drawn)
    assert not any(drawn[file] for file in drawn if "digits" in file and file.endswith(".json"))


# A trial that is an experiment

PLAIN = yaml.safe_load((ROOT / "params.yaml").read_text())
PARAMS = rules.check(PLAIN)
SAME = [
    (name, trial, study.base)
    for name, study in PARAMS.studies.items()
    for trial, settings in rules.checked_trials(study, PARAMS.experiments[study.base], name).items()
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
    """One item fewer than the header counts, each of `count` bytes, and a header that agrees."""
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
    digits_run: Project,
    tmp_path: Path,
) -> None:
    raw = shutil.copytree(digits_run.folder / "data/raw/digits", tmp_path / "raw")
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
    address: str, file: str, problem: str, without_mlflow: Project
) -> None:
    mixed_up = without_mlflow.folder / file.format("digits_softmax")
    mixed_up.unlink()
    shutil.copy(without_mlflow.folder / file.format("digits_cnn"), mixed_up)
    kind, item = address.split("@")
    done = without_mlflow.stage(kind, f"name={item}")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error in {kind}: {file.format('digits_softmax')} {problem}")
    assert len(done.stderr.splitlines()) == 1
    assert not files_under(without_mlflow.folder / f"multirun/{kind}")


def test_a_stage_by_hand_names_the_inputs_that_are_missing_and_what_makes_them(project: Project):
    def said() -> str:
        done = project.stage("evaluate", "name=digits_softmax")
        assert done.returncode == 1 and not (project.folder / "multirun").exists()
        return done.stderr.removeprefix("error in evaluate: not here, but needed: ")

    weights, data = "models/digits_softmax.safetensors", "data/processed/digits.npz"
    makers = "preprocess@digits kfold-train@digits_softmax"
    assert said() == f"{data}, {weights}; `dvc repro {makers}` makes what is missing\n"
    for name in (weights, data):
        (project.folder / name).parent.mkdir(parents=True)
        (project.folder / name).touch()
    (project.folder / "params.yaml").unlink()
    assert "where `kmnist compose` makes it" in said()
    done = project.run("dvc", "repro", "evaluate@digits_softmax")
    assert done.stderr == f"error: params.yaml {wording.NOT_COMPOSED}\n"


def test_a_figure_that_no_stage_of_the_report_made_is_refused(without_mlflow: Project) -> None:
    shutil.rmtree(without_mlflow.folder / "metrics/digits/digits_softmax_grid")
    done = without_mlflow.stage("report", "name=digits")
    assert done.returncode == 1
    assert re.fullmatch(
        "error in report: figures/digits/digits_softmax_grid/[a-z_]+.png was made by "
        "evaluate@digits_softmax_grid, whose numbers are not in metrics/digits/: "
        "`dvc repro evaluate@digits_softmax_grid` makes them, or delete the figure\n",
        done.stderr,
    )


def unfinished(project: Project) -> list[Path]:
    return [path for path in project.folder.rglob("*.unfinished") if ".git" not in path.parts]


def test_a_stage_by_hand_with_many_overrides(without_mlflow: Project) -> None:
    changes = [f"experiments.digits_softmax.{key}" for key in (
        "optimizer.lr=0.125", "optimizer.batch_size=32", "trainer.epochs=1", "seeds=[0,1]",
        "validation.folds=2", "trainer.keep=last", "model.scaling=none", "subset=100",
    )]  # fmt: skip
    assert len(",".join(changes)) > 255  # too long for the name of a folder
    done = without_mlflow.stage("kfold_train", "name=digits_softmax", *changes)
    assert done.returncode == 0, done.stderr
    (where,) = re.findall("results are under (.*)", done.stdout)
    assert (without_mlflow.folder / where / "models/digits_softmax.safetensors").exists()


def test_a_stage_that_fails_under_dvc_leaves_nothing_half_written(without_mlflow: Project) -> None:
    raw = without_mlflow.folder / "data/raw/digits" / IMAGES
    whole = raw.read_bytes()
    raw.write_bytes(whole[:1000])
    repro = ("dvc", "repro", "--single-item", "preprocess@digits")
    failed = without_mlflow.run(*repro)
    assert failed.returncode != 0
    assert f"error in preprocess: data/raw/digits/{IMAGES}: truncated" in failed.stderr
    assert not lines_with("Traceback", failed)
    outs = ("data/processed/digits.npz", "metrics/data/digits.json", "figures/data/digits")
    assert not any((without_mlflow.folder / out).exists() for out in outs)
    assert unfinished(without_mlflow) == []

    # DVC removes outs before it runs a stage: the message says how to get those in Git back.
    (command,) = re.findall("committed files are missing: `(.*)` restores them", failed.stderr)
    assert without_mlflow.run("bash", "-c", command).returncode == 0
    assert without_mlflow.changed() == ""

    raw.write_bytes(whole)
    assert without_mlflow.run(*repro).returncode == 0
    assert without_mlflow.changed() == ""


@pytest.mark.parametrize(
    ("file", "add"),
    [
        ("src/sitecustomize.py", "import math\n"),  # Python itself imports it
        ("src/hydra_plugins/other.py", "import math\n"),  # and Hydra this
        ("src/kmnist_pipeline/reporting/extra.py", ""),
        ("src/kmnist_pipeline/tracking/store.py", None),
        ("conf/model/softmax.yaml", None),
    ],
)
def test_a_stage_that_reads_what_is_no_dependency_fails(
    file: str, add: str | None, without_mlflow: Project
) -> None:
    path = without_mlflow.folder / file
    path.write_text(path.read_text() if add is None else add)
    if not file.endswith(("sitecustomize.py", "other.py")):
        reads = (
            f"open({file!r}).read()" if add is None else "import kmnist_pipeline.reporting.extra"
        )
        entry = "src/kmnist_pipeline/stages/report.py"
        without_mlflow.replace(entry, "    about = params", f"    {reads}\n    about = params")
    before = (without_mlflow.folder / "dvc.lock").read_bytes()
    done = without_mlflow.run("dvc", "repro", "--force", "--single-item", "report@digits")
    assert f"error in report: reads {file}, which is not among the deps of report" in done.stderr
    assert (without_mlflow.folder / "dvc.lock").read_bytes() == before


def test_the_code_that_publishes_runs_after_the_outs_are_written(without_mlflow: Project) -> None:
    """It is no dependency, so it must not change what a stage computes."""
    code = without_mlflow.folder / "src/kmnist_pipeline/tracking/publisher.py"
    code.write_text(code.read_text() + "json.dumps = lambda *_, **__: 'changed'\n")
    done = without_mlflow.run("dvc", "repro", "--force", "--single-item", "preprocess@digits")
    assert done.returncode == 0, done.stderr
    assert without_mlflow.changed() == f" M {code.relative_to(without_mlflow.folder)}\n"


@pytest.mark.parametrize(
    ("read", "name"), [('["models"]', "models"), ('["datasets"]["kmnist"]', "datasets.kmnist")]
)
def test_a_stage_that_reads_a_parameter_that_it_does_not_declare_fails(
    read: str, name: str, full_run: Project
) -> None:
    project = hide_mlflow(full_run)
    entry = "src/kmnist_pipeline/stages/report.py"
    project.replace(entry, "    about = params", f"    params{read}\n    about = params")
    done = project.run("dvc", "repro", "--force", "--single-item", "report@digits")
    assert f"error in report: reads the parameter {name}, which is not among" in done.stderr
    assert not lines_with("Traceback", done)


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
    *, address: str, largest: int, failing: str, whole: set[str], without_mlflow: Project
) -> None:
    kind, item = address.split("@")
    module = f"kmnist_pipeline.stages.{kind}"
    command = [sys.executable, "-c", FULL, str(largest), module, f"name={item}"]
    done = without_mlflow.run(*command)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error in {kind}: ") and "File too large" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert files_under(without_mlflow.folder / f"multirun/{kind}/{item}/unchanged").keys() == whole
    assert unfinished(without_mlflow) == []
    assert failing in done.stderr

"""`kmnist check`: evidence that is fresh passes, and every way to be stale is named."""

import hashlib
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import wording
from support.checking import commands, md5_of, remedies
from support.checking import findings as found_in
from support.checking import reasons as findings
from support.project import Project
from support.tampering import CURVES, DETAILS, SOFTMAX, VALIDATION

from kmnist_pipeline.commands import check as checking
from kmnist_pipeline.commands import status
from kmnist_pipeline.config import compose as composition
from kmnist_pipeline.repository.changes import Change

EVALUATE = "evaluate@digits_softmax"
GRID = "tune@digits_softmax_grid"
MADE, OTHER = wording.NOT_MADE, "is damaged or from another commit"
OTHER_KEY = (
    "made by another command, or from other dependencies or parameters, than dvc.lock says "
    "(lineage key MD5 -> MD5)"
)
MD5 = "[0-9a-f]{12}"
FRESH = "up to date: the evidence matches code, configuration and data"
COMMITTED = f"{wording.COMMITTED} (all of "


def same(lines: list[str], *patterns: str) -> None:
    """The lines are these, in which `MD5` stands for any."""
    assert len(lines) == len(patterns), lines
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(re.escape(pattern).replace("MD5", MD5), line), line


def change_lock(project: Project, change: Callable[[dict[str, Any]], object]) -> None:
    path = project.folder / "dvc.lock"
    lock = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    change(lock["stages"])
    path.write_text(yaml.dump(lock, Dumper=yaml.CSafeDumper, sort_keys=False))


def locked(stage: dict[str, Any], kind: str, path: str) -> dict[str, Any]:
    return next(entry for entry in stage[kind] if entry["path"] == path)


# --- fresh ---------------------------------------------------------------------------------------


def test_a_clone_of_the_committed_evidence_is_fresh(full_project):
    done = full_project.run("kmnist", "check")
    fresh, *receipts, last = done.stdout.splitlines()
    assert receipts and all(
        re.match("(not )?verified|receipts of older", line) for line in receipts
    )
    assert (fresh, last.startswith(COMMITTED), done.returncode) == (FRESH, True, 0)
    assert done.stderr == ""


def test_no_cache_and_no_data_are_needed(check, bare):
    for folder in ("data", "models", "predictions"):
        shutil.rmtree(bare.folder / folder)
    assert not (bare.folder / ".dvc/cache").exists()
    assert check() == []


def test_without_data_the_remedy_makes_the_inputs_too(bare):
    """`dvc repro --downstream` would fail, after it has deleted the committed files."""
    for folder in ("data", "models", "predictions"):
        shutil.rmtree(bare.folder / folder)
    path = bare.folder / "src/kmnist_pipeline/families/linear/train.py"
    path.write_text(path.read_text() + "\n")
    again, _ = remedies(bare, SOFTMAX, "evaluate@digits_softmax")
    assert again.startswith("dvc repro report@") and "report@digits" in again.split()


# --- stale ---------------------------------------------------------------------------------------

TRAIN = {"kfold-train", "tune", "suspects", "loop"}


@pytest.mark.parametrize(
    ("module", "dependency", "kinds"),
    [
        ("figures/models.py", "", {"evaluate"}),
        ("stages/kfold_train.py", "", {"kfold-train"}),
        ("stages/tune.py", "", {"tune"}),
        ("families/excerpt.py", "", {"weights"}),
        ("config/grid.py", "", {*TRAIN, "report"}),
        ("data/splits.py", "", {*TRAIN, "evaluate"}),
        ("data/reviews.py", "", {"preprocess", "evaluate"}),
        ("data/placement.py", "", {"preprocess", "conditions"}),
        ("serving/character.py", "", {"conditions"}),
        ("evaluation/routing.py", "", {"evaluate", "conditions"}),
        ("evaluation/suspects.py", "", {"suspects"}),
        ("evaluation/labelling.py", "", {"loop"}),
        ("families/cnn/model.py", "", {"kfold-train", "evaluate", "conditions"}),
        ("families/base.py", "", TRAIN),
        ("families/linear/train.py", "", TRAIN),
        ("fits/plan.py", "fits/plan.py", TRAIN),
        ("reporting/templates/report.html", "reporting/templates", {"report"}),
        ("config/schema.py", "", set()),
        ("config/rules.py", "", set()),
    ],
)
def test_an_edited_module_makes_stale_the_stages_which_use_it(
    module, dependency, kinds, check, bare
):
    path = bare.folder / "src/kmnist_pipeline" / module
    before = md5_of(path)
    path.write_text(path.read_text() + "\n")
    found = [line for line in check() if ": reads outs of " not in line]
    assert {line.partition("@")[0] for line in found} == kinds
    changed = f"dependency src/kmnist_pipeline/{dependency or module} changed: md5 "
    assert all(changed in line for line in found)
    if not dependency:  # of a folder, the md5 is that of its list
        assert all(line.endswith(f"{before[:12]} -> {md5_of(path)[:12]}") for line in found)


def test_a_module_of_one_family_makes_no_other_stale(check, bare):
    path = bare.folder / "src/kmnist_pipeline/families/sklearn/train.py"
    path.write_text(path.read_text() + "\n")
    found = check()
    models = {line.partition(":")[0] for line in found} - {"report@digits"}
    assert {model.partition("@")[2] for model in models} == {"digits_sklearn_logistic"}
    assert remedies(bare, *models)[1:] == [
        "git checkout HEAD -- src/kmnist_pipeline/families/sklearn/train.py"
    ]


def test_a_parameter_changed_in_conf_makes_its_stages_stale(bare, monkeypatch):
    file = "conf/experiment/digits_softmax.yaml"
    bare.replace(file, "lr: 0.5\n", "lr: 0.4\n")
    monkeypatch.chdir(bare.folder)
    composed = composition.compose(Path("conf"), [])
    changed = "parameter experiments.digits_softmax.optimizer.lr changed: 0.5 -> 0.4"
    assert findings(bare, composed) == [
        f"params.yaml: {wording.CONF_CHANGED}",
        "params.yaml: experiments.digits_softmax.optimizer.lr is 0.5, but 0.4 in conf/",
        f"{SOFTMAX}: {changed}",
        f"{GRID}: {changed}",
        f"evaluate@digits_softmax: reads outs of {SOFTMAX}",
        f"evaluate@digits_softmax_grid: reads outs of {GRID}",
        f"suspects@digits: {changed}",
        "report@digits: reads outs of evaluate@digits_softmax, evaluate@digits_softmax_grid, "
        f"suspects@digits, {SOFTMAX}, {GRID}",
    ]
    assert remedies(bare, "params.yaml", composed=composed) == ["kmnist compose"]
    again, back = remedies(bare, SOFTMAX, GRID, composed=composed)
    assert again.startswith("dvc repro --downstream ") and f"{SOFTMAX} " in again
    assert f" {file}" in back


@pytest.mark.system
def test_results_of_a_run_are_kept_first_and_undone_only_with_what_made_them(without_mlflow):
    project = without_mlflow
    before = stale(project)
    project.replace("conf/experiment/digits_softmax.yaml", "lr: 0.5\n", "lr: 0.4\n")
    for command in (("kmnist", "compose"), ("dvc", "repro", EVALUATE)):
        assert project.run(*command).returncode == 0
    kept = project.copy(project.folder.with_name("kept"))
    assert {GRID, "suspects@digits"} <= (found := stale(project)) and EVALUATE not in found
    again, commit, back, checkout = commands(project, GRID)
    assert again.startswith("dvc repro ") and commit == "git commit --all"
    for question in (["check"], ["verify", "--quick"]):
        last = project.run("kmnist", *question).stdout.splitlines()[-1]
        assert "some are new and up to date: " in last and "git checkout" not in last
    for line in (back, checkout):
        assert project.run("sh", "-c", line).returncode == 0
    assert stale(project) == before and project.changed() == ""

    # Results that were not made with a change are not undone with it.
    kept.commit()
    assert kept.run("dvc", "repro", GRID).returncode == 0
    module = "src/kmnist_pipeline/stages/weights.py"
    kept.replace(module, '"""', '"""Edited. ')
    back = f"git checkout HEAD -- {module}"
    assert commands(kept, "weights@digits_cnn")[1:] == ["git commit --all", back]


def stale(project: Project) -> set[str]:
    return {finding.where for finding in found_in(project)}


@pytest.mark.parametrize("text", ["another value", "", "experiments: [", None])
def test_params_yaml_is_only_composed_and_makes_no_stage_stale(text, bare):
    file = bare.folder / "params.yaml"
    if text is None:
        file.unlink()
    elif text == "another value":
        bare.replace("params.yaml", "lr: 0.5\n", "lr: 0.4\n")
    else:
        file.write_text(text)
    found = findings(bare)
    assert {line.partition(":")[0] for line in found} == {"params.yaml"}
    assert remedies(bare, "params.yaml") == ["kmnist compose"]


def test_a_parameter_changed_and_composed(bare):
    bare.replace("conf/config.yaml", "samples: 10", "samples: 9")
    assert bare.run("kmnist", "compose").returncode == 0
    composed = (bare.folder / "params.yaml").read_text()
    found = findings(bare, composed)
    own = [line for line in found if ": reads outs of " not in line]
    assert {line.partition("@")[0] for line in own} == {"evaluate"}
    assert all(line.endswith(": parameter evaluation.samples changed: 10 -> 9") for line in own)


def test_parameters_in_a_list_and_ones_that_come_and_go(check, bare):
    def change(stages):
        params = stages[GRID]["params"]["params.yaml"]
        params["studies.digits_softmax_grid"]["points"][1]["optimizer.lr"] = 7
        del params["experiments.digits_softmax.subset"]
        params["experiments.digits_softmax.colour"] = {"of": "ink"}

    change_lock(bare, change)
    same(
        [line for line in check() if "parameter " in line and "made by" not in line],
        f'{GRID}: parameter experiments.digits_softmax.colour.of is gone: was "ink"',
        f"{GRID}: parameter experiments.digits_softmax.subset is new: null",
        f"{GRID}: parameter studies.digits_softmax_grid.points[1].optimizer.lr changed: 7 -> 0.5",
    )


def test_a_metric_edited_by_hand(check, bare):
    bare.replace(VALIDATION, '"accuracy": 0.9', '"accuracy": 1.9')
    same(
        check(),
        f"{SOFTMAX}: out {VALIDATION} {MADE}: md5 MD5 -> MD5",
        f"evaluate@digits_softmax: reads outs of {SOFTMAX}",
        f"suspects@digits: reads outs of {SOFTMAX}",
        f"report@digits: reads outs of evaluate@digits_softmax, suspects@digits, {SOFTMAX}",
    )


def test_half_a_metric(check, bare):
    path = bare.folder / VALIDATION
    path.write_text(path.read_text()[:30])
    assert any(line.startswith(f"{SOFTMAX}: out {VALIDATION} {MADE}") for line in check())


def test_a_flipped_byte_in_a_figure(check, bare):
    content = bytearray((bare.folder / CURVES).read_bytes())
    content[len(content) // 2] ^= 1
    (bare.folder / CURVES).write_bytes(content)
    same(
        check(),
        f"evaluate@digits_softmax: out figures/digits/digits_softmax {MADE}: md5 MD5 -> MD5",
        "report@digits: reads outs of evaluate@digits_softmax",
    )


def test_a_deleted_figure_and_a_deleted_folder(check, bare):
    (bare.folder / CURVES).unlink()
    shutil.rmtree(bare.folder / "reports/digits")
    same(
        check(),
        f"evaluate@digits_softmax: out figures/digits/digits_softmax {MADE}: md5 MD5 -> MD5",
        "report@digits: out reports/digits is missing",
    )


def test_a_changed_command(check, bare):
    bare.replace("dvc.yaml", "stages.kfold_train name", "stages.kfold_train  name")
    cmd = "PYTHONPATH=src python -m kmnist_pipeline.stages.kfold_train{}name=digits_softmax"
    changed = f"command changed: `{cmd.format(' ')}` -> `{cmd.format('  ')}`"
    assert f"{SOFTMAX}: {changed}" in check()


def test_a_new_dependency(check, bare):
    raw = "        - data/raw/${key}\n"
    bare.replace("dvc.yaml", f"{raw}        - src", f"{raw}        - LICENSE\n        - src")
    md5 = md5_of(bare.folder / "LICENSE")
    assert f"preprocess@digits: dependency LICENSE is new: md5 {md5[:12]}" in check()


def test_a_dependency_and_a_parameter_that_dvc_yaml_dropped(check, bare):
    bare.replace("dvc.yaml", "        - src/kmnist_pipeline/stages/report.py\n", "")
    bare.replace("dvc.yaml", "        - evaluation\n", "")
    found = check()
    module = "src/kmnist_pipeline/stages/report.py"
    assert f"report@digits: dependency {module} is no longer in dvc.yaml" in found
    gone = "parameter evaluation.samples is gone: was 10"
    assert f"evaluate@digits_softmax: {gone}" in found


def test_evidence_that_another_version_of_a_library_made(check, bare):
    pins = (bare.folder / "requirements.lock").read_text()
    made = bare.json(VALIDATION)["environment"]["libraries"]["numpy"]
    bare.replace("requirements.lock", f"numpy=={made}", "numpy==1.26.4")
    changed = f"library numpy changed: {made} -> 1.26.4"
    assert {f"{SOFTMAX}: {changed}", f"{GRID}: {changed}"} <= set(check())
    restore, install, *_ = remedies(bare, SOFTMAX)
    assert (restore, install) == ("git checkout HEAD -- requirements.lock", "make setup")
    drawn = bare.json(DETAILS.replace("validation", "test"))["made_by"]["libraries"]["pillow"]
    (bare.folder / "requirements.lock").write_text(pins.replace(f"pillow=={drawn}", "pillow==0.1"))
    of_pillow = [line for line in check() if f"library pillow changed: {drawn} -> 0.1" in line]
    for kind, item in (
        ("preprocess", "digits"),
        ("evaluate", "digits_softmax"),
        ("report", "digits"),
    ):
        assert any(line.startswith(f"{kind}@{item}: ") for line in of_pillow)
    (bare.folder / "requirements.lock").write_text("")
    assert f"{SOFTMAX}: library numpy {made} is not in requirements.lock" in check()
    # A build for other hardware is no other version.
    (bare.folder / "requirements.lock").write_text(
        pins.replace(f"numpy=={made}", f"numpy=={made}+cpu ; python_version > '3'")
    )
    assert check() == []
    (bare.folder / "requirements.lock").unlink()
    assert check() == ["requirements.lock: is missing"]


def test_evidence_in_native_arithmetic(check, bare):
    path = bare.folder / DETAILS
    path.write_text(path.read_text().replace('"x86-64-v3"', '"native"'))
    change_lock(bare, lambda s: locked(s[SOFTMAX], "outs", DETAILS).update(md5=md5_of(path)))
    assert (
        f"{SOFTMAX}: out {DETAILS} was made in native arithmetic, so it is not evidence"
    ) in check()
    assert remedies(bare, SOFTMAX) == [f"dvc repro --force --single-item {SOFTMAX}"]


def test_findings_with_the_same_remedy_are_grouped():
    command = f"dvc repro --downstream {' '.join(f'kfold-train@experiment_{n}' for n in range(30))}"
    again = (checking.Remedy("make them again", (command,)),)
    shared = checking.Finding("", ("dependency src/a.py changed: md5 0 -> 1",), again)
    alike = [replace(shared, where=f"kfold-train@experiment_{number}") for number in range(30)]
    alone = checking.Finding(
        "tune@study", (f"command changed: `{'x' * 60}` -> `{'y' * 60}`",), again
    )
    other = checking.Finding("params.yaml", (wording.CONF_CHANGED,))
    text = "\n".join(checking.lines([*alike, other, alone]))
    lines = text.splitlines()
    names = " ".join(line for line in lines if not line.startswith(" "))
    assert names == (
        f"{', '.join(finding.where for finding in alike)} (30) tune@study "
        "downstream of these: params.yaml"
    )
    assert lines.count(f"  {shared.reasons[0]}") == 1
    assert lines[-5:-1] == [
        f"  command changed: `{'x' * 60}` ->",
        f"    `{'y' * 60}`",
        "  make them again:",
        f"    {command}",
    ]
    assert max(len(line) for line in lines if "dvc repro" not in line) <= 100


@pytest.mark.parametrize(("modules", "shown"), [(1, 1), (4, 4), (5, 4), (33, 4)])
def test_of_many_changed_modules_only_the_first_are_named(modules, shown):
    other = Change("parameter", "seeds", "[0]", "[1]")
    changed = [Change("file", f"src/{number}.py", "1", "2") for number in range(modules)]
    lines = status.said([*changed, other])
    assert len(lines) == shown + 1 and str(other) in lines
    assert modules == shown or lines[-1] == f"and {modules - 3} more dependencies in src/"


def test_stages_that_the_lock_lacks_or_has_too_many(check, bare):
    change_lock(bare, lambda stages: stages.update({"evaluate@gone": stages.pop(SOFTMAX)}))
    found = check()
    assert f"{SOFTMAX}: is not in dvc.lock" in found
    assert "evaluate@gone: is in dvc.lock, but not in dvc.yaml" in found
    assert bare.run("sh", "-c", *remedies(bare, "evaluate@gone")).returncode == 0
    assert not [line for line in check() if "evaluate@gone" in line]


@pytest.mark.parametrize("data", ["here", "in the cache alone"])
@pytest.mark.parametrize("maker", [True, False])
def test_lock_entries_that_do_not_fit_together(data, maker, check, bare):
    path = "data/processed/digits.npz"
    if data != "here":
        shutil.rmtree(bare.folder / "data")
    stage, kind = ("preprocess@digits", "outs") if maker else (SOFTMAX, "deps")
    change_lock(bare, lambda s: locked(s[stage], kind, path).update(md5="0" * 32))
    found = check()
    assert any(line.startswith(f"{SOFTMAX}: dependency {path} changed: md5 ") for line in found)
    if maker and data == "here":
        assert any(line.startswith(f"{stage}: out {path} {OTHER}: md5 ") for line in found)


def test_a_file_that_was_edited_while_its_stage_ran(check, bare):
    """Hashes agree everywhere, but the outs say from what they were made."""
    module = "src/kmnist_pipeline/families/base.py"
    content = (bare.folder / module).read_bytes() + b"\n"
    (bare.folder / module).write_bytes(content)
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    change_lock(bare, lambda s: locked(s[SOFTMAX], "deps", module).update(md5=digest))
    (found,) = [line for line in check() if line.startswith(SOFTMAX)]
    same([found], f"{SOFTMAX}: {OTHER_KEY}: {DETAILS}")
    force = f"dvc repro --force --single-item {SOFTMAX}"
    assert remedies(bare, SOFTMAX) == [force]
    shutil.rmtree(bare.folder / "data")
    assert remedies(bare, SOFTMAX) == ["dvc repro preprocess@digits", force]


def test_the_key_in_a_figure_is_read_too(check, bare):
    change_lock(bare, lambda s: s["evaluate@digits_softmax"].update(cmd="another"))
    bare.replace("dvc.yaml", "stages.evaluate name=${key}", "stages.evaluate name=${key} ")
    found = check()
    (line,) = [line for line in found if "evaluate@digits_softmax: made by another" in line]
    assert CURVES in line
    assert "metrics/digits/digits_softmax/test_details.json" in line


def test_files_that_no_stage_makes(check, bare):
    for file in ("metrics/old.json", "figures/data/old/a.png", "reports/digits.html"):
        path = bare.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
        bare.run("git", "add", "--force", file)
    assert check() == [
        "figures/data/old/a.png: no stage makes this file",
        "metrics/old.json: no stage makes this file",
        "reports/digits.html: no stage makes this file",
    ]


def test_damaged_data(check, bare):
    path = bare.folder / "models/digits_softmax.safetensors"
    path.unlink()  # DVC may have linked it to its cache
    path.write_bytes(b"damaged")
    out = f"{SOFTMAX}: out models/digits_softmax.safetensors {OTHER}"
    assert any(line.startswith(out) for line in check())

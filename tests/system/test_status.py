"""What would run again: `kmnist check`, `impact` and `verify --quick` give one answer."""

import re
import shutil
from pathlib import Path

import pytest
from support import wording
from support.checking import commands, findings
from support.project import Project

from kmnist_pipeline.commands import impact, quick
from kmnist_pipeline.evidence import lineage
from kmnist_pipeline.repository.compare import Verdict

SOFTMAX, GRID = "kfold-train@digits_softmax", "tune@digits_softmax_grid"
EVALUATE, REPORT = "evaluate@digits_softmax", "report@digits"
BELOW = {EVALUATE: "downstream", "suspects@digits": "downstream", REPORT: "downstream"}
CURVES = "figures/digits/digits_softmax/curves.png"
VALIDATION = "metrics/digits/digits_softmax/validation.json"
DETAILS = VALIDATION.replace(".json", "_details.json")  # with a lineage key: no other file is it
MODEL = "models/digits_softmax.safetensors"
MENU, CONF = "conf/config.yaml", "conf/experiment/digits_softmax.yaml"


@pytest.fixture
def copy(evidence: Project, tmp_path: Path) -> Project:
    """A copy of `evidence` for a test to change."""
    return evidence.copy(tmp_path / "project")


def rewrite(project: Project, path: str, content: bytes | None) -> None:
    """Give a file, which DVC may have linked to its cache, other content, or delete it."""
    file = project.folder / path
    file.unlink()
    if content is not None:
        file.write_bytes(content)


def more(project: Project, path: str) -> None:
    rewrite(project, path, (project.folder / path).read_bytes() + b"\n")


# --- one answer ----------------------------------------------------------------------------------


def edit_metric(project: Project) -> None:
    project.replace(VALIDATION, '"accuracy": 0.9', '"accuracy": 1.9')


def edit_conf(project: Project) -> None:
    project.replace(CONF, "lr: 0.5\n", "lr: 0.4\n")


def edit_params(project: Project) -> None:
    project.replace("params.yaml", "lr: 0.5\n", "lr: 0.4\n")


def only_in_the_lock(project: Project) -> None:
    project.replace("dvc.lock", f"  {EVALUATE}:\n", "  evaluate@gone:\n")
    project.commit()


def new_experiment(project: Project) -> None:
    line = "  - experiment@experiments.digits_softmax: digits_softmax\n"
    project.replace(MENU, line, line + line.replace("s_softmax:", "s_new:"))


def add_file(project: Project) -> None:
    (project.folder / "metrics/digits/old.json").write_text("{}")
    project.commit()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda _: None, {}),
        (edit_metric, {SOFTMAX: "changed", **BELOW}),
        (lambda p: rewrite(p, CURVES, None), {EVALUATE: "changed", REPORT: "downstream"}),
        (lambda p: rewrite(p, MODEL, None), {}),  # the cache keeps it
        (lambda p: more(p, MODEL), {SOFTMAX: "changed", **BELOW}),
        (lambda p: more(p, "dvc.yaml"), {}),
        (
            lambda p: more(p, "src/kmnist_pipeline/stages/kfold_train.py"),
            {SOFTMAX: "changed", **BELOW},
        ),
        (edit_conf, {**BELOW, **dict.fromkeys((SOFTMAX, GRID, "suspects@digits"), "changed")}),
        (edit_params, {}),
        (only_in_the_lock, {EVALUATE: "new", "evaluate@gone": "gone", REPORT: "downstream"}),
        (
            new_experiment,
            {"kfold-train@digits_new": "new", "evaluate@digits_new": "new", REPORT: "downstream"},
        ),
        (add_file, {}),
    ],
)
def test_the_three_commands_name_the_same_stages(change, expected, copy, monkeypatch):
    change(copy)
    monkeypatch.chdir(copy.folder)
    found = findings(copy)
    checked = {finding.where for finding in found if "@" in finding.where}
    impacts = impact.of_change([])
    states = {stage.address: stage.state for stage in impacts.stages}
    compared = quick.compare_here()
    (below,) = [n for n in compared.notes if n.startswith("downstream of these: ")] or [": "]
    apart = {stage.address for stage in compared.stages if stage.verdict is not Verdict.IDENTICAL}
    named = {each for each in apart if "@" in each} | {*below.partition(": ")[2].split(", ")} - {""}
    assert checked == states.keys() == named
    assert {name: states.get(name) for name in expected} == expected
    softmax = {name for name in states if re.search("digits(_softmax|_new)?$|gone", name)}
    assert softmax == expected.keys() - {GRID}

    files = {finding.where for finding in found} - checked
    assert (
        files
        == apart - named
        == {
            *(["params.yaml"] if not impacts.composed else []),
            *impacts.orphans,
        }
    )


# --- the smallest remedy -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "place", "remedy"),
    [
        (edit_metric, SOFTMAX, f"git checkout HEAD -- {VALIDATION}"),
        (lambda p: rewrite(p, CURVES, None), EVALUATE, f"git checkout HEAD -- {CURVES}"),
        (
            lambda p: (p.folder / CURVES).with_name("new.png").write_bytes(b""),
            EVALUATE,
            f"git clean --force -- {CURVES.replace('curves', 'new')}",
        ),
        (lambda p: more(p, MODEL), SOFTMAX, f"dvc checkout --force {MODEL}"),
        (edit_params, "params.yaml", "kmnist compose"),
        (add_file, "metrics/digits/old.json", "git rm -- metrics/digits/old.json"),
    ],
)
def test_the_one_command_that_is_named_repairs_the_damage(change, place, remedy, copy):
    untouched = {finding.where for finding in findings(copy)}
    change(copy)
    (command,) = commands(copy, place)
    assert command == remedy
    done = copy.run("sh", "-c", command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {finding.where for finding in findings(copy)} == untouched


def test_what_the_cache_lacks_is_made_again_by_its_stage_alone_or_removed(copy):
    more(copy, MODEL)
    shutil.rmtree(copy.folder / ".dvc/cache")
    again, away = commands(copy, SOFTMAX)
    assert again.startswith("dvc repro --downstream ") and SOFTMAX in again
    said = copy.run("kmnist", "verify", "--quick").stdout.splitlines()[-1]
    (named,) = re.findall("`(dvc checkout .*?)` restores it, or removes ", said)
    assert named == away == f"dvc checkout --force --allow-missing {MODEL}"
    assert copy.run("sh", "-c", away).returncode == 0
    assert findings(copy) == [] and not (copy.folder / MODEL).exists()


# --- the last sentence ---------------------------------------------------------------------------


def last_lines(project: Project) -> list[str]:
    """That of `kmnist check`, and that of `make demo`."""
    demo = re.findall(r"\t@(kmnist verify .*)", (project.folder / "Makefile").read_text())
    assert len(demo) == 1
    done = project.run("sh", "-c", *demo)
    assert done.returncode == 0
    return [project.run("kmnist", "check").stdout.splitlines()[-1], done.stdout.splitlines()[-1]]


def test_whether_the_committed_bytes_were_made_again_is_said_last(copy):
    files, outs = (
        rf"\d+ files of evidence in Git{more}" for more in ("", " and outs in DVC's cache")
    )
    for line, counted in zip(last_lines(copy), (files, outs), strict=True):
        assert re.fullmatch(rf"{wording.COMMITTED} \(all of {counted}\)", line)
    edit_metric(copy)
    for line in last_lines(copy):
        assert re.fullmatch(
            r"different: 1 of \d+ files of evidence in Git(| and outs .*) differs from the commit; "
            rf"`git checkout HEAD -- {VALIDATION}` restores it",
            line,
        )


def test_equal_numbers_that_a_run_here_made_in_other_bytes_are_called_so(copy):
    """As another type of machine makes them."""
    old = lineage.digest(copy.folder / DETAILS)
    copy.replace(DETAILS, "{\n", "{ \n")
    new = lineage.digest(copy.folder / DETAILS)
    lock = copy.folder / "dvc.lock"
    lock.write_text(lock.read_text().replace(old, new))
    for line in last_lines(copy):
        assert re.fullmatch(
            r"equal numbers, other bytes: 2 of \d+ files .* differ from the commit; "
            rf"`git checkout HEAD -- dvc.lock {DETAILS}` restores them",
            line,
        )


def test_many_files_are_restored_by_their_folder_and_new_ones_removed(copy):
    for path in (figures := copy.folder / "figures/digits/digits_softmax").glob("*.png"):
        path.write_bytes(b"")
    (figures / "new.png").write_bytes(b"")
    folder = figures.relative_to(copy.folder)
    for line in last_lines(copy):
        assert line.endswith(
            f"`git checkout HEAD -- {folder}` and `git clean --force -- {folder}/new.png` "
            "restore them"
        )
        for command in re.findall("`([^`]+)`", line):
            copy.run("sh", "-c", command)
    assert copy.changed() == ""

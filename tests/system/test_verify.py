"""`kmnist verify`: a run from scratch against the commit, what it says, and what it leaves."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.project import Project, cloned
from support.tampering import (
    COUNTS,
    CURVES,
    DATA,
    DETAILS,
    DIFFERENT,
    EVALUATE,
    MATRIX,
    MODEL,
    SOFTMAX,
    VALIDATION,
    change_lock,
    repaint,
)

from kmnist_pipeline.commands import clone, quick, verify
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.repository import locks
from kmnist_pipeline.repository.compare import Difference
from kmnist_pipeline.repository.locks import Graph, LockedStage


def receipt_of(project: Project) -> dict[str, Any]:
    """The predicate of the receipt that is there."""
    (path,) = (project.folder / "receipts").glob("*.json")
    return json.loads(path.read_bytes())["predicate"]


def kmnist_verify(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it, and see to it that it leaves a receipt and the workspace is as before."""
    before, rest = contents(project.folder), project.folder.parent / "tmp"
    done = project.run("kmnist", "verify", *arguments, TMPDIR=str(rest))
    after = contents(project.folder)
    left = {path for path in after if path.startswith("receipts/")} - before.keys()
    assert {path: after[path] for path in after.keys() - left} == before
    assert len(left) == (done.stdout != "" and "--quick" not in arguments)  # no output: no result
    assert list(rest.iterdir()) == []
    return done


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a project, also the ignored ones and those of Git."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and "tmp" not in file.parts[len(folder.parts) :]  # DVC's own scratch
    }


# --- a run from scratch --------------------------------------------------------------------------


def test_a_bare_clone_gives_what_was_committed(bare_one):
    done = kmnist_verify(bare_one, "report@digits")
    first, last = done.stdout.splitlines()
    assert first.endswith("stages run in a clean clone (committed -> made again)")
    assert last.startswith("identical: the committed bytes were made again (all of ")
    assert done.returncode == 0
    told = (
        f"verified by `kmnist verify report@digits` on {receipt_of(bare_one)['machine']}: identical"
    )
    assert told in bare_one.run("kmnist", "check").stdout
    traced = bare_one.run("kmnist", "trace", CURVES).stdout
    assert f"recorded in dvc.lock as what {EVALUATE} made" in traced
    assert "run again by `kmnist verify report@digits` on " in traced
    stages = [line for line in done.stderr.splitlines() if line.startswith("[")]
    assert stages[0] == f"[1/{len(stages)}] download@digits"
    assert stages[-1].startswith(f"[{len(stages)}/{len(stages)}] report@digits, about 00:")


@pytest.fixture(scope="module")
def tampered_run(
    evidence: Project, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Project, list[str]]:
    """A commit with faults of every kind, in a workspace that is not clean; what is said of it."""
    project = cloned(evidence, tmp_path_factory.mktemp("tampered") / "project")
    project.replace(COUNTS, '"n_test": 360', '"n_test": 361')
    repaint(project.folder / MATRIX, 30)
    code, other = "src/kmnist_pipeline/data/idx.py", "0123456789ab" + 20 * "0"
    change_lock(project, DATA, **{COUNTS: "now", "figures/data/digits": "now", code: other})
    validation, details = (
        json.loads((project.folder / path).read_text()) for path in (VALIDATION, DETAILS)
    )
    validation["accuracy"] += 1e-6
    details["environment"] |= {"arithmetic": "aarch64", "libraries": {"numpy": "1.2.3"}}
    (project.folder / VALIDATION).write_text(json.dumps(validation))
    (project.folder / DETAILS).write_text(json.dumps(details))
    change_lock(project, SOFTMAX, **{VALIDATION: "now", DETAILS: "now", MODEL: "a" * 32})
    project.commit()
    (project.folder / "README.md").write_text("changed")
    (project.folder / "untracked").write_text("mine")

    done = kmnist_verify(project, SOFTMAX)
    assert done.returncode == 1
    return project, [*done.stderr.splitlines(), *done.stdout.splitlines()]


@pytest.fixture
def tampered(tampered_run: tuple[Project, list[str]]) -> list[str]:
    return tampered_run[1]


def test_a_tampered_metric_and_figure_are_different_by_how_much(tampered):
    start = tampered.index(f"{DATA}: different")
    assert tampered[start + 1 : start + 3] == [
        f"  {MATRIX}: pixels differ in 30 of "
        + tampered[start + 1].partition(" in 30 of ")[2],  # the size is the figure's
        f"  {COUNTS}: n_test 361 -> 360",
    ]
    assert tampered[-1].startswith("different: 5 of ")
    assert tampered[-1].endswith(
        " differ from the commit, 3 of them with equal numbers; the workspace is unchanged"
        "; but not everything is up to date, see above"
    )


def test_other_numbers_within_six_digits_are_equal(tampered):
    start = tampered.index(f"{SOFTMAX}: equal numbers, other bytes")
    assert f"  {VALIDATION}, {DETAILS}: equal to six digits" in tampered[start:]
    (model,) = [line for line in tampered if line.startswith(f"  {MODEL}: md5 aaaaaaaaaaaa -> ")]
    assert "the size of the difference is unknown: the committed one is not in the cache" in model


def test_the_receipt_of_a_run_that_differs_says_so(tampered_run):
    project, _ = tampered_run
    receipt = receipt_of(project)
    assert receipt["commit"] == project.git("rev-parse", "HEAD")
    outs = {
        out: word for stage in receipt["stages"].values() for out, word in stage["outs"].items()
    }
    assert {COUNTS, "figures/data/digits"} == {out for out in outs if outs[out] == "different"}
    assert {VALIDATION, DETAILS, MODEL} == {out for out in outs if outs[out] == "equal"}
    assert outs["data/processed/digits.npz"] == "identical"


def test_likely_causes_are_named(tampered):
    causes = [line for line in tampered if "likely cause" in line]
    assert any("idx.py changed: md5 0123456789ab -> " in line for line in tampered)
    assert any("other arithmetic: aarch64 -> " in cause for cause in causes)
    assert any("other version of numpy: 1.2.3 -> " in cause for cause in causes)


def test_a_workspace_that_is_not_clean_is_said(tampered):
    (note,) = [line for line in tampered if line.startswith("note: ")]
    assert "note: the workspace has uncommitted changes (2 files; `git status`)" in note
    assert tampered.index(note) < tampered.index("[1/3] download@digits")


def test_code_that_the_lock_does_not_name_makes_it_stale_though_the_bytes_are_equal(
    full_clone, tmp_path
):
    project = cloned(full_clone, tmp_path / "bare")
    code = "src/kmnist_pipeline/stages/download.py"
    with (project.folder / code).open("a") as file:
        file.write("# says nothing\n")
    project.commit()
    for arguments in (["--quick", "download@digits"], ["download@digits"]):
        done = kmnist_verify(project, *arguments)
        assert f"download@digits: dependency {code} changed: md5 " in done.stdout
        assert done.stdout.splitlines()[-1].startswith("identical: ")
        assert done.stdout.endswith("; but not everything is up to date, see above\n")
        assert done.returncode == 1
    lock = locks.parse((project.folder / "dvc.lock").read_bytes())
    ran = receipt_of(project)["stages"]["download@digits"]
    assert ran["lineage"] != lock.stages["download@digits"].key
    assert "verified by" not in project.run("kmnist", "check").stdout


def test_the_first_epochs_of_code_that_the_lock_does_not_name_are_stale(bare_one):
    code = "src/kmnist_pipeline/stages/kfold_train.py"
    with (bare_one.folder / code).open("a") as file:
        file.write("# says nothing\n")
    bare_one.commit()
    done = kmnist_verify(bare_one, "--epochs", "1", SOFTMAX)
    assert f"{SOFTMAX}: dependency {code} changed: md5 " in done.stdout
    assert done.returncode == 1


def test_a_signed_receipt_names_its_signer(bare_one, tmp_path):
    key = tmp_path / "key"
    keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key]
    subprocess.run(keygen, check=True)
    done = bare_one.run("kmnist", "verify", "--sign", str(key), "download@digits")
    (path,) = (bare_one.folder / "receipts").glob("*.json")
    assert f"receipt: {path.relative_to(bare_one.folder)}; `kmnist check` shows it" in done.stderr
    public = key.with_suffix(".pub").read_text()
    (bare_one.folder / "receipts/allowed_signers").write_text(f"alice@example.org {public}")
    assert "(1 out, signed by alice@example.org)" in bare_one.run("kmnist", "check").stdout
    path.write_text(path.read_text().replace('"identical"', '"equal"'))
    assert (
        f"{path.relative_to(bare_one.folder)}: does not count: "
        in bare_one.run("kmnist", "check").stdout
    )


@pytest.mark.parametrize(("pixels", "status"), [(1, 3), (30, 1)])
def test_a_committed_figure_that_looks_the_same_does_so_with_and_without_a_run(
    pixels, status, bare_one
):
    """One pixel differs by one level, or thirty pixels are black."""
    if pixels == 1:
        repaint(bare_one.folder / MATRIX, 1, by=1)
        words = "no pixel differs visibly"
    else:
        repaint(bare_one.folder / MATRIX, pixels)
        words = "pixels differ in 30 of "
    bare_one.commit()
    for arguments in ([DATA], ["--quick", DATA]):
        done = kmnist_verify(bare_one, *arguments)
        assert words in done.stdout
        assert done.returncode == status
    assert done.stdout.endswith("; `kmnist check` names the commands that make it again\n")


# --- what cannot be run --------------------------------------------------------------------------


@pytest.mark.parametrize("mirror", [True, False])
def test_the_data_come_from_the_mirror_beside_the_project_or_nothing_is_left(
    mirror, bare_one, evidence
):
    bare_one.replace("conf/dataset/digits.yaml", "sklearn:digits", "no/such/source")
    assert bare_one.run("kmnist", "compose").returncode == 0
    bare_one.commit()
    if mirror:
        here = bare_one.folder.parent / "shared/datasets/digits"
        shutil.copytree(evidence.folder / "data/raw/digits", here)
    done = kmnist_verify(bare_one, "download@digits")
    assert done.returncode == 1
    if mirror:
        assert "download@digits: parameter datasets.digits.sources" in done.stdout  # a stale lock
        assert "identical: " in done.stdout
    else:
        assert "error: download@digits fails in a clean clone:" in done.stderr
        assert "no source has the raw files of digits" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("here", [True, False])
def test_a_known_stage_is_suggested_for_an_unknown_one(here, evidence, monkeypatch):
    monkeypatch.chdir(evidence.folder)
    look = quick.compare_here if here else verify.rerun
    with pytest.raises(UserError, match=r"no stage report@digit; did you mean report@digits\?"):
        look("report@digit")


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_leaves_neither_file_nor_process(ending, bare_one):
    before, rest = contents(bare_one.folder), bare_one.folder.parent / "tmp"
    command = ["kmnist", "verify", DATA]
    environment = bare_one.environment(TMPDIR=str(rest))
    with subprocess.Popen(
        command, cwd=bare_one.folder, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("[1/2] download@digits")
        while not children_in(rest, "stages.download"):
            time.sleep(0.05)
        process.send_signal(ending)
        *begun, last = process.stderr.read().splitlines()
    assert last == "interrupted"
    assert all(line.startswith("[2/2] preprocess@digits") for line in begun)
    assert process.returncode == 130
    assert children_in(rest, "") == []
    assert list(rest.iterdir()) == []
    assert contents(bare_one.folder) == before


def children_in(folder: Path, words: str) -> list[psutil.Process]:
    """Processes that work in a folder and have these words in their command."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd().startswith(str(folder)) and words in " ".join(process.cmdline()):
                found.append(process)
    return found


@pytest.mark.parametrize("room", ["not even for the clone", "not for its stages"])
def test_a_full_disk_is_said_and_nothing_left(room, bare_one):
    rest = bare_one.folder.parent / "tmp"
    clone_size = sum(map(len, contents(bare_one.folder).values())) // 1000
    size = 300 if room == "not even for the clone" else clone_size + 2000
    script = (
        f"mount -t tmpfs -o size={size}k none {rest} || exit 77; "
        f"TMPDIR={rest} kmnist verify {DATA}; echo status $?; ls -A {rest}"
    )
    done = bare_one.run("unshare", "--map-root-user", "--mount", "sh", "-c", script)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no file system of one's own to fill here")
    assert done.stdout == "status 1\n"
    assert "TMPDIR=<folder> names one on another disk" in done.stderr
    assert "Traceback" not in done.stderr


# --- the first epochs ----------------------------------------------------------------------------


def test_the_first_epoch_gives_the_committed_weights(bare_one):
    done = kmnist_verify(bare_one, "--epochs", "1", "report@digits")
    first, last = done.stdout.splitlines()
    assert receipt_of(bare_one)["epochs"] == 1
    outs = receipt_of(bare_one)["stages"][SOFTMAX]["outs"]
    assert outs == {DETAILS: "identical"}  # its weights alone
    assert "1 epoch of " in first and first.endswith("in a clean clone (committed -> made again)")
    assert re.search(r"^identical: .* \(all of \d+ files and the weights of \d+ fits\)$", last)
    assert done.returncode == 0


def test_other_weights_after_the_first_epoch_are_named_by_their_fit(bare_one):
    """As if another learning rate had made the evidence, or a digest had been edited."""
    folds = bare_one.json(VALIDATION)["folds"]
    fold = next(row for row in folds if (row["seed"], row["fold"]) == (3, 2))
    bare_one.replace(DETAILS, fold["weights"][0], "0123456789abcdef")
    bare_one.replace(
        "params.yaml", "max_iter: 100", "max_iter: 5"
    )  # the first one is of the digits
    bare_one.commit()
    done = kmnist_verify(bare_one, "--epochs", "1", "report@digits")
    assert done.returncode == 1
    apart = [line.strip() for line in done.stdout.splitlines() if line.startswith("  ")]
    softmax = [line for line in apart if line.startswith(DETAILS)]
    assert len(softmax) == 1 and f"{DETAILS} seed 3 fold 2: weights by epoch" in softmax[0]
    others = [
        line for line in apart if "digits_sklearn_logistic/validation_details.json seed 0" in line
    ]
    assert len(others) == 5 and len(apart) == 6


def test_where_bits_differ_first_epochs_are_refused_with_the_way_out(evidence, monkeypatch):
    monkeypatch.chdir(evidence.folder)
    monkeypatch.setattr(verify.arithmetic, "name", lambda: "aarch64")
    with pytest.raises(UserError, match="aarch64, not x86-64-v3: `kmnist verify` without it"):
        verify.first_epochs(1, "report@digits")


# --- causes and time left ------------------------------------------------------------------------


def locked(address: str, deps: dict[str, str], outs: dict[str, str]) -> LockedStage:
    return LockedStage(address, "run", deps, {"seeds": [0, 1]}, outs)


def test_a_difference_follows_from_the_stage_before_or_has_no_known_cause():
    train = locked("kfold-train@a", {"src/a.py": "1"}, {"models/a": "2"})
    score = locked("evaluate@a", {"models/a": "2"}, {"metrics/a": "3"})
    lock = Graph({"kfold-train@a": train, "evaluate@a": score})
    checked = [
        verify.Checked("kfold-train@a", [Difference("models/a", DIFFERENT, "")]),
        verify.Checked("evaluate@a", [Difference("metrics/a", DIFFERENT, "")]),
    ]
    first, second = verify._explained(checked, lock, [[], []])
    assert first.causes[0].startswith("none is known: ")
    assert second.causes == ["follows from kfold-train@a"]


def test_time_left_goes_by_what_stages_took_before(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(clone.time, "monotonic", lambda: now[0])
    estimate = clone.Estimate(["a", "b", "c"], {"a": 96.0, "b": 196.0})  # and 4 s to start each
    assert (estimate.total, estimate.done(), estimate.left()) == (100 + 200 + 150, 0, 450)
    estimate.start("a")
    now[0] = 60
    assert estimate.left() == 390
    now[0] = 200  # twice as long as before
    estimate.start("b")
    assert estimate.left() == 2 * 350
    now[0] = 10_000  # a stage that never ends leaves what comes after it
    assert estimate.left() == pytest.approx(2 * (150 + 0.05 * 200))


def test_where_nothing_is_known_stages_count_alike(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(clone.time, "monotonic", lambda: now[0])
    estimate = clone.Estimate(["a", "b", "c"], {})
    estimate.start("a")
    assert (estimate.left(), estimate.done()) == (None, 0)
    now[0] = 10
    estimate.start("b")
    assert estimate.left() == 20


def test_the_store_tells_how_long_stages_took(digits_run, monkeypatch):
    monkeypatch.chdir(digits_run.folder)
    seconds = clone._seconds()
    assert set(seconds) >= {"report@digits", SOFTMAX}
    assert all(value > 0 for value in seconds.values())
    assert os.listdir() == os.listdir(digits_run.folder)
    monkeypatch.chdir(digits_run.folder / "conf")
    assert clone._seconds() == {}

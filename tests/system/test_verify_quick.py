"""`kmnist verify --quick`: what is here against the commit, without a run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from support import wording
from support.project import Project, flipped, replaced
from support.tampering import (
    COUNTS,
    CURVES,
    DATA,
    DIFFERENT,
    EQUAL,
    IDENTICAL,
    MATRIX,
    MODEL,
    VALIDATION,
    change_lock,
    repaint,
)

from kmnist_pipeline.commands import quick
from kmnist_pipeline.repository.compare import Difference


@pytest.fixture
def apart(evidence: Project, monkeypatch) -> Callable[..., dict[str, Difference]]:
    """What `--quick` finds that is not identical, by file."""
    monkeypatch.chdir(evidence.folder)

    def look(target: str = "report@digits") -> dict[str, Difference]:
        result = quick.compare_here(target)
        return {
            each.path: each
            for stage in result.stages
            for each in stage.differences
            if each.verdict is not IDENTICAL
        }

    return look


def test_what_is_here_is_as_committed(evidence, apart):
    assert apart() == {}
    done = evidence.run("kmnist", "verify", "--quick", "report@digits")
    assert done.stdout.splitlines()[-1].startswith(f"{wording.COMMITTED} (all ")
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (CURVES, "; the new file cannot be read"),
        (VALIDATION, ""),
        (MODEL, ""),
        ("predictions/digits_softmax.npz", "; the new file cannot be read"),
        ("reports/digits/index.html", ""),
        ("data/raw/digits/all-images-idx3-ubyte", "1 of 115024 bytes differs"),
    ],
)
def test_a_flipped_byte(path, line, apart):
    with replaced(Path(path), flipped(Path(path))):
        found = apart()
    assert list(found) == [path]
    assert line in found[path].line


def test_an_edited_metric_and_a_figure_with_other_text(evidence, apart):
    metric = Path(VALIDATION).read_text()
    number = json.loads(metric)["accuracy"]
    with replaced(
        Path(VALIDATION), metric.replace(f'"accuracy": {number}', '"accuracy": 1.5', 1).encode()
    ):
        assert apart()[VALIDATION].line == f"accuracy {number} -> 1.5"
        assert evidence.run("kmnist", "verify", "--quick").returncode == 1
    with replaced(Path(CURVES), Path(CURVES).read_bytes()):
        repaint(Path(CURVES), 0)
        assert apart()[CURVES] == Difference(CURVES, EQUAL, "no pixel differs visibly")
        done = evidence.run("kmnist", "verify", "--quick", "report@digits")
        assert done.returncode == 3
        assert f"{CURVES}: no pixel differs visibly" in done.stdout


def test_a_flipped_byte_in_the_lock(apart):
    lock = Path("dvc.lock")
    size = lock.stat().st_size
    for place in range(size // 9, size, size // 6):
        with replaced(lock, flipped(lock, place)):
            assert apart(DATA)["dvc.lock"].verdict is DIFFERENT
    with replaced(lock, None):
        assert apart(DATA)["dvc.lock"].line == "is missing"


def test_a_committed_lock_that_does_not_fit_its_files(bare_one, monkeypatch):
    monkeypatch.chdir(bare_one.folder)
    code = "src/kmnist_pipeline/data/idx.py"
    change_lock(bare_one, DATA, **{COUNTS: "0" * 32, code: "1" * 32})
    bare_one.commit()
    result = quick.compare_here(DATA)
    (stage,) = [stage for stage in result.stages if stage.address == DATA]
    (counts,) = [each.line for each in stage.differences if each.path == COUNTS]
    assert counts.startswith("dvc.lock says md5 000000000000, the committed file has ")
    changed, key = stage.stale
    assert changed.startswith(f"dependency {code} changed: md5 111111111111 -> ")
    assert key.startswith("made by another command, ") and MATRIX in key
    assert any("not compared: not in the workspace" in note for note in result.notes)


def test_what_is_gone_and_what_the_cache_spoiled(evidence, apart):
    with replaced(Path(COUNTS), None):
        assert apart() == {COUNTS: Difference(COUNTS, DIFFERENT, "is missing")}
    with replaced(Path(MODEL), None):
        assert apart() == {}  # the cache has it
        md5 = lineage_of(evidence, MODEL)
        stored = Path(f".dvc/cache/files/md5/{md5[:2]}/{md5[2:]}")
        with replaced(stored, flipped(stored)):
            assert wording.DAMAGED in apart()[MODEL].line


def lineage_of(project: Project, out: str) -> str:
    lock = yaml.load((project.folder / "dvc.lock").read_text(), Loader=yaml.CSafeLoader)
    outs = (out for stage in lock["stages"].values() for out in stage.get("outs", []))
    return next(entry["md5"] for entry in outs if entry["path"] == out)

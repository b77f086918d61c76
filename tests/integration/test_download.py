"""Stage `download` writes a whole folder or leaves the one before; imported files are copied."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fault_server import FaultServer
from support.fit_program import wait_until
from support.noise import FIRST, PACKED, RAW
from support.project import ROOT, files_under

from kmnist_pipeline.data import sources
from kmnist_pipeline.data.sources import Dataset

pytestmark = pytest.mark.usefixtures("impatient")

# The stage: a whole folder or the one before

STAGE = """
import json, sys
from pathlib import Path
from kmnist_pipeline.stages.download import download
from kmnist_pipeline.data import sources
from kmnist_pipeline.evidence.stage import Stage

sources.READ_TIMEOUT, sources.BACKOFF, sources.CHUNK = float(sys.argv[1]), 0.01, 1000
dataset = json.loads(Path("dataset.json").read_text())
stage = Stage("download", "small", Path("."), {"key": "0123", "params": {}, "deps": {}})
download(stage, {"datasets": {"small": dataset}})
"""


@pytest.fixture
def workplace(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which the stage can run."""
    monkeypatch.setenv(sources.MIRROR_VARIABLE, "none")
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    Path("dataset.json").write_text(json.dumps(dataset))
    yield Path("data/raw/small")


def stage(timeout: float) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", STAGE, str(timeout)]
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


def test_a_killed_stage_goes_on_where_it_was(faulty: FaultServer, workplace: Path) -> None:
    faulty.faults = ["stall", "ok"]
    half = len(PACKED[FIRST]) // 2
    with stage(timeout=30) as first:
        kept = Path(".kmnist/partial/0123")
        wait_until(
            lambda: sum(path.stat().st_size for path in kept.glob("*")) > half - 1000, "half of it"
        )
        first.send_signal(signal.SIGKILL)
    assert not Path("data").exists()

    with stage(timeout=5) as second:
        assert second.wait() == 0, second.stderr and second.stderr.read()
    assert files_under(workplace) == RAW
    (path, start), *others = faulty.requests[1:]
    assert path == FIRST
    assert half - 1000 < start <= half
    assert [start for _, start in others] == [0, 0, 0]
    assert not kept.exists()
    assert [path.name for path in workplace.parent.iterdir()] == ["small"]


def test_a_failed_stage_leaves_what_was_there(faulty: FaultServer, workplace: Path) -> None:
    from kmnist_pipeline.evidence.stage import Stage
    from kmnist_pipeline.stages.download import download

    params = {"datasets": {"small": json.loads(Path("dataset.json").read_text())}}

    def run() -> None:
        download(Stage("download", "small", Path("."), {"key": "0123", "params": {}}), params)

    faulty.faults = ["ok", "ok", "404"]
    with pytest.raises(sources.SourceError):
        run()
    assert not workplace.parent.exists()

    faulty.faults = ["ok"]
    run()
    assert files_under(workplace) == RAW

    faulty.faults = ["ok", "ok", "flip"]
    with pytest.raises(sources.SourceError):
        run()
    assert files_under(workplace) == RAW
    assert [path.name for path in workplace.parent.iterdir()] == ["small"]


# Imported datasets


def test_an_imported_file_is_copied_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path("data/imported/leaves.npz")
    content = {"file": str(file), "sha256": hashlib.sha256(b"leaves").hexdigest()}
    (folder := tmp_path / "raw").mkdir()
    with pytest.raises(sources.SourceError) as missing:
        sources.copy_imported(content, folder)
    assert str(missing.value) == (
        f"{file} does not exist: `dvc checkout {file}.dvc` takes it from the cache, "
        f"`dvc pull {file}.dvc` from a remote, and `kmnist import leaves SOURCE` makes it again"
    )
    file.parent.mkdir(parents=True)
    file.write_bytes(b"others")
    with pytest.raises(sources.SourceError) as other:
        sources.copy_imported(content, folder)
    assert "has sha256 " in str(other.value) and "`dvc checkout --force " in str(other.value)
    file.write_bytes(b"leaves")
    sources.copy_imported(content, folder)
    assert (folder / "leaves.npz").read_bytes() == b"leaves"

"""What the command `dvc` of this project does before stages run: refuse, and renew bytecode."""

from __future__ import annotations

import os
import py_compile
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from dvc.utils.serialize import _common, _yaml
from support import wording

from kmnist_pipeline.cli import dvc, fit
from kmnist_pipeline.cli.common import CHECKED, hash_bytecode
from kmnist_pipeline.errors import UserError

STAGES = """stages:
  make:
    foreach: ${items}
    do:
      cmd: echo ${key}
      outs:
        - models/${key}.txt
      plots:
        - figures/${key}:
            cache: false
"""


@pytest.fixture
def pipeline(tmp_path, monkeypatch):
    """A folder with a small dvc.yaml and params.yaml, where `dvc repro` would run."""
    monkeypatch.chdir(tmp_path)
    Path("conf").mkdir()
    Path("dvc.yaml").write_text(STAGES)
    Path("params.yaml").write_text("items:\n  one: 1\n")
    monkeypatch.setattr(sys, "argv", ["dvc", "repro"])
    # What `main` changes in its process.
    monkeypatch.setenv("PATH", os.environ["PATH"])
    for changed in (_common, _yaml):
        monkeypatch.setattr(changed, "_dump_data", changed._dump_data)
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)


def edit(source: Path, text: str) -> None:
    """Write other text of the same size within the same second."""
    before = source.stat()
    assert len(text) == before.st_size
    source.write_text(text)
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))


def imported(source: Path) -> str:
    program = "import module; print(module.VALUE)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=source.parent, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(source.parent)}, check=False,
    )  # fmt: skip
    return done.stdout.strip() or done.stderr


@pytest.fixture
def module(pipeline):
    """A module with bytecode by time, which Python writes by itself."""
    source = pipeline / "src/module.py"
    source.parent.mkdir()
    source.write_text("VALUE = 1\n")
    py_compile.compile(
        str(source), doraise=True, invalidation_mode=py_compile.PycInvalidationMode.TIMESTAMP
    )
    return source


def test_bytecode_of_another_source_is_not_run(module):
    edit(module, "VALUE = 2\n")
    assert imported(module) == "1"  # the fault of bytecode by time
    hash_bytecode(module.parent)
    assert imported(module) == "2"
    edit(module, "VALUE = 3\n")
    assert imported(module) == "3"  # Python compares the hash from now on
    (compiled,) = module.parent.glob("__pycache__/*.pyc")
    assert compiled.read_bytes()[4:8] == CHECKED
    before = compiled.stat()
    hash_bytecode(module.parent)
    assert compiled.stat() == before


def test_bytecode_of_a_source_with_an_error_is_not_run(module):
    edit(module, "VALUE = (\n")
    hash_bytecode(module.parent)
    assert "SyntaxError" in imported(module)


def test_bytecode_that_cannot_be_written_stops_nothing(module):
    (compiled,) = module.parent.glob("__pycache__/*.pyc")
    compiled.unlink()
    compiled.mkdir()
    hash_bytecode(module.parent)
    assert imported(module) == "1"


@pytest.mark.parametrize("command", ["repro", "exp", "queue"])
def test_stages_run_no_bytecode_of_another_source(module, monkeypatch, command):
    edit(module, "VALUE = 2\n")
    monkeypatch.setattr(sys, "argv", ["dvc", command])
    started: list[str] = []

    def start() -> int:
        started.append(imported(module))
        return 0

    monkeypatch.setattr("dvc.cli.main", start)
    assert dvc.main() == 0
    assert started == ["2"]


def test_fits_run_no_bytecode_of_another_source(module, monkeypatch):
    edit(module, "VALUE = 2\n")
    monkeypatch.setattr(fit, "mend_lock", lambda: None)
    with pytest.raises(UserError):  # the parameters of the small project are none
        fit.run(Namespace(targets=[]))
    assert imported(module) == "2"


def ours(text: str) -> str:
    return f"<<<<<<< HEAD\n{text}=======\n{text}>>>>>>> other\n"


@pytest.mark.parametrize(
    ("file", "way_out"),
    [("dvc.lock", "take one side's"), ("params.yaml", "`kmnist compose`"), ("dvc.yaml", "markers")],
)
def test_a_merge_conflict_is_refused_before_stages(pipeline, monkeypatch, capsys, file, way_out):
    path = Path(file)
    path.write_text(ours(path.read_text() if path.exists() else "schema: '2.0'\n"))
    monkeypatch.setattr("dvc.cli.main", lambda: pytest.fail("DVC was started"))
    assert dvc.main() == 1
    said = capsys.readouterr().err
    assert f"error: {file}: line 1: {wording.CONFLICT}" in said
    assert way_out in said


@pytest.mark.parametrize("folder", ["models", "figures"])
def test_a_link_above_outs_is_refused_before_stages(pipeline, folder, capsys):
    elsewhere = pipeline / "disk"
    elsewhere.mkdir()
    Path(folder).symlink_to(elsewhere)
    assert dvc.main() == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {folder} is a link to {elsewhere}: ")
    assert "replace the link with the folder itself" in said


def test_an_out_that_is_a_mount_point_is_refused_before_stages(pipeline, monkeypatch, capsys):
    is_mount = Path.is_mount
    mounted = Path("figures/one")
    monkeypatch.setattr(Path, "is_mount", lambda path: path == mounted or is_mount(path))
    assert dvc.main() == 1
    said = capsys.readouterr().err
    assert "error: figures/one is a mount point" in said
    assert "mount the folder figures instead" in said


@pytest.mark.parametrize("closed", ["models", "."])
def test_a_folder_that_the_user_may_not_write_to_is_refused_before_stages(
    pipeline, closed, monkeypatch, capsys
):
    Path("models").mkdir()
    Path("figures").mkdir()
    may = os.access  # root may write everywhere
    monkeypatch.setattr(os, "access", lambda path, mode: path != Path(closed) and may(path, mode))
    if closed == ".":
        Path("figures").rmdir()
    assert dvc.main() == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {pipeline / closed}: you may not write to this folder, where a")


def test_folders_and_links_of_cached_files_are_not_refused(pipeline):
    Path("models").mkdir()
    (pipeline / "cache").write_text("1")
    Path("models/one.txt").symlink_to(pipeline / "cache")  # as DVC's cache type `symlink` has it
    dvc._refuse_places()


def test_a_faulty_pipeline_is_left_to_dvc(pipeline):
    Path("dvc.yaml").write_text("stages: 1\n")
    dvc._refuse_places()

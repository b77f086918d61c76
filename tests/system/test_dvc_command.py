"""The command `dvc` of this project: interrupts and a PATH without `.venv/bin` lose nothing."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import wording
from support.project import Project

FINISHED, TIMES = 4, 20
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
NAMES = [f"s{number}" for number in range(FINISHED + TIMES)]
STAGES = f"""stages:
  make:
    foreach: {NAMES}
    do:
      cmd: echo ${{item}} >> ../ran && echo ${{item}} > ${{item}}.txt
      deps:
        - seed
      outs:
        - ${{item}}.txt
"""
# DVC, which tells when it has written a half of the lock, and waits.
SLOW = """
import io, sys, time
from pathlib import Path
from dvc.utils.serialize import _yaml
from kmnist_pipeline.cli import dvc

def half(data, stream, dump=_yaml._dump):
    dump(data, text := io.StringIO())
    content = text.getvalue()
    stream.write(content[: len(content) // 2])
    stream.flush()
    if "stages" in data:
        Path("../writing").touch()
        time.sleep(60)
    stream.write(content[len(content) // 2 :])

_yaml._dump = half
sys.exit(dvc.main())
"""


@pytest.fixture
def small(project: Project, tmp_path: Path) -> Project:
    """A project with stages that take no time; each notes outside that it ran."""
    (project.folder / "dvc.yaml").write_text(STAGES)
    (project.folder / "seed").write_text("1")
    (project.folder / "dvc.lock").unlink()
    (project.folder / ".gitignore").write_text("/*.txt\n/src\n")
    project.commit()
    return project


def test_interrupts_while_dvc_writes_the_lock(small, tmp_path):
    def repro(*targets: str) -> str:
        done = small.run(sys.executable, "-m", "kmnist_pipeline.cli.dvc", "repro", *targets)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    repro(*(f"make@{name}" for name in NAMES[:FINISHED]))
    lock, writing = small.folder / "dvc.lock", tmp_path / "writing"
    before = lock.read_bytes()
    for name, number in zip(NAMES[FINISHED:], itertools.cycle(SIGNALS), strict=False):
        with subprocess.Popen(
            [sys.executable, "-c", SLOW, "repro", f"make@{name}"], cwd=small.folder,
            env=small.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as running:  # fmt: skip
            while not writing.exists():
                assert running.poll() is None, running.communicate()
                time.sleep(0.01)
            running.send_signal(number)
            running.communicate()
        writing.unlink()
        assert lock.read_bytes() == before
    assert repro().count("is cached - skipping run") == TIMES
    assert sorted((tmp_path / "ran").read_text().split()) == sorted(NAMES)  # each once


def test_a_cut_lock_is_whole_before_stages_run(small, tmp_path):
    def repro() -> str:
        command = (sys.executable, "-m", "kmnist_pipeline.cli.dvc", "repro")
        done = small.run(*command, *(f"make@{name}" for name in NAMES[:FINISHED]))
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stderr

    assert "was incomplete" not in repro()
    small.commit()
    lock = small.folder / "dvc.lock"
    before = lock.read_bytes()
    lock.write_bytes(before[: len(before) // 2])
    assert wording.LOCK_CUT in repro()
    assert lock.read_bytes() == before
    assert sorted((tmp_path / "ran").read_text().split()) == NAMES[:FINISHED]  # each once


def test_without_the_environment_in_path_stages_run_in_its_python(small):
    (small.folder / "dvc.yaml").write_text(
        "stages:\n  make:\n    cmd: python -c 'import sys; print(sys.executable)' > made.txt\n"
        "    outs: [made.txt]\n"
    )
    command = (sys.executable, "-m", "kmnist_pipeline.cli.dvc", "repro")
    done = small.run(*command, PATH="/usr/bin:/bin")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        Path((small.folder / "made.txt").read_text().strip()).parent == Path(sys.executable).parent
    )


def test_an_experiment_runs_in_a_copy_of_a_folder_with_an_umlaut(small, tmp_path):
    project = small.copy(tmp_path / "my ü")
    command = (sys.executable, "-m", "kmnist_pipeline.cli.dvc", "exp", "run", "--temp")
    done = project.run(*command, f"make@{NAMES[0]}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Ran experiment(s): " in done.stdout


def test_a_stage_that_says_nothing_loses_no_committed_file(project):
    path = project.folder / "src/kmnist_pipeline/stages/report.py"
    path.write_text("import nothing_there\n" + path.read_text())
    command = (sys.executable, "-m", "kmnist_pipeline.cli.dvc", "repro", "--single-item")
    done = project.run(*command, "report@digits")
    assert done.returncode
    way = "git checkout HEAD -- reports/digits"
    assert f"`{way}`" in done.stderr
    assert not (project.folder / "reports/digits").exists()
    assert project.run(*way.split()).returncode == 0
    assert (project.folder / "reports/digits/index.html").exists()

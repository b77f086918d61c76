"""A stage that trains: killed, on a terminal, and without MLflow."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator

from support.fit_program import wait_until
from support.project import Project, files_under

# A killed study

TUNE = ("dvc", "repro", "--single-item", "--force", "tune@digits_softmax_grid")
FITS = 100  # of it


def test_a_study_killed_twice_goes_on_where_it_stopped(without_mlflow: Project) -> None:
    undisturbed = tuned(without_mlflow)
    shutil.rmtree(without_mlflow.folder / ".kmnist/fits")

    kept: dict[str, int] = {}
    for least in (5, 30):
        before, kept = kept, killed_after(least, without_mlflow)
        assert before.items() <= kept.items()  # none was trained again
        assert least <= len(kept) < FITS
        assert not (without_mlflow.folder / "models/digits_softmax_grid.safetensors").exists()

    again = without_mlflow.run(*TUNE)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"fits: {len(kept)} known, {FITS - len(kept)} to train" in again.stdout + again.stderr
    assert kept.items() < finished(without_mlflow).items()
    assert tuned(without_mlflow) == undisturbed
    assert without_mlflow.changed() == ""


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
        wait_until(
            lambda: process.poll() is not None or len(finished(project)) >= least, f"{least} fits"
        )
        assert process.poll() is None, "the study ended before it could be killed"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return finished(project)


def test_a_bar_shows_progress_on_a_terminal_alone(without_mlflow: Project) -> None:
    of = "experiments.digits_softmax"
    quick = ("name=digits_softmax", f"{of}.seeds=[0]")
    piped = without_mlflow.stage("kfold_train", *quick, f"{of}.trainer.epochs=1")
    assert piped.returncode == 0 and "%" not in piped.stdout + piped.stderr
    assert "fits: 0 known, 5 to train" in piped.stderr
    module = "kmnist_pipeline.stages.kfold_train"
    command = [sys.executable, "-m", module, *quick, f"{of}.trainer.epochs=2"]
    shown = on_terminal(command, without_mlflow)
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


def test_without_mlflow_the_results_are_the_same(without_mlflow: Project) -> None:
    stages = ["kfold-train@digits_softmax", "evaluate@digits_softmax"]
    done = without_mlflow.run("dvc", "repro", "--single-item", "--force", *stages)
    assert done.returncode == 0, done.stdout + done.stderr
    warnings = [line for line in (done.stdout + done.stderr).splitlines() if "warning" in line]
    assert len(warnings) == len(stages)
    for warning, address in zip(warnings, stages, strict=True):
        assert address in warning and "there is no mlflow here" in warning
    assert without_mlflow.changed() == ""  # dvc.lock among the rest, with the md5 of every out

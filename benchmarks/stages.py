"""The cost of stages and commands without training: evidence, DVC's own work, memory.

Stages run in a copy of the project's files, so that the evidence here stays unchanged.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.measuring import environment, interleaved, prepare, run, unmeasured, verdict
from kmnist_pipeline.commands import fit
from kmnist_pipeline.evidence import paths
from kmnist_pipeline.fits.store import VARIABLE as FITS

DIGITS = "digits_softmax"
WATCHED = 60  # seconds of a stage in which its memory is measured
# Stages, and how many GiB they may use.
PEAKS = (
    ("kfold-train", "kmnist_softmax", 2),
    ("kfold-train", "kmnist_improved_cnn", 4),
    ("evaluate", "kmnist_tuned_cnn", 4),
)

# The work of `kfold-train` without evidence and MLflow: its configuration and its fits.
BARE = f"""
from kmnist_pipeline import arithmetic
arithmetic.select()
from pathlib import Path
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from kmnist_pipeline.commands import fit
from kmnist_pipeline.config import rules
from kmnist_pipeline.fits import training
with initialize_config_dir(str(Path.cwd()), version_base=None):
    params = OmegaConf.to_container(compose("params"), resolve=True)
rules.check(params)
training.train(fit.plan_of("kfold-train@{DIGITS}", params))
"""


@contextmanager
def workplace(*ignored: str) -> Iterator[Path]:
    """A copy of the files of this project, in its own repository.

    ignored: untracked files to copy too, such as processed data.
    """
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    known = subprocess.run(listing, check=True, capture_output=True, text=True).stdout
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "project"
        for file in (*known.split("\0"), *ignored):
            if file and Path(file).is_file():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file, folder / file)
        for command in (
            ["init", "--quiet"],
            ["add", "--all"],
            ["-c", "user.name=bench", "-c", "user.email=@", "commit", "--quiet", "-m", "copy"],
        ):
            subprocess.run(["git", *command], cwd=folder, check=True)
        yield folder


@contextmanager
def stage(kind: str, name: str, folder: Path, **variables: str) -> Iterator[subprocess.Popen]:
    """A stage as DVC starts it in a copy of this project, with an empty store of fits."""
    module = f"kmnist_pipeline.stages.{kind.replace('-', '_')}"
    with tempfile.TemporaryDirectory() as store:
        given = {"DVC_STAGE": f"{kind}@{name}", FITS: store, **variables}
        process = subprocess.Popen(
            [sys.executable, "-m", module, f"name={name}"],
            cwd=folder,
            env=environment(given),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def evidence() -> bool:
    """A k-fold stage with lineage, outs and MLflow, against only its configuration and fits."""
    prepare("digits")
    with workplace(paths.processed("digits")) as folder:
        store, empty = folder.parent / "store.db", folder.parent / "empty.db"
        uri = {"MLFLOW_TRACKING_URI": f"sqlite:///{store}"}
        run("-c", "import mlflow; mlflow.MlflowClient().search_experiments()", variables=uri)
        store.rename(empty)

        def logged() -> None:
            shutil.copy(empty, store)  # a store that has the run would have little to do
            with stage("kfold-train", DIGITS, folder, **uri) as process:
                if process.wait():
                    raise RuntimeError(f"kfold-train@{DIGITS} fails: run it by hand to see why")

        def bare() -> None:
            with tempfile.TemporaryDirectory() as fits:
                run("-c", BARE, folder=folder, variables={FITS: fits})

        whole, alone = interleaved(logged, bare)
    detail = f"kfold-train@{DIGITS} {whole:.2f} s, its fits alone {alone:.2f} s"
    return verdict("evidence and MLflow, seconds a stage", whole - alone, 1.5, False, detail)


def nothing_to_do() -> bool:
    """`dvc repro` when all stages are up to date."""
    with contextlib.redirect_stdout(io.StringIO()):  # DVC prints what it finds in its cache
        stale = fit.stale([])
    command = "status" if stale else "repro"  # repro would train for hours
    (seconds,) = interleaved(lambda: run("-m", "dvc", command))
    detail = f"{len(stale)} stages are stale: `dvc status`" if stale else "all up to date"
    return verdict("dvc repro with nothing to do, seconds", seconds, 5, False, detail)


def tracing() -> bool:
    """`kmnist trace` of a figure and of the largest page, with the start of Python."""

    def traced(file: str) -> None:
        run("-m", "kmnist_pipeline.cli", "trace", file)

    figure, page = interleaved(
        lambda: traced(f"{paths.figures('kmnist_linear', 'kmnist_softmax')}/curves.png"),
        lambda: traced(f"{paths.page('kmnist_linear')}/index.html"),
    )
    detail = f"a figure {figure:.2f} s, a report {page:.2f} s"
    return verdict("kmnist trace, seconds", max(figure, page), 1, False, detail)


def memory() -> bool:
    """Peak memory of stages with two workers."""
    prepare("kmnist")
    return all([_peak(kind, name, bound) for kind, name, bound in PEAKS])


def _peak(kind: str, name: str, bound: float) -> bool:
    """The peak memory of a stage with its workers (shared pages count twice)."""
    what, model = f"peak memory of {kind}@{name}, GiB", paths.weights(name)
    if kind == "evaluate" and not os.path.exists(model):
        return unmeasured(what, f"{model} does not exist")
    with (
        workplace(paths.processed("kmnist"), model) as folder,
        stage(kind, name, folder, LOKY_MAX_CPU_COUNT="2") as process,
    ):
        found = peak(process)
    if found is None:
        return unmeasured(what, "it fails: run it by hand to see why")
    detail = f"in its first {WATCHED} s, with its workers and the MLflow process"
    return verdict(what, found, bound, False, detail)


def peak(
    process: subprocess.Popen, seconds: float = WATCHED, limit: float = float("inf")
) -> float | None:
    """The most memory in GiB that a stage and its workers have in its first seconds.

    It is then ended, or when it has more than `limit`. None if it fails. Shared pages count twice.
    """
    most = 0
    watched = psutil.Process(process.pid)
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end and most < limit * 2**30:
        try:
            family = [watched, *watched.children(recursive=True)]
            most = max(most, sum(member.memory_info().rss for member in family))
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.05)
    if process.poll():
        return None
    process.send_signal(signal.SIGINT)
    process.wait()
    return most / 2**30

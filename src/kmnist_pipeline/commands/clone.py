"""A clean clone of a commit in a temporary folder; stages run there as on another machine.

The clone has its own DVC cache, MLflow store and temporary files. When the block ends, also by an
interrupt of the user, the folder is removed and all processes in it are ended.
"""

import errno
import os
import re
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
from tqdm import tqdm

from kmnist_pipeline import arithmetic
from kmnist_pipeline.commands import recovery
from kmnist_pipeline.data import sources
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.fits import store, workers
from kmnist_pipeline.repository import git

STARTING = 4.0  # seconds that DVC and the interpreter need before and after a stage
GRACE = 5.0  # seconds that a process has to end after a signal
TICK = 0.5  # seconds between two updates of the progress
LEAST_ROOM = 1 << 19  # bytes on the disk that a run needs to continue
SAID = 15  # lines of a failed stage's output that are shown
# Variables that would use another store, change the arithmetic, or use workers with other code and
# checkpoints.
FOREIGN = ("DVC_", "MLFLOW_", arithmetic.VARIABLE, workers.SCHEDULER)
# Settings of the user that would run hooks in the clone, or forbid to clone a folder.
PLAIN = ("-c", "core.hooksPath=/dev/null", "-c", "protocol.file.allow=always")
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_FULL = re.compile("No space left on device|Out of diskspace|disk is full")  # libc, git, SQLite
_RUNNING = re.compile("Running stage '(.+)':")


@contextmanager
def clean(revision: str) -> Iterator["Clone"]:
    """A clone of this repository at a commit; it is removed when the block ends.

    Within the block SIGTERM and SIGHUP raise KeyboardInterrupt, as SIGINT does. Raises UserError if
    the disk is full.
    """
    folder = Path(tempfile.mkdtemp(prefix="kmnist-verify-"))
    handlers = {number: signal.getsignal(number) for number in ENDS}
    for number, handler in handlers.items():
        if handler is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, signal.default_int_handler)
    clone = Clone(folder)
    try:
        clone.check_out(revision)
        yield clone
    finally:
        for number in ENDS:  # while cleaning up
            signal.signal(number, signal.SIG_IGN)
        try:
            clone.end()
            shutil.rmtree(folder)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


class Clone:
    """A project at `path`; its folder also has the files that stages leave outside the project."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "project"
        self._aside = folder / "aside"
        self._process: subprocess.Popen[str] | None = None

    def check_out(self, revision: str) -> None:
        """Make the clone. Raises UserError with git's message if this fails."""
        try:
            top, here = git.place()
            for command in (
                (
                    "clone",
                    "--quiet",
                    "--no-checkout",
                    "--template=",
                    "--",
                    str(top),
                    str(self.path),
                ),
                ("-C", str(self.path), "checkout", "--quiet", "--detach", revision),
            ):
                git.run(*PLAIN, *command, environment=git.environment_elsewhere())
        except UserError as error:
            raise UserError(_with_way_out(str(error))) from error
        self.path /= here
        self._aside.mkdir()
        # Imported data are like a mirror: `download` checks their sha256.
        for tracked in self.path.glob("data/imported/*.npz.dvc"):
            file = tracked.relative_to(self.path).with_suffix("")
            if file.exists():
                (self.path / file).symlink_to(file.resolve())
        # The user's configuration may name a cache that several projects share.
        (self.path / ".dvc/config.local").write_text("[cache]\n    dir = cache\n", encoding="utf-8")

    def run(self, addresses: Sequence[str]) -> None:
        """Run stages, and all stages that they depend on, even if nothing changed.

        Shows on standard error which stage runs and how much time is left. Raises UserError if a
        stage fails or was not run.
        """
        command = ("dvc", "repro", "--force", *addresses)
        self._process = self._start(*command, stderr=subprocess.STDOUT)
        estimate = Estimate(addresses, _seconds())
        stage, said = "dvc repro", list[str]()
        with _Progress(estimate) as progress:
            for line in _lines(self._process):
                if line is None:
                    # On a full disk DVC's cache would retry forever.
                    if shutil.disk_usage(self.path).free < LEAST_ROOM:
                        raise UserError(_with_way_out(f"{stage}: {os.strerror(errno.ENOSPC)}"))
                    progress.tick()
                elif named := _RUNNING.match(line):
                    stage, said = named[1], []
                    progress.start(stage)
                else:
                    said.append(line.rstrip())
        if self._process.wait():
            shown = "\n".join(f"  {line}" for line in said[-SAID:] if line)
            raise UserError(_with_way_out(f"{stage} fails in a clean clone:\n{shown}"))
        if missed := [address for address in addresses if address not in estimate.started]:
            raise UserError(f"DVC did not run {', '.join(missed)}, so nothing is verified")

    def call(self, module: str, *arguments: str) -> str:
        """Run a module of the clone; returns its output and shows its standard error.

        Raises UserError if it fails.
        """
        self._process = self._start(module, *arguments)
        said, _ = self._process.communicate()
        if self._process.returncode:
            raise UserError(f"{module} fails in a clean clone: see above")
        return said

    def _start(self, *module: str, stderr: int | None = None) -> subprocess.Popen[str]:
        """Start a module of this interpreter with its arguments, in the clone."""
        return subprocess.Popen(
            [sys.executable, "-m", *module],
            cwd=self.path,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # so that only this process gets an interrupt
        )

    def end(self) -> None:
        """End DVC, its stages and their child processes."""
        if self._process is None or self._process.poll() is not None:
            return
        first = psutil.Process(self._process.pid)
        alive = [*first.children(recursive=True), first]
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in alive:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
            _, alive = psutil.wait_procs(alive, timeout=GRACE)

    def _environment(self) -> dict[str, str]:
        kept = git.environment_elsewhere().items()
        return {
            **{name: value for name, value in kept if not name.startswith(FOREIGN)},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONPATH": str(self.path / "src"),
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(self._aside),
            "DVC_SITE_CACHE_DIR": str(self._aside / "dvc"),
            "DVC_NO_ANALYTICS": "true",
            recovery.CHECKED: "1",  # Git has just written it
            # With stored fits nothing would be verified.
            store.VARIABLE: str(self._aside / "fits"),
            sources.MIRROR_VARIABLE: str(sources.mirror_folder().resolve()),
        }


def _lines(process: subprocess.Popen[str]) -> Iterator[str | None]:
    """The lines that a process prints; None whenever it has printed nothing for a tick."""
    assert process.stdout is not None
    rest, chunk = b"", b" "
    while chunk:
        if not select.select([process.stdout], [], [], TICK)[0]:
            yield None
            continue
        chunk = os.read(process.stdout.fileno(), 1 << 16)
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line.decode(errors="replace") for line in lines)
    yield rest.decode(errors="replace")


def _with_way_out(message: str) -> str:
    if not _FULL.search(message):
        return message
    return f"{message}\nThe temporary folder is full; TMPDIR=<folder> names one on another disk."


def _seconds() -> dict[str, float]:
    """The seconds that each stage took in its last run in the MLflow store of this folder.

    This does not use MLflow, whose client writes into the store and is slow to import.
    """
    query = (
        "SELECT tags.value, (runs.end_time - runs.start_time) / 1000.0 "
        "FROM runs JOIN tags USING (run_uuid) "
        "WHERE tags.key = 'kmnist.stage' AND runs.status = 'FINISHED' ORDER BY runs.start_time"
    )
    store = f"{Path('mlflow.db').absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(store, uri=True)) as database:
            return dict(database.execute(query))
    except sqlite3.Error:
        return {}


class Estimate:
    """Estimates the progress of a run; the weight of a stage is the time that it may take.

    addresses: the planned stages, in any order; seconds: how long some of them took before. The
    other stages count as their mean; if no time is known, all stages count equally.
    """

    def __init__(self, addresses: Sequence[str], seconds: dict[str, float]) -> None:
        known = [seconds[address] for address in addresses if address in seconds]
        usual = sum(known) / len(known) if known else 0.0
        self._weights = {a: seconds.get(a, usual) + STARTING for a in addresses}
        self._pace = 1.0 if known else None  # seconds for a unit of weight
        self._begun = self._last = time.monotonic()
        self._ended = 0.0  # the weight of the stages that have ended
        self.started: list[str] = []
        self.total = sum(self._weights.values())

    def start(self, address: str) -> str:
        """A stage begins, and the stage before has ended; returns its place among all stages."""
        self._last = time.monotonic()
        if self.started:
            self._ended += self._weights[self.started[-1]]
            self._pace = (self._last - self._begun) / self._ended
        else:
            self._begun = self._last
        self.started.append(address)
        if address not in self._weights:  # a stage that the lock does not have
            self._weights[address] = self.total / len(self._weights)
            self.total += self._weights[address]
        return f"[{len(self.started)}/{len(self._weights)}]"

    def done(self) -> float:
        """The finished part of `total`; the running stage counts by its expected time."""
        if not self.started:
            return 0.0
        running = (time.monotonic() - self._last) / (self._pace or float("inf"))
        return self._ended + min(running, 0.95 * self._weights[self.started[-1]])

    def left(self) -> float | None:
        """Seconds until the end; None while nothing is known."""
        return None if self._pace is None else self._pace * (self.total - self.done())


class _Progress(tqdm):
    """A progress bar on a terminal; elsewhere a line for each stage."""

    def __init__(self, estimate: Estimate) -> None:
        form = "{desc} |{bar:20}| {elapsed}{postfix}"
        super().__init__(total=estimate.total, bar_format=form, disable=None, leave=False)
        self._estimate = estimate
        self.set_description_str("starting")

    def start(self, address: str) -> None:
        label = f"{self._estimate.start(address)} {address}"
        if self.disable:
            print(label + self._left(), file=sys.stderr, flush=True)
        self.set_description_str(label, refresh=False)
        self.tick()

    def tick(self) -> None:
        if not self.disable:
            self.n = self._estimate.done()
            self.set_postfix_str(self._left().removeprefix(", "))

    def _left(self) -> str:
        seconds = self._estimate.left()
        return "" if seconds is None else f", about {tqdm.format_interval(seconds)} left"

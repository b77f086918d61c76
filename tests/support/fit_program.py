"""A program that trains fits, for tests to disturb, and what it takes to watch it.

`python tests/support/fit_program.py STORE PLANS`: trains small plans on scikit-learn's digits as
a stage does. PLANS is JSON: a list of {label, and changes to `trial`}; `again` gives seeds of a
second wave, `search` makes it a study. KMNIST_TEST_SILENCE shortens `local.SILENCE`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
PATIENCE = 300  # seconds for what takes a few; only a hang gets there
SLOW = {"epochs": 60, "batch_size": 1, "lr": 1e-3}  # seconds for each fit
LONG = {"label": "long", "seeds": [1, 2], **SLOW}  # four fits


def main() -> int:
    """Train, and print the keys of all fits."""
    from kmnist_pipeline import arithmetic

    arithmetic.select()
    import numpy as np
    from sklearn.datasets import load_digits

    from kmnist_pipeline.data.dataset import Images
    from kmnist_pipeline.errors import UserError
    from kmnist_pipeline.fits import plan, pool
    from kmnist_pipeline.fits.store import Store

    bunch = load_digits()
    n = len(bunch.target)
    images = Images(
        bunch.images.astype(np.uint8), bunch.target.astype(np.int64), np.arange(n),
        tuple("0123456789"),
    )  # fmt: skip
    store = Store(Path(sys.argv[1]))
    plans = []
    for changes in json.loads(sys.argv[2]):
        label, again = changes.pop("label"), changes.pop("again", None)
        if search := changes.pop("search", None):
            study = {"points": [], "product": {}, "search": search, "retrain": True}
            plans.append(plan.of_study(label, study, trial(**changes), images))
            continue
        second = iter([({"again": trial(**{**changes, "seeds": again or []})}, None)])
        choose = (lambda fits, second=second: next(second, None)) if again else None
        plans.append(plan.Plan(label, {"": trial(**changes)}, images, choose))
    if silence := os.environ.get("KMNIST_TEST_SILENCE"):
        from kmnist_pipeline.fits import local

        local.SILENCE = float(silence)
    if "KMNIST_TEST_DAMAGE" in os.environ:
        _damage_the_first(store)
    try:
        pool.train(plans, store)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    keys = [task.key for each in plans for task in each.tasks()]
    waves = [[_keys(wave) for wave in each.waves] for each in plans]
    print(json.dumps({"keys": keys, "waves": waves, "loky": "loky" in sys.modules}))
    return 0


def _keys(wave: Any) -> dict[str, list[str]]:
    """The keys of whole fits by trial."""
    return {name: [t.whole for seed in seeds for t in seed] for name, seeds in wave.items()}


def _damage_the_first(store: Any) -> None:
    """Have the store damage the first file that it writes when it writes the next one."""
    write, written = store.write, []

    def writing(key: str, result: bytes, about: dict[str, Any]) -> None:
        write(key, result, about)
        written.append(key)
        if len(written) == 2:
            (first,) = store.folder.glob(f"??/{written[0]}.fit")
            first.write_bytes(b"damaged")

    store.write = writing


def trial(
    seeds=(1, 2), folds=2, epochs=3, batch_size=64, lr=0.01, family="linear", subset=None
) -> dict[str, Any]:
    """An experiment on the digits, as `params.yaml` holds them."""
    shared = {"epochs": epochs, "patience": None, "keep": "last", "loss": "mean"}
    linear = {"family": "linear", "kind": "softmax", "scaling": "zscore"}
    cnn = {"family": "cnn", "architecture": "simple", "dropout": 0.0, "draws": None,
           "scaling": "minmax"}  # fmt: skip
    choices = {"schedule": "constant", "augmentation": "none", "averaging": "none"}
    return {
        "dataset": "digits",
        "classes": None,
        "subset": subset,
        "seeds": list(seeds),
        "model": linear if family == "linear" else cnn,
        "optimizer": {
            "name": "sgd" if family == "linear" else "adam", "lr": lr, "batch_size": batch_size,
        },
        "validation": {"method": "kfold", "folds": folds},
        "trainer": {**shared, "precision": "float64"}
        if family == "linear"
        else {**shared, **choices, "precision": "float32"},
    }  # fmt: skip


@dataclass
class Program:
    """A run of this file, and the store that it fills."""

    process: subprocess.Popen[str]
    store: Path
    messages: Path

    def end(self) -> tuple[int, str, str]:
        """Its exit status, output and messages, when it has ended."""
        out, _ = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, self.messages.read_text()

    def wait_for(self, text: str) -> str:
        """Its messages, as soon as they hold this text."""
        wait_until(lambda: text in self.messages.read_text() or self._is_over(), f"{text!r}")
        assert text in self.messages.read_text()
        return self.messages.read_text()

    def _is_over(self) -> bool:
        return self.process.poll() is not None

    def workers(self) -> list[psutil.Process]:
        """Its worker processes on this machine."""
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children()
            return [child for child in children if _is_worker(child)]
        return []

    def finished(self) -> int:
        """The number of fits in its store."""
        return len(list(self.store.glob("??/*.fit")))

    def progress(self) -> dict[int, float]:
        """How much of its fit each worker has done, for those who have begun."""
        import numpy as np

        with suppress(OSError, ValueError):
            (board,) = self.store.glob("scratch/kmnist-fits-*/board.npy")
            return {i: float(row[1]) for i, row in enumerate(np.load(board)) if 0 < row[1] < 1}
        return {}


def _is_worker(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return any("popen_loky" in word for word in process.cmdline())
    return False


@contextmanager
def training(store: Path, *plans: dict[str, Any], **environment: str) -> Iterator[Program]:
    """The program at work, ended afterwards with all that it started."""
    command = [sys.executable, __file__, str(store), json.dumps(plans)]
    kept = {k: v for k, v in os.environ.items() if not k.startswith("KMNIST_")}
    scratch = store / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    messages = store / "messages"
    with messages.open("w") as log:
        process = subprocess.Popen(
            command, env={**kept, "LOKY_MAX_CPU_COUNT": "2", "TMPDIR": str(scratch), **environment},
            cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
    try:
        yield Program(process, store, messages)
    finally:
        end(process.pid)
        process.communicate()


def train(store: Path, *plans: dict[str, Any], **environment: str) -> tuple[int, str, str]:
    """Run the program to its end."""
    with training(store, *plans, **environment) as program:
        return program.end()


def end(pid: int) -> None:
    """Kill a process and what it started."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGKILL)


def results(store: Path) -> dict[str, bytes]:
    """All finished fits of a store by key, without what is told about them."""
    from kmnist_pipeline.fits.store import Store

    read = {path.stem: Store(store).read(path.stem) for path in store.glob("??/*.fit")}
    return {key: content for key, content in read.items() if content is not None}


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """The condition's first true value."""
    last = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < last, f"{what} did not happen in {PATIENCE} s"
        time.sleep(0.005)
    return value


if __name__ == "__main__":
    sys.exit(main())

"""A process for the time of a measurement, with its own arithmetic.

The arithmetic and the number of threads must be chosen before NumPy and torch are loaded, so one
process cannot have two of them. `python -m benchmarks.candidate MODULE` loads that module of this
package, calls its `load` and prints `ready`. Then each line of standard input is a question in
JSON: the `call`, a function of the module, and its arguments. The answer is a line of JSON.

This module imports little, because workers of a pool that a candidate starts import it too.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from benchmarks.measuring import Answer, environment

THREADS = "BENCH_THREADS"
READY = "ready"
ENOUGH = 60  # seconds that a process has to end when its work is done


class Candidate:
    """The parent's connection to such a process."""

    def __init__(
        self,
        module: str,
        arithmetic: str,
        threads: int = 1,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """module: of this package; arithmetic: `portable` or `native`."""
        native = {
            "KMNIST_ARITHMETIC": "native",
            "CUDA_VISIBLE_DEVICES": "",  # only cores are compared
            **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)),
        }
        self._name = f"{module}, {arithmetic}, {threads} threads"
        self._complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed by __exit__
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.candidate", module],
            env=environment(
                {
                    THREADS: str(threads),
                    **(native if arithmetic == "native" else {}),
                    **(variables or {}),
                }
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
        )

    def __enter__(self) -> Candidate:
        """Wait until the process is ready."""
        try:
            self._line()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """End the process by closing its standard input."""
        if kind is not None:
            self._process.kill()
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # the process has already ended
            self._process.stdin.close()
        try:
            self._process.wait(ENOUGH)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._complaints.close()

    def ask(self, call: str, **arguments: Any) -> Answer:
        """Call a function in the process, and wait for its answer."""
        self.start(call, **arguments)
        return self.answer()

    def start(self, call: str, **arguments: Any) -> None:
        """Call a function in the process."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"call": call, **arguments}) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Answer:
        """The answer of the last call."""
        return json.loads(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return line
        self._complaints.seek(0)
        raise RuntimeError(f"a process ({self._name}) has ended:\n{self._complaints.read()}")


def side_by_side(candidates: Sequence[Candidate], call: str, **arguments: Any) -> Answer:
    """Call a function in all candidates at the same time; returns the largest of each value."""
    for candidate in candidates:
        candidate.start(call, **arguments)
    answers = [candidate.answer() for candidate in candidates]
    return {value: max(answer[value] for answer in answers) for value in answers[0]}


def main() -> None:
    """Answer questions until standard input is closed."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # other prints are not answers
    module = importlib.import_module(f"benchmarks.{sys.argv[1]}")
    module.load()
    print(READY, file=answers, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        answer = getattr(module, question.pop("call"))(**question)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()

"""Functions that several commands share."""

import contextlib
import importlib.util
import json
import math
import os
import py_compile
import re
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.repository.names import printable_lines

PARAMS = Path("params.yaml")
# Files and folders with text that commands read: what people write, and what is generated.
SOURCES = ("conf", "dvc.yaml", "params.yaml", "dvc.lock", "requirements.lock", "reviews")
MADE = ("metrics", "reports", "receipts")
CHECKED = (3).to_bytes(4, "little")  # the flags of bytecode that has its source's hash


def open_streams() -> None:
    """Open each standard stream that the user has closed (`>&-`), on the null device.

    Python has None for it, and the next file that is opened would get its number and its output.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode)  # noqa: SIM115 - it stays open
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def end_in_order() -> None:
    """Let SIGTERM end this command as Ctrl-C does, with its files complete or as before."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def absolute(name: str) -> Path:
    """The absolute path, because the command changes its folder later."""
    return Path(os.path.abspath(name))


def refuse_conflicts(*places: str) -> None:
    """Raise UserError if a merge conflict is not resolved in a text that commands read.

    The error names each file and its line; readers would say only that the file is not valid.
    places: where to look.
    """
    from kmnist_pipeline.repository import locks

    locks.refuse_conflicts(*map(Path, places))


def mend_lock() -> None:
    """Put back what an interrupted DVC has lost from dvc.lock, and say so."""
    from kmnist_pipeline.commands import recovery

    if said := recovery.put_back():
        print(said, file=sys.stderr)


def hash_bytecode(folder: Path) -> None:
    """Make Python compare each module below a folder with its bytecode by hash, not by time.

    A source that was edited within a second and has the same size looks unchanged to Python, which
    then runs the bytecode of the old one: a result of other code under the same lineage key. Python
    keeps bytecode with a hash as it is. Files that cannot be written stay as they are.
    """
    for source in folder.rglob("*.py"):
        compiled = Path(importlib.util.cache_from_source(str(source)))
        with contextlib.suppress(OSError):
            if compiled.exists():
                with compiled.open("rb") as file:
                    if file.read(8)[4:] == CHECKED:
                        continue
            try:
                mode = py_compile.PycInvalidationMode.CHECKED_HASH
                py_compile.compile(str(source), str(compiled), doraise=True, invalidation_mode=mode)
            except py_compile.PyCompileError:  # importing the module raises the error
                compiled.unlink(missing_ok=True)


def require_regular(*places: Path | None) -> None:
    """Raise UserError if a file to write is there and not regular: a link, a device or a folder."""
    for place in places:
        if place is not None and os.path.lexists(place) and not stat.S_ISREG(place.lstat().st_mode):
            raise UserError(f"{place}: is not a regular file; name a new file or a regular one")


def require_params() -> None:
    """Raise UserError, which names the remedy, if there is no params.yaml."""
    if not PARAMS.exists():
        raise UserError(f"{PARAMS} does not exist: `kmnist compose` makes it")


def read_params() -> dict[str, Any]:
    """The content of params.yaml. Raises UserError if it cannot be read or is invalid."""
    from kmnist_pipeline.config import rules
    from kmnist_pipeline.repository import locks

    require_params()
    params = locks.load(PARAMS.read_text("utf-8"), PARAMS.name)
    rules.check(params)
    return params


def say(text: object, file: TextIO | None = None, end: str = "\n") -> None:
    """Print lines, with unprintable characters escaped: names in them may come from anyone."""
    print(printable_lines(str(text)), file=file, end=end)


def agreed(question: str) -> bool:
    """Whether the user answers a question with yes; without a user, no."""
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


def print_json(content: Any) -> None:
    """Print JSON for programs, with unprintable characters escaped as JSON escapes them.

    JSON has no NaN and no infinity, but files of others may contain them: they become null.
    """
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False)
    print(
        re.sub(r"[^ -~\n]", lambda c: c[0] if c[0].isprintable() else json.dumps(c[0])[1:-1], text)
    )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {_finite(key): _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def console() -> Any:
    """A console that does not wrap or cut lines in a pipe, and escapes unprintable characters."""
    from rich.console import Console
    from rich.segment import Segment

    class Escaping(Console):
        def render(self, *given: Any, **options: Any) -> Iterator[Segment]:
            for segment in super().render(*given, **options):
                yield Segment(printable_lines(segment.text), segment.style, segment.control)

    return Escaping(highlight=False, width=None if sys.stdout.isatty() else 10_000)

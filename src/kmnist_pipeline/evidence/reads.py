"""The files of the project that a stage reads: each one must be a dependency in `dvc.yaml`.

The outs of a stage are made under a key that names its dependencies. Another file of the project
that the stage reads could change the outs under the same key. This finds mistakes, not attacks: a
Python process that a stage starts is not followed, nor a file that a library opens outside Python,
and a module that is free may still replace a function of a library.

Only these are free. The values of `dvc.yaml` and `params.yaml` that a stage uses are in its key.
Hydra's plugin of this project composes nothing in a stage, and it and the modules of `config/` only
refuse parameters or return their values, which are in the key. Bytecode is that of a source, which
counts itself. The store of fits and what a stage has left there itself are checked when they are
read; Matplotlib's list of fonts names the fonts, which belong to its library. The modules of
`tracking/` are not free: a stage imports them when its outs are written and checked, and MLflow's
code runs in another process.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

# What a stage reads without depending on it; see above.
FREE = re.compile(
    r"dvc\.yaml|params\.yaml|src/.*/__pycache__/[^/]*\.pyc|"
    r"\.kmnist/(fits/[0-9a-f]{2}/[^/]*|partial/.*|matplotlib-[^/]*/.*)|"
    r"src/hydra_plugins/kmnist_pipeline_schema/__init__\.py|"
    r"src/kmnist_pipeline/config/(grid|node|rules|schema|training)\.py"
)
STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")
OWN = (subprocess.__file__, os.__file__, "<frozen ")  # modules through which programs start
HERE = Path(__file__).parents[1]  # the package

_opened: set[str] = set()
_started: set[str] = set()


def watch() -> None:
    """Remember every file that this process opens for reading, and every program that it starts."""
    sys.addaudithook(_hear)


def _hear(event: str, about: tuple[Any, ...]) -> None:
    if event == "open":
        path, mode, flags = about
        reads = "r" in mode or "+" in mode if mode else not flags & os.O_WRONLY
        if reads and not isinstance(path, int):
            _opened.add(os.fsdecode(path))
    elif event == "sqlite3.connect":
        _opened.add(os.fsdecode(about[0]))
    elif event in STARTS and about[0] != sys.executable and _is_ours(sys._getframe(1)):
        _started.add(os.fsdecode(about[0]))


def _is_ours(frame: FrameType | None) -> bool:
    """Whether a module of the project made this call of Python's own library.

    A program that an installed library starts, such as Matplotlib to list fonts, belongs to it.
    """
    while frame is not None and frame.f_code.co_filename.startswith(OWN):
        frame = frame.f_back
    return frame is not None and Path(frame.f_code.co_filename).is_relative_to(HERE)


def undeclared(declared: Iterable[str]) -> list[str]:
    """The files of the project that this process has imported or read and that are not declared,
    and the programs that it has started.

    declared: files and folders; all paths are relative to the project's folder, the current one.
    """
    specs = [getattr(module, "__spec__", None) for module in list(sys.modules.values())]
    files = {*_opened, *(spec.origin for spec in specs if spec and spec.origin)}
    here, libraries = Path.cwd(), Path(sys.prefix)
    known = {here / path for path in declared}
    found = set()
    for path in {Path(os.path.abspath(file)) for file in files}:
        is_ours = path.is_relative_to(here) and not path.is_relative_to(libraries)
        if is_ours and path.is_file() and known.isdisjoint((path, *path.parents)):
            found.add(path.relative_to(here).as_posix())
    return sorted(_started) + sorted(
        path for path in found if not (FREE.fullmatch(path) or _is_bare(path))
    )


def _is_bare(path: str) -> bool:
    """Whether a file is the `__init__.py` of a package and has nothing but a docstring."""
    if Path(path).name != "__init__.py":
        return False
    return all(
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for node in ast.parse(Path(path).read_bytes()).body
    )

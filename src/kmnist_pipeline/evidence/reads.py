"""The files of the project that a stage reads: each one must be a dependency in `dvc.yaml`.

The outs of a stage are made under a key that names its dependencies. Another file of the project
that the stage reads could change the outs under the same key.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# What a stage reads without depending on it. The configuration's code acts through parameters
# alone, which are in the key; MLflow's code runs in another process; the store of fits checks what
# it returns.
FREE = re.compile(
    r"dvc\.yaml|params\.yaml|src/hydra_plugins/.*|.*/__init__\.py|.*\.pyc|\.kmnist/.*|"
    r"src/kmnist_pipeline/(config/(grid|node|rules|schema)|tracking/\w+)\.py"
)

_opened: set[str] = set()


def watch() -> None:
    """Remember every file that this process opens for reading from now on."""
    sys.addaudithook(_hear)


def _hear(event: str, about: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(about[0], str) and "r" in (about[1] or ""):
        _opened.add(about[0])


def undeclared(declared: Iterable[str]) -> list[str]:
    """The files of the project that this process has imported or read and that are not declared.

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
    return sorted(path for path in found if not FREE.fullmatch(path))

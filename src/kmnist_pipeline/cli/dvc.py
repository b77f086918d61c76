"""The command `dvc` of this project's environment: DVC, with four changes.

Stages run in the Python of this environment: DVC deletes the outs of a stage before it starts the
first `python` in PATH, which may lack the libraries. DVC's files are replaced when the new ones are
complete: DVC writes them in place, so an interrupt or a full disk leaves them cut. Matplotlib lists
the fonts before the first stage: it starts `fc-list` for it, and a stage may start no program. And
`dvc exp show` without options shows only the columns that people compare.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import Any

from kmnist_pipeline import cli
from kmnist_pipeline.cli.common import mend_lock, open_streams

LOCK = "dvc.lock"
# The columns of `dvc exp show` that people compare: all are thousands of characters wide.
COMPARED = [
    "--only-changed",
    "--drop",
    r"Created|State|Executor|.*:(loss|precision|recall|f1|correct)$"
    r"|(src|data|models|metrics|figures|conf)/[^:]*$",
]


def main() -> int:
    """Run DVC with the arguments of this process; returns its exit status."""
    open_streams()
    programs = sysconfig.get_path("scripts")
    os.environ["PATH"] = os.pathsep.join([programs, os.environ.get("PATH", os.defpath)])
    cli.name_user()
    if folder := cli.project():
        with contextlib.chdir(folder):
            mend_lock()
        _list_fonts(folder)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # DVC ends in order, as on Ctrl-C
    from dvc.cli import main as dvc
    from dvc.utils.serialize import _common, _yaml

    for module in (_common, _yaml):
        module._dump_data = _replace_file
    if sys.argv[1:] == ["exp", "show"]:
        sys.argv += COMPARED
    status = dvc()
    if status and folder:
        from kmnist_pipeline.commands import recovery

        with contextlib.chdir(folder):
            if said := recovery.way_back():
                print(said, file=sys.stderr)
    return status


def _list_fonts(project: Path) -> None:
    """Point stages to a Matplotlib configuration folder of their own.

    It has a list of fonts, and none of the user's settings.
    """
    folder = project / ".kmnist" / f"matplotlib-{metadata.version('matplotlib')}"
    os.environ["MPLCONFIGDIR"] = str(folder)
    runs = not {"repro", "exp", "queue"}.isdisjoint(sys.argv)
    if runs and not any(folder.glob("fontlist-*.json")):
        with contextlib.suppress(OSError):  # Matplotlib then takes a temporary folder
            folder.mkdir(parents=True, exist_ok=True)
        importlib.import_module("matplotlib.font_manager")


def _replace_file(path: Any, data: Any, dumper: Any, fs: Any = None, **options: Any) -> None:
    """Write a file as DVC's own function does, but never leave a part of it.

    The lock names each dependency once, although `dvc.yaml` may repeat one: see `config/code.py`.
    """
    from kmnist_pipeline.evidence import outs

    for stage in data.get("stages", {}).values() if Path(path).name == LOCK else ():
        if "deps" in stage:
            stage["deps"] = list({dep["path"]: dep for dep in stage["deps"]}.values())

    text = io.StringIO()
    dumper(data, text, **options)
    outs.write_bytes(Path(path), text.getvalue().encode())


if __name__ == "__main__":
    sys.exit(main())

"""The command `dvc` of this project's environment: DVC, with these changes.

Stages run in the Python of this environment: DVC deletes the outs of a stage before it starts the
first `python` in PATH, which may lack the libraries. DVC's files are replaced only when the new
ones are complete: DVC writes them in place, so an interrupt or a full disk would truncate them.
Before stages run, this refuses a merge conflict, a missing params.yaml and a place where outs would
be lost, and it compiles bytecode that cannot be stale. `dvc exp show` without options shows only
the columns that people compare.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
import sysconfig
from pathlib import Path
from typing import Any

from kmnist_pipeline import cli
from kmnist_pipeline.cli.common import (
    PARAMS,
    SOURCES,
    end_in_order,
    hash_bytecode,
    mend_lock,
    open_streams,
    refuse_conflicts,
    require_params,
    say,
)
from kmnist_pipeline.errors import UserError

LOCK = "dvc.lock"
RUNNING = {"repro", "exp", "queue"}  # the commands that run stages
EXPERIMENTS = {"exp", "queue"}  # those that make copies of the project
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
    here = Path.cwd()
    if folder := cli.project():
        from kmnist_pipeline.commands import recovery

        with contextlib.chdir(folder):
            try:
                runs = not RUNNING.isdisjoint(sys.argv)
                if runs:
                    require_params()
                    refuse_conflicts(*SOURCES)  # stages make the other texts again
                mend_lock()
                os.environ[recovery.CHECKED] = "1"
                if runs:
                    _refuse_places()
                    hash_bytecode(Path("src"))
            except UserError as error:
                say(f"error: {error}", sys.stderr)
                cli.note_place(here)
                return 1
    end_in_order()
    from dvc.cli import main as dvc
    from dvc.utils.serialize import _common, _yaml

    for module in (_common, _yaml):
        module._dump_data = _replace_file
    if not EXPERIMENTS.isdisjoint(sys.argv):
        _write_configuration_as_utf_8()
    if sys.argv[1:] == ["exp", "show"]:
        sys.argv += COMPARED
    status = dvc()
    if status and folder:
        from kmnist_pipeline.repository import dvc as repository

        with contextlib.chdir(folder):
            for said in filter(None, (repository.cut_lock(), recovery.way_back(here))):
                say(said, sys.stderr)  # with names from the lock, which may come from anyone
    return status


def _refuse_places() -> None:
    """Raise UserError if outs are behind a link, which DVC refuses only after the stage has run, in
    a folder that the user may not write to, or a mount point, from which a stage can remove files
    but not the folder."""
    from kmnist_pipeline.repository import dvc, locks

    try:
        described = dvc.stages(locks.load(PARAMS.read_text("utf-8"), PARAMS.name))
    except (OSError, UserError):  # DVC says what is wrong
        return
    outs = {Path(out) for stage in described.values() for out in dvc.outs(stage)}
    above = {folder for out in outs for folder in out.parents}
    for folder in sorted(above):
        if folder.is_symlink():
            raise UserError(
                f"{folder} is a link to {folder.readlink()}: DVC would run the stages and then "
                "refuse their outs behind it; replace the link with the folder itself. "
                "`dvc config --local cache.dir FOLDER` keeps DVC's copies of large files on "
                "another disk"
            )
    for out in sorted(outs):
        folder = next(folder for folder in out.parents if folder.exists())
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(
                f"{folder.resolve()}: you may not write to this folder, where a stage makes "
                f"{out}; its owner can allow it with `chmod u+wx`"
            )
        if out.is_mount():
            raise UserError(
                f"{out} is a mount point: a stage would remove its files, but cannot replace it; "
                f"unmount it (`umount {out}`), or mount the folder {out.parent} instead"
            )


def _write_configuration_as_utf_8() -> None:
    """Let DVC copy a project whose path has an umlaut: it writes this path as ASCII."""
    from dvc.repo.experiments.executor import local

    local.ConfigObj = functools.partial(local.ConfigObj, encoding="utf-8")


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

"""Adding items to `conf/`: their files, their lines of the menu and `params.yaml`, all or none."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kmnist_pipeline.config import compose as composition
from kmnist_pipeline.config import menu, node
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import outs

CONF, PARAMS = Path("conf"), Path("params.yaml")
MENU = CONF / menu.FILE
LOCK = Path(".kmnist/conf.lock")


@dataclass(frozen=True)
class Addition:
    """The new text of each file that changes, in the order in which they are written."""

    files: dict[Path, str]

    def write(self) -> None:
        """Write all files; if one cannot be written, none has changed.

        The caller must have entered `alone` before it planned this.
        """
        with restored(*self.files):
            for path, text in self.files.items():
                outs.write_bytes(path, text.encode())


@contextmanager
def alone() -> Iterator[None]:
    """Lock `conf/`: other commands that change it wait until the block ends."""
    LOCK.parent.mkdir(exist_ok=True)
    with LOCK.open("w") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield


def file(group: str, name: str) -> Path:
    """The file of an item."""
    return CONF / group / f"{name}.yaml"


def plan(texts: Mapping[tuple[str, str], str]) -> Addition:
    """What these items would change; nothing is changed yet.

    texts: of their files, by group and name. Raises UserError if the configuration would refuse
    them.
    """
    listed = menu.items(MENU.read_text("utf-8"))
    files = {file(*item): text for item, text in texts.items()}
    files[MENU] = menu.added(
        MENU.read_text("utf-8"), [item for item in texts if item not in listed]
    )
    files[PARAMS] = composition.with_files(CONF, files)
    return Addition({path: text for path, text in files.items() if not _has(path, text)})


def _has(path: Path, text: str) -> bool:
    return path.exists() and path.read_text("utf-8") == text


def require_named(group: str, name: str) -> None:
    """Raise UserError if no item of the group can have this name."""
    if allowed := node.why_not(name):
        raise UserError(f"{name}: the name of a {group} must be {allowed}")


def require_new(group: str, name: str) -> None:
    """Raise UserError if an item cannot have this name, or if one has it already.

    An experiment and a study must not have the same name either.
    """
    require_named(group, name)
    listed = menu.items(MENU.read_text("utf-8"))
    models = ("experiment", "study")
    for other in models if group in models else (group,):
        if file(other, name).exists():
            raise UserError(
                f"{file(other, name)} exists already; choose another name, or remove it"
            )
        if (other, name) in listed:
            raise UserError(f"{MENU} has a line for the {other} {name}; choose another name")


@contextmanager
def restored(*files: Path) -> Iterator[None]:
    """If the block ends with an error, the files have the content that they had before."""
    kept = {path: path.read_bytes() if path.exists() else None for path in files}
    try:
        yield
    except BaseException:
        for path, content in kept.items():
            if content is None:
                path.unlink(missing_ok=True)
            elif not path.exists() or path.read_bytes() != content:
                outs.write_bytes(path, content)
        raise

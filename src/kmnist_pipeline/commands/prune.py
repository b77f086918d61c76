"""Removing experiments, studies, datasets and reports from the menu, the lock and the evidence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kmnist_pipeline.commands import status
from kmnist_pipeline.config import compose as composition
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import outs, paths
from kmnist_pipeline.repository import dvc, locks
from kmnist_pipeline.repository.names import unknown

CONF, MENU, PARAMS, LOCK = map(Path, ("conf", "conf/config.yaml", "params.yaml", locks.LOCK))
# A line of the menu: the key that removes it, its section and its name.
LINE = re.compile(r"^ *- *(\w+@(\w+)\.([\w-]+)):.*\n", re.MULTILINE)
PLACES = (
    *(paths.raw, paths.processed, paths.data_numbers, paths.data_figures, paths.weights),
    *(paths.out_of_fold, paths.predictions, paths.page),
)


@dataclass(frozen=True)
class Removal:
    """What goes: lines of the menu, stages of the lock, files and folders.

    composed: the new text of `params.yaml`; stale: the stages that must run again.
    """

    menu: list[str]
    stages: list[str]
    files: list[str]
    composed: str
    stale: list[str]

    def lines(self) -> Iterator[str]:
        """What goes, as text."""
        yield from (f"from {MENU}: {line.strip()}" for line in self.menu)
        yield from (f"from {LOCK}: {address}" for address in self.stages)
        yield from self.files


def plan(names: list[str]) -> Removal:
    """What removing these would change; nothing is changed yet.

    names: of items, as `digits_cnn` or `experiments.digits_cnn`; or of stages that only the lock
    has, as `evaluate@digits_cnn`. Raises UserError for an unknown name, and if what stays in the
    menu needs what goes.
    """
    menu, locked = MENU.read_text(), status.locked_here()
    lines = {name: _line(name, menu) for name in names}
    listed = [line for line in lines.values() if line]
    try:
        composed = composition.compose(CONF, [f"~{line[1]}" for line in listed])
    except UserError as error:
        raise UserError(f"nothing was removed: {error}") from error
    described = dvc.stages(locks.load(composed, "conf/"))
    made = [path for stage in described.values() for path in dvc.outs(stage)]

    stages, files = dict[str, None](), set[str]()
    for name, line in lines.items():
        item = re.split("[.@]", name)[-1]
        left = [s for a, s in locked.stages.items() if s.item == item and a not in described]
        places = [path for stage in left for path in stage.outs] + _places(item)
        own = [p for p in places if Path(p).exists() and not any(_overlap(p, m) for m in made)]
        if not (line or left or own):
            known = {found[3] for found in LINE.finditer(menu)}
            known |= {stage.item for stage in locked.stages.values()}
            raise unknown(f"there is no {name} in {MENU}, and nothing is left of one", item, known)
        stages |= dict.fromkeys(stage.address for stage in left)
        files |= {*own}
    inside = {path for path in files if files & {*map(str, Path(path).parents)}}
    stale = [
        address
        for address, stage in described.items()
        if any(_overlap(path, file) for path in stage["deps"] for file in files)
    ]
    return Removal([line[0] for line in listed], [*stages], sorted(files - inside), composed, stale)


def remove(removal: Removal) -> None:
    """Change and remove the files. If this is interrupted, doing it again does the rest."""
    from dvc.utils.fs import remove as delete

    with dvc.opened() as repo, repo.lock:  # no stage runs meanwhile
        locked = locks.without(LOCK.read_text(), removal.stages) if removal.stages else None
        if removal.menu:
            menu = MENU.read_text()
            for line in removal.menu:
                menu = menu.replace(line, "")
            outs.write_bytes(MENU, menu.encode())
            outs.write_bytes(PARAMS, removal.composed.encode())
        for file in removal.files:
            delete(file)
            with suppress(OSError):  # its folder, if it is empty now
                Path(file).parent.rmdir()
        if locked is not None:  # last, because it names the files
            outs.write_bytes(LOCK, locked.encode())


def _line(name: str, menu: str) -> re.Match[str] | None:
    """The line of an item in the menu."""
    section, _, item = name.rpartition(".")
    found = [f for f in LINE.finditer(menu) if f[3] == item and section in ("", f[2])]
    if len(found) > 1:
        either = " or ".join(f"{line[2]}.{item}" for line in found)
        raise UserError(f"{name}: several have this name; say {either}")
    return found[0] if found else None


def _places(item: str) -> list[str]:
    """The files and folders that stages make for an item of this name, of whatever kind."""
    if not re.fullmatch(r"[\w-]+", item):
        return []
    patterns = [place(item) for place in PLACES]
    patterns += [f"{root}/*/{item}" for root in (paths.METRICS, paths.FIGURES)]
    return [path.as_posix() for pattern in patterns for path in Path().glob(pattern)]


def _overlap(one: str, other: str) -> bool:
    """Whether two paths are the same, or one is in the other."""
    return Path(one).is_relative_to(other) or Path(other).is_relative_to(one)

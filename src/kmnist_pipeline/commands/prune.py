"""Removing experiments, studies, datasets and reports from the menu, the lock and the evidence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kmnist_pipeline.commands import additions, status
from kmnist_pipeline.config import compose as composition
from kmnist_pipeline.config import menu as menus
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import outs, paths
from kmnist_pipeline.repository import dvc, locks
from kmnist_pipeline.repository.names import unknown

CONF, PARAMS, LOCK = Path("conf"), Path("params.yaml"), Path(locks.LOCK)
MENU = CONF / menus.FILE
PLACES = (
    *(paths.raw, paths.processed, paths.data_numbers, paths.data_figures, paths.weights),
    *(paths.weights_in_git, paths.out_of_fold, paths.predictions, paths.page),
)
# The folders where stages write. What people have decided or imported is elsewhere in data/.
WRITTEN = {
    *(paths.METRICS, paths.FIGURES),
    *(place("").rpartition("/")[0] for place in PLACES),
}


@dataclass(frozen=True)
class Removal:
    """What is removed: lines of the menu, stages of the lock, files and folders.

    menu: the lines; before, remaining: the text of the menu, before and after; composed: the new
    text of `params.yaml`; stale: the stages that must run again; kept: paths that the lock names,
    but to which no stage can have written.
    """

    menu: list[str]
    before: str
    remaining: str
    stages: list[str]
    files: list[str]
    composed: str
    stale: list[str]
    kept: list[str]

    def lines(self) -> Iterator[str]:
        """What is removed and what is kept, as text."""
        yield from (f"from {MENU}: {line.strip()}" for line in self.menu)
        yield from (f"from {LOCK}: {address}" for address in self.stages)
        yield from self.files
        yield from (f"kept, behind a link or where no stage writes: {path}" for path in self.kept)


def plan(names: list[str]) -> Removal:
    """The removal of these items; nothing is changed yet.

    names: of items, as `digits_cnn` or `experiments.digits_cnn`; or of stages that only the lock
    has, as `evaluate@digits_cnn`. Raises UserError for an unknown name, and if an item that is kept
    needs one that is removed.
    """
    before = menu = MENU.read_text("utf-8")
    locked = status.locked_here()
    lines = {name: _lines(name, menu) for name in names}
    listed = list({line[1]: line for found in lines.values() for line in found}.values())
    weights = [*_weights(listed, menu)]
    try:
        left_out = [*(f"~{line[1]}" for line in listed), *(f"~weights.{name}" for name in weights)]
        composed = composition.compose(CONF, left_out)
    except UserError as error:
        raise UserError(f"nothing was removed: {error}") from error
    params = locks.load(composed, "conf/")
    described = dvc.stages(params)
    made = [path for stage in described.values() for path in dvc.outs(stage)]
    made += [path for name in params.get("datasets", ()) for path in _imported(name)]

    stages, files, kept = dict[str, None](), set[str](), set[str]()
    for name, found in lines.items():
        item = re.split("[.@]", name)[-1]
        left = [s for a, s in locked.stages.items() if s.item == item and a not in described]
        locked_outs = [path for stage in left for path in stage.outs]
        places = [*filter(_is_written, locked_outs), *_places(item)]
        there = [
            path
            for path in (*locked_outs, *places)
            if Path(path).exists() and not any(_overlap(path, out) for out in made)
        ]
        own = [path for path in there if path in places and _is_direct(Path(path))]
        if not (found or left or own):
            known = {name for _, name in menus.items(menu)}
            known |= {stage.item for stage in locked.stages.values()}
            raise unknown(f"{MENU} has no {name}, and no files of it remain", item, known)
        stages |= dict.fromkeys(stage.address for stage in left)
        files |= {*own}
        kept |= {*there} - {*own}
    inside = {path for path in files if files & {*map(str, Path(path).parents)}}
    stale = [
        address
        for address, stage in described.items()
        if any(_overlap(path, file) for path in stage["deps"] for file in files)
    ]
    removed = [line[0] for line in listed]
    for text in removed:
        menu = menu.replace(text, "")
    removed += [f"weights.{name}: {menus.weights(menu)[name]}" for name in weights]
    menu = menus.without_weights(menu, weights)
    menu = re.sub("\n{3,}", "\n\n", menu)  # where a whole group has gone
    files -= inside
    return Removal(removed, before, menu, [*stages], sorted(files), composed, stale, sorted(kept))


def all_but(names: list[str]) -> Removal:
    """The removal of all items but these, and of the files in `conf/` that only they used.

    names: as for `plan`. What these items need is kept too: the models and the dataset of a report,
    the report of an experiment or study.
    """
    params = locks.load(composition.compose(CONF, []), "conf/")
    kept = _needed(names, params)
    if not any(key.startswith("reports.") for key in kept):
        reports = ", ".join(params["reports"])
        raise UserError(f"nothing was removed: keep a report too, one of {reports}")
    items = menus.items(MENU.read_text("utf-8"))
    menu = [f"{menus.SECTIONS[g]}.{name}" for g, name in items if g in menus.SECTIONS]
    known = {name.partition(".")[2] for name in menu}
    left = [s.address for s in status.locked_here().stages.values() if s.item not in known]
    removal = plan([*(name for name in menu if name not in kept), *left])
    unused = [str(path) for path in _own(removal.remaining) if _is_direct(path)]
    return replace(removal, files=sorted({*removal.files, *unused}))


def _own(menu: str) -> list[Path]:
    """The files of items that are not in use; other unused files may have another purpose."""
    return [p for p in menus.unused(CONF, menu) if p.relative_to(CONF).parts[0] in menus.OWNED]


def _needed(names: list[str], params: dict[str, Any]) -> set[str]:
    """The items of these names, and those that they need, as `experiments.digits_cnn`."""
    every = {
        f"{section}.{name}": about
        for section in menus.SECTIONS.values()
        for name, about in (params.get(section) or {}).items()
    }
    queue = [key for key in every if key in names or key.partition(".")[2] in names]
    for name in names:
        if not any(name in (key, key.partition(".")[2]) for key in queue):
            known = {key.partition(".")[2] for key in every}
            raise unknown(f"{MENU} has no {name}", name, known)
    kept = set[str]()
    while queue:
        if (key := queue.pop()) in kept:
            continue
        kept.add(key)
        about = every[key]
        queue += [f"{s}s.{about[s]}" for s in ("dataset", "report") if s in about]
        queue += [f"experiments.{about['base']}"] if "base" in about else []
        if key.startswith("reports."):
            models = params["models"].items()
            queue += [
                f"{'studies' if model['kind'] == 'study' else 'experiments'}.{name}"
                for name, model in models
                if f"reports.{model['report']}" == key
            ]
    return kept


def remove(removal: Removal) -> None:
    """Change and remove the files. If this is interrupted, a second removal completes it.

    Raises UserError if the menu has changed since this was planned.
    """
    from dvc.utils.fs import remove as delete

    with additions.alone(), dvc.opened() as repo, repo.lock:  # no stage runs meanwhile
        if MENU.read_text("utf-8") != removal.before:
            raise UserError(f"{MENU} has changed meanwhile; nothing was removed; prune again")
        locked = locks.without(LOCK.read_text("utf-8"), removal.stages) if removal.stages else None
        if removal.menu:
            outs.write_bytes(MENU, removal.remaining.encode())
            outs.write_bytes(PARAMS, removal.composed.encode())
        for file in removal.files:
            delete(file)
            with suppress(OSError):  # its folder, if it is empty now
                Path(file).parent.rmdir()
        if locked is not None:  # last, because it names the files
            outs.write_bytes(LOCK, locked.encode())


def _lines(name: str, menu: str) -> list[re.Match[str]]:
    """The lines of an item in the menu, and of what is attached to it."""
    section, _, item = name.rpartition(".")
    named = [line for line in menus.LINE.finditer(menu) if line[4] == item]
    found = [line for line in named if section in ("", line[3])]
    if not section:
        found = [line for line in found if line[2] in menus.SECTIONS] or found
    if len(found) > 1:
        either = " or ".join(f"{line[3]}.{item}" for line in found)
        raise UserError(f"{name}: several items have this name; use {either}")
    return found + [line for line in named if found and menus.ATTACHED.get(line[2]) == found[0][3]]


def _weights(listed: list[re.Match[str]], menu: str) -> Iterator[str]:
    """The datasets whose weights in Git are removed with these lines of the menu."""
    gone = {f"{line[3]}.{line[4]}" for line in listed}
    for dataset, model in menus.weights(menu).items():
        needed = {f"datasets.{dataset}", f"experiments.{model}", f"studies.{model}"}
        if needed & gone:
            yield dataset


def _imported(dataset: str) -> list[str]:
    """The file of an imported dataset, and DVC's pointer to it."""
    return [paths.imported(dataset), f"{paths.imported(dataset)}.dvc"]


def _places(item: str) -> list[str]:
    """The files and folders that stages make for an item of this name, of whatever kind."""
    if not re.fullmatch(r"[\w-]+", item):
        return []
    patterns = [*_imported(item), *(place(item) for place in PLACES)]
    patterns += [f"{root}/*/{item}" for root in (paths.METRICS, paths.FIGURES)]
    patterns.append(f"{paths.FIGURES}/*/conditions/{item}.png")
    return [path.as_posix() for pattern in patterns for path in Path().glob(pattern)]


def _is_written(path: str) -> bool:
    """Whether a path is where stages write. A lock may name any other, such as `docs`."""
    return not WRITTEN.isdisjoint(folder.as_posix() for folder in Path(path).parents)


def _is_direct(path: Path) -> bool:
    """Whether no folder above a path is a link, so that the path is where its name says."""
    return path.parent.resolve() == path.parent.absolute()


def _overlap(one: str, other: str) -> bool:
    """Whether two paths are the same, or one is in the other."""
    return Path(one).is_relative_to(other) or Path(other).is_relative_to(one)

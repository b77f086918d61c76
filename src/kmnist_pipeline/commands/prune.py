"""Removing experiments, studies, datasets and reports from the menu, the lock and the evidence."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kmnist_pipeline.commands import status
from kmnist_pipeline.config import compose as composition
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evaluation import claims
from kmnist_pipeline.evidence import outs, paths
from kmnist_pipeline.repository import dvc, locks
from kmnist_pipeline.repository.locks import LOCK, Graph
from kmnist_pipeline.repository.names import unknown

CONF, MENU, PARAMS = Path("conf"), Path("conf/config.yaml"), Path("params.yaml")
MODELS = ("experiments", "studies")
# The stages of an item, by its section of params.yaml.
STAGES = {
    "datasets": ("download", "preprocess"),
    "experiments": ("kfold-train", "evaluate"),
    "studies": ("tune", "evaluate"),
    "reports": ("report",),
}


@dataclass(frozen=True)
class Item:
    """A dataset, experiment, study or report; section: that of params.yaml."""

    section: str
    name: str

    @property
    def addresses(self) -> list[str]:
        """Its stages."""
        return [f"{kind}@{self.name}" for kind in STAGES[self.section]]

    @property
    def files(self) -> list[str]:
        """The files and folders that its stages have ever made, where they exist."""
        name = self.name
        if self.section == "datasets":
            known = [paths.raw(name), paths.processed(name), paths.data_figures(name)]
            return _existing([*known, paths.data_numbers(name)])
        if self.section == "reports":
            return _existing([paths.page(name)])
        own = [paths.weights(name), paths.out_of_fold(name), paths.predictions(name)]
        for root in (paths.METRICS, paths.FIGURES):
            folders = Path(root).glob(f"*/{name}")
            own += [f.as_posix() for f in folders if f.is_dir() and f.parent.name != "data"]
        return _existing(own)

    def __str__(self) -> str:
        return f"{self.section}.{self.name}"


@dataclass(frozen=True)
class Removal:
    """What a removal changes: the new texts of files, and the files and folders that go.

    menu, stages: the lines of the menu and the stages of the lock that go; stale: the stages that
    run again afterwards.
    """

    texts: dict[Path, str]
    files: list[str]
    menu: list[str]
    stages: list[str]
    stale: list[str]

    def lines(self) -> Iterator[str]:
        """What goes, as text."""
        yield from (f"from {MENU}: {line}" for line in self.menu)
        yield from (f"from {LOCK}: {address}" for address in self.stages)
        yield from (f"{file}{'/' if Path(file).is_dir() else ''}" for file in self.files)


def plan(names: Iterable[str]) -> Removal:
    """What removing these would change; nothing is changed yet.

    names: of items, as `digits_cnn` or `experiments.digits_cnn`, or stages of the lock that
    dvc.yaml does not have, as `evaluate@digits_cnn`. Raises UserError for an unknown name, and if
    what stays depends on what goes.
    """
    params = locks.load(composition.compose(CONF, []), "conf/")
    locked = status.locked_here()
    asked = list(dict.fromkeys(names))
    items = [_item(name, params, locked) for name in asked if "@" not in name]
    menu = MENU.read_text()
    lines = {item: found for item in items if (found := _line(item, menu))}
    _refuse_needed(items, params)
    composed = composition.compose(CONF, [f"~{found[1]}" for found in lines.values()])
    described = dvc.stages(locks.load(composed, "conf/"))

    own = {address for item in items for address in item.addresses}
    own |= {name for name in asked if "@" in name}
    for name in asked:
        if "@" in name and name not in locked.stages:
            raise unknown(f"there is no stage {name} in {LOCK}", name, locked.stages)
        if name in described:
            raise UserError(f"{name} is a stage of dvc.yaml, as {name.partition('@')[2]} is in use")
    gone = [address for address in locked.stages if address in own and address not in described]
    left = [stage for name, stage in locked.stages.items() if name not in gone]
    kept = {path for stage in left for path in stage.outs}
    kept |= {path for stage in described.values() for path in dvc.outs(stage)}
    made = _existing(path for address in gone for path in locked.stages[address].outs)
    files = [
        file
        for file in _outermost([*made, *(file for item in items for file in item.files)])
        if not any(_overlap(file, path) for path in kept)
    ]
    readers = [s for s in left if any(_overlap(f, path) for f in files for path in s.deps)]
    if others := [stage.address for stage in readers if stage.kind != "report"]:
        raise UserError(f"{', '.join(others)} in {LOCK} depend on it: remove them too")
    texts = {}
    if lines:
        for found in lines.values():
            menu = menu.replace(found[0], "")
        texts = {MENU: menu, PARAMS: composed}
    if gone:
        texts[Path(LOCK)] = locks.without(Path(LOCK).read_text(), gone)
    stale = [stage.address for stage in readers if stage.address in described]
    return Removal(texts, files, [found[0].strip() for found in lines.values()], gone, stale)


def remove(removal: Removal) -> None:
    """Change and remove the files. If anything fails, or is interrupted, all are as before."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    keep = Path(".kmnist")
    keep.mkdir(exist_ok=True)
    try:
        with (
            Repo() as repo,
            repo.lock,
            tempfile.TemporaryDirectory(dir=keep) as folder,
            ExitStack() as undo,
        ):
            for number, file in enumerate(removal.files):
                aside = f"{folder}/{number}"
                undo.callback(_move_back, aside, file)
                shutil.move(file, aside)
            for path, text in removal.texts.items():
                before = path.read_bytes() if path.exists() else None
                if before != text.encode():
                    undo.callback(_write_back, path, before)
                    outs.write_bytes(path, text.encode())
            undo.pop_all()
    except DvcException as error:
        raise UserError(f"DVC: {error}") from error
    for parent in {parent for file in removal.files for parent in Path(file).parents[:-2]}:
        if parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()


def _move_back(aside: str, file: str) -> None:
    if Path(aside).exists() and not Path(file).exists():
        shutil.move(aside, file)


def _write_back(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink(missing_ok=True)
    else:
        outs.write_bytes(path, content)


def _item(name: str, params: dict[str, Any], locked: Graph) -> Item:
    """The item of a name: in the menu, else in the lock, else among the files."""
    section, _, item = name.rpartition(".")
    if section and section not in STAGES:
        raise unknown(f"there is no section {section}", section, STAGES)
    possible = [Item(each, item) for each in ([section] if section else STAGES)]
    ways = (
        [each for each in possible if item in params.get(each.section, {})],
        [each for each in possible if each.addresses[0] in locked.stages],
        [each for each in possible if {*each.addresses} & locked.stages.keys()],
        [each for each in possible if each.files],
    )
    found = next(filter(None, ways), [])
    if len({each.section in MODELS or each.section for each in found}) > 1:
        either = " or ".join(map(str, found))
        raise UserError(f"{name}: several have this name; say {either}")
    if not found:
        known = [name for section in STAGES for name in params.get(section, {})]
        known += sorted({stage.item for stage in locked.stages.values()} - {*known})
        problem = f"there is no {name} in {MENU}, in {LOCK} or among the evidence"
        raise unknown(problem, item, known)
    return found[0]


def _line(item: Item, menu: str) -> re.Match[str] | None:
    """The line of an item in the menu; its first group is the key."""
    return re.search(rf"^ *- +([\w/]+@{item.section}\.{item.name}): .*\n", menu, re.MULTILINE)


def _refuse_needed(items: list[Item], params: dict[str, Any]) -> None:
    """Raise UserError if an item that stays in the menu needs one that goes."""
    gone = {str(item) for item in items}
    stays = {
        section: {n: v for n, v in params.get(section, {}).items() if f"{section}.{n}" not in gone}
        for section in STAGES
    }
    needed: list[str] = []
    for item in items:
        users = [
            f"{section}.{name}"
            for section, key in _USERS[item.section]
            for name, about in stays[section].items()
            if about[key] == item.name
        ]
        if item.section in MODELS and not any(item.name in stays[section] for section in MODELS):
            users += _uses_in_reports(item.name, stays["reports"])
        needed += [f"{user} needs {item}" for user in users]
    with_models = ({m["report"] for s in MODELS for m in of[s].values()} for of in (params, stays))
    for report in set.difference(*with_models) & stays["reports"].keys():
        needed.append(f"reports.{report} would have no model left: remove it too")
    if needed:
        raise UserError("nothing was removed:\n" + "\n".join(f"  {line}" for line in needed))


# The sections whose items name an item of a section, and the key that does it.
_USERS = {
    "datasets": [(section, "dataset") for section in (*MODELS, "reports")],
    "experiments": [("studies", "base")],
    "studies": [],
    "reports": [(section, "report") for section in MODELS],
}


def _uses_in_reports(model: str, reports: dict[str, Any]) -> Iterator[str]:
    """The claims and numbered figures of reports that a model decides."""
    for report, about in reports.items():
        path = CONF / f"claims/{about['claims']}.csv"
        for claim in claims.read(path):
            if model in {Path(file).parts[0] for file in claims.files(claim)}:
                yield f"claim {claim['id']} in {path}"
        for number, file in about["figures"].items():
            if file.startswith(f"{report}/{model}/"):
                yield f"reports.{report}.figures.{number}={file}"


def _existing(files: Iterable[str]) -> list[str]:
    return [file for file in files if Path(file).exists() or Path(file).is_symlink()]


def _outermost(files: Iterable[str]) -> list[str]:
    """The paths that are in no other of these."""
    known = sorted(set(files))
    return [file for file in known if not any(file.startswith(f"{other}/") for other in known)]


def _overlap(one: str, other: str) -> bool:
    """Whether two paths are the same, or one is in the other."""
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")

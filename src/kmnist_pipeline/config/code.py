"""The items of the stages whose modules depend on the settings of a model: `code` in params.yaml.

`weights` has no such modules, but is here because its items are the values of a map.

In `dvc.yaml` such a stage depends on `${item.code[0]}` and so on: on the modules that its settings
use, and no others. So a new network makes only the stages stale that use it. DVC cannot expand a
list in `deps`; if a model uses fewer modules than there are lines, the rest repeat the first one.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kmnist_pipeline.config import grid, rules
from kmnist_pipeline.config.node import ConfigError
from kmnist_pipeline.config.schema import Config, Loop
from kmnist_pipeline.config.training import Experiment, Study
from kmnist_pipeline.evidence import paths
from kmnist_pipeline.families import modules
from kmnist_pipeline.families.modules import PACKAGE

# The number of lines in `dvc.yaml`.
LINES = {
    **{"kfold_train": 9, "suspects": 9, "loop": 9, "faults": 9, "tune": 12},
    **{"evaluate": 5, "conditions": 4},
}
# Modules that all stages that train depend on.
COMMON = {"data/streams.py", "families/selection.py"}
# The names that the modules of a folder must define.
NEEDED = {
    "architectures": ("PAIRED", "build"),
    "optimizers": ("build",),
    "schedules": ("factor",),
    "augmentations": ("augment",),
    "averaging": ("Average",),
}


def of(config: Config) -> dict[str, dict[str, Any]]:
    """For each such kind of stage its items, with the `code` that each uses.

    Raises ConfigError if a chosen module lacks a name that it must define, or if a stage uses more
    modules than it has lines.
    """
    experiments, studies = config.experiments, config.studies
    found: dict[str, dict[str, Any]] = {kind: {} for kind in LINES}
    used = {name: [one] for name, one in experiments.items()}
    for name, experiment in experiments.items():
        about = {"dataset": experiment.dataset, "report": experiment.report}
        found["kfold_train"][name] = {**about, "code": _trained(name, [experiment])}
    for name, study in studies.items():
        about = {"base": study.base, "dataset": study.dataset, "report": study.report}
        used[name] = list(_tried(name, study, experiments[study.base]))
        found["tune"][name] = {**about, "code": _trained(name, used[name], "tune")}
    for name, about in rules.models_of(config).items():
        shown = {key: about[key] for key in ("dataset", "report")}
        shown["held_out"] = _held_out(about["dataset"], used[name][-1])
        found["evaluate"][name] = {**shown, "code": _measured(name, used[name])}
    for name, conditions in config.conditions.items():
        about = {"dataset": conditions.dataset, "report": conditions.report}
        code = _measured(name, [experiments[name]], "conditions")
        found["conditions"][name] = {**about, "code": code}
    for name, suspects in config.suspects.items():
        about = {"dataset": suspects.dataset, "experiment": suspects.experiment}
        base = experiments[suspects.experiment]
        code = _trained(name, [base, _changed(base, suspects.changes)], "suspects")
        found["suspects"][name] = {**about, "code": code}
    for name, loop in config.loops.items():
        found["loop"][name] = {"dataset": loop.dataset, "code": _trained(name, [loop], "loop")}
    for name, faults in config.faults.items():
        bases = {n: _changed(each, faults.changes) for n, each in faults.experiments.items()}
        tried = [_tried(n, study, bases[study.base]) for n, study in faults.studies.items()]
        code = _trained(name, itertools.chain(bases.values(), *tried), "faults")
        found["faults"][name] = {"dataset": faults.dataset, "code": code}
    items = {model: {"dataset": dataset} for dataset, model in config.weights.items()}
    return {**found, "weights": items}


def _held_out(dataset: str, last: Experiment) -> str:
    """The file with the predictions that `evaluate` reads for images that were held out.

    last: the last one that is trained, such as the winner of a study again. Most models have no
    such file: they name again one that the stage depends on anyway.
    """
    name = getattr(last.validation, "folds_of", None)
    return paths.out_of_fold(name) if name else paths.processed(dataset)


def _changed(base: Experiment, trial: dict[str, Any]) -> Experiment:
    return Experiment.model_validate(grid.apply(base.model_dump(), trial))


def _tried(name: str, study: Study, base: Experiment) -> Iterator[Experiment]:
    """The experiments that a study may train."""
    yield from rules.checked_trials(study, base, f"studies.{name}").values()
    if study.retrain:
        plain = study.model_dump()
        for point in grid.points(plain) or [{}]:
            again = grid.retrained(plain, base.model_dump(), point)
            yield Experiment.model_validate(again)


def _trained(name: str, tried: Iterable[Experiment | Loop], kind: str = "kfold_train") -> list[str]:
    """The modules with which a stage trains."""
    files = list[Path]()
    for experiment in tried:
        family, settings = experiment.model.family, experiment.model_dump()
        for module in modules.chosen(family, settings):
            _check(module)
        files += modules.used(family, settings)
    return _lines(kind, name, modules.closure(files).keys() - COMMON)


def _measured(name: str, tried: Iterable[Experiment], kind: str = "evaluate") -> list[str]:
    """The modules with which `evaluate` predicts, and explains predictions."""
    files = list[Path]()
    for experiment in tried:
        folder = PACKAGE / "families" / experiment.model.family
        files.append(folder / "model.py")
        if folder.name == "cnn":
            files.append(folder / "architectures" / f"{experiment.model.architecture}.py")
            if kind == "evaluate" and experiment.model.draws is None:
                files.append(folder / "insight/saliency.py")
    return _lines(kind, name, modules.closure(files).keys())


def _lines(kind: str, name: str, paths: Iterable[str]) -> list[str]:
    """The paths for the lines in `dvc.yaml`; packages without code are left out."""
    above = PACKAGE.parents[1]
    found = sorted(path for path in paths if not path.endswith("__init__.py"))
    found = [(PACKAGE / path).relative_to(above).as_posix() for path in found]
    if len(found) > LINES[kind]:
        raise ConfigError(
            f"{name} uses {len(found)} modules, and {kind.replace('_', '-')} in dvc.yaml has lines "
            f"for {LINES[kind]}: add lines there, and their number to LINES in config/code.py"
        )
    return found + found[:1] * (LINES[kind] - len(found))


def _check(module: Path) -> None:
    """Raise ConfigError if an exchangeable module lacks a name that its folder's modules need."""
    file = module.relative_to(PACKAGE.parents[1])
    try:
        body = ast.parse(module.read_bytes()).body
    except SyntaxError as error:
        raise ConfigError(f"{file}:{error.lineno}: not valid Python: {error.msg}") from error
    defined = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        defined |= {target.id for target in targets if isinstance(target, ast.Name)}
    for needed in NEEDED[module.parent.name]:
        if needed not in defined:
            raise ConfigError(f"{file}: must define {needed}, as the other modules there do")

"""The rules between the keys of the configuration, and the trials of its studies."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from os.path import normpath
from typing import Any

from kmnist_pipeline.config import grid
from kmnist_pipeline.config.node import ConfigError, one_of, refused, shown, typed
from kmnist_pipeline.config.schema import (
    CnnModel,
    Conditions,
    Config,
    Dataset,
    Experiment,
    LinearModel,
    NoValidation,
    Report,
    Search,
    Study,
)

# Settings that only some choices use: the choice, its values that use the setting, and whether
# they also take null.
USED = {
    "optimizer.momentum": ("optimizer.name", {"nesterov"}, False),
    "optimizer.weight_decay": ("optimizer.name", {"adamw", "nesterov"}, False),
    "optimizer.label_smoothing": ("optimizer.name", {"adamw", "nesterov"}, True),
    "trainer.warmup": ("trainer.schedule", {"linear"}, False),
    "trainer.decay": ("trainer.averaging", {"exponential"}, False),
    "trainer.affine": ("trainer.augmentation", {"distortions"}, True),
    "trainer.elastic": ("trainer.augmentation", {"distortions"}, True),
    "trainer.thickness": ("trainer.augmentation", {"distortions"}, True),
    "trainer.cutout": ("trainer.augmentation", {"distortions"}, True),
}


def check(content: Mapping[Any, Any]) -> Config:
    """The typed configuration of `content`, the sections of `params.yaml`.

    Raises ConfigError for the first misspelt key, wrong type, impossible value or unknown name.
    Its message says the key, the value and what is allowed.
    """
    config = typed("", content, Config)
    for key, dataset in config.datasets.items():
        _check_dataset(f"datasets.{key}", dataset)
    for key, experiment in config.experiments.items():
        _check_experiment(f"experiments.{key}", experiment, config)
    for key, study in config.studies.items():
        _check_study(f"studies.{key}", study, config)
        if key in config.experiments:
            raise ConfigError(f"studies.{key}: an experiment has this name already")
    for key, conditions in config.conditions.items():
        _check_conditions(f"conditions.{key}", key, conditions, config)
    for key, report in config.reports.items():
        _check_report(f"reports.{key}", report, config)
    return config


def check_bases(content: Mapping[Any, Any]) -> None:
    """Refuse a study whose base is not an experiment, before interpolations are resolved."""
    studies = content.get("studies")
    for name, study in studies.items() if isinstance(studies, Mapping) else ():
        if isinstance(study, Mapping):
            _one_of(study.get("base"), content.get("experiments", ()), f"studies.{name}.base")


def models_of(config: Config) -> dict[str, dict[str, str]]:
    """The experiments and studies by name, with their kind, dataset, report and model family."""
    bases = config.experiments
    models = [("experiment", name, base, base.report) for name, base in bases.items()]
    models += [("study", name, bases[s.base], s.report) for name, s in config.studies.items()]
    return {
        name: {"kind": kind, "dataset": e.dataset, "report": report, "family": e.model.family}
        for kind, name, e, report in models
    }


def checked_trials(study: Study, base: Experiment, key: str) -> dict[str, Experiment]:
    """The experiments that the study at `key` tries, by name such as `lr=0.1,batch_size=512`.

    Each is the base experiment, changed to the values of one point. Raises ConfigError if a point
    names a key that the base does not have, or has an invalid value.
    """
    content = _applied(base.model_dump(), study.trial, f"{key}.trial")
    space = study.search.space if study.search else {}
    tried: dict[str, Experiment] = {}
    parts: list[tuple[str, dict[str, Any]]] = [("product", study.product), ("search.space", space)]
    for part, choices in parts:
        for dotted, values in choices.items():
            ends = [values["low"], values["high"]] if isinstance(values, dict) else values
            for position, value in enumerate(ends):
                trial = _applied(content, {dotted: value}, f"{key}.{part}")
                try:
                    found = typed("", trial, Experiment)
                except ConfigError as error:  # an error of one value, not of a combination
                    where = f"{key}.{part}.{dotted}[{position}]={shown(value)}"
                    raise ConfigError(f"{where}: {str(error).partition(': ')[2]}") from error
                if part == "search.space":
                    tried[grid.name({dotted: value})] = found
    for position, point in enumerate(grid.points(study.model_dump())):
        where = f"{key}.points[{position}]"
        if not point:
            raise ConfigError(f"{where}={{}}: must change a key, such as optimizer.lr")
        name = grid.name(point)
        if name in tried:
            raise ConfigError(f"{where}: the point {name} is listed twice")
        tried[name] = typed(where, _applied(content, point, where), Experiment)
    return tried


def _applied(content: dict[str, Any], point: dict[str, Any], where: str) -> dict[str, Any]:
    try:
        return grid.apply(content, point)
    except grid.PointError as error:
        raise ConfigError(f"{where}: {error}; known keys: {_dotted(content)}") from error


def _one_of(value: Any, known: Any, key: str) -> None:
    if value not in list(known):  # a list, because the value may not be hashable
        raise refused(key, value, one_of(known))


def _dotted(content: Mapping[str, Any]) -> str:
    """The keys that a point may change, such as `optimizer.lr`."""
    keys = []
    for name, value in content.items():
        keys += [f"{name}.{key}" for key in value] if isinstance(value, Mapping) else [name]
    return ", ".join(keys)


def _check_dataset(key: str, dataset: Dataset) -> None:
    if len(dataset.shape) != 2:
        raise refused(f"{key}.shape", dataset.shape, "[height, width]")
    if not _different(dataset.classes, least=2):
        raise refused(f"{key}.classes", dataset.classes, "at least two different names")
    names = [part.name for part in dataset.parts]
    if not _different(names, least=1):
        raise refused(f"{key}.parts", names, "one or more parts with different names")
    split = dataset.split
    for name in ("train_size", "seed"):
        if split.method == "random" and getattr(split, name) is None:
            raise refused(f"{key}.split.{name}", None, "a number, because the split is random")
    if split.method == "files" and len(dataset.parts) != 2:
        raise refused(f"{key}.split.method", "files", "random, unless there are two parts")


def _check_experiment(key: str, experiment: Experiment, config: Config) -> None:
    _one_of(experiment.dataset, config.datasets, f"{key}.dataset")
    _one_of(experiment.report, config.reports, f"{key}.report")
    known = len(config.datasets[experiment.dataset].classes)
    classes = experiment.classes
    if classes is not None and not (_different(classes, least=2) and max(classes) < known):
        allowed = f"at least two different labels of 0 to {known - 1}, or null for all"
        raise refused(f"{key}.classes", classes, allowed)
    if not _different(experiment.seeds, least=1):
        raise refused(f"{key}.seeds", experiment.seeds, "one or more different seeds")
    model, validation = experiment.model, experiment.validation
    count = known if classes is None else len(classes)
    if isinstance(model, LinearModel) and model.kind == "logistic" and count != 2:
        raise refused(f"{key}.model.kind", "logistic", "softmax, unless there are two classes")
    if isinstance(model, CnnModel) and (model.draws is None) == (model.architecture == "siamese"):
        allowed = "a whole number for a siamese network, and null for any other"
        raise refused(f"{key}.model.draws", model.draws, allowed)
    if isinstance(model, CnnModel):
        _check_used(key, experiment)
        if model.draws is not None and getattr(validation, "ensemble", None):
            raise refused(f"{key}.validation.ensemble", True, "null for a siamese network")
    if isinstance(validation, NoValidation):
        for name, only in (("patience", None), ("keep", "last")):
            value = getattr(experiment.trainer, name, only)
            if value != only:
                allowed = f"{shown(only)} without validation"
                raise refused(f"{key}.trainer.{name}", value, allowed)


def _check_used(key: str, experiment: Experiment) -> None:
    """Refuse a setting of a network that has no effect, or that is missing."""
    for setting, (choice, users, optional) in USED.items():
        value, chosen = attrgetter(setting)(experiment), attrgetter(choice)(experiment)
        used = chosen in users
        if (value is not None and not used) or (value is None and used and not optional):
            allowed = f"{'a number' if used else 'null'}, because {choice} is {chosen}"
            raise refused(f"{key}.{setting}", value, allowed)
    if experiment.optimizer.label_smoothing is not None and experiment.trainer.loss != "mean":
        allowed = "null, because it is that of a mean loss"
        raise refused(
            f"{key}.optimizer.label_smoothing", experiment.optimizer.label_smoothing, allowed
        )


def _check_study(key: str, study: Study, config: Config) -> None:
    _one_of(study.base, config.experiments, f"{key}.base")
    _one_of(study.report, config.reports, f"{key}.report")
    base = config.experiments[study.base]
    _one_of(study.dataset, [base.dataset], f"{key}.dataset")
    _one_of(study.family, [base.model.family], f"{key}.family")
    given = sum(map(bool, (study.points, study.product, study.search)))
    if given != 1 or not all(study.product.values()):
        allowed = (
            "a list of at least one point, or instead a product of lists of values, or a search"
        )
        raise refused(f"{key}.points", study.points, allowed)
    if study.seeds is not None and not _different(study.seeds, least=1):
        raise refused(f"{key}.seeds", study.seeds, "one or more different seeds, or null")
    tried = checked_trials(study, base, key)
    if study.search:
        if not study.retrain:
            raise refused(f"{key}.retrain", False, "true for a search, which ends trials early")
        _check_search(f"{key}.search", study.search, list(tried.values()))
    shared = attrgetter("report", "dataset", "classes", "seeds", "model.family")
    for position, (name, trial) in enumerate(tried.items()):
        where = f"{key}.search.space[{name}]" if study.search else f"{key}.points[{position}]"
        _check_experiment(where, trial, config)
        if isinstance(trial.validation, NoValidation):
            allowed = "kfold or holdout, because validation chooses the winner"
            raise refused(f"{where}: validation.method", "none", allowed)
        if shared(trial) != shared(base):
            raise ConfigError(
                f"{where}: must not change report, dataset, classes, seeds or "
                f"model.family of the base experiment ({key}.seeds sets other seeds)"
            )


def _check_search(key: str, search: Search, trials: list[Experiment]) -> None:
    if not trials:
        raise refused(f"{key}.space", search.space, "at least one key with its values")
    for dotted, values in search.space.items():
        if isinstance(values, dict) and not values["low"] < values["high"]:
            raise refused(f"{key}.space.{dotted}.high", values["high"], "greater than low")
        if isinstance(values, dict) and values["log"] and values["low"] <= 0:
            raise refused(f"{key}.space.{dotted}.low", values["low"], "greater than 0 with log")
    last = min(getattr(trial.trainer, "epochs", 1) for trial in trials)
    if search.rungs != sorted(set(search.rungs)) or any(rung >= last for rung in search.rungs):
        allowed = f"a rising list of epochs below {last}, the last one"
        raise refused(f"{key}.rungs", search.rungs, allowed)


def _check_conditions(key: str, name: str, conditions: Conditions, config: Config) -> None:
    _one_of(conditions.model, [name], f"{key}.model")
    _one_of(name, config.experiments, f"{key}.model")
    base = config.experiments[name]
    of_model = {"dataset": base.dataset, "report": base.report, "family": base.model.family}
    for part, value in of_model.items():
        _one_of(getattr(conditions, part), [value], f"{key}.{part}")
    if isinstance(base.validation, NoValidation) or base.model.family != "cnn":
        allowed = "a network with validation, because only that has a confidence threshold"
        raise refused(f"{key}.model", name, allowed)


def _check_report(key: str, report: Report, config: Config) -> None:
    _one_of(report.dataset, config.datasets, f"{key}.dataset")
    folders = (f"data/{report.dataset}/", f"{key.removeprefix('reports.')}/")
    for number, file in report.figures.items():
        if not normpath(file).startswith(folders):
            raise refused(f"{key}.figures.{number}", file, f"under {' or '.join(folders)}")


def _different(values: list, least: int) -> bool:
    return len(values) >= least and len(set(values)) == len(values)

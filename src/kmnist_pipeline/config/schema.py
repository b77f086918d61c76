"""Typed configuration: what may stand in `conf/` and in `params.yaml`.

Every key has a type, and where its values have limits, the limits stand beside it
(`limits(...)`), so that one walk over the dataclasses (`check`) refuses a bad value
with its key, the value and what is allowed. A field without a default must be given.
DVC's own process loads this module through the Hydra plugin and every stage checks the
configuration again at its start, so it imports nothing heavy and converts no more than it must.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import Any

from omegaconf import MISSING

from kmnist_pipeline.config import grid
from kmnist_pipeline.errors import UserError

CHOICES = Path(__file__).parents[1] / "families/cnn"
SHA256 = re.compile(r"[0-9a-f]{64}")
PART = re.compile(r"[A-Za-z0-9_-]+")
NAME = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")
NO_LIMITS: Mapping[str, Any] = MappingProxyType({})


class ConfigError(UserError, ValueError):
    """A configuration value that cannot be; the message names key, value and what is allowed."""


def limits(default: Any = dataclasses.MISSING, **allowed: Any) -> Any:
    """A dataclass field with limits: `above`, `below`, `least`, `most`, `choices` or `match`."""
    return field(default=default, metadata=allowed)


def chosen(folder: str) -> Any:
    """A dataclass field that names a module of one of the folders of exchangeable modules."""
    names = sorted(file.stem for file in (CHOICES / folder).glob("[!_]*.py"))
    return limits(choices=tuple(names))


def kinds(key: str, known: Mapping[str, type]) -> Any:
    """A dataclass field of one of several types, of which the value of `key` names one."""
    return field(metadata={"kinds": (key, known)})


@dataclass
class Part:
    """One pair of IDX files, `<name>-images-idx3-ubyte` and `<name>-labels-idx1-ubyte`."""

    name: str = limits(match=PART)
    count: int = limits(least=1)
    images: str = limits(match=SHA256)
    labels: str = limits(match=SHA256)


@dataclass
class Split:
    """Which images are train and test: each part as it comes, or a seeded random split of all."""

    method: str = limits(choices=("files", "random"))
    train_size: float | None = limits(None, above=0, below=1)
    seed: int | None = limits(None, least=0)


@dataclass
class Dataset:
    """A set of labelled grey images and where its files come from.

    The order of `parts` is that of the images; a split by files takes the first for training and
    the second for test. A list, because DVC sees when the order of a list changes, but not when
    that of a map does.
    """

    title: str
    licence: str
    shape: list[int] = limits(least=1)
    pixel_max: int = limits(least=1, most=255)
    classes: list[str] = limits()
    parts: list[Part] = limits()
    sources: list[str] = limits()
    split: Split = limits()


@dataclass(kw_only=True)
class Model:
    """A classifier: `family` names the folder of `families/` that knows it."""

    family: str
    scaling: str = limits(choices=("none", "minmax", "zscore", "zscore_pixel"))


@dataclass(kw_only=True)
class LinearModel(Model):
    """Logistic or softmax regression from scratch (kmnist_linear IV and VI)."""

    family: str = "linear"
    kind: str = limits(choices=("logistic", "softmax"))


@dataclass(kw_only=True)
class SklearnModel(Model):
    """scikit-learn's `LogisticRegression` (mnist_logistic 4.5, kmnist_cnn II.B)."""

    family: str = "sklearn"
    solver: str = limits(choices=("lbfgs",))
    max_iter: int = limits(least=1)


@dataclass(kw_only=True)
class CnnModel(Model):
    """A convolutional network (kmnist_cnn II.C and IV).

    `draws`: of support images, for a Siamese network; null for any other.
    """

    family: str = "cnn"
    architecture: str = chosen("architectures")
    dropout: float = limits(least=0, below=1)
    draws: int | None = limits(least=1)


FAMILIES: dict[str, type[Model]] = {
    "linear": LinearModel,
    "sklearn": SklearnModel,
    "cnn": CnnModel,
}


@dataclass(kw_only=True)
class Optimizer:
    """How weights are updated."""

    name: str
    lr: float = limits(above=0)
    batch_size: int = limits(least=1)


@dataclass(kw_only=True)
class LinearOptimizer(Optimizer):
    """The one of the from-scratch models."""

    name: str = limits(choices=("sgd",))


@dataclass(kw_only=True)
class CnnOptimizer(Optimizer):
    """Those of the networks."""

    name: str = chosen("optimizers")


@dataclass(kw_only=True)
class SklearnTrainer:
    """scikit-learn brings its own training; what is left is what it computes in."""

    precision: str = limits(choices=("float32", "float64"))


@dataclass(kw_only=True)
class LinearTrainer:
    """How long and how exactly a model is trained.

    `patience: null` never stops early; `keep` says which epoch's weights are kept, `loss` whether
    the gradient of a batch is that of the mean or of the sum over its images.
    """

    epochs: int = limits(least=1)
    patience: int | None = limits(least=1)
    keep: str = limits(choices=("last", "best_accuracy", "best_loss"))
    loss: str = limits(choices=("mean", "sum"))
    precision: str = limits(choices=("float32", "float64"))


@dataclass(kw_only=True)
class CnnTrainer(LinearTrainer):
    """The same of a network, with the modules it is trained by; bfloat16 is no evidence."""

    precision: str = limits(choices=("float32", "bfloat16"))
    schedule: str = chosen("schedules")
    augmentation: str = chosen("augmentations")
    averaging: str = chosen("averaging")


OPTIMIZERS: dict[str, type | None] = {
    "linear": LinearOptimizer,
    "sklearn": None,
    "cnn": CnnOptimizer,
}
TRAINERS: dict[str, type] = {
    "linear": LinearTrainer,
    "sklearn": SklearnTrainer,
    "cnn": CnnTrainer,
}


@dataclass(kw_only=True)
class Validation:
    """Which training images are held out: a fold of a shuffled k-fold, a share, or none."""

    method: str


@dataclass(kw_only=True)
class KFold(Validation):
    """k folds, each held out once."""

    method: str = "kfold"
    folds: int = limits(least=2)


@dataclass(kw_only=True)
class Holdout(Validation):
    """A random share of the images, held out once."""

    method: str = "holdout"
    fraction: float = limits(above=0, below=1)


@dataclass(kw_only=True)
class NoValidation(Validation):
    """All training images are fitted; nothing is held out."""

    method: str = "none"


VALIDATIONS: dict[str, type[Validation]] = {
    "kfold": KFold,
    "holdout": Holdout,
    "none": NoValidation,
}


@dataclass
class Experiment:
    """One model trained on one data set: everything that decides its numbers."""

    report: str
    dataset: str
    classes: list[int] | None = limits(least=0)
    subset: int | None = limits(least=2)
    model: Model = kinds("family", FAMILIES)
    optimizer: dict[str, Any] | None = limits()  # by the family: OPTIMIZERS
    validation: Validation = kinds("method", VALIDATIONS)
    trainer: dict[str, Any] = limits()  # by the family: TRAINERS
    seeds: list[int] = limits(least=0)


@dataclass
class Study:
    """A search: the points tried around a base experiment, the winner by validation accuracy.

    The points are listed, or all combinations of the values in `product`. `trial` changes keys of
    every trial, such as to fewer epochs; with `retrain` the winner is then trained without that.
    `seeds` are those of the base where the study has none of its own.
    """

    report: str
    base: str
    dataset: str
    family: str
    points: list[dict[str, Any]] = limits()
    product: dict[str, list[Any]] = limits()
    trial: dict[str, Any] = limits()
    retrain: bool = limits()
    seeds: list[int] | None = limits(least=0)


@dataclass
class Report:
    """One page: what it reproduces and from which data.

    `claims` is a file of `conf/claims/`; `figures` gives the published number of a figure the
    file under `figures/` that reproduces it. Figures without a number are shown after those.
    `confidence` is that of the intervals that claims are judged by; one that reaches further than
    `margin` from its middle decides nothing.
    """

    title: str
    reproduces: str | None
    summary: str
    dataset: str
    claims: str = limits(match=NAME)
    confidence: float = limits(above=0, below=1)
    margin: float = limits(above=0, below=1)
    figures: dict[str, str] = limits()


@dataclass
class Evaluation:
    """What `evaluate` shows of every model."""

    samples: int = limits(least=1, most=100)
    promise: float = limits(above=0, below=1)


@dataclass
class Config:
    """The whole of `params.yaml`. `models` is composed: see `models_of`."""

    datasets: dict[str, Dataset] = field(default_factory=dict)
    experiments: dict[str, Experiment] = field(default_factory=dict)
    studies: dict[str, Study] = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)
    evaluation: Evaluation = MISSING
    models: Any = MISSING


def check(content: Mapping[Any, Any]) -> Config:
    """The typed configuration in `content`, the sections of `params.yaml`.

    Raises ConfigError on the first misspelt key, wrong type, impossible value or name that
    nothing has, naming key, value and what is allowed.
    """
    _known_keys("", content, Config)
    config = Config(
        datasets=_section(content, "datasets", Dataset),
        experiments=_section(content, "experiments", Experiment),
        studies=_section(content, "studies", Study),
        reports=_section(content, "reports", Report),
        evaluation=_typed("evaluation", content.get("evaluation", {}), Evaluation),
        models=content.get("models", {}),
    )
    for key, dataset in config.datasets.items():
        _check_dataset(f"datasets.{key}", dataset)
    for key, experiment in config.experiments.items():
        _check_experiment(f"experiments.{key}", experiment, config)
    for key, study in config.studies.items():
        _check_study(f"studies.{key}", study, config)
        if key in config.experiments:
            raise ConfigError(f"studies.{key}: an experiment has this name already")
    for key, report in config.reports.items():
        _check_report(f"reports.{key}", report, config)
    return config


def check_bases(content: Mapping[Any, Any]) -> None:
    """Refuse a study whose base is no experiment, in a `content` that is not resolved yet."""
    studies = content.get("studies")
    for name, study in studies.items() if isinstance(studies, Mapping) else ():
        if isinstance(study, Mapping):
            _one_of(study.get("base"), content.get("experiments", ()), f"studies.{name}.base")


def models_of(config: Config) -> dict[str, dict[str, str]]:
    """Everything that is evaluated, by name: what it is, its data set, report and model family."""
    models = {}
    for name, experiment in config.experiments.items():
        models[name] = _model("experiment", experiment, experiment.report)
    for name, study in config.studies.items():
        models[name] = _model("study", config.experiments[study.base], study.report)
    return models


def trials(study: Study, base: Experiment, key: str = "points") -> dict[str, Experiment]:
    """The experiments that a study tries, by trial name such as `lr=0.1,batch_size=512`.

    Each is the base experiment with the values of one point in place of its own. Raises
    ConfigError where a point names a key that the base does not have, or gives a bad value.
    """
    content, plain = dataclasses.asdict(base), dataclasses.asdict(study)
    of_study = key.rpartition(".")[0]
    content = _applied(content, study.trial, f"{of_study}.trial")
    for dotted, values in study.product.items():
        for position, value in enumerate(values):
            trial = _applied(content, {dotted: value}, f"{of_study}.product")
            try:
                _experiment("", trial)
            except ConfigError as error:  # of the value, not of the combinations it stands in
                where = f"{of_study}.product.{dotted}[{position}]={_shown(value)}"
                raise ConfigError(f"{where}: {str(error).partition(': ')[2]}") from error
    tried: dict[str, Experiment] = {}
    for position, point in enumerate(grid.points(plain)):
        where = f"{key}[{position}]"
        if not point:
            raise ConfigError(f"{where}={{}}: must change a key, such as optimizer.lr")
        name = grid.name(point)
        if name in tried:
            raise ConfigError(f"{where}: the point {name} stands twice")
        tried[name] = _experiment(where, _applied(content, point, where))
    return tried


def _experiment(key: str, content: Any) -> Experiment:
    """The typed experiment, its optimizer and trainer checked as those of its family."""
    experiment = _typed(key, content, Experiment)
    family = experiment.model.family
    _typed(f"{key}.trainer", experiment.trainer, TRAINERS[family])
    kind = OPTIMIZERS[family]
    if (kind is None) != (experiment.optimizer is None):
        allowed = f"null: {family} brings its own"
        if kind is not None:
            allowed = f"a map of {', '.join(_hints(kind))} for a model of the family {family}"
        raise _refused(f"{key}.optimizer", experiment.optimizer, allowed)
    if kind is not None:
        _typed(f"{key}.optimizer", experiment.optimizer, kind)
    return experiment


def _applied(content: dict[str, Any], point: dict[str, Any], where: str) -> dict[str, Any]:
    try:
        return grid.apply(content, point)
    except grid.PointError as error:
        raise ConfigError(f"{where}: {error}; known keys: {_dotted(content)}") from error


def _section(content: Mapping[str, Any], section: str, kind: type) -> dict[str, Any]:
    items = content.get(section) or {}
    if not isinstance(items, Mapping):
        raise _refused(section, items, "a map of names")
    for name in items:
        if not NAME.fullmatch(str(name)):
            raise ConfigError(f"{section}.{name}: a name is lower-case words joined by '_'")
    typed = _experiment if kind is Experiment else functools.partial(_typed, kind=kind)
    return {str(name): typed(f"{section}.{name}", node) for name, node in items.items()}


def _typed(key: str, value: Any, kind: Any, allowed: Mapping[str, Any] = NO_LIMITS) -> Any:
    """`value` as the annotated type `kind`, its parts within the limits of `allowed`."""
    if "kinds" in allowed:
        name, known = allowed["kinds"]
        if isinstance(value, Mapping):
            _one_of(value.get(name), known, f"{key}.{name}")
            kind = known[value[name]]
    if dataclasses.is_dataclass(kind):
        return _object(key, value, typing.cast(type, kind))

    generic, arguments = typing.get_origin(kind), typing.get_args(kind)
    if generic is UnionType:
        (kind,) = (part for part in arguments if part is not NoneType)
        return None if value is None else _typed(key, value, kind, allowed)
    if generic is list:
        if not isinstance(value, list | tuple):
            raise _refused(key, value, "a list")
        return [_typed(f"{key}[{i}]", v, arguments[0], allowed) for i, v in enumerate(value)]
    if generic is dict:
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise _refused(key, value, "a map whose keys are text (in quotes, if numbers)")
        return {n: _typed(f"{key}.{n}", v, arguments[1], allowed) for n, v in value.items()}
    return value if kind is Any else _scalar(key, value, kind, allowed)


def _object(key: str, node: Any, kind: type) -> Any:
    """`node` as the dataclass `kind`."""
    if not isinstance(node, Mapping):
        raise _refused(key, node, f"a map of {', '.join(_hints(kind))}")
    _known_keys(key, node, kind)
    values = {}
    for part in dataclasses.fields(kind):
        if part.name in node and node[part.name] != MISSING:
            where = f"{key}.{part.name}"
            values[part.name] = _typed(
                where, node[part.name], _hints(kind)[part.name], part.metadata
            )
        elif part.default is part.default_factory is dataclasses.MISSING:
            raise ConfigError(
                f"{key}.{part.name}: is missing; {key} needs {', '.join(_hints(kind))} "
                "(does its file start with `defaults: [base, _self_]`?)"
            )
    return kind(**values)


def _scalar(key: str, value: Any, kind: type, allowed: Mapping[str, Any]) -> Any:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if kind is int and not whole:
        raise _refused(key, value, "a whole number")
    if kind is bool and not isinstance(value, bool):
        raise _refused(key, value, "true or false")
    if kind is float and not (whole or (isinstance(value, float) and math.isfinite(value))):
        raise _refused(key, value, "a number")
    if kind is str:
        if not (whole or isinstance(value, str)):
            raise _refused(key, value, "text (in quotes, if it looks like something else)")
        value = str(value)
    _check_limits(key, value, allowed)
    return kind(value)


def _check_limits(key: str, value: Any, allowed: Mapping[str, Any]) -> None:
    if "choices" in allowed:
        _one_of(value, allowed["choices"], key)
    if "match" in allowed and not allowed["match"].fullmatch(value):
        raise _refused(key, value, f"text that matches {allowed['match'].pattern}")
    bounds = {
        "above": ("greater than", lambda bound: value > bound),
        "least": ("at least", lambda bound: value >= bound),
        "below": ("less than", lambda bound: value < bound),
        "most": ("at most", lambda bound: value <= bound),
    }
    stated = {name: allowed[name] for name in bounds if name in allowed}
    if not all(bounds[name][1](bound) for name, bound in stated.items()):
        words = [f"{bounds[name][0]} {bound}" for name, bound in stated.items()]
        raise _refused(key, value, " and ".join(words))


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    """The annotated type of each field, in order."""
    hints = typing.get_type_hints(kind)
    return {part.name: hints[part.name] for part in dataclasses.fields(kind)}


def _known_keys(key: str, node: Mapping[Any, Any], kind: type) -> None:
    for name, value in node.items():
        if name not in _hints(kind):
            where = f"{key}.{name}" if key else name
            raise ConfigError(
                f"{where}={_shown(value)}: there is no such key; "
                f"known keys: {', '.join(_hints(kind))}"
            )


def _one_of(value: Any, known: Any, key: str) -> None:
    if value not in list(known):  # a list, for it may not be hashable
        raise _refused(key, value, f"one of {', '.join(map(str, known))}")


def _refused(key: str, value: Any, allowed: str) -> ConfigError:
    return ConfigError(f"{key}={_shown(value)}: must be {allowed}")


def _shown(value: Any) -> str:
    return value if value and isinstance(value, str) else json.dumps(value, default=str)


def _dotted(content: Mapping[str, Any]) -> str:
    """The keys that a point may change, such as `optimizer.lr`."""
    keys = []
    for name, value in content.items():
        keys += [f"{name}.{key}" for key in value] if isinstance(value, Mapping) else [name]
    return ", ".join(keys)


def _check_dataset(key: str, dataset: Dataset) -> None:
    if len(dataset.shape) != 2:
        raise _refused(f"{key}.shape", dataset.shape, "[height, width]")
    if not _different(dataset.classes, least=2):
        raise _refused(f"{key}.classes", dataset.classes, "at least two different names")
    names = [part.name for part in dataset.parts]
    if not _different(names, least=1):
        raise _refused(f"{key}.parts", names, "one or more of different names")
    split = dataset.split
    for name in ("train_size", "seed"):
        if split.method == "random" and getattr(split, name) is None:
            raise _refused(f"{key}.split.{name}", None, "a number where the split is random")
    if split.method == "files" and len(dataset.parts) != 2:
        raise _refused(f"{key}.split.method", "files", "random, unless there are two parts")


def _check_experiment(key: str, experiment: Experiment, config: Config) -> None:
    _one_of(experiment.dataset, config.datasets, f"{key}.dataset")
    _one_of(experiment.report, config.reports, f"{key}.report")
    known = len(config.datasets[experiment.dataset].classes)
    classes = experiment.classes
    if classes is not None and not (_different(classes, least=2) and max(classes) < known):
        allowed = f"at least two different labels of 0 to {known - 1}, or null for all"
        raise _refused(f"{key}.classes", classes, allowed)
    if not _different(experiment.seeds, least=1):
        raise _refused(f"{key}.seeds", experiment.seeds, "one or more different seeds")
    model, validation = experiment.model, experiment.validation
    count = known if classes is None else len(classes)
    if isinstance(model, LinearModel) and model.kind == "logistic" and count != 2:
        raise _refused(f"{key}.model.kind", "logistic", "softmax, unless there are two classes")
    if isinstance(model, CnnModel) and (model.draws is None) == (model.architecture == "siamese"):
        allowed = "a whole number for a siamese network, and null for any other"
        raise _refused(f"{key}.model.draws", model.draws, allowed)
    if isinstance(validation, NoValidation):
        for name, only in (("patience", None), ("keep", "last")):
            value = experiment.trainer.get(name, only)
            if value != only:
                allowed = f"{_shown(only)} without validation"
                raise _refused(f"{key}.trainer.{name}", value, allowed)


def _check_study(key: str, study: Study, config: Config) -> None:
    _one_of(study.base, config.experiments, f"{key}.base")
    _one_of(study.report, config.reports, f"{key}.report")
    base = config.experiments[study.base]
    _one_of(study.dataset, [base.dataset], f"{key}.dataset")
    _one_of(study.family, [base.model.family], f"{key}.family")
    if bool(study.points) == bool(study.product) or not all(study.product.values()):
        allowed = "a list of at least one point, or instead a product of lists of values"
        raise _refused(f"{key}.points", study.points, allowed)
    if study.seeds is not None and not _different(study.seeds, least=1):
        raise _refused(f"{key}.seeds", study.seeds, "one or more different seeds, or null")
    tried = trials(study, base, f"{key}.points")
    for position, trial in enumerate(tried.values()):
        _check_experiment(f"{key}.points[{position}]", trial, config)
        if isinstance(trial.validation, NoValidation):
            where = f"{key}.points[{position}]: validation.method"
            raise _refused(where, "none", "kfold or holdout, by which the winner is chosen")
        if _fixed(trial) != _fixed(base):
            raise ConfigError(
                f"{key}.points[{position}]: report, dataset, classes, seeds and model.family are "
                f"the base experiment's; known keys are the others ({key}.seeds sets other seeds)"
            )


def _check_report(key: str, report: Report, config: Config) -> None:
    _one_of(report.dataset, config.datasets, f"{key}.dataset")
    folders = (f"data/{report.dataset}/", f"{key.removeprefix('reports.')}/")
    for number, file in report.figures.items():
        if not file.startswith(folders):
            raise _refused(f"{key}.figures.{number}", file, f"under {' or '.join(folders)}")


def _model(kind: str, experiment: Experiment, report: str) -> dict[str, str]:
    family = experiment.model.family
    return {"kind": kind, "dataset": experiment.dataset, "report": report, "family": family}


def _different(values: list, least: int) -> bool:
    return len(values) >= least and len(set(values)) == len(values)


def _fixed(experiment: Experiment) -> tuple[Any, ...]:
    """What every trial of a study has in common."""
    return (
        experiment.report,
        experiment.dataset,
        experiment.classes,
        experiment.seeds,
        experiment.model.family,
    )

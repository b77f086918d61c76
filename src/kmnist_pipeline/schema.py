"""Typed configuration: what may stand in `conf/` and in `params.yaml`.

Every key has a type, and where its values have limits, the limits stand beside it
(`limits(...)`), so that one walk over the dataclasses (`check`) refuses a bad value
with its key, the value and what is allowed. DVC's own process loads this module through
the Hydra plugin, so it imports nothing heavy.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.training import trials as points

SHA256 = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")


class ConfigError(UserError, ValueError):
    """A configuration value that cannot be; the message names key, value and what is allowed."""


def limits(default: Any = MISSING, **allowed: Any) -> Any:
    """A dataclass field with limits: `above`, `below`, `least`, `most`, `choices` or `match`."""
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=allowed)
    return field(default=default, metadata=allowed)


@dataclass
class Part:
    """One pair of IDX files, `<part>-images-idx3-ubyte` and `<part>-labels-idx1-ubyte`."""

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
    """A set of labelled grey images and where its files come from."""

    title: str = MISSING
    licence: str = MISSING
    shape: list[int] = limits(least=1)
    pixel_max: int = limits(least=1, most=255)
    classes: list[str] = MISSING
    parts: dict[str, Part] = MISSING
    sources: list[str] = MISSING
    split: Split = MISSING


@dataclass
class Model:
    """A classifier: `family` names the modules in `models/` and `training/` that know it."""

    family: str = MISSING
    scaling: str = limits(choices=("none", "minmax", "zscore", "zscore_pixel"))


@dataclass
class LinearModel(Model):
    """Logistic or softmax regression from scratch (kmnist_linear IV and VI)."""

    family: str = limits("linear", choices=("linear",))
    kind: str = limits(choices=("logistic", "softmax"))


@dataclass
class SklearnModel(Model):
    """scikit-learn's `LogisticRegression` (mnist_logistic 4.5, kmnist_cnn II.B)."""

    family: str = limits("sklearn", choices=("sklearn",))
    solver: str = limits(choices=("lbfgs",))
    max_iter: int = limits(least=1)


@dataclass
class Optimizer:
    """How weights are updated."""

    lr: float = limits(above=0)
    batch_size: int = limits(least=1)


@dataclass
class Validation:
    """Which training images are held out: the k folds of a shuffled k-fold, or none."""

    method: str = limits(choices=("kfold", "none"))


@dataclass
class KFold(Validation):
    """k folds, each held out once."""

    method: str = limits("kfold", choices=("kfold",))
    folds: int = limits(least=2)


@dataclass
class NoValidation(Validation):
    """All training images are fitted; nothing is held out."""

    method: str = limits("none", choices=("none",))


@dataclass
class Trainer:
    """How long and how exactly a model is trained. `patience: null` never stops early."""

    epochs: int | None = limits(None, least=1)
    patience: int | None = limits(None, least=1)
    precision: str = limits(choices=("float32", "float64"))
    threads: int = limits(least=1)


@dataclass
class Experiment:
    """One model trained on one data set: everything that decides its numbers."""

    report: str = MISSING
    dataset: str = MISSING
    classes: list[int] | None = limits(least=0)
    subset: int | None = limits(least=2)
    model: Model = MISSING
    optimizer: Optimizer | None = MISSING
    validation: Validation = MISSING
    trainer: Trainer = MISSING
    seeds: list[int] = limits(least=0)


@dataclass
class Study:
    """A search: the points tried around a base experiment, the winner by validation accuracy."""

    report: str = MISSING
    base: str = MISSING
    dataset: str = MISSING
    family: str = MISSING
    points: list[dict[str, Any]] = MISSING


@dataclass
class Report:
    """One page: what it reproduces and from which data.

    `claims` is a file of `conf/claims/`; `figures` gives the published number of a figure the
    file under `figures/` that reproduces it. Figures without a number are shown after those.
    """

    title: str = MISSING
    reproduces: str | None = MISSING
    summary: str = MISSING
    dataset: str = MISSING
    claims: str = MISSING
    confidence: float = limits(above=0, below=1)
    figures: dict[str, str] = MISSING


@dataclass
class Evaluation:
    """What `evaluate` shows of every model."""

    samples: int = limits(least=1, most=100)


@dataclass
class Config:
    """The whole of `params.yaml`. `models` is composed: see `models_of`."""

    datasets: dict[str, Dataset] = field(default_factory=dict)
    experiments: dict[str, Experiment] = field(default_factory=dict)
    studies: dict[str, Study] = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)
    evaluation: Evaluation = MISSING
    models: Any = MISSING


FAMILIES: dict[str, type[Model]] = {"linear": LinearModel, "sklearn": SklearnModel}
VALIDATIONS: dict[str, type[Validation]] = {"kfold": KFold, "none": NoValidation}


def check(content: Mapping[Any, Any]) -> Config:
    """The typed configuration in `content`, the sections of `params.yaml`.

    Raises ConfigError on the first misspelt key, wrong type, impossible value or name that
    nothing has, naming key, value and what is allowed.
    """
    for section in content:
        _one_of(section, [f.name for f in dataclasses.fields(Config)], "section")
    config = Config(
        datasets=_section(content, "datasets", lambda _: Dataset),
        experiments=_section(content, "experiments", _experiment_type),
        studies=_section(content, "studies", lambda _: Study),
        reports=_section(content, "reports", lambda _: Report),
        evaluation=_typed("evaluation", content.get("evaluation", {}), Evaluation()),
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
    content = dataclasses.asdict(base)
    tried: dict[str, Experiment] = {}
    for position, point in enumerate(study.points):
        where = f"{key}[{position}]"
        try:
            trial = points.apply(content, point)
        except points.PointError as error:
            raise ConfigError(f"{where}: {error}") from error
        name = points.name(point)
        if name in tried:
            raise ConfigError(f"{where}: the point {name} stands twice")
        tried[name] = _typed(where, trial, _experiment_type(trial)())
    return tried


def _section(content: Mapping[str, Any], section: str, type_of: Any) -> dict[str, Any]:
    items = content.get(section) or {}
    if not isinstance(items, Mapping):
        raise ConfigError(f"{section}={items!r}: must be a map of names")
    typed = {}
    for name, node in items.items():
        if not NAME.fullmatch(str(name)):
            raise ConfigError(f"{section}.{name}: a name is lower-case words joined by '_'")
        if not isinstance(node, Mapping):
            raise ConfigError(f"{section}.{name}={node!r}: must be a map of keys")
        key = f"{section}.{name}"
        typed[name] = _typed(key, node, type_of(node)())
    return typed


def _experiment_type(node: Mapping[str, Any]) -> Any:
    """A maker of an Experiment whose parts are of the kinds that `node` names."""
    family = str((node.get("model") or {}).get("family"))
    method = str((node.get("validation") or {}).get("method"))

    def make() -> Experiment:
        model = FAMILIES.get(family, Model)()
        return Experiment(model=model, validation=VALIDATIONS.get(method, Validation)())

    return make


def _typed(key: str, node: Any, blank: Any) -> Any:
    """`node` converted to the dataclass of `blank`, its types and limits checked."""
    structured = OmegaConf.structured(blank)
    try:
        typed = OmegaConf.merge(structured, node)
        problem = OmegaConf.missing_keys(typed)
        if problem:
            raise ConfigError(
                f"{key}.{min(problem)}: is missing (does its file start with `- base`?)"
            )
        value = OmegaConf.to_object(typed)
    except OmegaConfBaseException as error:
        where = f"{key}.{error.full_key}" if error.full_key else key
        what = str(error.msg or error).splitlines()[0]
        known = getattr(error.parent_node, "_metadata", None)
        if known is not None and dataclasses.is_dataclass(known.object_type):
            names = ", ".join(f.name for f in dataclasses.fields(known.object_type))
            what += f" (known keys: {names})"
        raise ConfigError(f"{where}: {what}") from error
    _check_limits(key, value)
    return value


def _check_limits(key: str, value: Any) -> None:
    for item in dataclasses.fields(value):
        inner = getattr(value, item.name)
        where = f"{key}.{item.name}"
        for part, name in _parts(inner, where):
            if dataclasses.is_dataclass(part):
                _check_limits(name, part)
            elif part is not None:
                _check_value(name, part, item.metadata)


def _parts(value: Any, key: str) -> list[tuple[Any, str]]:
    if isinstance(value, list):
        return [(part, f"{key}[{i}]") for i, part in enumerate(value)]
    if isinstance(value, dict):
        return [(part, f"{key}.{name}") for name, part in value.items()]
    return [(value, key)]


def _check_value(key: str, value: Any, allowed: Mapping[str, Any]) -> None:
    if "choices" in allowed:
        _one_of(value, allowed["choices"], key)
    if "match" in allowed and not allowed["match"].fullmatch(value):
        raise ConfigError(f"{key}={value}: must match {allowed['match'].pattern}")
    bounds = {
        "above": ("greater than", lambda bound: value > bound),
        "least": ("at least", lambda bound: value >= bound),
        "below": ("less than", lambda bound: value < bound),
        "most": ("at most", lambda bound: value <= bound),
    }
    if all(holds(allowed[name]) for name, (_, holds) in bounds.items() if name in allowed):
        return
    limits_ = " and ".join(
        f"{words} {allowed[n]}" for n, (words, _) in bounds.items() if n in allowed
    )
    raise ConfigError(f"{key}={value}: must be {limits_}")


def _one_of(value: Any, known: Any, key: str) -> None:
    if value not in known:
        raise ConfigError(f"{key}={value}: must be one of {', '.join(map(str, known))}")


def _check_dataset(key: str, dataset: Dataset) -> None:
    if len(dataset.shape) != 2:
        raise ConfigError(f"{key}.shape={dataset.shape}: must be [height, width]")
    if len(dataset.classes) < 2:
        raise ConfigError(f"{key}.classes={dataset.classes}: must name at least two classes")
    split = dataset.split
    if split.method == "random" and (split.train_size is None or split.seed is None):
        raise ConfigError(f"{key}.split: a random split needs train_size and seed")
    if split.method == "files" and len(dataset.parts) != 2:
        raise ConfigError(
            f"{key}.split.method=files: needs two parts, train then test, "
            f"not {', '.join(dataset.parts) or 'none'}"
        )


def _check_experiment(key: str, experiment: Experiment, config: Config) -> None:
    _one_of(experiment.dataset, config.datasets, f"{key}.dataset")
    _one_of(experiment.report, config.reports, f"{key}.report")
    known = len(config.datasets[experiment.dataset].classes)
    classes = experiment.classes
    for label in classes or []:
        if label >= known:
            raise ConfigError(f"{key}.classes={classes}: {label} must be at most {known - 1}")
    if classes is not None and (len(classes) < 2 or len(set(classes)) < len(classes)):
        raise ConfigError(f"{key}.classes={classes}: must be at least two different classes")
    if not experiment.seeds or len(set(experiment.seeds)) < len(experiment.seeds):
        raise ConfigError(f"{key}.seeds={experiment.seeds}: must be one or more different seeds")
    model = experiment.model
    if isinstance(model, LinearModel):
        if model.kind == "logistic" and (known if classes is None else len(classes)) != 2:
            raise ConfigError(f"{key}.model.kind=logistic: needs `classes` to name two classes")
        if experiment.optimizer is None:
            raise ConfigError(f"{key}.optimizer: a linear model needs one (lr, batch_size)")
        if experiment.trainer.epochs is None:
            raise ConfigError(f"{key}.trainer.epochs: a linear model needs a number of epochs")
        if not isinstance(experiment.validation, KFold):
            raise ConfigError(f"{key}.validation.method: a linear model needs kfold")
    elif experiment.optimizer is not None:
        raise ConfigError(f"{key}.optimizer: {model.family} brings its own; must be null")


def _check_study(key: str, study: Study, config: Config) -> None:
    _one_of(study.base, config.experiments, f"{key}.base")
    _one_of(study.report, config.reports, f"{key}.report")
    base = config.experiments[study.base]
    _one_of(study.dataset, [base.dataset], f"{key}.dataset")
    _one_of(study.family, [base.model.family], f"{key}.family")
    if not study.points:
        raise ConfigError(f"{key}.points: must list at least one point")
    tried = trials(study, base, f"{key}.points")
    for position, trial in enumerate(tried.values()):
        _check_experiment(f"{key}.points[{position}]", trial, config)
        fixed = (trial.dataset, trial.classes, trial.seeds)
        if fixed != (base.dataset, base.classes, base.seeds):
            raise ConfigError(
                f"{key}.points[{position}]: dataset, classes and seeds are the base experiment's"
            )


def _check_report(key: str, report: Report, config: Config) -> None:
    _one_of(report.dataset, config.datasets, f"{key}.dataset")
    folders = (f"data/{report.dataset}/", f"{key.removeprefix('reports.')}/")
    for number, file in report.figures.items():
        if not file.startswith(folders):
            raise ConfigError(
                f"{key}.figures.{number}={file}: must be under {' or '.join(folders)}"
            )


def _model(kind: str, experiment: Experiment, report: str) -> dict[str, str]:
    family = experiment.model.family
    return {"kind": kind, "dataset": experiment.dataset, "report": report, "family": family}

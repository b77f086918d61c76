"""The rules between the keys of the configuration, and the trials of its studies."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from os.path import normpath
from typing import Any

from kmnist_pipeline.config import grid
from kmnist_pipeline.config.node import ConfigError, one_of, refused, shown, typed
from kmnist_pipeline.config.schema import (
    Conditions,
    Config,
    Dataset,
    Faults,
    Loop,
    PublishedDataset,
    Readings,
    Report,
    Suspects,
)
from kmnist_pipeline.config.training import (
    CnnModel,
    Experiment,
    KFold,
    LinearModel,
    NoValidation,
    Search,
    Study,
)

MOST_CLASSES = 1000
SMALLEST = 4  # pixels of a side: with fewer, pooling leaves nothing of an image
EXCLUDED = "excluded"  # as in data/reviews.py, which no stage needs for its configuration

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
    for key, suspects in config.suspects.items():
        _check_suspects(key, suspects, config)
    for key, loop in config.loops.items():
        _check_loop(key, loop, config)
    for key, readings in config.readings.items():
        _one_of(key, config.reports, f"readings.{key}")
        _check_readings(f"readings.{key}", readings)
    for key, faults in config.faults.items():
        _one_of(key, config.reports, f"faults.{key}")
        _check_faults(f"faults.{key}", faults, config)
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
            raise ConfigError(
                f"{where}={{}}: a point must change at least one key, such as optimizer.lr"
            )
        name = grid.name(point)
        if name in tried:
            raise ConfigError(f"{where}: the point {name} is listed twice")
        tried[name] = typed(where, _applied(content, point, where), Experiment)
    return tried


def with_fault(fault: Mapping[str, Any], before: Any) -> Any:
    """The value of a setting after a fault with the `act` change, multiply or add."""
    match fault["act"]:
        case "change":
            return fault["value"]
        case "multiply":
            return before * fault["factor"]
        case _:
            return before + fault["amount"]


def _applied(content: dict[str, Any], point: dict[str, Any], where: str) -> dict[str, Any]:
    try:
        return grid.apply(content, point)
    except grid.PointError as error:
        raise ConfigError(f"{where}: {error}; known keys: {_dotted(content)}") from error


def _one_of(value: Any, known: Any, key: str) -> None:
    if value not in list(known):  # a list, because the value may not be hashable
        allowed = one_of(known) if len(known) else "one that conf/config.yaml lists; it lists none"
        raise refused(key, value, allowed)


def _dotted(content: Mapping[str, Any]) -> str:
    """The keys that a point may change, such as `optimizer.lr`."""
    keys = []
    for name, value in content.items():
        keys += [f"{name}.{key}" for key in value] if isinstance(value, Mapping) else [name]
    return ", ".join(keys)


def _check_dataset(key: str, dataset: Dataset) -> None:
    if len(dataset.shape) != 2 and dataset.shape[2:] != [3]:
        raise refused(f"{key}.shape", dataset.shape, "[height, width] or [height, width, 3]")
    classes = dataset.classes
    if not _different(classes, least=2) or len(classes) > MOST_CLASSES:
        allowed = f"2 to {MOST_CLASSES:,} different names"
        raise refused(f"{key}.classes", classes if len(classes) < 10 else len(classes), allowed)
    for position, name in enumerate(classes):
        # numbers.py writes a list as a map whose keys begin with #.
        if not name.strip() or not name.isprintable() or name.startswith("#"):
            allowed = "printable text that does not begin with #"
            raise refused(f"{key}.classes[{position}]", name, allowed)
        if name == EXCLUDED:
            allowed = "another name, because reviews use this one for images that are left out"
            raise refused(f"{key}.classes[{position}]", name, allowed)
    if isinstance(dataset, PublishedDataset):
        _check_parts(key, dataset)


def _check_parts(key: str, dataset: PublishedDataset) -> None:
    if len(dataset.shape) != 2:
        raise refused(f"{key}.shape", dataset.shape, "[height, width], because IDX files are grey")
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
        _check_size(key, model, config.datasets[experiment.dataset])
        _check_used(key, experiment)
        if model.draws is not None and getattr(validation, "ensemble", None):
            raise refused(f"{key}.validation.ensemble", True, "null for a siamese network")
    if isinstance(validation, NoValidation):
        _check_unvalidated(key, experiment.trainer)


def _check_size(key: str, model: Any, dataset: Dataset) -> None:
    height, width = dataset.shape[:2]
    if isinstance(model, CnnModel) and min(height, width) < SMALLEST:
        allowed = (
            f"another family, because a network needs images of {SMALLEST}x{SMALLEST} pixels or "
            f"more, and these have {height}x{width}; `kmnist import --size` makes them larger"
        )
        raise refused(f"{key}.model.family", "cnn", allowed)


def _check_unvalidated(key: str, trainer: Any) -> None:
    for name, only in (("patience", None), ("keep", "last")):
        value = getattr(trainer, name, only)
        if value != only:
            raise refused(f"{key}.trainer.{name}", value, f"{shown(only)} without validation")


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


def _check_suspects(name: str, suspects: Suspects, config: Config) -> None:
    key = f"suspects.{name}"
    _one_of(name, config.reports, key)
    _one_of(suspects.experiment, config.experiments, f"{key}.experiment")
    base = config.experiments[suspects.experiment]
    _one_of(suspects.dataset, [config.reports[name].dataset], f"{key}.dataset")
    _one_of(suspects.dataset, [base.dataset], f"{key}.dataset")
    _one_of(suspects.family, [base.model.family], f"{key}.family")
    changed = _applied(base.model_dump(), suspects.trial, f"{key}.trial")
    trial = typed(f"{key}.trial", changed, Experiment)
    _check_experiment(f"{key}.trial", trial, config)
    kept = attrgetter("report", "dataset", "classes", "subset", "model.family")
    if kept(trial) != kept(base):
        allowed = "other keys than report, dataset, classes, subset and model.family"
        raise refused(f"{key}.trial", suspects.trial, allowed)
    for where, experiment in ((f"{key}.experiment", base), (f"{key}.trial", trial)):
        if not isinstance(experiment.validation, KFold):
            allowed = "an experiment with kfold validation, because each image needs a prediction"
            raise refused(where, suspects.experiment, allowed)
        if getattr(experiment.model, "draws", None) is not None:
            raise refused(where, suspects.experiment, "no Siamese network")
    if suspects.ranks != sorted(set(suspects.ranks)) or not suspects.ranks:
        raise refused(f"{key}.ranks", suspects.ranks, "a rising list of counts")


def _check_loop(name: str, loop: Loop, config: Config) -> None:
    key = f"loops.{name}"
    _one_of(name, config.reports, key)
    _one_of(loop.dataset, [config.reports[name].dataset], f"{key}.dataset")
    if not _different(loop.seeds, least=1):
        raise refused(f"{key}.seeds", loop.seeds, "one or more different seeds")
    classes = len(config.datasets[loop.dataset].classes)
    if isinstance(loop.model, LinearModel) and loop.model.kind == "logistic" and classes != 2:
        raise refused(f"{key}.model.kind", "logistic", "softmax, unless there are two classes")
    _check_size(key, loop.model, config.datasets[loop.dataset])
    if isinstance(loop.model, CnnModel) and loop.model.draws is not None:
        raise refused(f"{key}.model.draws", loop.model.draws, "null")
    _check_unvalidated(key, loop.trainer)


def _check_report(key: str, report: Report, config: Config) -> None:
    _one_of(report.dataset, config.datasets, f"{key}.dataset")
    folders = (f"data/{report.dataset}/", f"{key.removeprefix('reports.')}/")
    for number, file in report.figures.items():
        if not normpath(file).startswith(folders):
            raise refused(f"{key}.figures.{number}", file, f"under {' or '.join(folders)}")


def _check_readings(key: str, readings: Readings) -> None:
    """Refuse readings that cannot be trained, or that do not have our protocol's among them."""
    if not _different(readings.seeds, least=1):
        raise refused(f"{key}.seeds", readings.seeds, "one or more different seeds")
    choices = readings.choices
    for name, values in choices.model_dump().items():
        if not _different(values, least=1):
            raise refused(f"{key}.choices.{name}", values, "one or more different values")
    if "mean_best" not in choices.value:
        raise refused(f"{key}.choices.value", choices.value, "a list with mean_best, our protocol")
    for name, study in readings.studies.items():
        _one_of(study.base, readings.experiments, f"{key}.studies.{name}.base")
    known = readings.experiments.items()
    if not readings.experiments:
        raise refused(f"{key}.experiments", {}, "at least one experiment")
    for name, experiment in known:
        where = f"{key}.experiments.{name}"
        _one_of(experiment.dataset, [readings.dataset], f"{where}.dataset")
        _one_of(experiment.model.family, ["linear"], f"{where}.model.family")
        _one_of(experiment.validation.method, ["kfold"], f"{where}.validation.method")
        _one_of(experiment.subset, [None], f"{where}.subset")
        _one_of(experiment.trainer.patience, [None], f"{where}.trainer.patience")
        _one_of(experiment.trainer.precision, ["float64"], f"{where}.trainer.precision")
        for dotted in ("model.scaling", "trainer.loss", "trainer.epochs", "trainer.keep"):
            allowed = getattr(choices, dotted.partition(".")[2])
            _one_of(attrgetter(dotted)(experiment), allowed, f"{where}.{dotted}")
        _one_of(experiment.validation.folds, choices.folds, f"{where}.validation.folds")


def _check_faults(key: str, faults: Faults, config: Config) -> None:
    """Refuse faults that cannot be put into the models of the study."""
    if not faults.experiments or not faults.catalogue:
        raise refused(f"{key}.experiments", {}, "at least one experiment, with a catalogue")
    for name, study in faults.studies.items():
        _one_of(study.base, faults.experiments, f"{key}.studies.{name}.base")
    for name, experiment in faults.experiments.items():
        where = f"{key}.experiments.{name}"
        _one_of(experiment.dataset, [faults.dataset], f"{where}.dataset")
        _one_of(experiment.model.family, [faults.family], f"{where}.model.family")
        trial = typed(where, _applied(experiment.model_dump(), faults.trial, f"{key}.trial"),
                      Experiment)  # fmt: skip
        _check_experiment(where, trial, config)
        _check_catalogue(key, faults, where, trial, config)


def _check_catalogue(
    key: str, faults: Faults, where: str, trial: Experiment, config: Config
) -> None:
    known, content = len(config.datasets[trial.dataset].classes), trial.model_dump()
    for name, fault in faults.catalogue.items():
        place = f"{key}.catalogue.{name}"
        classes = getattr(fault, "classes", [0, 1])
        count = len(trial.classes) if trial.classes else known
        if not (_different(classes, least=2) and max(classes) < count):
            allowed = f"two different positions of 0 to {count - 1}, the classes of {where}"
            raise refused(f"{place}.classes", classes, allowed)
        for dotted in getattr(fault, "settings", ()):
            part, _, setting = dotted.partition(".")
            settings = content.get(part)
            before = settings.get(setting) if isinstance(settings, dict) else None
            if before is None:
                continue
            if fault.act != "change" and not isinstance(before, int | float):
                raise refused(f"{place}.settings", fault.settings, "keys whose values are numbers")
            after = with_fault(fault.model_dump(), before)
            typed(f"{place}: {where}", grid.apply(content, {dotted: after}), Experiment)


def _different(values: list, least: int) -> bool:
    return len(values) >= least and len(set(values)) == len(values)

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
    Study,
    check_search,
    check_size,
    check_unvalidated,
    check_used,
)

MOST_CLASSES = 1000
EXCLUDED = "excluded"  # as in data/reviews.py, which no stage needs for its configuration

# The settings that readings change, whose values are in `choices`, and those that they need.
PROTOCOL = ("model.scaling", "trainer.loss", "validation.folds", "trainer.epochs", "trainer.keep")
READ = {
    "model.family": "linear",
    "validation.method": "kfold",
    "validation.ensemble": None,
    "subset": None,
    "trainer.patience": None,
    "trainer.precision": "float64",
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
        _check_readings(f"readings.{key}", readings, config)
    for key, faults in config.faults.items():
        _check_faults(f"faults.{key}", faults, config)
    _check_weights(config)
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
        check_size(key, model, config.datasets[experiment.dataset].shape)
        check_used(key, experiment)
        if model.draws is not None and getattr(validation, "ensemble", None):
            raise refused(f"{key}.validation.ensemble", True, "null for a siamese network")
    if isinstance(validation, NoValidation):
        check_unvalidated(key, experiment.trainer)
        _check_folds_of(f"{key}.validation.folds_of", experiment, config)


def _check_folds_of(key: str, experiment: Experiment, config: Config) -> None:
    """Refuse another experiment than one that trains the same network on folds.

    It may train for fewer epochs: then its confidence is calibrated on more errors.
    """
    name = experiment.validation.folds_of
    if name is None:
        return
    same = attrgetter("dataset", "classes", "subset", "model", "optimizer")

    def but_for_epochs(of: Experiment) -> Any:
        return same(of), of.trainer.model_dump(exclude={"epochs"})

    known = [
        other
        for other, folded in config.experiments.items()
        if isinstance(experiment.model, CnnModel)
        and isinstance(folded.validation, KFold)
        and but_for_epochs(folded) == but_for_epochs(experiment)
        and folded.trainer.epochs <= experiment.trainer.epochs
    ]
    if name not in known:
        allowed = "an experiment with the same network, training and images, on folds"
        raise refused(key, name, allowed + (f": {', '.join(known)}" if known else ""))


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
        check_search(f"{key}.search", study.search, list(tried.values()))
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


def _check_conditions(key: str, name: str, conditions: Conditions, config: Config) -> None:
    _one_of(conditions.model, [name], f"{key}.model")
    _one_of(name, config.experiments, f"{key}.model")
    base = config.experiments[name]
    of_model = {"dataset": base.dataset, "report": base.report, "family": base.model.family}
    for part, value in of_model.items():
        _one_of(getattr(conditions, part), [value], f"{key}.{part}")
    held_out = getattr(base.validation, "folds_of", base.validation)
    if held_out is None or base.model.family != "cnn":
        allowed = (
            "a network with validation, or with validation.folds_of, because only that has a "
            "confidence threshold"
        )
        raise refused(f"{key}.model", name, allowed)


def _check_weights(config: Config) -> None:
    models = models_of(config)
    for dataset, model in config.weights.items():
        _one_of(dataset, config.datasets, f"weights.{dataset}")
        known = [name for name, about in models.items() if about["dataset"] == dataset]
        if model not in known:
            allowed = f"an experiment or study of {dataset}: {', '.join(known) or 'it has none'}"
            raise refused(f"weights.{dataset}", model, allowed)


def _check_suspects(name: str, suspects: Suspects, config: Config) -> None:
    key = f"suspects.{name}"
    _one_of(name, config.reports, key)
    _one_of(suspects.experiment, config.experiments, f"{key}.experiment")
    base = config.experiments[suspects.experiment]
    _one_of(suspects.dataset, [config.reports[name].dataset], f"{key}.dataset")
    _one_of(suspects.dataset, [base.dataset], f"{key}.dataset")
    _one_of(suspects.family, [base.model.family], f"{key}.family")
    changed = _applied(base.model_dump(), suspects.changes, f"{key}.changes")
    again = typed(f"{key}.changes", changed, Experiment)
    _check_experiment(f"{key}.changes", again, config)
    kept = attrgetter("report", "dataset", "classes", "subset", "model.family")
    if kept(again) != kept(base):
        allowed = "keys other than report, dataset, classes, subset and model.family"
        raise refused(f"{key}.changes", suspects.changes, allowed)
    for where, experiment in ((f"{key}.experiment", base), (f"{key}.changes", again)):
        if not isinstance(experiment.validation, KFold):
            allowed = "an experiment with kfold validation, because each image needs a prediction"
            raise refused(where, suspects.experiment, allowed)
        if getattr(experiment.model, "draws", None) is not None:
            raise refused(where, suspects.experiment, "an experiment without a Siamese network")
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
    check_size(key, loop.model, config.datasets[loop.dataset].shape)
    if isinstance(loop.model, CnnModel) and loop.model.draws is not None:
        raise refused(f"{key}.model.draws", loop.model.draws, "null")
    check_unvalidated(key, loop.trainer)


def _check_report(key: str, report: Report, config: Config) -> None:
    _one_of(report.dataset, config.datasets, f"{key}.dataset")
    folders = (f"data/{report.dataset}/", f"{key.removeprefix('reports.')}/")
    for number, file in report.figures.items():
        if not normpath(file).startswith(folders):
            raise refused(f"{key}.figures.{number}", file, f"under {' or '.join(folders)}")


def _asked(
    key: str, asked: Readings | Faults, changes: dict[str, Any], config: Config
) -> dict[str, Experiment]:
    """All experiments and trials of readings or faults, with `changes`, by their dotted keys.

    They may be written there, so they are checked like those of `config`.
    """
    report = key.partition(".")[2]
    _one_of(report, config.reports, key)
    _one_of(asked.dataset, [config.reports[report].dataset], f"{key}.dataset")
    if not asked.experiments:
        raise refused(f"{key}.experiments", {}, "at least one experiment")
    found = {}
    for name, base in asked.experiments.items():
        where = f"{key}.experiments.{name}"
        changed = _applied(base.model_dump(), changes, f"{key}.changes") if changes else base
        found[where] = typed(where, changed, Experiment) if changes else base
    for name, study in asked.studies.items():
        where = f"{key}.studies.{name}"
        _one_of(study.base, asked.experiments, f"{where}.base")
        trials = checked_trials(study, found[f"{key}.experiments.{study.base}"], where)
        if study.search or not trials:
            raise refused(f"{where}.points", study.points, "at least one point, or a product")
        found |= {f"{where}.points[{n}]": each for n, each in enumerate(trials.values())}
    for where, experiment in found.items():
        _one_of(experiment.dataset, [asked.dataset], f"{where}.dataset")
        _check_experiment(where, experiment, config)
    return found


def _check_readings(key: str, readings: Readings, config: Config) -> None:
    """Refuse readings that cannot be trained, or that do not have our protocol among them.

    Ours is one protocol: a reading replaces all but classes, kind, learning rate and batch size.
    """
    asked = _asked(key, readings, {}, config)
    _one_of(readings.claims, [config.reports[key.partition(".")[2]].claims], f"{key}.claims")
    if not _different(readings.seeds, least=1):
        raise refused(f"{key}.seeds", readings.seeds, "one or more different seeds")
    choices = readings.choices
    for name, values in choices.model_dump().items():
        if not _different(values, least=1):
            raise refused(f"{key}.choices.{name}", values, "one or more different values")
    if "mean_best" not in choices.value:
        raise refused(f"{key}.choices.value", choices.value, "a list with mean_best, our protocol")
    first, own = next(iter(asked.items()))
    for where, experiment in asked.items():
        for dotted, only in READ.items():
            value = attrgetter(dotted)(experiment)
            if (value or None) != only:
                raise refused(f"{where}.{dotted}", value, f"{shown(only)}, for readings")
        for dotted in PROTOCOL:
            value, ours = attrgetter(dotted)(experiment), attrgetter(dotted)(own)
            _one_of(value, getattr(choices, dotted.partition(".")[2]), f"{where}.{dotted}")
            if value != ours:
                allowed = f"{shown(ours)} as in {first}, because readings have one protocol"
                raise refused(f"{where}.{dotted}", value, allowed)


def _check_faults(key: str, faults: Faults, config: Config) -> None:
    """Refuse faults that cannot be put into the models of the study."""
    asked = _asked(key, faults, faults.changes, config)
    if not faults.catalogue:
        raise refused(f"{key}.catalogue", {}, "at least one fault")
    if grid.CLEAN in faults.catalogue:
        allowed = "another one, because this is that of the numbers without a fault"
        raise ConfigError(f"{key}.catalogue.{grid.CLEAN}: the name must be {allowed}")
    for where, experiment in asked.items():
        _one_of(experiment.model.family, [faults.family], f"{where}.model.family")
        known = experiment.classes or config.datasets[experiment.dataset].classes
        _check_catalogue(f"{key}.catalogue", faults, where, experiment.model_dump(), len(known))


def _check_catalogue(
    key: str, faults: Faults, where: str, content: dict[str, Any], count: int
) -> None:
    """Refuse faults that cannot be put into one model; count: the number of its classes.

    A fault whose settings the model does not have may be there: the catalogue is for all models.
    """
    for name, fault in faults.catalogue.items():
        place = f"{key}.{name}"
        classes = getattr(fault, "classes", [0, 1])
        if not (_different(classes, least=2) and max(classes) < count):
            allowed = f"two different positions of 0 to {count - 1}, the classes of {where}"
            raise refused(f"{place}.classes", classes, allowed)
        for dotted in getattr(fault, "settings", ()):
            part, _, setting = dotted.partition(".")
            before = (content[part] or {}).get(setting)
            if before is None:
                continue
            if fault.act != "change" and not isinstance(before, int | float):
                raise refused(f"{place}.settings", fault.settings, "keys whose values are numbers")
            after = grid.with_fault(fault.model_dump(), before)
            typed(f"{place}: {where}", grid.apply(content, {dotted: after}), Experiment)


def _different(values: list, least: int) -> bool:
    return len(values) >= least and len(set(values)) == len(values)

"""The keys of experiments and studies: models, optimizers, training, validation, searches.

`schema.py` has all others and explains how they are checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, GetPydanticSchema, PlainValidator, ValidationInfo, field_validator
from pydantic_core.core_schema import literal_schema

from kmnist_pipeline.config.node import (
    Count,
    Item,
    Label,
    Node,
    Seed,
    Share,
    Strength,
    kinds,
    must,
    refused,
    shown,
)

CHOICES = Path(__file__).parents[1] / "families/cnn"


def module(folder: str) -> GetPydanticSchema:
    """Text that names a module of `folder`, one of the folders of exchangeable modules."""
    names = sorted(file.stem for file in (CHOICES / folder).glob("[!_]*.py"))
    return GetPydanticSchema(lambda source, handler: literal_schema(names))


class Model(Node):
    """A classifier: `family` names the folder of `families/` that has its code."""

    family: str
    scaling: Literal["none", "minmax", "zscore", "zscore_pixel"]


class LinearModel(Model):
    """Logistic or softmax regression from scratch (kmnist_linear IV and VI)."""

    family: str = "linear"
    kind: Literal["logistic", "softmax"]


class SklearnModel(Model):
    """scikit-learn's `LogisticRegression` (mnist_logistic 4.5, kmnist_cnn II.B)."""

    family: str = "sklearn"
    solver: Literal["lbfgs"]
    max_iter: Count


class CnnModel(Model):
    """A convolutional network (kmnist_cnn II.C and IV).

    `draws`: how often support images are drawn, for a Siamese network; null for any other.
    """

    family: str = "cnn"
    architecture: Annotated[str, module("architectures")]
    dropout: float = Field(ge=0, lt=1)
    draws: Count | None


class Optimizer(Node):
    """How weights are updated."""

    name: str
    lr: float = Field(gt=0)
    batch_size: Count


class LinearOptimizer(Optimizer):
    """The optimizer of the from-scratch models."""

    name: Literal["sgd"]


class CnnOptimizer(Optimizer):
    """The optimizers of the networks; `USED` says which of them use the other settings."""

    name: Annotated[str, module("optimizers")]
    momentum: Share | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    label_smoothing: Share | None = None


class SklearnTrainer(Node):
    """scikit-learn has its own training; only the precision is set."""

    precision: Literal["float32", "float64"]


class LinearTrainer(Node):
    """How long and how exactly a model is trained.

    `patience: null` never stops early. `keep` says which epoch's weights are kept. `loss` is the
    mean or the sum over the images of a batch; its gradient updates the weights.
    """

    epochs: Count
    patience: Count | None
    keep: Literal["last", "best_accuracy", "best_loss"]
    loss: Literal["mean", "sum"]
    precision: Literal["float32", "float64"]


class CnnTrainer(LinearTrainer):
    """The same for a network, with its exchangeable modules; bfloat16 is not for evidence.

    `USED` says which modules use the other settings: `warmup` is a share of the updates,
    `decay` is the share that an update leaves of the averaged weights, and the others are the
    strengths of augmentations. The model file keeps numbers rounded as `stored` says, and all
    predictions are computed from these.
    """

    precision: Literal["float32", "bfloat16"]  # type: ignore[assignment]
    schedule: Annotated[str, module("schedules")]
    augmentation: Annotated[str, module("augmentations")]
    averaging: Annotated[str, module("averaging")]
    warmup: Annotated[float, Field(ge=0, lt=1)] | None = None
    decay: Share | None = None
    affine: Strength | None = None
    elastic: Strength | None = None
    thickness: Strength | None = None
    cutout: Strength | None = None
    stored: Literal["float16"] | None = None


class SettingTypes(NamedTuple):
    """The types of a family's settings; `optimizer` is None if the family has its own."""

    model: type[Model]
    optimizer: type[Optimizer] | None
    trainer: type[Node]


SETTING_TYPES = {
    "linear": SettingTypes(LinearModel, LinearOptimizer, LinearTrainer),
    "sklearn": SettingTypes(SklearnModel, None, SklearnTrainer),
    "cnn": SettingTypes(CnnModel, CnnOptimizer, CnnTrainer),
}


class KFold(Node):
    """k folds, each held out once.

    `ensemble`: whether the models of all folds are kept and predict together, with the mean of
    their probabilities; otherwise only the model of the best fold is kept.
    """

    method: str
    folds: int = Field(ge=2)
    ensemble: bool | None = None


class Grouped(KFold):
    """The same, but no group of similar writing is in two folds.

    `groups`: the number of groups in each class, found by k-means.
    """

    groups: int = Field(ge=2)


class Holdout(Node):
    """A random share of the images, held out once."""

    method: str
    fraction: Share


class NoValidation(Node):
    """The model is trained on all training images; nothing is held out.

    `folds_of`: an experiment that trains the same network on folds of these images, for as many
    epochs or fewer. What its models predict for the images that they have not seen calibrates the
    confidence of this one.
    """

    method: str
    folds_of: Item | None = None


VALIDATIONS: dict[str, type[Node]] = {
    "kfold": KFold,
    "grouped": Grouped,
    "holdout": Holdout,
    "none": NoValidation,
}


def of_family(value: Any, info: ValidationInfo) -> Any:
    """Validate settings of the optimizer or the trainer as the model's family needs them."""
    if "model" not in info.data:  # then `model` is refused
        return value
    family = info.data["model"].family
    kind = getattr(SETTING_TYPES[family], str(info.field_name))
    if kind is not None:
        return kind.model_validate(value)
    if value is not None:
        raise must(f"null: {family} has its own")
    return None


class Experiment(Node):
    """One model trained on one dataset: all settings that decide its numbers."""

    report: str
    dataset: str
    classes: list[Label] | None
    subset: Annotated[int, Field(ge=2)] | None
    model: Annotated[Any, kinds("family", {n: f.model for n, f in SETTING_TYPES.items()})]
    optimizer: Any  # by the family
    validation: Annotated[Any, kinds("method", VALIDATIONS)]
    trainer: Any  # by the family
    seeds: list[Seed]

    _of_family = field_validator("optimizer", "trainer")(of_family)


class Range(Node):
    """The numbers between two limits; `log`: their logarithms are equally likely."""

    low: float
    high: float
    log: bool


def _listed_or_between(values: Any) -> Any:
    """The values of a key as they are; refuse what is neither a list of them nor a `Range`."""
    if isinstance(values, dict):
        Range.model_validate(values)
    elif not isinstance(values, list) or not values:
        raise must("a list of values, or a map of low, high, log")
    return values


class SearchSettings(Node):
    """Trials that Optuna proposes, in `rounds` of `size`: see `fits/search.py`.

    `space` has a list of values or a range for each changed key. After each of the epochs in
    `rungs` one trial of `reduction` continues. `seed` is that of the proposals.
    """

    seed: Seed
    rounds: Count
    size: Count
    rungs: list[Count]
    reduction: int = Field(ge=2)
    space: dict[str, Annotated[Any, PlainValidator(_listed_or_between)]]


class Study(Node):
    """Trials of a base experiment, one a point; validation accuracy chooses the winner.

    The points are listed, or are all combinations of the values in `product`, or are proposed in a
    `search`. `trial` changes every trial, such as to fewer epochs; with `retrain` the winner is
    then trained again without these changes. `seeds: null` takes the seeds of the base.
    """

    report: str
    base: str
    dataset: str
    family: str
    points: list[dict[str, Any]]
    product: dict[str, list[Any]]
    search: SearchSettings | None = None
    trial: dict[str, Any]
    retrain: bool
    seeds: list[Seed] | None


SMALLEST = 4  # pixels of a side: with fewer, pooling leaves nothing of an image
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


def check_unvalidated(key: str, trainer: Any) -> None:
    """Refuse a trainer that needs validation images, for a training that has none."""
    for name, only in (("patience", None), ("keep", "last")):
        value = getattr(trainer, name, only)
        if value != only:
            raise refused(f"{key}.trainer.{name}", value, f"{shown(only)} without validation")


def check_used(key: str, experiment: Experiment) -> None:
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


def check_size(key: str, model: Any, shape: Sequence[int]) -> None:
    """Refuse a network for images that are too small; shape: height and width, then channels."""
    height, width = shape[:2]
    if isinstance(model, CnnModel) and min(height, width) < SMALLEST:
        allowed = (
            f"another family, because a network needs images of {SMALLEST}x{SMALLEST} pixels or "
            f"more, and these have {height}x{width}; `kmnist import --size` makes them larger"
        )
        raise refused(f"{key}.model.family", "cnn", allowed)


def check_search(key: str, search: SearchSettings, trials: list[Experiment]) -> None:
    """Refuse a search without values, or with rungs that no trial reaches."""
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

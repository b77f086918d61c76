"""The keys that `conf/` and `params.yaml` may contain, their types and their limits.

`rules.py` has the rules between keys. Hydra does not use these classes: it composes untyped maps,
and the plugin `hydra_plugins/kmnist_pipeline_schema` checks the result. OmegaConf's structured
configs are not enough: they have neither limits nor a choice between types.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    Field,
    GetPydanticSchema,
    PlainValidator,
    ValidationInfo,
    field_validator,
)
from pydantic_core.core_schema import literal_schema

from kmnist_pipeline.config.node import Node, kinds, must, said

CHOICES = Path(__file__).parents[1] / "families/cnn"
NAME = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")


def module(folder: str) -> GetPydanticSchema:
    """Text that names a module of `folder`, one of the folders of exchangeable modules."""
    names = sorted(file.stem for file in (CHOICES / folder).glob("[!_]*.py"))
    return GetPydanticSchema(lambda source, handler: literal_schema(names))


def _named(text: str) -> str:
    if not NAME.fullmatch(text):
        raise must("lower-case words joined by '_'")
    return text


Seed = Annotated[int, Field(ge=0)]
Label = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Strength = Annotated[float, Field(gt=0, le=1)]
Name = Annotated[str, AfterValidator(_named)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Part(Node):
    """One pair of IDX files, `<name>-images-idx3-ubyte` and `<name>-labels-idx1-ubyte`."""

    name: str = Field(pattern="^[A-Za-z0-9_-]+$")
    count: Count
    images: Sha256
    labels: Sha256


class Split(Node):
    """The split into training and test images: one part each, or a seeded random split of all."""

    method: Literal["files", "random"]
    train_size: Share | None = None
    seed: Seed | None = None


class Dataset(Node):
    """A set of labelled images: grey, [height, width], or coloured, [height, width, 3]."""

    title: str
    licence: str
    shape: list[Count]
    pixel_max: int = Field(ge=1, le=255)
    classes: list[str]


class PublishedDataset(Dataset):
    """Grey images in IDX files, and the sources of these files.

    The images have the order of `parts`; a split by files takes the first part for training and
    the second for test. `parts` is a list, because DVC notices a changed order of a list, but not
    of a map.
    """

    parts: list[Part]
    sources: list[str]
    split: Split


class Content(Node):
    """The file of an imported dataset, its digest, and its numbers of training and test images."""

    file: str = Field(pattern=r"^data/imported/[a-z0-9_]+\.npz$")
    sha256: Sha256
    train: Count
    test: Count


class ImportedDataset(Dataset):
    """Images that `kmnist import` has put into one file, which DVC tracks."""

    imported: Content


def _dataset(node: Any) -> Dataset:
    is_imported = isinstance(node, dict) and "imported" in node
    return (ImportedDataset if is_imported else PublishedDataset).model_validate(node)


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
    """The optimizers of the networks; `rules.USED` says which of them use the other settings."""

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

    `rules.USED` says which modules use the other settings: `warmup` is a share of the updates,
    `decay` is the share that an update leaves of the averaged weights, and the others are the
    strengths of augmentations.
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


class Holdout(Node):
    """A random share of the images, held out once."""

    method: str
    fraction: Share


class NoValidation(Node):
    """The model is trained on all training images; nothing is held out."""

    method: str


VALIDATIONS: dict[str, type[Node]] = {"kfold": KFold, "holdout": Holdout, "none": NoValidation}


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

    low: int | float
    high: int | float
    log: bool


class Search(Node):
    """Trials that Optuna proposes, in `rounds` of `size`: see `fits/search.py`.

    `space` has a list of values or a range for each changed key. After each of the epochs in
    `rungs` one trial of `reduction` goes on. `seed` is that of the proposals.
    """

    seed: Seed
    rounds: Count
    size: Count
    rungs: list[Count]
    reduction: int = Field(ge=2)
    space: dict[str, Any]

    @field_validator("space")
    @classmethod
    def _listed_or_between(cls, space: dict[str, Any]) -> dict[str, Any]:
        for key, values in space.items():
            if isinstance(values, dict):
                Range.model_validate(values)
            elif not isinstance(values, list) or not values:
                raise said("must be a list of values, or a map of low, high, log", key, values)
        return space


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
    search: Search | None = None
    trial: dict[str, Any]
    retrain: bool
    seeds: list[Seed] | None


class Conditions(Node):
    """A model that is measured on pictures rendered from test images: see the stage `conditions`.

    `images` test images are drawn with the `seed`, which also seeds the renderings.
    """

    model: str
    images: Count
    seed: Seed
    dataset: str
    report: str
    family: str


class Suspects(Node):
    """The search for wrong labels with an experiment's out-of-fold predictions.

    `shown` suspects are drawn. To measure the search, the experiment is trained again, with the
    changes of `trial`, while `swapped` labels are wrong on purpose: they are counted among the
    first suspects, as many as each of `ranks` says.
    """

    experiment: str
    shown: Annotated[int, Field(ge=1, le=200)]
    swapped: Count
    ranks: list[Count]
    seed: Seed
    trial: dict[str, Any]
    dataset: str
    family: str


class Loop(Node):
    """A simulated loop of predicting and reviewing: the true label is the person's answer.

    A model is trained on `start` labelled training images; `size` more are labelled in each of the
    `rounds`. Its accuracy is measured on `held_out` other training images.
    """

    dataset: str
    start: Count
    size: Count
    rounds: Count
    held_out: Count
    seeds: list[Seed]
    model: Annotated[Any, kinds("family", {n: f.model for n, f in SETTING_TYPES.items()})]
    optimizer: Any  # by the family
    trainer: Any  # by the family

    _of_family = field_validator("optimizer", "trainer")(of_family)


class Choices(Node):
    """What a publication leaves open: the values of each choice (see `readings/multiverse.py`)."""

    scaling: list[Literal["none", "minmax", "zscore", "zscore_pixel"]]
    loss: list[Literal["mean", "sum"]]
    folds: list[Annotated[int, Field(ge=2)]]
    epochs: list[Count]
    keep: list[Literal["last", "best_accuracy", "best_loss"]]
    value: list[Literal["mean", "best", "mean_best"]]


class Readings(Node):
    """The readings of a publication about linear models: every combination of `choices`.

    The first of the `seeds` trains all readings, the others train ours and the `best` ones.
    `experiments` and `studies` are copies of those of the report.
    """

    dataset: str
    claims: Name
    confidence: Share
    experiments: dict[Name, Experiment]
    studies: dict[Name, Study]
    choices: Choices
    seeds: list[Seed]
    best: Count


class Fault(Node):
    """A fault on purpose; `act` says what it does (see `faults/tampering.py`), `says` tells it."""

    act: str
    says: str


class ShareFault(Fault):
    """A share of the test images leaks into training, or only a share of these is kept."""

    share: Share


class SwapFault(Fault):
    """The labels of two classes, by position among those of the experiment, are swapped."""

    classes: Annotated[list[Label], Field(min_length=2, max_length=2)]


class ChangeFault(Fault):
    """A setting has another value: the first of `settings` that an experiment has."""

    settings: list[str]
    value: str


class MultiplyFault(Fault):
    """A setting is multiplied."""

    settings: list[str]
    factor: float = Field(gt=0)


class AddFault(Fault):
    """An amount is added to a setting."""

    settings: list[str]
    amount: int


FAULTS: dict[str, type[Node]] = {
    "leak": ShareFault,
    "keep": ShareFault,
    "swap": SwapFault,
    "scale_by_test": Fault,
    "measure_validation": Fault,
    "change": ChangeFault,
    "multiply": MultiplyFault,
    "add": AddFault,
}


class Faults(Node):
    """A study of what the claims of a report would notice.

    `trial` changes every experiment, such as to fewer images; `budget` tells this to people.
    All experiments are of one `family`.
    """

    dataset: str
    family: str
    budget: str
    catalogue: dict[Name, Annotated[Any, kinds("act", FAULTS)]]
    experiments: dict[Name, Experiment]
    studies: dict[Name, Study]
    trial: dict[str, Any]


class Report(Node):
    """One page: the publication that it reproduces, and the dataset.

    `claims` is a file of `conf/claims/`. `figures` maps the published number of a figure to the
    file under `figures/` that reproduces it; the other figures are shown after these.
    `confidence` is the confidence of the prediction intervals that decide the verdicts; an
    interval that is wider than `margin` on each side decides nothing.
    """

    title: str
    reproduces: str | None
    summary: str
    dataset: str
    claims: Name
    confidence: Share
    margin: Share
    figures: dict[str, str]


class Reviews(Node):
    """The files with people's decisions about a dataset, and with its new images."""

    decisions: str
    images: str


class Evaluation(Node):
    """What the stage `evaluate` shows for every model."""

    samples: int = Field(ge=1, le=100)
    promise: Share


class Config(Node):
    """The whole of `params.yaml`.

    The last three are composed: `models` by `rules.models_of`, `code` by `code.of`, `reviews` by
    the plugin of Hydra.
    """

    datasets: dict[Name, Annotated[Any, PlainValidator(_dataset)]] = Field({})
    experiments: dict[Name, Experiment] = Field({})
    studies: dict[Name, Study] = Field({})
    conditions: dict[Name, Conditions] = Field({})
    suspects: dict[Name, Suspects] = Field({})
    loops: dict[Name, Loop] = Field({})
    reports: dict[Name, Report] = Field({})
    readings: dict[Name, Readings] = Field({})
    faults: dict[Name, Faults] = Field({})
    evaluation: Evaluation
    models: Any = None
    code: Any = None
    reviews: dict[Name, Reviews] = Field({})

"""The keys that `conf/` and `params.yaml` may contain, their types and their limits.

`rules.py` has the rules between keys. Hydra does not use these classes: it composes untyped maps,
and the plugin `hydra_plugins/kmnist_pipeline_schema` checks the result. OmegaConf's structured
configs are not enough: they have neither limits nor a choice between types.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    PlainValidator,
    field_validator,
)

from kmnist_pipeline.config.node import (
    Count,
    Item,
    Label,
    Name,
    Node,
    Seed,
    Sha256,
    Share,
    kinds,
    must,
    one_of,
)
from kmnist_pipeline.config.training import (
    SETTING_TYPES,
    VALIDATIONS,
    Experiment,
    Study,
    of_family,
)


class FilePair(Node):
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
    the second for test. `parts` is a list, because DVC detects a changed order of a list, but not
    of a map.
    """

    parts: list[FilePair]
    sources: list[str]
    split: Split


class ImportedFile(Node):
    """The file of an imported dataset, its digest, and its numbers of training and test images."""

    file: str = Field(pattern=r"^data/imported/[a-z0-9_]+\.npz$")
    sha256: Sha256
    train: Count
    test: Count


class ImportedDataset(Dataset):
    """Images that `kmnist import` has put into one file, which DVC tracks."""

    imported: ImportedFile


def _dataset(node: Any) -> Dataset:
    is_imported = isinstance(node, dict) and "imported" in node
    return (ImportedDataset if is_imported else PublishedDataset).model_validate(node)


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
    `changes`, while `swapped` labels are wrong on purpose: they are counted among the
    first suspects, as many as each of `ranks` says.
    """

    experiment: str
    shown: Annotated[int, Field(ge=1, le=200)]
    swapped: Count
    ranks: list[Count]
    seed: Seed
    changes: dict[str, Any]
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
    experiments: dict[Item, Experiment]
    studies: dict[Item, Study]
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


# What a fault may change: all that an experiment of any family has.
KINDS = [
    *(part for types in SETTING_TYPES.values() for part in types._asdict().items()),
    *(("validation", kind) for kind in VALIDATIONS.values()),
]
SETTINGS = sorted({f"{part}.{name}" for part, kind in KINDS if kind for name in kind.model_fields})


def _setting(dotted: str) -> str:
    if dotted not in SETTINGS:
        raise must(one_of(SETTINGS))
    return dotted


Settings = Annotated[list[Annotated[str, AfterValidator(_setting)]], Field(min_length=1)]


class ChangeFault(Fault):
    """A setting has another value: the first of `settings` that an experiment has."""

    settings: Settings
    value: str


class MultiplyFault(Fault):
    """A setting is multiplied."""

    settings: Settings
    factor: float = Field(gt=0)


class AddFault(Fault):
    """An amount is added to a setting."""

    settings: Settings
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
    """A study of what the claims of a report would detect.

    `changes` are made to every experiment, such as to fewer images; `budget` tells this to people.
    All experiments are of one `family`.
    """

    dataset: str
    family: str
    budget: str
    catalogue: dict[Item, Annotated[Any, kinds("act", FAULTS)]]
    experiments: dict[Item, Experiment]
    studies: dict[Item, Study]
    changes: dict[str, Any]


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

    `weights` has at most one model for each dataset, whose weights are in Git: see the stage
    `weights`. The last three are composed: `models` by `rules.models_of`, `code` by `code.of`,
    `reviews` by the plugin of Hydra.
    """

    datasets: dict[Item, Annotated[Any, PlainValidator(_dataset)]] = Field({})
    experiments: dict[Item, Experiment] = Field({})
    studies: dict[Item, Study] = Field({})
    conditions: dict[Item, Conditions] = Field({})
    suspects: dict[Item, Suspects] = Field({})
    loops: dict[Item, Loop] = Field({})
    reports: dict[Item, Report] = Field({})
    readings: dict[Item, Readings] = Field({})
    faults: dict[Item, Faults] = Field({})
    evaluation: Evaluation
    weights: dict[Name, Name] = Field({})
    models: Any = None
    code: Any = None
    reviews: dict[Item, Reviews] = Field({})

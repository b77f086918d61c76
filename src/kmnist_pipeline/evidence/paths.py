"""The paths of outs of stages and of people's decisions, relative to the project's folder."""

from __future__ import annotations

METRICS, FIGURES, REPORTS, WEIGHTS = "metrics", "figures", "reports", "weights"
TRACKED = (METRICS, FIGURES, REPORTS, WEIGHTS)  # in Git; all other outs are in DVC's cache
# The decisions about a dataset without any, and its new images: DVC needs files that exist.
NO_DECISIONS, NO_IMAGES = "reviews/none.csv", "reviews/none.npz"


def imported(dataset: str) -> str:
    """The file of a dataset that `kmnist import` has made; DVC tracks it."""
    return f"data/imported/{dataset}.npz"


def decisions(dataset: str) -> str:
    """People's decisions about the images of a dataset, in Git."""
    return f"reviews/{dataset}.csv"


def reviewed(dataset: str) -> str:
    """The new images that people have decided about, in DVC's cache."""
    return f"data/reviewed/{dataset}.npz"


def queue(dataset: str) -> str:
    """The new images that wait for a decision: no evidence, and only here."""
    return f".kmnist/review/{dataset}.npz"


def raw(dataset: str) -> str:
    """The folder of a dataset's decoded IDX files, or of its imported file."""
    return f"data/raw/{dataset}"


def processed(dataset: str) -> str:
    """The images, labels and split of a dataset."""
    return f"data/processed/{dataset}.npz"


def data_numbers(dataset: str) -> str:
    """The counts of a dataset."""
    return f"{METRICS}/data/{dataset}.json"


def data_figures(dataset: str) -> str:
    """The folder of a dataset's figures."""
    return f"{FIGURES}/data/{dataset}"


def weights(model: str) -> str:
    """The weights of an experiment's or study's model."""
    return f"models/{model}.safetensors"


def weights_in_git(model: str) -> str:
    """The weights of a model's first seed alone, for a clone that has no model file."""
    return f"{WEIGHTS}/{model}.safetensors"


def out_of_fold(model: str) -> str:
    """The predictions of each fold's model for the images that it was not trained on."""
    return f"predictions/out_of_fold/{model}.npz"


def predictions(model: str) -> str:
    """A model's predictions for the test and validation images."""
    return f"predictions/{model}.npz"


def numbers(report: str, model: str, file: str) -> str:
    """A file of a model's numbers: validation.json, curves.csv, trials.csv or test.json."""
    return f"{METRICS}/{report}/{model}/{file}"


def figures(report: str, name: str) -> str:
    """The folder of the figures of a model, or of a stage that a report has once."""
    return f"{FIGURES}/{report}/{name}"


def report_numbers(report: str, kind: str) -> str:
    """The numbers of a stage that a report has once, such as `readings`."""
    return f"{METRICS}/{report}/{kind}.json"


def page(report: str) -> str:
    """The folder of a report's page."""
    return f"{REPORTS}/{report}"

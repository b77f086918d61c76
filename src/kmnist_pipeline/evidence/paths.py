"""The path of each out of a stage, relative to the project's folder, as in `dvc.yaml`."""

from __future__ import annotations

METRICS, FIGURES, REPORTS = "metrics", "figures", "reports"
TRACKED = (METRICS, FIGURES, REPORTS)  # in Git; all other outs are in DVC's cache


def imported(dataset: str) -> str:
    """The file of a dataset that `kmnist import` has made; DVC tracks it."""
    return f"data/imported/{dataset}.npz"


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


def out_of_fold(model: str) -> str:
    """The predictions of each fold's model for the images that it was not trained on."""
    return f"predictions/out_of_fold/{model}.npz"


def predictions(model: str) -> str:
    """A model's predictions for the test and validation images."""
    return f"predictions/{model}.npz"


def numbers(report: str, model: str, file: str) -> str:
    """A file of a model's numbers: validation.json, curves.csv, trials.csv or test.json."""
    return f"{METRICS}/{report}/{model}/{file}"


def figures(report: str, model: str) -> str:
    """The folder of a model's figures."""
    return f"{FIGURES}/{report}/{model}"


def page(report: str) -> str:
    """The folder of a report's page."""
    return f"{REPORTS}/{report}"

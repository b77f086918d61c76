"""The committed parameters with a grid of the network, and copies of them with one other value."""

import copy
from typing import Any

import yaml
from support.project import ROOT

COMMITTED = yaml.safe_load((ROOT / "params.yaml").read_text())
NETWORK_GRID = yaml.safe_load("""
{dataset: digits, family: cnn, report: digits, base: digits_cnn, trial: {trainer.epochs: 3},
points: [], product: {optimizer.lr: [0.001, 0.0005], model.dropout: [0.3, 0.4]}, retrain: true,
seeds: null}
""")
CONTENT = COMMITTED | {"studies": COMMITTED["studies"] | {"digits_cnn_grid": NETWORK_GRID}}
CNN, GRID = "experiments.digits_cnn", "studies.digits_cnn_grid"
SOFTMAX = "experiments.digits_softmax"
DELETE = object()


def changed(dotted: str | tuple, value: Any) -> dict:
    """The committed parameters with one value changed; DELETE takes it out."""
    content = copy.deepcopy(CONTENT)
    path = tuple(dotted.split(".")) if isinstance(dotted, str) else dotted
    node = at(content, path[:-1])
    if value is DELETE:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return content


def at(content: Any, path: tuple) -> Any:
    for key in path:
        content = content[key]
    return content


def unvalidated(experiment: str = SOFTMAX, **trainer: Any) -> dict:
    """An experiment without validation, and with other values of its trainer."""
    content = at(CONTENT, tuple(experiment.split(".")))
    return content | {"validation": {"method": "none"}, "trainer": content["trainer"] | trainer}


def on_all_images(folds_of: str) -> dict:
    """The network, trained on all images, with the confidence of another experiment's folds."""
    content = unvalidated(CNN, patience=None, keep="last")
    return content | {"validation": {"method": "none", "folds_of": folds_of}}


def trained(**trainer: Any) -> dict:
    """The network with other values of its trainer."""
    content = at(CONTENT, tuple(CNN.split(".")))
    return content | {"trainer": content["trainer"] | trainer}


def searched(**changes: Any) -> dict:
    """The grid of the network as a search, with other values."""
    search = {"seed": 0, "rounds": 2, "size": 4, "rungs": [1, 2], "reduction": 2}
    space = {"optimizer.lr": {"low": 0.001, "high": 0.1, "log": True}, "model.dropout": [0, 0.3]}
    return NETWORK_GRID | {"product": {}, "search": {**search, "space": space} | changes}


IMPORTED: dict[str, Any] = {
    "title": "Leaves",
    "licence": "none",
    "shape": [20, 12, 3],
    "pixel_max": 255,
    "classes": ["oak, red", "や", "<b>"],
    "imported": {
        "file": "data/imported/digits.npz",
        "sha256": "0" * 64,
        "train": 7,
        "test": 3,
    },
}


def imported(**changes: Any) -> dict[str, Any]:
    """An imported dataset with another value of its file."""
    return IMPORTED | {"imported": IMPORTED["imported"] | changes}

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

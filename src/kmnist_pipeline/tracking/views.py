"""The prepared views and the descriptions in MLflow's pages.

MLflow's page shows no columns of metrics until somebody selects them. It saves a selection as a
view, in a tag of the experiment, lists it under "Views", and opens it for an address with its key.
This module writes two views that show the current state of each model, without runs of `dvc exp`,
runs by hand and superseded runs. The page sorts by only one column, and accuracy on two classes
cannot be compared with accuracy on ten; so models of some classes have two views of their own, for
each choice of classes.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from kmnist_pipeline.tracking.record import Record

if TYPE_CHECKING:
    from mlflow.entities import Experiment

BY_HAND = "by hand"  # instead of a lineage key
CURRENT = (
    "tags.`kmnist.superseded` IS NULL and tags.`kmnist.experiment` IS NULL "
    f"and tags.`kmnist.lineage` != '{BY_HAND}'"
)
MODELS, CURVES = "models", "curves"  # keys of views; for some classes, such as models-0-6
SAVED = "mlflow.sharedViewState."  # followed by the key of a view


def url(experiment: str, view: str) -> str:
    """The address of a view in MLflow's page, without the server's address."""
    mode = "&compareRunsMode=CHART" if view.startswith(CURVES) else ""
    return f"{_runs(experiment)}&viewStateShareKey={view}{mode}"


def tags_of_experiment(experiment: Experiment, classes: list[int] | None) -> dict[str, str]:
    """The tags with the description and the views of a report's MLflow experiment.

    experiment: its views for some classes are kept; classes: the labels of the model that was
    just published, None for all classes.
    """
    labels = re.compile(re.escape(f"{SAVED}{MODELS}-") + r"([\d-]+)")
    known = [found[1].split("-") for tag in experiment.tags if (found := labels.fullmatch(tag))]
    parts = {(), tuple(classes or ()), *(tuple(map(int, part)) for part in known)}
    tags, lines = {}, []
    for part in sorted(parts):
        links = []
        for view, (name, _, _) in _VIEWS.items():
            key = "-".join([view, *map(str, part)])
            tags[SAVED + key] = _saved(view, part)
            links.append(f"[{name.lower()}]({url(experiment.experiment_id, key)})")
        # The page shows only the first paragraph until somebody opens the rest.
        lines.append(f"Report `{experiment.name}`, {_named(part)}: {', '.join(links)}")
    lines.append(
        "A run shows a stage; its folds and trials are nested runs. The views leave out runs by "
        "hand, runs of `dvc exp` (tag `kmnist.experiment`), and runs whose stage has newer "
        "evidence (tag `kmnist.superseded`)."
    )
    return tags | {"mlflow.note.content": "\n\n".join(lines)}


def _named(part: tuple[int, ...]) -> str:
    return f"classes {', '.join(map(str, part))}" if part else "all classes"


def _saved(view: str, part: tuple[int, ...]) -> str:
    """A view as the page saves it, but without a time, by which the page sorts views."""
    name, kinds, shown = _VIEWS[view]
    created = 0 if part else 1 + list(reversed(_VIEWS)).index(view)
    own = f"params.`classes` = '{json.dumps(part)}'" if part else "params.`classes` IS NULL"
    state = _FACETS | shown | {"searchFilter": f"{kinds} and {own} and {CURRENT}"}
    return json.dumps(
        {
            "name": f"{name}: {_named(part)}",
            "createdAt": created,
            "updatedAt": created,
            "state": json.dumps(state),
        }
    )


def description(record: Record, experiment: str) -> str:
    """The description on the page of a stage's run, as Markdown.

    experiment: the id of the MLflow experiment in its store.
    """
    lines = [f"A view of the outs of `{record['address']}`:\n"]
    lines += [f"- `{path}`" for path in sorted(record["written"])]
    of_item = _search(experiment, f"tags.`kmnist.item` = '{record['item']}'")
    of_report = _search(experiment, f"tags.`kmnist.kind` = 'report' and {CURRENT}")
    ways = {"kfold-train": "its test", "tune": "its test", "evaluate": "its training"}
    ways |= dict.fromkeys(("conditions", "weights"), "its training and test")
    if record["kind"] in ways:
        lines += ["", f"[{ways[record['kind']]}]({of_item}), [its report]({of_report})"]
    if "commit" in record:
        lines += ["", f"Commit: {_commit(record)}"]
    if record["lineage"] is None:
        lines += ["", f"Made by hand; the results are in `{record['root']}`"]
    else:
        lines += ["", f"Lineage: `kmnist trace {min(record['written'], default='')}`"]
        lines += ["", f"Command: `{record['lineage']['cmd']}`"]
        lines += ["", f"Lineage key: `{record['lineage']['key']}`"]
    return "\n".join(lines)


def _commit(record: Record) -> str:
    commit, place = record["commit"], record.get("repository")
    return f"[`{commit[:7]}`]({place}/commit/{commit})" if place else f"`{commit}`"


def _runs(experiment: str) -> str:
    # Without this workflow the page shows its empty part for language models.
    return f"#/experiments/{experiment}/runs?workflowType=machine_learning"


def _search(experiment: str, words: str) -> str:
    return f"{_runs(experiment)}&searchFilter={quote(words)}"


def _line(metric: str) -> dict[str, Any]:
    return {
        "uuid": metric,
        "type": "LINE",
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "displayName": metric,
        "metricSectionId": "curves",
        "runsCountToCompare": 20,
        "deleted": False,
        "isGenerated": False,
        "displayPoints": False,
        "lineSmoothness": 0,
        "xAxisKey": "step",
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "selectedXAxisMetricKey": "",
        "range": {},
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }


_WIDTHS = {  # pixels
    "attributes.`Run Name`": 250,
    "params.`model`": 95,
    "metrics.`validation_accuracy`": 145,
    "metrics.`test_accuracy`": 110,
    "metrics.`test_f1`": 95,
    "attributes.`Dataset`": 145,
    "duration": 80,
}
_LINES = [
    f"{split}/{metric}" for metric in ("accuracy", "loss") for split in ("validation", "train")
]
_FACETS = {
    "orderByKey": "metrics.`validation_accuracy`",
    "orderByAsc": False,
    "startTime": "ALL",
    "lifecycleFilter": "Active",
    "datasetsFilter": [],
    "modelVersionFilter": "All Runs",
}
# By key: the name, which runs it shows, and the settings of the page.
_VIEWS: dict[str, tuple[str, str, dict[str, Any]]] = {
    MODELS: (
        "Models compared",
        "tags.`kmnist.kind` = 'evaluate'",
        {
            "selectedColumns": [column for column in _WIDTHS if "`" in column],
            "columnOrder": list(_WIDTHS),
            "columnWidths": _WIDTHS,
        },
    ),
    CURVES: (
        "Training curves",
        "metrics.`train/accuracy` >= 0",  # the runs of stages that train
        {
            "selectedColumns": [],
            "runsHiddenMode": "FIRST_20_RUNS",
            "compareRunCharts": [_line(metric) for metric in _LINES],
            "compareRunSections": [
                {"uuid": "curves", "name": "by epoch", "display": True, "isReordered": True}
            ],
        },
    ),
}

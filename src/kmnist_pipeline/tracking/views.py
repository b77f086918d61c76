"""What a person meets in MLflow's pages: prepared views, and texts that lead on.

MLflow's page shows no column of metrics until somebody picks them. It keeps what was picked as a
tag of its experiment, lists it under "Views", and brings it up where an address has its key. Two
such views are written here.
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote

CURRENT = "tags.`kmnist.superseded` IS NULL"
MODELS, CURVES = "models", "curves"
SAVED = "mlflow.sharedViewState."  # then the key of a view


def url(experiment: str, view: str) -> str:
    """The address of a view in MLflow's page, after the server's own."""
    mode = "&compareRunsMode=CHART" if view == CURVES else ""
    return f"{_runs(experiment)}&viewStateShareKey={view}{mode}"


def tags_of_experiment(name: str, experiment: str) -> dict[str, str]:
    """The tags that give the MLflow experiment of a report its description and its views.

    name: of the report; experiment: the id that the store has given it.
    """
    description = (
        f"Report `{name}`: [the models compared]({url(experiment, MODELS)}), "
        f"[the curves of their training]({url(experiment, CURVES)}).\n\n"
        "A run stands for a stage, with its folds and trials inside it. One whose stage has newer "
        "evidence has the tag `kmnist.superseded`."
    )
    return {
        "mlflow.note.content": description,
        **{SAVED + key: _saved(key) for key in _VIEWS},
    }


def description(record: dict[str, Any], experiment: str) -> str:
    """What the page of a stage's run says of it, as Markdown.

    record: of `tracking.publish`; experiment: the id of the MLflow experiment in its store.
    """
    lines = [f"A view of what `{record['address']}` has written:\n"]
    lines += [f"- `{path}`" for path in sorted(record["written"])]
    of_item = _search(experiment, f"tags.`kmnist.item` = '{record['item']}'")
    of_report = _search(experiment, f"tags.`kmnist.kind` = 'report' and {CURRENT}")
    ways = {"kfold-train": "its test", "tune": "its test", "evaluate": "its training"}
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


def repository(remote: str) -> str | None:
    """Where a browser finds the repository of a Git remote, without credentials; None if nowhere.

    remote: as `git remote get-url` prints it.
    """
    web = re.fullmatch(r"(?:https?|ssh)://(?:[^@/]*@)?([^/:]+)(?::\d+)?/(.+?)(?:\.git)?/?", remote)
    found = web or re.fullmatch(r"[^@/:]+@([^/:]+):(.+?)(?:\.git)?/?", remote)
    return f"https://{found[1]}/{found[2]}" if found else None


def _commit(record: dict[str, Any]) -> str:
    commit, place = record["commit"], record.get("repository")
    return f"[`{commit[:7]}`]({place}/commit/{commit})" if place else f"`{commit}`"


def _runs(experiment: str) -> str:
    # Without its workflow the page shows what there is of language models: nothing.
    return f"#/experiments/{experiment}/runs?workflowType=machine_learning"


def _search(experiment: str, words: str) -> str:
    return f"{_runs(experiment)}&searchFilter={quote(words)}"


def _saved(key: str) -> str:
    """A view as the page saves it; the newest is listed first, and these have no time."""
    created = list(reversed(_VIEWS)).index(key)
    state = json.dumps(_VIEWS[key])
    return json.dumps(
        {"name": _NAMES[key], "createdAt": created, "updatedAt": created, "state": state}
    )


def _facets(filtered: str, order: str) -> dict[str, Any]:
    return {
        "searchFilter": filtered,
        "orderByKey": order,
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
    }


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


_NAMES = {MODELS: "Models compared", CURVES: "Training curves"}
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
_VIEWS: dict[str, dict[str, Any]] = {
    MODELS: {
        **_facets(
            f"tags.`kmnist.kind` = 'evaluate' and {CURRENT}", "metrics.`validation_accuracy`"
        ),
        "selectedColumns": [column for column in _WIDTHS if "`" in column],
        "columnOrder": list(_WIDTHS),
        "columnWidths": _WIDTHS,
    },
    CURVES: {
        **_facets(
            f"tags.`kmnist.kind` != 'evaluate' and tags.`kmnist.kind` != 'report' and {CURRENT}",
            "metrics.`validation_accuracy`",
        ),
        "selectedColumns": [],
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunCharts": [_line(metric) for metric in _LINES],
        "compareRunSections": [
            {"uuid": "curves", "name": "by epoch", "display": True, "isReordered": True}
        ],
    },
}

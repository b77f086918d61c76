"""Does the evidence agree with itself? What follows from other evidence is computed again.

An out that was edited and then recorded by `dvc commit` has the md5 that `dvc.lock` says, so only
its content can show the edit. Rates, scores and means follow from counts, confusion matrices and
fits; verdicts follow from claims and numbers, pages from verdicts, numbers and figures. This takes
two seconds and needs neither models nor data. `kmnist verify` finds all other edits.
"""

from __future__ import annotations

import base64
import csv
import io
import itertools
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evaluation import acceptance, claims, labelling, metrics, scoring
from kmnist_pipeline.evidence import lineage, numbers, outs, paths
from kmnist_pipeline.faults import noticing
from kmnist_pipeline.reporting import page
from kmnist_pipeline.repository.changes import Change
from kmnist_pipeline.repository.compare import are_close
from kmnist_pipeline.repository.locks import LockedStage

# Numbers are stored with six digits. A number and those that it follows from were both rounded,
# and the standard deviation of rates has the rounding errors of the rates.
RELATIVE, ABSOLUTE = 1e-5, 2e-6
PICTURE = re.compile(r"data:image/webp;base64,([\w+/=]*)")  # of a page

Values = dict[str, Any]  # by dotted name


def contradictions(
    stages: Iterable[LockedStage], params: dict[str, Any]
) -> dict[str, list[Change]]:
    """What does not follow from other evidence, by the stage that wrote it.

    stages: those whose outs on disk are as the lock says; params: the content of `params.yaml`.
    """
    kinds = {
        "kfold-train": _of_training,
        "tune": _of_training,
        "evaluate": _of_test,
        "conditions": _of_conditions,
        "suspects": _of_suspects,
        "loop": _of_loop,
        "report": _of_report,
    }
    found = {}
    for stage in stages:
        if stage.kind in kinds:
            try:
                lines = list(kinds[stage.kind](stage, params))
            except (
                UserError,
                LookupError,
                TypeError,
                ValueError,
                AttributeError,
                OSError,
            ) as error:
                lines = [f"its numbers cannot be computed again: {type(error).__name__}: {error}"]
            if lines:
                found[stage.address] = [Change("contradiction", line, None, None) for line in lines]
    return found


def _of_training(stage: LockedStage, params: dict[str, Any]) -> Iterator[str]:
    """Accuracies and losses are means over folds; those of folds are those of the kept epochs."""
    path = _numbers(stage, "validation.json")
    content = numbers.read(path)
    curves = {
        (row["trial"], row["seed"], row["fold"], row["epoch"]): row
        for row in _table(path.with_name("curves.csv"))
        if row["split"] == "validation"
    }
    by_trial: dict[str, dict[int, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in content["folds"]:
        trial = row.get("trial", "")
        by_trial[trial][row["seed"]].append(row)
        for score in ("accuracy", "loss") if row["n_validation"] else ():
            epoch = curves[trial, *(str(row[key]) for key in ("seed", "fold", "kept_epoch"))]
            place = f"{score} of seed {row['seed']}, fold {row['fold']}"
            yield from _apart(path, {place: row[score]}, {place: float(epoch[score])})
    of_trials = {name: _over_folds(seeds) for name, seeds in by_trial.items()}
    stated = {trial["name"]: trial for trial in content.get("trials", [])}
    for name, trial in stated.items():
        yield from _apart(path, _stated(trial), of_trials[name])
    # A winner that was trained again comes last.
    kept = [name for name in of_trials if name not in stated] or [content.get("winner", "")]
    yield from _apart(path, _stated(content), of_trials[kept[-1]])


def _over_folds(seeds: dict[int, list[dict[str, Any]]]) -> Values:
    """The numbers of a trial, from the rows of its folds by seed."""
    first, *_ = seeds.values()
    if not (n := sum(row["n_validation"] for row in first)):
        return {"n": 0}
    means = [float(np.mean([row["accuracy"] for row in rows])) for rows in seeds.values()]
    loss = float(np.mean([row["loss"] for row in first]))
    return {"accuracy": means[0], "loss": loss, "n": n, **_flat("seeds", metrics.spread(means))}


def _of_test(stage: LockedStage, params: dict[str, Any]) -> Iterator[str]:
    """Scores follow from the confusion matrix, spreads from the values of the seeds."""
    path = _numbers(stage, "test.json")
    content = numbers.read(path)
    scores = metrics.scores(
        metrics.unpack_confusion(content["confusion"]), _classes(stage.item, params)
    )
    stated, expected = (
        {**metrics.compared(each), **_flat("per_class", each["per_class"])}
        for each in (content, scores)
    )
    yield from _apart(path, stated, expected)
    right = metrics.unpack_bits(content["right"], content["n"])
    yield from _apart(path, {"correct": content["correct"]}, {"correct": int(right.sum())})
    if corrected := content.get("corrected"):
        rate = {"corrected": corrected["correct"] / corrected["n"]}
        yield from _apart(path, {"corrected": corrected["accuracy"]}, rate)
    for trial in [content, *content.get("trials", [])]:
        for score in scoring.SCORES:
            spread = trial["seeds"][score]
            first = {**spread, score: trial[score]}
            again = {**metrics.spread(spread["values"]), score: spread["values"][0]}
            yield from _apart(path, _flat(score, first), _flat(score, again))
        rate = {"accuracy": trial["correct"] / trial["n"]}
        yield from _apart(path, {"accuracy": trial["accuracy"]}, rate)


def _of_conditions(stage: LockedStage, params: dict[str, Any]) -> Iterator[str]:
    """Rates, intervals and whether targets are met follow from counts."""
    path = _numbers(stage, "conditions.json")
    content = numbers.read(path)
    for row in content["conditions"]:
        counts = {key: row[key] for key in ("n", "correct", "accepted", "accepted_correct")}
        again = acceptance.outcome_of(**counts, promise=content["promise"])
        yield from _apart(path, _flat(row["name"], row), _flat(row["name"], again))


def _of_suspects(stage: LockedStage, params: dict[str, Any]) -> Iterator[str]:
    """Shares follow from counts."""
    path = _numbers(stage, "suspects.json")
    swapped = numbers.read(path)["swapped"]
    for row in swapped["ranks"]:
        share = {f"share of {row['rank']}": row["found"] / swapped["n"]}
        yield from _apart(path, dict.fromkeys(share, row["share"]), share)


def _of_loop(stage: LockedStage, params: dict[str, Any]) -> Iterator[str]:
    """Means and deviations follow from the seeds, saved labels from the means."""
    path = _numbers(stage, "loop.json")
    content = numbers.read(path)
    means: dict[str, list[float]] = {way: [] for way in labelling.WAYS}
    for row in content["rounds"]:
        for way, spread in row["accuracy"].items():
            again = metrics.spread(spread["values"])
            yield from _apart(path, _flat(way, spread), _flat(way, again))
            means[way].append(again["mean"])
    labels = [row["labels"] for row in content["rounds"]]
    saved = labelling.saved(labels, *(means[way] for way in labelling.WAYS))
    yield from _apart(path, {"saved": content["saved"]}, {"saved": saved})


def _classes(model: str, params: dict[str, Any]) -> tuple[str, ...]:
    """The names of a model's classes, in the order of its confusion matrix."""
    base = params["studies"][model]["base"] if model in params["studies"] else model
    experiment = params["experiments"][base]
    names = params["datasets"][experiment["dataset"]]["classes"]
    return tuple(
        names if (chosen := experiment["classes"]) is None else map(names.__getitem__, chosen)
    )


def _of_report(stage: LockedStage, params: dict[str, Any]) -> Iterator[str]:
    """Verdicts follow from claims and numbers; pages follow from verdicts, numbers and figures."""
    folder = Path(paths.page(stage.item))
    path = folder / "claims.json"
    about, written = params["reports"][stage.item], json.loads(path.read_bytes())
    stated = written["claims"]
    measured = Path(paths.METRICS) / stage.item
    rows = claims.read(Path(f"conf/claims/{about['claims']}.csv"))
    judged = [claims.judge(row, measured, about["confidence"], about["margin"]) for row in rows]
    if written.get("faults") != noticing.of_report(judged, rows, measured).get("faults"):
        yield f"{path}: the injected faults that claims notice are not what the numbers give"
    for given, claim in itertools.zip_longest(stated, json.loads(outs.json_bytes(judged))):
        before, after = (_flat("", each or {}) for each in (given, claim))
        if before.keys() != after.keys() or not all(
            map(are_close, before.values(), after.values())
        ):
            name = (claim or given)["id"]
            yield f"{path}: claim {name} is not what conf/claims and the numbers give"
    content = page.content(stage.item, params, written, Path("."))
    # Comparing pixels takes a tenth of the time of encoding the pictures again.
    shown = (folder / "index.html").read_bytes().decode()
    expected = {
        "index.html": (PICTURE.sub("", shown), page.html(content, address=lambda picture: "")),
        "README.md": ((folder / "README.md").read_bytes().decode(), page.markdown(content)),
    }
    for name, (text, again) in expected.items():
        if text != again:
            yield f"{folder / name}: is not what claims.json, the numbers and the figures give"
    for encoded, picture in zip(PICTURE.findall(shown), content["pictures"], strict=False):
        embedded = io.BytesIO(base64.b64decode(encoded))
        if _pixels(embedded) != _pixels(picture["path"]):
            yield f"{folder / 'index.html'}: does not show {picture['path']}"


def _pixels(picture: Path | io.BytesIO) -> tuple[tuple[int, int], bytes]:
    with Image.open(picture, formats=["PNG", "WEBP"]) as image:
        return image.size, image.convert("RGB").tobytes()


def _numbers(stage: LockedStage, name: str) -> Path:
    (path,) = (out for out in stage.outs if out.endswith(f"/{name}"))
    return Path(path)


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _stated(content: dict[str, Any]) -> Values:
    compared = {key: content[key] for key in ("accuracy", "loss", "n")}
    return {**compared, **_flat("seeds", content["seeds"] or {})}


def _flat(prefix: str, value: Any) -> Values:
    return dict(lineage.leaves(prefix, value))


def _apart(path: Path, stated: Values, expected: Values) -> Iterator[str]:
    for name, value in expected.items():
        given = stated.get(name)
        if given is None or value is None:
            same, known = given is value, value
        else:
            same = math.isclose(given, value, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
            known = float(f"{value:.6g}")
        if not same:
            yield f"{path}: {name} is {given}, but {known} follows from the rest"

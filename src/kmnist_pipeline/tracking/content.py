"""The content of a stage's run: parameters and numbers from the files that the stage wrote."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import lineage, numbers
from kmnist_pipeline.tracking.record import Record

MODEL = ("architecture", "kind", "solver")  # the setting that distinguishes the models of a family
MOST_NUMBERS = 1000  # in the child runs of a stage: each takes 0.25 ms; `curves.csv` has all


@dataclass
class RunContent:
    """The content of a run: parameters, numbers as (metric, value, step), and nested runs."""

    name: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    numbers: list[tuple[str, float, int]] = field(default_factory=list)
    children: list[RunContent] = field(default_factory=list)
    arithmetic: str | None = None  # of the numbers, as their file states it

    def add(self, name: str, value: float | None, step: int = 0) -> None:
        """Add a number, unless it is None."""
        if value is not None:
            self.numbers.append((name, float(value), step))


def of(record: Record) -> RunContent:
    """The content of a stage's run. Raises UserError if a file is not as this code writes it."""
    by_hand = "" if record["lineage"] else " " + Path(record["root"]).name
    parameters = _flat(record["parameters"], record["item"])
    run = RunContent(f"{record['item']} {record['kind']}{by_hand}", parameters)
    shows = {
        "preprocess": ("json", _preprocess),
        "kfold-train": ("validation.json", _kfold_train),
        "tune": ("validation.json", _tune),
        "evaluate": ("test.json", _evaluate),
        "conditions": ("conditions.json", _conditions),
        "suspects": ("suspects.json", _suspects),
        "loop": ("loop.json", _loop),
        "report": ("claims.json", _report),
    }
    if record["kind"] in shows:
        name, show = shows[record["kind"]]
        file = _written(record, name)
        try:
            content = numbers.read(file)
            show(run, content, record)
            run.arithmetic = content["made_by"].get("arithmetic")
        except (LookupError, TypeError, ValueError, AttributeError, OSError) as error:
            why = f"{type(error).__name__}: {error}"
            out = file.relative_to(record["root"])
            raise UserError(f"{out} is not in the form that this code writes ({why})") from error
    _thin(run.children)
    return run


def files(record: Record) -> Iterator[tuple[Path, Path]]:
    """Every file that the stage has written, each with the folder that contains its out."""
    for out in record["written"]:
        path = Path(record["root"]) / out
        if path.is_dir():
            yield from ((file, path) for file in sorted(path.rglob("*")) if file.is_file())
        elif path.exists():
            yield path, path.parent


def _thin(children: list[RunContent]) -> None:
    """Keep only some epochs if it would take too long to log all curves."""
    stride = math.ceil(sum(len(child.numbers) for child in children) / MOST_NUMBERS)
    for child in children:
        last = max((step for _, _, step in child.numbers), default=0)
        child.numbers = [
            (name, value, step)
            for name, value, step in child.numbers
            if step in (0, last) or step % stride == 1 % stride
        ]


def _written(record: Record, ending: str) -> Path:
    for file, _ in files(record):
        if file.name.endswith(ending):
            return file
    raise UserError(f"{record['address']} has written no {ending}")


# Parameters that change no result, or that other columns or the runs of trials show.
PROSE = re.compile(
    r"(title|licence|summary|reproduces|sources|parts|figures|report|kind|family|points|product)\b"
)


def _flat(parameters: dict[str, Any], item: str) -> dict[str, Any]:
    """Each value that is not null, by its dotted name, or a shorter name if it is unambiguous."""
    flat: dict[str, Any] = {}
    # The stage's own values come first, so that they get the short names.
    names = sorted(parameters, key=lambda n: (item not in n.split("."), n))
    own_first = {name: parameters[name] for name in names}
    for name, value in lineage.leaves("", own_first, lists=None):
        short = re.sub(r"^(datasets|experiments|studies|models|reports)\.[^.]+\.", "", name)
        if value != {} and not PROSE.match(short):
            flat[short if flat.get(short, value) == value else name] = value
    return {name: value for name, value in flat.items() if value is not None}


def _preprocess(run: RunContent, content: dict[str, Any], record: Record) -> None:
    for name, number in {**content, **content.get("overlap", {})}.items():
        if isinstance(number, int | float):
            run.add(name, number)


def _kfold_train(run: RunContent, content: dict[str, Any], record: Record) -> None:
    curves = _read_curves(record, "seed", "fold")
    _add_validation(run, content, chain(*curves.values()))
    for fold in content["folds"]:
        place = {"seed": fold["seed"], "fold": fold["fold"]}
        child = RunContent(f"seed {fold['seed']} fold {fold['fold']}", place)
        for split in ("", "train_"):
            for metric in ("accuracy", "loss"):
                child.add(f"{split or 'validation_'}{metric}", fold[split + metric])
        for count in ("kept_epoch", "epochs"):
            child.add(count, fold[count])
        _add_curves(child, curves[str(fold["seed"]), str(fold["fold"])])
        run.children.append(child)


def _tune(run: RunContent, content: dict[str, Any], record: Record) -> None:
    curves = _read_curves(record, "trial")
    kept = ("retrained",) if ("retrained",) in curves else (content["winner"],)
    _add_validation(run, content, curves[kept])
    _add_winner(run, content)
    for trial in content["trials"]:
        child = RunContent(trial["name"], trial["parameters"])
        _add_validation(child, trial, curves[(trial["name"],)])
        run.children.append(child)


def _add_winner(run: RunContent, content: dict[str, Any]) -> None:
    """Add the settings of a study's model that differ from the base in its parameters."""
    for trial in content.get("trials", []):
        if trial["name"] == content["winner"]:
            run.parameters |= trial["parameters"] | {"winner": trial["name"]}


VALIDATION = "/validation.json"


def is_read(kind: str, path: str) -> bool:
    """Whether a stage's run shows content of this dependency."""
    return kind == "evaluate" and path.endswith((VALIDATION, numbers.beside(VALIDATION)))


def _evaluate(run: RunContent, content: dict[str, Any], record: Record) -> None:
    # The settings of the measured model, so that one row shows everything.
    for path in (record["lineage"] or {"deps": {}})["deps"]:
        if path.endswith(VALIDATION):
            validation = numbers.read(Path(record["root"]) / path)
            run.parameters |= _flat(validation["made_by"]["parameters"], record["item"])
            _add_winner(run, validation)
            for key in MODEL:
                if f"model.{key}" in run.parameters:
                    run.parameters["model"] = run.parameters[f"model.{key}"]
            if "draws" not in content:  # else it is measured on pairs of images
                run.add("validation_accuracy", validation["accuracy"])
    for metric in content["seeds"]:
        run.add(f"test_{metric}", content[metric])
    for name, spread in (("test", content["seeds"]), ("draws", content.get("draws") or {})):
        _add_spread(run, f"{name}_accuracy", spread.get("accuracy"))
    if "routing" in content:
        for number in ("temperature", "threshold"):
            run.add(f"routing/{number}", content["routing"][number])
        for number in ("accepted", "review", "accuracy"):
            run.add(f"routing/test_{number}", content["routing"]["test"][number])


def _conditions(run: RunContent, content: dict[str, Any], record: Record) -> None:
    for row in content["conditions"]:
        place = re.sub(r"\W+", "_", row["name"]).strip("_")
        run.add(f"conditions/{place}_accuracy", row["accuracy"])
        run.add(f"conditions/{place}_accepted_accuracy", row["accepted_accuracy"])


def _suspects(run: RunContent, content: dict[str, Any], record: Record) -> None:
    run.add("contradicted", content["contradicted"])
    for row in content["swapped"]["ranks"]:
        run.add("swapped_found", row["found"], row["rank"])


def _loop(run: RunContent, content: dict[str, Any], record: Record) -> None:
    run.add("labels_saved", content["saved"])
    for row in content["rounds"]:
        for name, spread in row["accuracy"].items():
            run.add(f"accuracy/{name}", spread["mean"], row["labels"])


def _report(run: RunContent, content: Any, record: Record) -> None:
    counted = [claim["verdict"] for claim in content["claims"] if not claim.get("same_as")]
    for verdict, count in Counter(counted).items():
        run.add(f"verdicts/{verdict}", count)


Rows = Iterable[dict[str, str]]  # of `curves.csv`


def _add_validation(run: RunContent, content: dict[str, Any], rows: Rows) -> None:
    run.add("validation_accuracy", content["accuracy"])
    run.add("validation_loss", content.get("loss"))
    _add_spread(run, "validation_accuracy", content["seeds"])
    _add_curves(run, rows)


def _add_spread(run: RunContent, name: str, seeds: dict[str, Any] | None) -> None:
    for number in ("mean", "sd"):
        run.add(f"{name}_{number}", (seeds or {}).get(number))


def _add_curves(run: RunContent, rows: Rows) -> None:
    """Add means over the folds that reached an epoch; some folds stop early."""
    points = defaultdict(list)
    for row in rows:
        for metric in ("loss", "accuracy"):
            if row[metric]:
                points[f"{row['split']}/{metric}", int(row["epoch"])].append(float(row[metric]))
    for (metric, epoch), values in points.items():
        run.add(metric, math.fsum(values) / len(values), epoch)


def _read_curves(record: Record, *columns: str) -> dict[tuple[str, ...], list[dict[str, str]]]:
    """The rows of `curves.csv` by the values of these columns."""
    curves = defaultdict(list)
    with _written(record, "curves.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            curves[tuple(row[column] for column in columns)].append(row)
    return curves

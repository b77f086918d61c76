"""The page of a report, as HTML that stands alone and as Markdown for the repository's browser."""

from __future__ import annotations

import base64
import csv
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from kmnist_pipeline.errors import UserError


class PageError(UserError):
    """A page that cannot be written as its configuration asks."""


@dataclass(frozen=True)
class Picture:
    """A figure with what its PNG says of itself, and its number in the published report."""

    path: Path
    number: str | None
    text: dict[str, str]

    @property
    def data_uri(self) -> str:
        """The picture itself, so that the page can be sent as one file."""
        return "data:image/png;base64," + base64.b64encode(self.path.read_bytes()).decode()

    @property
    def parameters(self) -> str:
        """The parameters that made the figure, one `key: value` a line."""
        return "\n".join(_flatten(json.loads(self.text["Parameters"])))

    @property
    def digests(self) -> list[tuple[str, str]]:
        """Path and md5 of the data that the figure was made from."""
        return list(json.loads(self.text["Data"]).items())

    @property
    def model(self) -> str:
        """The folder the figure lies in: its data set or model."""
        return self.path.parent.name


def content(
    *,
    name: str,
    about: Any,
    dataset: Any,
    claims: list[dict[str, Any]],
    metrics: Path,
    figures: Path,
    made_by: dict[str, Any],
) -> dict[str, Any]:
    """Everything that a page shows, read from the report's files.

    about, dataset: the typed configuration of the report and its data set; metrics: the folder
    `metrics/<report>`; figures: the folder `figures`.
    """
    models = [_model(folder) for folder in sorted(metrics.iterdir()) if folder.is_dir()]
    folders = [figures / "data" / about.dataset, figures / name]
    return {
        "name": name,
        "about": about,
        "dataset": dataset,
        "data": json.loads((metrics.parent / "data" / f"{about.dataset}.json").read_text()),
        "claims": claims,
        "verdicts": Counter(claim["verdict"] for claim in claims),
        "models": [model for model in models if not model["trials"]],
        "studies": [model for model in models if model["trials"]],
        "pictures": _pictures(figures, folders, about.figures, name),
        "made_by": made_by,
    }


def html(content: dict[str, Any]) -> str:
    """The page as one HTML file without any reference to another."""
    return _environment(escape=True).get_template("report.html").render(content)


def markdown(content: dict[str, Any]) -> str:
    """The page as Markdown, with the pictures where they lie in the repository."""
    return _environment(escape=False).get_template("report.md").render(content)


def _environment(escape: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("kmnist_pipeline.reporting"),
        autoescape=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["number"] = _number
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|").replace("\n", " ")
    return environment


def _number(value: Any, digits: int = 4) -> str:
    if value is None:
        return "–"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def _model(folder: Path) -> dict[str, Any]:
    """The numbers of one model, and for a study the rows of its trials."""
    validation = json.loads((folder / "validation.json").read_text())
    test = json.loads((folder / "test.json").read_text())
    trials = []
    if (folder / "trials.csv").exists():
        with (folder / "trials.csv").open(newline="") as table:
            rows = list(csv.DictReader(table))
        for row, scored in zip(rows, test["trials"], strict=True):
            measured = {key: float(row[key]) for key in ("mean", "sd") if row[key]}
            won = row["winner"] == "True"
            trials.append({"name": row["trial"], "won": won, **measured, "test": scored["seeds"]})
    return {"name": folder.name, "validation": validation, "test": test, "trials": trials}


def _pictures(
    root: Path, folders: list[Path], numbers: dict[str, str], report: str
) -> list[Picture]:
    """The numbered figures in the order of their numbers in `conf/`, then all others."""
    number_of = {file: number for number, file in numbers.items()}
    found = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.png")):
            file = path.relative_to(root).as_posix()
            with Image.open(path) as image:
                text = {str(key): str(value) for key, value in image.info.items()}
            found[file] = Picture(path, number_of.get(file), text)
    for file, number in number_of.items():
        if file not in found:
            raise PageError(f"reports.{report}.figures.{number}={file}: there is no such figure")
    numbered = [found.pop(file) for file in number_of]
    return numbered + list(found.values())


def _flatten(value: Any, prefix: str = "") -> list[str]:
    if isinstance(value, dict) and value:
        rows = (_flatten(item, f"{prefix}.{key}" if prefix else key) for key, item in value.items())
        return [row for inner in rows for row in inner]
    return [f"{prefix}: {json.dumps(value, ensure_ascii=False)}"]

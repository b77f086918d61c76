"""The page of a report, as one HTML file, and as Markdown for the repository's web page."""

from __future__ import annotations

import base64
import functools
import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jinja2 import Environment, TemplateError
from PIL import Image

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evaluation import claims as judged
from kmnist_pipeline.evaluation.metrics import holm, in_words, mcnemar, unpack_bits
from kmnist_pipeline.evaluation.scoring import OWN
from kmnist_pipeline.evidence import lineage, numbers, paths
from kmnist_pipeline.reporting import extras, jinja

NUMBERS = ("validation", "test")  # the files of numbers that a model has
EXTRAS = ("suspects", "loop", "readings", "faults")  # those that a report may have
OTHERS = "conditions"  # and the one that some models have


@contextmanager
def _of_numbers(folder: str) -> Iterator[None]:
    """Whatever damaged numbers raise, even in a template, becomes a UserError with their folder."""
    try:
        yield
    except (TemplateError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder}/ or {paths.METRICS}/data/: a file has other numbers than a page shows "
            f"({type(error).__name__}: {error}); `dvc repro` makes the files again that are not up "
            f"to date, and `git checkout HEAD -- {paths.METRICS}` restores the committed ones"
        ) from error


def content(
    name: str, params: dict[str, Any], verdicts: dict[str, Any], root: Path
) -> dict[str, Any]:
    """All content of a page, read from the report's files.

    params: the content of params.yaml; verdicts: that of claims.json; root: the folder
    of dvc.yaml. Raises UserError, as `html` and `markdown` do, for numbers that it cannot show.
    """
    with _of_numbers(f"{paths.METRICS}/{name}"):
        return _content(name, params, verdicts, root)


def _content(
    name: str, params: dict[str, Any], verdicts: dict[str, Any], root: Path
) -> dict[str, Any]:
    about, claims, made_by = params["reports"][name], verdicts["claims"], verdicts["made_by"]
    dataset = params["datasets"][about["dataset"]]
    metrics, figures = root / paths.METRICS / name, root / paths.FIGURES
    rank = _order(claims, metrics)
    folders = sorted(path for path in metrics.iterdir() if path.is_dir())
    folders.sort(key=lambda folder: rank.index(folder.name) if folder.name in rank else len(rank))
    models = [_model(folder, claims) for folder in folders]
    data = _read(root / paths.data_numbers(about["dataset"]))
    drawn = [root / paths.data_figures(about["dataset"]), figures / name]
    winners = {model["name"]: model["validation"].get("winner") for model in models}
    pictures = _pictures(figures, drawn, about["figures"], name, claims, winners)
    more = {
        part: _read(path) if (path := metrics / f"{part}.json").exists() else None
        for part in EXTRAS
    }
    read, faults = more["readings"], more["faults"]
    measured = [m[part] for m in models for part in (*NUMBERS, OTHERS) if m[part]]
    origins = _origins([data, *measured, *filter(None, more.values())])
    origin_of = {origin["stage"]: origin for origin in origins}
    for picture in pictures:
        if (maker := picture["text"]["Stage"]) not in origin_of:
            raise UserError(
                f"{picture['path'].as_posix()} was made by {maker}, whose numbers are not in "
                f"{metrics.as_posix()}/: `dvc repro {maker}` makes them, or delete the figure"
            )
    # The page stays small enough for a browser: it links to the figures of models without claims.
    extra = {model["name"] for model in models if model["name"] not in rank} if rank else set()
    return {
        "folder": f"{paths.METRICS}/{name}",
        "about": about,
        "dataset": dataset,
        "data": data,
        "claims": claims,
        "verdicts": Counter(claim["verdict"] for claim in claims if not claim["same_as"]),
        "meanings": judged.VERDICTS,
        "environments": _environments(models),
        "models": models,
        "own": {name: f"#{name.replace('_', ' ').capitalize()}" for name in OWN},
        "suspects": more["suspects"],
        "simulated": more["loop"],  # `loop` has a meaning in templates
        "readings": read and extras.readings(read, [claim["id"] for claim in claims]),
        "faults": faults and extras.faults(faults, verdicts["faults"], claims),
        "pairs": _pairs([model for model in models if model["name"] in rank]),
        "others": [model for model in models if model[OTHERS]],
        "routed": [model for model in models if "routing" in model["test"]],
        "pictures": [picture for picture in pictures if picture["path"].parent.name not in extra],
        "linked": [picture for picture in pictures if picture["path"].parent.name in extra],
        "origins": origins,
        "origin_of": origin_of,
        "made_by": made_by,
    }


def data_uri(picture: Path) -> str:
    """A figure as data, so that the page is one file.

    WebP without loss keeps every pixel in two thirds of the PNG's bytes. The PNG's text entries are
    left out, because the caption says the same.
    """
    content = io.BytesIO()
    with Image.open(picture, formats=["PNG"]) as image:
        image.save(content, "webp", lossless=True)
    return "data:image/webp;base64," + base64.b64encode(content.getvalue()).decode()


def html(content: dict[str, Any], address: Callable[[Path], str] = data_uri) -> str:
    """The page as one HTML file; only its links to code need the repository.

    address: gives the address of a figure on the page.
    """
    with _of_numbers(content["folder"]):
        return _environment().get_template("report.html").render(content, address=address)


def markdown(content: dict[str, Any]) -> str:
    """The page as Markdown, with links to the figures in the repository."""
    with _of_numbers(content["folder"]):
        return _environment().get_template("report.md").render(content)


@functools.cache
def _environment() -> Environment:
    environment = jinja.environment("kmnist_pipeline.reporting")
    environment.filters["number"] = _number
    environment.filters["probability"] = in_words
    environment.filters["plain"] = _plain
    return environment


def _plain(text: str) -> str:
    """The text on one line, escaped for a table cell or paragraph of Markdown."""
    return re.sub(r"[\\`*\[\]<>|&~$]|(?<!\w)_|_(?!\w)", r"\\\g<0>", " ".join(text.split()))


def _number(value: Any, digits: int = 4) -> str:
    if value is None:
        return "–"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


class Numbers(dict[str, Any]):
    """The content of a file of numbers, and its path."""

    def __missing__(self, key: str) -> Any:
        """Raises UserError, even in a template: an older form of the file lacks the key."""
        command = f"dvc repro {self.get('made_by', {}).get('stage', '')}".rstrip()
        raise UserError(f"{self['path']} lacks {key}: `{command}` makes it again")


def _read(path: Path) -> Numbers:
    details = path.with_name(numbers.beside(path.name))
    origin = details if details.exists() else path
    return Numbers({"path": path.as_posix(), "origin": origin.as_posix(), **numbers.read(path)})


def _environments(models: list[dict[str, Any]]) -> dict[str, str]:
    """The arithmetic and the versions of libraries that the models were trained with."""
    found: dict[str, set[str]] = {}
    for model in models:
        about = model["validation"]["environment"]
        for name, value in {"arithmetic": about["arithmetic"], **about["libraries"]}.items():
            found.setdefault(name, set()).add(value)
    return {name: " and ".join(sorted(values)) for name, values in found.items()}


def _origins(files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The origin of each file of numbers; numbers and figures link to it."""
    origins = []
    for file in files:
        values = lineage.leaves("", file["made_by"]["parameters"], lists=None)
        rows = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in values]
        origin = {"path": file["path"], "origin": file["origin"], **file["made_by"]}
        origins.append(origin | {"parameters": "\n".join(rows)})
    return origins


def _model(folder: Path, claims: list[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of a model and, for a study, the rows of its trials.

    Raises UserError if a file was made for another model.
    """
    validation, test = (_read(folder / f"{part}.json") for part in NUMBERS)
    others = folder / f"{OTHERS}.json"
    conditions = _read(others) if others.exists() else None
    for measured in (validation, test, *([conditions] if conditions else [])):
        maker = measured["made_by"]["stage"]
        if maker.partition("@")[2] != folder.name:
            raise UserError(
                f"{measured['origin']} was made by {maker}, not for {folder.name}: "
                f"`dvc repro {maker.partition('@')[0]}@{folder.name}` makes it again"
            )
    scored = {trial["name"]: trial["seeds"]["accuracy"] for trial in test.get("trials", [])}
    trials = [
        {**trial, "won": trial["name"] == validation["winner"], "test": scored.get(trial["name"])}
        for trial in validation.get("trials", [])
    ]
    if trials:
        trials = extras.with_wins(trials, claims)
    return {
        "name": folder.name,
        "validation": validation,
        "test": test,
        OTHERS: conditions,
        "trials": trials,
        "budget": _budget(validation["made_by"]["parameters"], folder.name),
        "chosen": _chosen(validation["made_by"]["parameters"], len(trials)),
    }


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _budget(parameters: dict[str, Any], name: str) -> str:
    """What a study changes in all its trials, such as `subset=4000, trainer.epochs=3`."""
    changed = parameters.get(f"studies.{name}", {}).get("trial", {})
    return ", ".join(f"{key}={_shown(value)}" for key, value in changed.items())


def _chosen(parameters: dict[str, Any], trials: int) -> str:
    """The choices that a model's validation images made before they calibrated its confidence."""
    ways = [f"one of {trials} trials"] if trials else []
    for name, trainer in parameters.items():
        if name.endswith(".trainer"):
            if trainer.get("patience") is not None:
                ways.append("when to stop")
            if trainer.get("keep", "last") != "last":
                ways.append("the epoch whose weights are kept")
    return ", ".join(ways) or "nothing"


def _order(claims: list[dict[str, Any]], metrics: Path) -> list[str]:
    """The models in the order of the claims about them."""
    sources = [Path(claim["source"].partition(":")[0]) for claim in claims if claim["source"]]
    return list(dict.fromkeys(path.relative_to(metrics).parts[0] for path in sources))


def _pairs(models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """McNemar's test of each model and the next one, if both have the same test images.

    Models that are correct on the same images, such as an experiment and the winner of its study,
    are not compared. Holm's method corrects p for all pairs of the page.
    """
    pairs = []
    for one, other in itertools.pairwise(models):
        first, second = one["test"], other["test"]
        if (first["n"], list(first["per_class"])) == (second["n"], list(second["per_class"])):
            right = [unpack_bits(test["right"], test["n"]) for test in (first, second)]
            if (right[0] != right[1]).any():
                pairs.append({"one": one, "other": other, **mcnemar(*right)})
    corrected = holm([pair["p"] for pair in pairs])
    return [pair | {"p": p} for pair, p in zip(pairs, corrected, strict=True)]


def _pictures(
    root: Path,
    folders: list[Path],
    numbers: dict[str, str],
    report: str,
    claims: list[Any],
    winners: dict[str, str | None],
) -> list[dict[str, Any]]:
    """The numbered figures in the order of their numbers in `conf/`, then all others.

    Each has its path, its name, its width in pixels, the text entries of its PNG, the md5 of each
    data file that it was made from, its number in the publication, and the claims about it.
    """
    number_of = {file: number for number, file in numbers.items()}
    found: dict[str, dict[str, Any]] = {}
    for path in (path for folder in folders for path in sorted(folder.rglob("*.png"))):
        file = path.relative_to(root).as_posix()
        with Image.open(path, formats=["PNG"]) as image:
            text = {str(key): str(value) for key, value in image.info.items()}
            found[file] = {"path": path, "name": _name(path), "width": image.width, "text": text}
        found[file]["digests"] = list(json.loads(text["Data"]).values())
        found[file]["number"] = number_of.get(file)
        found[file]["claims"] = [
            c for c in claims if _is_about(c, path, winners.get(path.parent.name))
        ]
    for file, number in number_of.items():
        if file not in found:
            raise UserError(f"reports.{report}.figures.{number}={file}: there is no such figure")
    numbered = [found.pop(file) for file in number_of]
    return numbered + list(found.values())


def _name(figure: Path) -> str:
    """A figure in words, such as `digits cnn: curves`: the model or folder, then the figure."""
    of, what = figure.parent.name, figure.stem
    if of == OTHERS:  # this folder has one figure for each model
        of, what = what, of
    return f"{of}: {what}".replace("_", " ")


def _is_about(claim: dict[str, Any], figure: Path, winner: str | None) -> bool:
    """Whether a claim is about the content of a figure, or about the accuracy of its model.

    The figure of the trials shows all trials and the winner; the others show the winner's model.
    """
    file, _, value = (claim["source"] or "").partition(": ")
    trial, _, value = value.rpartition(": ")
    wanted = {figure.stem} if not trial else set[str]()
    if figure.stem == "trials":
        wanted |= {"accuracy"} if trial else {"winner"}
    elif trial in ("", winner):
        wanted.add("accuracy")
    return Path(file).parent.name == figure.parent.name and value in wanted

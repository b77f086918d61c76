"""Mistakes in a claims file that the report stage would meet, after all other stages have run."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kmnist_pipeline.config import grid
from kmnist_pipeline.evaluation import claims, metrics
from kmnist_pipeline.evaluation.claims import ClaimError
from kmnist_pipeline.evaluation.scoring import SCORES

Claim = dict[str, str]

NUMBER = r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?"
COUNTS = r"\d+( +\d+)*"
# What `reported` must be: a pattern, and an example for the message. Other values are numbers.
FORMS = {
    "confusion": (rf"{COUNTS}( *; *{COUNTS})*", "rows of whole numbers such as `9 1; 0 10`"),
    "misclassified": (r"\d+( *, *\d+)*", "whole numbers such as `4, 5, 18`"),
    "winner": (rf"[^=,]+= *{NUMBER}( *,[^=,]+= *{NUMBER})*", "a point such as `lr=0.1, batch=64`"),
}
OF_TRIALS = {"validation.json": ("accuracy", "loss", "n"), "test.json": (*SCORES, "correct", "n")}
VALUES = {
    "validation.json": (*OF_TRIALS["validation.json"], "winner"),
    "test.json": (*OF_TRIALS["test.json"], *FORMS),
}
# What is asked about a report, and the values of its models that the answer is about.
ASKED = {
    "readings": ("accuracy",),
    "faults": (*metrics.SCORES, "confusion", "misclassified"),
}


def read(path: Path) -> list[tuple[int, Claim]]:
    """The claims of a file, as `claims.read` gives them, each with its line.

    Raises ClaimError, which names the file, the line and the claim, also for what cannot be judged
    whatever the numbers will be.
    """
    try:
        _require_utf_8(path)
        found = claims.read(path)
    except csv.Error as error:
        raise ClaimError(f"{path}: {_place(path)}: {error}; is a quotation mark missing?") from None
    reader = csv.DictReader(_text(path))
    lines = [reader.line_num for _ in reader]
    for line, claim in zip(lines, found, strict=True):
        if claim["id"] != claim["id"].strip():
            spaced = f"id={claim['id']!r}: must have no spaces around it"
            raise ClaimError(f"{path}: line {line}: {spaced}")
        if claim["file"] and (problem := next(_problems(claim), None)):
            raise ClaimError(f"{path}: line {line}: {claim['id']}: {problem}")
    return list(zip(lines, found, strict=True))


def concerned(found: Iterable[Claim], section: str, asked: Mapping[str, Any]) -> bool:
    """Whether any claim is about what readings or faults measure of their models.

    section: a key of ASKED; asked: its settings for the report.
    """
    models = {(name, "") for name in asked["experiments"]}
    for name, study in asked["studies"].items():
        models |= {(name, grid.name(point)) for point in grid.points(study)}
    return any(
        (claim["file"].partition("/")[0], claim["trial"]) in models
        and claim["value"] in ASKED[section]
        for claim in found
    )


def _require_utf_8(path: Path) -> None:
    content = path.read_bytes()
    try:
        content.decode()
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8-sig") + "?"  # ends in the row of the byte
        reader = csv.reader(io.StringIO(before, newline=""))
        *_, row = reader
        raise ClaimError(
            f"{path}: line {reader.line_num}: {row[0]}: is not UTF-8; save the file as UTF-8"
        ) from None


def _text(path: Path) -> io.StringIO:
    return io.StringIO(path.read_text("utf-8-sig"), newline="")


def _place(path: Path) -> str:
    """The line where a row begins that is no CSV, and the name of its claim."""
    reader, line = csv.reader(_text(path)), 1
    try:
        for _ in reader:
            line = reader.line_num + 1
    except csv.Error:
        pass
    name = _text(path).readlines()[line - 1].partition(",")[0]
    return f"line {line}: {name[:40].strip()}"


def _problems(claim: Claim) -> Iterator[str]:
    """Why the report stage could not judge a claim about a model."""
    value, reported = claim["value"], claim["reported"]
    model, _, file = claim["file"].partition("/")
    if not model or file not in VALUES:
        names = " or ".join(f"MODEL/{name}" for name in VALUES)
        yield f"file={claim['file']}: must be {names}"
        return
    known = (OF_TRIALS if claim["trial"] else VALUES)[file]
    if value not in known:
        of = "a trial in " if claim["trial"] else ""
        yield f"value={value}: must be one of {', '.join(known)}, which {of}{file} has"
        return
    form, example = FORMS.get(value, (NUMBER, "a number such as 0.95"))
    if not re.fullmatch(form, reported.strip(), re.ASCII):
        yield f"reported={reported!r}: must be {example}, as {value} is"
    if value == "confusion":
        rows = [row.split() for row in reported.split(";")]
        if {len(row) for row in rows} != {len(rows)}:
            yield f"reported={reported!r}: must have as many rows as columns"

"""Claims: what a report states, what we obtained, and the verdict.

The tolerance of a claim is decided by what its report leaves unknown, never by the outcome. Over
s seeds with standard deviation sd it is Student's t times sd sqrt(1 + 1/s), the prediction
interval of one more seed, which the published number is taken to be; where the split or subset
is unknown too, the sampling error of a rate p over n images comes on top; a deterministic fit
on a fixed split has none. Where one seed is all there is, `spread` names the file of a model whose
seeds stand for it, or with `#draws` whose draws do. A bound is a number to be passed.
"""

from __future__ import annotations

import csv
import json
from math import sqrt
from pathlib import Path
from typing import Any

from scipy.special import ndtri, stdtrit

from kmnist_pipeline.errors import UserError

COLUMNS = [
    "id",
    "where",
    "configuration",
    "metric",
    "reported",
    "file",
    "trial",
    "value",
    "unknown",
    "spread",
]
UNKNOWNS = ("", "nothing", "seed", "seed and split", "bound")
VERDICTS = {
    "exact": "equal at the printed digits",
    "reproduced": "within the tolerance",
    "differs": "outside the tolerance",
    "context": "nothing to reproduce",
}


class ClaimError(UserError):
    """A line of a claims file that cannot be judged."""


def read(path: Path) -> list[dict[str, str]]:
    """The claims of one report, as they stand in `conf/claims/<report>.csv`."""
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != COLUMNS:
            raise ClaimError(f"{path}: the columns must be {','.join(COLUMNS)}")
        claims = list(reader)
    for claim in claims:
        if claim["unknown"] not in UNKNOWNS:
            allowed = ", ".join(repr(unknown) for unknown in UNKNOWNS)
            raise ClaimError(
                f"{path}: {claim['id']}: unknown={claim['unknown']!r}: one of {allowed}"
            )
    return claims


def judge(claim: dict[str, str], metrics: Path, confidence: float) -> dict[str, Any]:
    """The claim with what was obtained, the tolerance and the verdict.

    metrics: the report's folder of metrics; confidence: of the two-sided intervals.
    """
    about = {key: claim[key] for key in ("id", "where", "configuration", "metric", "reported")}
    if not claim["file"]:
        return {**about, "verdict": "context", **_nothing("no model of this report is about it")}
    path = metrics / claim["file"]
    entry = _entry(path, claim)
    value = entry[claim["value"]]
    source = f"{path.as_posix()}: {claim['trial'] + ': ' if claim['trial'] else ''}{claim['value']}"
    if isinstance(value, list):
        return {**about, **_compare_counts(claim["reported"], value), "source": source}

    if isinstance(value, str):
        return {**about, **_compare_points(claim["reported"], value), "source": source}

    # Six digits stand in the file; where counts stand beside the rate, they give all digits.
    obtained = (
        entry["correct"] / entry["n"]
        if claim["value"] == "accuracy" and "correct" in entry
        else value
    )
    reported = float(claim["reported"])
    seeds = entry["seeds"] if claim["value"] == "accuracy" else None
    spread = _spread(claim, metrics) if claim["spread"] else seeds
    allowed = tolerance(claim["unknown"], reported, entry["n"], spread, confidence)
    digits = len(claim["reported"].partition(".")[2])
    if round(obtained, digits) == reported:
        verdict = "exact"
    elif abs(obtained - reported) <= allowed or (
        claim["unknown"] == "bound" and obtained > reported
    ):
        verdict = "reproduced"
    else:
        verdict = "differs"
    notes = []
    if claim["value"] == "accuracy" and "correct" in entry:
        notes.append(f"{entry['correct']} of {entry['n']} right")
    if seeds and seeds["n"] > 1:
        notes.append(f"{seeds['mean']:.4f} ± {seeds['sd']:.4f} over {seeds['n']} seeds")
    return {
        **about,
        "obtained": obtained,
        "tolerance": allowed,
        "verdict": verdict,
        "note": "; ".join(notes),
        "source": source,
    }


def tolerance(
    unknown: str, rate: float, n: int, seeds: dict[str, Any] | None, confidence: float
) -> float:
    """How far apart two runs of the same experiment may be, given what is unknown of one."""
    allowed = 0.0
    if "seed" in unknown and seeds and seeds["n"] > 1:
        s = seeds["n"]
        allowed += stdtrit(s - 1, (1 + confidence) / 2) * seeds["sd"] * sqrt(1 + 1 / s)
    if "split" in unknown:
        allowed += ndtri((1 + confidence) / 2) * sqrt(rate * (1 - rate) / n)
    return float(allowed)


def _entry(path: Path, claim: dict[str, str]) -> dict[str, Any]:
    if not path.exists():
        raise ClaimError(f"claim {claim['id']}: {path} is not there")
    entry = json.loads(path.read_text())
    if claim["trial"]:
        trials = {trial["name"]: trial for trial in entry.get("trials", [])}
        if claim["trial"] not in trials:
            known = ", ".join(trials) or "none"
            raise ClaimError(f"claim {claim['id']}: {path} has no trial {claim['trial']} ({known})")
        entry = trials[claim["trial"]]
    if claim["value"] not in entry:
        raise ClaimError(f"claim {claim['id']}: {path} has no value {claim['value']}")
    return entry


def _spread(claim: dict[str, str], metrics: Path) -> dict[str, Any]:
    """The numbers of other seeds, or draws, that tell how far apart two runs may be."""
    file, _, key = claim["spread"].partition("#")
    wanted = {**claim, "trial": "", "value": key or "seeds"}
    return _entry(metrics / file, wanted)[wanted["value"]]


def _compare_counts(reported: str, obtained: list) -> dict[str, Any]:
    """Whole numbers, as a list `4, 5` or as rows of a matrix `1 2; 3 4`, compared one by one."""
    stated = [int(word) for word in reported.replace(";", " ").replace(",", " ").split()]
    nested = obtained and isinstance(obtained[0], list)
    flat = [int(cell) for row in obtained for cell in row] if nested else obtained[: len(stated)]
    different = sum(a != b for a, b in zip(stated, flat, strict=False)) + abs(
        len(stated) - len(flat)
    )
    return {
        "obtained": (
            "; ".join(" ".join(map(str, row)) for row in obtained)
            if nested
            else ", ".join(map(str, flat))
        ),
        "tolerance": 0.0,
        "verdict": "exact" if different == 0 else "differs",
        "note": f"{len(stated) - different} of {len(stated)} numbers are equal",
    }


def _compare_points(reported: str, obtained: str) -> dict[str, Any]:
    """Points of a study, such as `lr=0.1,batch=64`, compared value by value."""
    stated, found = (
        [float(pair.partition("=")[2]) for pair in point.split(",")]
        for point in (reported, obtained)
    )
    equal = stated == found
    note = "" if equal else "by validation accuracy another point won here"
    verdict = "exact" if equal else "differs"
    return {"obtained": obtained, "tolerance": 0.0, "verdict": verdict, "note": note}


def _nothing(note: str) -> dict[str, Any]:
    return {"obtained": None, "tolerance": None, "note": note, "source": None}

"""Claims: the number that a publication states, ours, and the verdict.

We treat a published number as one more result of the procedure that gave our numbers. For s seeds
with mean m and standard deviation sd its prediction interval is m +- t sd sqrt(1 + 1/s), with
Student's t for the degrees of freedom of sd. If the split or subset is unknown too, the publication
may have measured other images. Then the half-width is sqrt(a^2 + b^2), with a as above and b for
the sampling error of a rate over n images, z sqrt(m (1 - m) / n). The confidence is at least the
stated one, even if the images were the same. The interval depends on what the publication leaves
unknown, never on the outcome. A deterministic fit on a fixed split has no interval.

The column `spread` names models of the same kind whose standard deviations are pooled, because each
has few seeds. Or it is `draws`: then the spread is that over trainings and draws of the support
images. A bound is a number that ours must exceed.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import hypot, inf, isfinite, sqrt
from pathlib import Path
from typing import Any

from scipy.special import ndtri, stdtrit

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evaluation.scoring import SCORES
from kmnist_pipeline.evidence import numbers

COLUMNS = [
    "id", "where", "quote", "configuration", "metric", "reported",
    "file", "trial", "value", "unknown", "spread", "same_as",
]  # fmt: skip
NUMERIC = ("seed", "seed and split", "bound")
UNKNOWNS = ("", "nothing", *NUMERIC)
VERDICTS = {
    "exact": "equal at the printed digits",
    "reproduced": "inside the interval",
    "differs": "outside the interval",
    "inconclusive": "inside an interval too wide to decide",
    "beaten": "above the bound",
    "missed": "not above the bound",
    "context": "nothing to reproduce",
}
DRAWS = "draws"


@dataclass(frozen=True)
class Spread:
    """The spread of a number: mean, standard deviation of one more draw with its degrees of
    freedom, and standard error of the mean."""

    mean: float
    sd: float
    df: float
    se: float

    def half_width(self, confidence: float, sampling: float = 0.0) -> float:
        """Half the prediction interval of one more draw.

        sampling: the standard error of a rate over other images, if it was measured on others.
        """
        upper = (1 + confidence) / 2
        ours = stdtrit(self.df, upper) * sqrt(self.sd**2 + self.se**2)
        return float(hypot(ours, ndtri(upper) * sampling))


class ClaimError(UserError):
    """A line of a claims file for which there is no verdict."""


def read(path: Path) -> list[dict[str, str]]:
    """The claims of one report, as `conf/claims/<report>.csv` lists them.

    Raises ClaimError, which names the file, the line and the claim, for what cannot be judged.
    """
    try:
        text = path.read_text("utf-8-sig")  # spreadsheets begin with a byte order mark
    except UnicodeDecodeError as error:
        raise ClaimError(f"{path}: is not UTF-8: {error}") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    if reader.fieldnames != COLUMNS:
        raise ClaimError(f"{path}: the columns must be {','.join(COLUMNS)}")
    lines = [(reader.line_num, claim) for claim in reader]
    reported = {claim["id"]: claim["reported"] for _, claim in lines}
    seen = set[str]()
    for line, claim in lines:
        if problem := next(_problems(claim, reported, seen), None):
            raise ClaimError(f"{path}: line {line}: {claim['id']}: {problem}")
        seen.add(claim["id"])
    return [claim for _, claim in lines]


def _problems(claim: dict[str, str], reported: dict[str, str], seen: set[str]) -> Iterator[str]:
    """Why a claim cannot be judged; reported: the numbers by id; seen: the ids before it."""
    if None in claim.values() or None in claim:
        yield f"must have {len(COLUMNS)} cells"
        return
    if not claim["id"] or claim["id"] in seen:
        yield f"id={claim['id']!r}: must be a name that no other claim has"
    if claim["unknown"] not in UNKNOWNS:
        allowed = ", ".join(repr(unknown) for unknown in UNKNOWNS)
        yield f"unknown={claim['unknown']!r}: must be one of {allowed}"
    is_number = claim["unknown"] in NUMERIC or claim["value"] in SCORES
    if not claim["reported"] or (is_number and _number(claim) is None):
        yield f"reported={claim['reported']!r}: must be a number such as 0.95"
    if Path(claim["file"]).is_absolute() or ".." in Path(claim["file"]).parts:
        yield f"file={claim['file']}: must be a path in the report's folder of metrics"
    if "/" in claim["spread"] or ".." in claim["spread"].split():
        yield f"spread={claim['spread']}: must be {DRAWS} or names of models"
    same = claim["same_as"]
    if same and (same == claim["id"] or reported.get(same) != claim["reported"]):
        yield f"same_as={same}: must be another claim with the same reported number"


def _number(claim: dict[str, str]) -> float | None:
    if not re.fullmatch(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", claim["reported"], re.ASCII):
        return None
    number = float(claim["reported"])
    return number if isfinite(number) else None


def judge(claim: dict[str, str], metrics: Path, confidence: float, margin: float) -> dict[str, Any]:
    """The claim with our number, the interval and the verdict.

    metrics: the report's folder of metrics; confidence: the confidence of the two-sided
    intervals; margin: half of the widest interval that is not inconclusive.
    """
    copied = ("id", "where", "quote", "configuration", "metric", "reported", "same_as")
    about: dict[str, Any] = {key: claim[key] for key in copied}
    if not claim["file"]:
        nothing = dict.fromkeys(("obtained", "mean", "tolerance", "interval", "source"))
        note = "no model of this report measures it"
        return {**about, "verdict": "context", **nothing, "note": note}
    path = metrics / claim["file"]
    entry = _entry(metrics, claim["file"], claim)
    value = entry[claim["value"]]
    trial = f"{claim['trial']}: " if claim["trial"] else ""
    about["source"] = f"{path.as_posix()}: {trial}{claim['value']}"
    if not isinstance(value, list | str):
        return {**about, **_compare_rates(claim, entry, metrics, confidence, margin)}
    obtained, equal, note = compare(claim["reported"], value, entry)
    about |= {"obtained": obtained, "mean": None, "tolerance": 0.0, "interval": None}
    return {**about, "verdict": "exact" if equal else "differs", "note": note}


def _compare_rates(
    claim: dict[str, str], entry: dict[str, Any], metrics: Path, confidence: float, margin: float
) -> dict[str, Any]:
    """A single number, compared at the printed digits, then by the interval."""
    # A rate in the file has six digits; the counts, if there are any, give all digits.
    counted = claim["value"] == "accuracy" and "correct" in entry
    obtained = entry["correct"] / entry["n"] if counted else entry[claim["value"]]
    unknown = claim["unknown"]
    reported = _number(claim)
    if reported is None:
        problem = f"reported={claim['reported']}: must be a number, as {claim['value']} is"
        raise ClaimError(f"claim {claim['id']}: {problem}")
    spread = _spread(claim, entry, metrics) if unknown in NUMERIC else None
    mean = spread.mean if spread else obtained
    sampling = sqrt(mean * (1 - mean) / entry["n"]) if "split" in unknown else 0.0
    known = spread or Spread(obtained, 0.0, inf, 0.0)
    half = known.half_width(confidence, sampling) if unknown != "bound" else 0.0
    digits = len(claim["reported"].partition(".")[2])
    if unknown == "bound":
        verdict = "beaten" if obtained > reported else "missed"
    elif round(obtained, digits) == reported:
        verdict = "exact"
    elif abs(mean - reported) > half:
        verdict = "differs"
    else:
        verdict = "reproduced" if half <= margin else "inconclusive"
    notes = [f"{entry['correct']} of {entry['n']} correct"] if counted else []
    if spread:
        notes.append(f"mean {mean:.4f}, standard deviation {spread.sd:.2g} ({spread.df:.3g} df)")
    if sampling:
        notes.append(f"sampling error {sampling:.2g}")
    return {
        "obtained": obtained,
        "mean": mean if spread else None,
        "tolerance": half,
        "interval": [mean - half, mean + half] if half else None,
        "verdict": verdict,
        "note": "; ".join(notes),
    }


def _spread(claim: dict[str, str], entry: dict[str, Any], metrics: Path) -> Spread | None:
    """The spread of a claim's number; None if there is only one seed."""
    if claim["spread"] == DRAWS:
        found = entry.get(DRAWS, {}).get(claim["value"])
        if found is None:
            problem = f"{claim['file']} has no draws of {claim['value']}"
            raise ClaimError(f"claim {claim['id']}: spread={DRAWS}: {problem}")
        if found["sd"] is None:
            return None
        return Spread(found["mean"], found["sd"], found["df"], found["se"])
    own = _over_seeds(claim, entry)
    pool = [own]
    if claim["spread"]:
        others = [_entry(metrics, file, {**claim, "trial": ""}) for file in _pooled(claim)]
        pool = [_over_seeds(claim, other) for other in others]
    known = [(seeds["sd"], seeds["n"] - 1) for seeds in pool if seeds["n"] > 1]
    if not known:
        return None
    df = sum(freedom for _, freedom in known)
    sd = sqrt(sum(sd**2 * freedom for sd, freedom in known) / df)
    return Spread(own["mean"], sd, df, sd / sqrt(own["n"]))


def files(claim: dict[str, str]) -> set[str]:
    """The files of numbers that decide a claim's verdict, by their paths in the report's folder."""
    named = {claim["file"], *_pooled(claim)} - {""}
    return named | {numbers.beside(file) for file in named}


def _pooled(claim: dict[str, str]) -> list[str]:
    """The files of the models whose standard deviations are pooled."""
    models = [] if claim["spread"] == DRAWS else claim["spread"].split()
    return [f"{model}/{Path(claim['file']).name}" for model in models]


def _over_seeds(claim: dict[str, str], entry: dict[str, Any]) -> dict[str, Any]:
    """n, mean, standard deviation and values over seeds."""
    seeds, value = entry.get("seeds") or {}, claim["value"]
    if value in seeds:
        return seeds[value]
    if value == "accuracy" and "mean" in seeds:  # validation files have accuracy only
        return seeds
    raise ClaimError(
        f"claim {claim['id']}: {claim['file']} has no spread of {value} over seeds; "
        "if the file is of an older form, `dvc repro` makes it again"
    )


def _entry(metrics: Path, file: str, claim: dict[str, str]) -> dict[str, Any]:
    path = metrics / file
    for read in (path, path.with_name(numbers.beside(path.name))):
        if not read.resolve().is_relative_to(metrics.resolve()):
            raise ClaimError(f"claim {claim['id']}: {read} is a link out of {metrics}")
    try:
        entry = numbers.read(path)
    except FileNotFoundError as error:
        raise ClaimError(f"claim {claim['id']}: {error.filename} does not exist") from error
    if claim["trial"]:
        trials = {trial["name"]: trial for trial in entry.get("trials", [])}
        if claim["trial"] not in trials:
            known = ", ".join(trials) or "none"
            raise ClaimError(f"claim {claim['id']}: {path} has no trial {claim['trial']} ({known})")
        entry = trials[claim["trial"]]
    if entry.get(claim["value"]) is None:
        raise ClaimError(f"claim {claim['id']}: {path} has no value {claim['value']}")
    return entry


def compare(
    reported: str, obtained: list[Any] | str, entry: dict[str, Any]
) -> tuple[str, bool, str]:
    """Compare whole numbers or a point with the reported ones.

    entry: the study's numbers. Returns the part of ours that the claim states, as text, whether it
    is equal, and a note.
    """
    if isinstance(obtained, list):
        return _compare_counts(reported, obtained)
    return _compare_points(reported, obtained, entry)


def _compare_counts(reported: str, obtained: Any) -> tuple[str, bool, str]:
    """Compare whole numbers one by one: a list `4, 5` or the rows of a matrix `1 2; 3 4`."""
    stated = [int(word) for word in reported.replace(";", " ").replace(",", " ").split()]
    if obtained and isinstance(obtained[0], list):
        found = [cell for row in obtained for cell in row]
        text = "; ".join(" ".join(map(str, row)) for row in obtained)
    else:
        found = obtained[: len(stated)]
        text = ", ".join(map(str, found))
    equal = sum(a == b for a, b in zip(stated, found, strict=False))
    different = max(len(stated), len(found)) - equal
    return text, not different, f"{len(stated) - different} of {len(stated)} numbers are equal"


def _compare_points(reported: str, obtained: str, entry: dict[str, Any]) -> tuple[str, bool, str]:
    """Compare points of a study, such as `lr=0.1,batch=64`, value by value."""
    stated, found = _values(reported), _values(obtained)
    if stated == found:
        return obtained, True, ""
    notes = ["another point has the highest validation accuracy here"]
    for trial in entry.get("trials", []):
        if (values := _values(trial["name"])) in (stated, found):
            seeds = trial["seeds"]
            which = "the reported point" if values == stated else "ours"
            seed = "seed" if seeds["n"] == 1 else "seeds"
            notes.append(f"{which}: {seeds['mean']:.4f} over {seeds['n']} {seed}")
    return obtained, False, "; ".join(notes)


def _values(point: str) -> list[float]:
    return [float(pair.partition("=")[2]) for pair in point.split(",")]

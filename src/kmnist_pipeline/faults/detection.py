"""Which claims would detect a fault: those whose verdict it turns to `differs` (or `missed`).

Fits with and without the fault are trained on the same, perhaps smaller budget. The difference of
their numbers is added to ours, and the verdict is computed again with the same interval. So a claim
that already differs cannot detect anything. Of a list, a matrix or a point, only the part that the
claim states is compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kmnist_pipeline.config import grid
from kmnist_pipeline.evaluation import claims as judging
from kmnist_pipeline.evidence import numbers

WRONG = ("differs", "missed")


def of_report(
    claims: list[dict[str, Any]], rows: list[dict[str, str]], metrics: Path
) -> dict[str, Any]:
    """The part of `claims.json` about faults: empty if the report has no study of faults.

    claims, rows: see `matrix`; metrics: the report's folder of metrics.
    """
    path = metrics / "faults.json"
    return {"faults": matrix(claims, rows, numbers.read(path))} if path.exists() else {}


def matrix(
    claims: list[dict[str, Any]], rows: list[dict[str, str]], study: Mapping[str, Any]
) -> dict[str, Any]:
    """For each claim about a model of the study, whether it would detect each fault.

    claims: with their verdicts; rows: the same claims as stated; study: the content of
    `faults.json`. Faults that do not apply to a model are left out.
    """
    found = {}
    for claim, row in zip(claims, rows, strict=True):
        path = Path(row["file"])
        model = study["measured"].get(path.parent.name, {}).get(row["trial"])
        clean = ((model or {}).get(grid.CLEAN) or {}).get(path.stem, {}).get(row["value"])
        if model is None or clean is None:
            continue
        found[claim["id"]] = {
            fault: detects(claim, clean, faulty[path.stem][row["value"]])
            for fault, faulty in model.items()
            if fault != grid.CLEAN
        }
    return found


def detects(claim: Mapping[str, Any], clean: Any, faulty: Any) -> bool:
    """Whether a claim's verdict turns to `differs`.

    claim: with our number and its verdict; clean, faulty: the number without and with the fault.
    """
    if claim["verdict"] in WRONG:
        return False
    if isinstance(clean, list | str):
        stated, now = (judging.compare(claim["reported"], of, {})[0] for of in (clean, faulty))
        return stated != now
    reported, shift = float(claim["reported"]), faulty - clean
    obtained = claim["obtained"] + shift
    if claim["verdict"] == "beaten":
        return obtained <= reported
    digits = len(claim["reported"].partition(".")[2])
    centre = obtained if claim["mean"] is None else claim["mean"] + shift
    # `exact` claims whose mean lies outside their interval would differ without the fault too.
    outside = abs(centre - reported) > claim["tolerance"]
    return shift != 0 and outside and round(obtained, digits) != reported


def summary(detected: Mapping[str, Mapping[str, bool]]) -> dict[str, list[str]]:
    """The claims that detect each fault, by fault."""
    faults = dict.fromkeys(fault for row in detected.values() for fault in row)
    return {f: [claim for claim, row in detected.items() if row.get(f)] for f in faults}

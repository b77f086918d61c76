"""Injected faults that a claim detected in the last commit, and none detects here."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from kmnist_pipeline.commands import status
from kmnist_pipeline.commands.finding import Finding, Remedy
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import lineage, paths
from kmnist_pipeline.faults import detection
from kmnist_pipeline.repository import locks
from kmnist_pipeline.repository.revision import Revision

PARAMS = "params.yaml"
CLAIMS = "claims.json"  # of each report


def findings() -> list[Finding]:
    """The faults of the catalogues that a claim detected in HEAD, and none detects here."""
    lost = []
    for path, before in status.head().files(paths.REPORTS).items():
        if Path(path).name == CLAIMS and (here := Revision("the workspace").files(path)):
            was, now = (_detected(content) for content in (before, here[path]))
            lost += [
                Finding(path, (f"no claim detects the injected fault {fault} any more; "
                               f"{', '.join(claims)} did in the last commit",), (_of_lost(path),))
                for fault, claims in (was or {}).items()
                if claims and now is not None and not now.get(fault) and _is_listed(fault, path)
            ]  # fmt: skip
    return lost


def _detected(content: bytes) -> dict[str, list[str]] | None:
    """The claims that detect each fault, from a report's claims.json; None if it is damaged."""
    with suppress(ValueError, AttributeError, TypeError):
        return detection.summary(json.loads(content).get("faults") or {})
    return None  # another finding


def _is_listed(fault: str, path: str) -> bool:
    """Whether params.yaml has the fault in the catalogue of the report with this file."""
    with suppress(OSError, UserError, KeyError, TypeError):
        here = locks.load(Path(PARAMS).read_text("utf-8"), PARAMS)
        return fault in lineage.value(here, f"faults.{Path(path).parent.name}.catalogue")
    return False


def _of_lost(path: str) -> Remedy:
    report = Path(path).parent.name
    lines = (f"# in conf/claims/{report}.csv, conf/report/ or src/, find what has changed",
             f"# or remove the fault from the catalogue of conf/faults/{report}.yaml")  # fmt: skip
    way = "undo what made the claims less sensitive, or no longer list the injected fault"
    return Remedy(way, lines)

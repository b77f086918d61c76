"""The results in README.md and docs/results.md, written from reports/*/claims.json and receipts/.

`python tests/support/results.py` writes them again after a report was made or verified again.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from kmnist_pipeline.commands import receipts
from kmnist_pipeline.evaluation.claims import VERDICTS
from kmnist_pipeline.faults import detection
from kmnist_pipeline.repository import locks

ROOT = Path(__file__).parents[2]
BEGIN = "<!-- results: written by tests/support/results.py -->\n"
END = "<!-- end of results -->"
LONGEST = 60  # characters of a cell; a confusion matrix has more


def claims(report: str) -> list[dict[str, Any]]:
    """The claims of a report with their verdicts."""
    return json.loads((ROOT / f"reports/{report}/claims.json").read_text())["claims"]


def titles() -> dict[str, str]:
    """The title of each report by its name."""
    reports = yaml.safe_load((ROOT / "params.yaml").read_text())["reports"]
    return {name: report["title"] for name, report in reports.items()}


def counts() -> str:
    """One row a report; claims that are the same number by construction count once."""
    lines = [
        "| report | numbers compared | verdicts | injected faults detected "
        "| run again by `kmnist verify` |",
        "| --- | ---: | --- | --- | --- |",
    ]
    again = verified()
    for name, title in titles().items():
        verdicts = Counter(c["verdict"] for c in claims(name) if not c.get("same_as"))
        told = ", ".join(
            f"{verdicts[verdict]} {in_words(verdict, verdicts[verdict])}"
            for verdict in VERDICTS
            if verdicts[verdict]
        )
        link = f"[{title}](reports/{name}/README.md) (`{name}`)"
        told = told or "nothing published to compare with"
        cells = (str(verdicts.total()), told, faults(name), again.get(name, "no receipt"))
        lines.append(f"| {link} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def in_words(verdict: str, count: int) -> str:
    """A verdict after a number, such as `differ` after 2."""
    return "differ" if verdict == "differs" and count > 1 else verdict


def faults(report: str) -> str:
    """The number of injected faults that at least one claim of a report detects."""
    content = json.loads((ROOT / f"reports/{report}/claims.json").read_text())
    detected = detection.summary(content.get("faults", {}))
    return (
        f"{sum(map(bool, detected.values()))} of {len(detected)}" if detected else "none injected"
    )


def verified() -> dict[str, str]:
    """What the receipts of the current evidence say of each report, by its name."""
    lock = locks.parse((ROOT / locks.LOCK).read_bytes())
    with contextlib.chdir(ROOT):
        standing = [receipt for receipt in receipts.here() if receipt.stands(lock)]
    found: dict[str, str] = {}
    for receipt in sorted(standing, key=lambda receipt: receipt.ran.epochs is None):
        ran = receipt.ran  # a whole run says more than the first epochs
        part = f"weights after epoch {ran.epochs}: " if ran.epochs else ""
        for name in titles():
            if ran.target in (None, f"report@{name}"):
                found[name] = f"{part}{receipt.verdict()} on {ran.machine}"
    return found


def tables() -> str:
    """A heading and one row a claim for each report that has claims."""
    parts = []
    for name, title in titles().items():
        if not (rows := claims(name)):
            continue
        lines = [
            f"## {title}\n",
            "| claim | configuration | metric | reported | obtained | verdict |",
            "| --- | --- | --- | ---: | ---: | --- |",
        ]
        for claim in rows:
            values = (claim["configuration"], claim["metric"], claim["reported"], claim["obtained"])
            cells = [f"`{claim['id']}`", *map(cell, values), claim["verdict"]]
            lines.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def cell(value: Any) -> str:
    """A value as a cell of a table in Markdown."""
    if isinstance(value, float):
        return f"{value:.4f}"
    text = str(value).replace("|", "\\|")
    if ";" in text and len(text) > LONGEST and text.replace(";", "").replace(" ", "").isdigit():
        return f"{len(text.replace(';', '').split())} counts"
    if (head := text.partition(".")[2]) and head.isdigit() and len(head) > 4:
        return f"{float(text):.4f}"
    return text


def filled(text: str, content: str) -> str:
    """A page with `content` between the markers."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + content + END + rest.partition(END)[2]


PAGES = {"README.md": counts, "docs/results.md": tables}

if __name__ == "__main__":
    for page, content in PAGES.items():
        path = ROOT / page
        path.write_text(filled(path.read_text(), content()))

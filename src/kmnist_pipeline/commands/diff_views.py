"""A difference of the evidence as text, as a comment on a pull request, and as an HTML page."""

import base64
import html
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kmnist_pipeline.commands.diff import LISTS, ChangedClaim, Diff, Metric, differing
from kmnist_pipeline.commands.words import count
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.reporting import jinja
from kmnist_pipeline.repository import git
from kmnist_pipeline.repository.names import printable
from kmnist_pipeline.repository.revision import Revision

MARKER = "<!-- kmnist diff -->"  # the first line of the comment, to find it again and update it
LIMIT = 65_000  # characters; GitHub refuses a comment of more than 65,536
DEEPEST = 2  # parts of a metric's name, such as seeds.mean, that get their own row
FEW = 4  # more stages are counted instead of named
LONGEST = 500  # characters of a cell
NOTHING = "No claim, metric, figure, weights file or stage differs."


@dataclass(frozen=True)
class Section:
    """A table; each row has as many cells as the header."""

    title: str
    header: list[str]
    rows: list[list[str]]


def sections(diff: Diff) -> list[Section]:
    """The differences as tables, without empty tables."""
    found = [
        Section("Claims", ["report", "claim", "verdict", "obtained"], [*map(_claim, diff.claims)]),
        Section("Metrics", ["file", "metric", "old", "new", "delta"], list(_metrics(diff.metrics))),
        Section("Figures", ["figure", "what"], [[f.file, f.what] for f in diff.figures]),
        Section("Weights", ["file", "what"], [[w.file, w.what] for w in diff.weights]),
        Section("Causes", ["what changed", "stages"], list(_causes(diff))),
        Section("Not compared", ["file", "why"], [[n.file, n.why] for n in diff.not_compared]),
    ]
    return [
        replace(section, rows=[[*map(_cell, row)] for row in section.rows])
        for section in found
        if section.rows
    ]


def _cell(text: str) -> str:
    """Any text as one line of at most LONGEST printable characters."""
    return printable(text if len(text) <= LONGEST else f"{text[:LONGEST]}…")


def summary(diff: Diff) -> str:
    """The counts in a sentence."""
    missing = len(diff.not_compared)
    rest = f" Not compared: {count(missing, 'file')}." if missing else ""
    if not diff:
        return f"{NOTHING}{rest}"
    nouns = {"weights": "weights file"}
    lists = {nouns.get(name, name.removesuffix("s")): getattr(diff, name) for name in LISTS}
    counts = [count(len(entries), noun) for noun, entries in lists.items() if entries]
    return f"Different: {', '.join(counts)}.{rest}"


def remark(diff: Diff) -> str:
    """A sentence about the files that are not listed; empty if there are none."""
    if not diff.equal:
        return ""
    files = f"{count(diff.equal, 'other file')} {'has' if diff.equal == 1 else 'have'}"
    return f"{files} the same numbers or pixels under another lineage key."


def text(diff: Diff, console: Console) -> None:
    """Print the difference as tables."""
    console.print(Text(f"{diff.old.name} → {diff.new.name}: {summary(diff)}"))
    for section in sections(diff):
        table = Table(*section.header, title=section.title, title_justify="left")
        for row in section.rows:
            table.add_row(*map(Text, row))
        console.print(table)
    if diff.equal:
        console.print(remark(diff))


def markdown(diff: Diff, images: str | None) -> str:
    """The difference in GitHub's Markdown, with at most LIMIT characters; the first line is MARKER.

    images: the address that, with `<commit>/<path>`, gives a file of the repository, such as
    `https://github.com/<owner>/<repository>/raw`; shows old and new figures side by side.
    """
    if images is not None and None in (diff.old.commit, diff.new.commit):
        raise UserError("--images needs two commits: name the second one too")
    change = f"{_code(diff.old.name)} → {_code(diff.new.name)}: {summary(diff)} {remark(diff)}"
    head = f"{MARKER}\n### What this changes in the evidence\n\n{change.rstrip()}"
    tables = sections(diff)
    share = (LIMIT - len(head)) // max(len(tables), 1)
    blocks = [head]
    for section in tables:
        title = f"#### {section.title}"
        if section.title == "Figures" and images is not None:
            lines = [_side_by_side(diff, images, *row) for row in section.rows]
            blocks.append("\n\n".join(_bounded([title], lines, share, spare=2)))
            continue
        rule = ["---:" if name in ("old", "new", "delta") else "---" for name in section.header]
        top = [title, "", _line(section.header), _line(rule)]
        lines = [_line(map(_code, row)) for row in section.rows]
        blocks.append("\n".join(_bounded(top, lines, share)))
    return "\n\n".join(blocks) + "\n"


def page(diff: Diff) -> str:
    """The difference as one HTML file, with old and new figures side by side."""
    template = jinja.environment("kmnist_pipeline.commands").get_template("diff.html")
    files = [figure.file for figure in diff.figures]
    old, new = _pictures(diff.old, files), _pictures(diff.new, files)
    return template.render(
        diff=diff,
        summary=summary(diff),
        remark=remark(diff),
        tables=[section for section in sections(diff) if section.title != "Figures"],
        figures=[(figure, old.get(figure.file), new.get(figure.file)) for figure in diff.figures],
    )


def _pictures(side: Revision, files: list[str]) -> dict[str, str]:
    return {
        file: f"data:image/png;base64,{base64.b64encode(content).decode()}"
        for file, content in side.files(*files).items()
    }


def _claim(claim: ChangedClaim) -> list[str]:
    verdict = _arrow(claim.old_verdict, claim.new_verdict)
    return [claim.report, claim.id, verdict, _arrow(claim.old_obtained, claim.new_obtained)]


def _arrow(old: Any, new: Any) -> str:
    return _plain(old) if old == new else f"{_plain(old)} → {_plain(new)}"


def _metrics(metrics: list[Metric]) -> Iterator[list[str]]:
    """A row for each value, but one for all deeply nested values of the same map."""
    nested = Counter[tuple[str, str]]()
    for metric in metrics:
        if metric.depth > DEEPEST:
            nested[metric.file, re.split(r"[.\[]", metric.name)[0]] += 1
            continue
        what = "" if metric.old is not None and metric.new is not None else metric.what
        delta = what if metric.delta is None else f"{metric.delta:+.6g}"
        yield [metric.file, metric.name, _plain(metric.old), _plain(metric.new), delta]
    for (file, name), number in nested.items():
        yield [file, name, "–", "–", differing(number)]


def _plain(value: Any) -> str:
    return "–" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _causes(diff: Diff) -> Iterator[list[str]]:
    """Each cause, with the stages that it affects."""
    affected: dict[str, list[str]] = {}
    for stage in diff.stages:
        for cause in map(str, stage.changes) if stage.changes else [f"the stage {stage.what}"]:
            affected.setdefault(cause, []).append(stage.address)
    for cause, addresses in affected.items():
        kinds = Counter(address.partition("@")[0] for address in addresses)
        many = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
        yield [cause, ", ".join(addresses) if len(addresses) <= FEW else many]


def _bounded(top: list[str], lines: list[str], limit: int, spare: int = 1) -> list[str]:
    """The top and as many lines as fit into the limit; spare: the characters between lines."""
    more = "\nand {} more: `kmnist diff` shows them all."
    room = limit - sum(len(line) + spare for line in top) - len(more) - 10
    for place, line in enumerate(lines):
        room -= len(line) + spare
        if room < 0:
            return [*top, *lines[:place], more.format(len(lines) - place)]
    return [*top, *lines]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _code(value: str) -> str:
    """Any text as code, escaped so that GitHub finds no Markdown, mention or table in it."""
    if re.fullmatch(r"[-+0-9.e]*|–", value):
        return value
    special = r"[^\w\s.,;=/→–-]|_"
    return f"<code>{re.sub(special, lambda char: f'&#{ord(char[0])};', value)}</code>"


def _side_by_side(diff: Diff, images: str, file: str, what: str) -> str:
    cells, (_, here) = "", git.place()
    for side, absent in ((diff.old, "is new"), (diff.new, "is missing")):
        source = html.escape(f"{images}/{side.commit}/{quote(here + file)}")
        shown = "–" if what == absent else f'<img src="{source}" width="420">'
        cells += f"<td>{shown}</td>"
    return (
        f"<details><summary>{_code(file)} {_code(what)}</summary>\n"
        f"<table><tr><th>old</th><th>new</th></tr><tr>{cells}</tr></table>\n</details>"
    )

"""How a branch changes the evidence: the claims, metrics, figures and weights that differ, and why.

Both sides are read from Git's objects, without a checkout; the second side may be the workspace.
Numbers may differ by one unit in the last digit, figures are compared by pixels. Every change gives
a file another lineage key, so the key does not count. A branch may come from a stranger: whatever
it holds, the rest is compared, and the difference says what is not.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kmnist_pipeline.commands.words import count
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evaluation import metrics
from kmnist_pipeline.evidence import paths
from kmnist_pipeline.repository import changes, compare, git, locks
from kmnist_pipeline.repository.changes import Change
from kmnist_pipeline.repository.locks import Graph
from kmnist_pipeline.repository.names import printable
from kmnist_pipeline.repository.revision import Revision

EVIDENCE = (*paths.TRACKED, locks.LOCK)
LISTS = ("claims", "metrics", "figures", "weights", "stages")
LONGEST = 60  # the most characters of a text
# Limits of what is read, far above all evidence, because a branch may come from anyone.
MOST = 1000  # files
LARGEST, ALL = 1 << 22, 1 << 25  # bytes of a file, and of all files
MANY = 1000  # values of a file; more are counted
PAGES = (".html", ".md")
PAGE = "a page; `kmnist check` says whether its stage makes it"
TEXTS = "other than in verdicts and obtained values; `kmnist check` says whether its stage makes it"
# The keys, md5s and commits in a page. Nothing else is left out: a tag or a picture counts.
_KEY = re.compile(rb"\b[0-9a-f]{12,}\b")
_LABEL = re.compile(r"\[[^\]]*\]")
_INDEXED = re.compile(r"\[\d+\].*|^line \d+.*", re.DOTALL)


@dataclass(frozen=True)
class ChangedClaim:
    """A claim with a changed verdict or obtained value, which are None where it is missing."""

    report: str
    id: str
    old_verdict: str | None
    new_verdict: str | None
    old_obtained: Any
    new_obtained: Any


@dataclass(frozen=True)
class Metric:
    """A value in a metric file, or all values of one list or table.

    name: dotted, empty for a whole table; delta: new minus old, for numbers; what: in words.
    """

    file: str
    name: str
    old: Any
    new: Any
    delta: float | None
    what: str

    @property
    def depth(self) -> int:
        """The number of maps around the value."""
        return len(_LABEL.sub("", self.name).split("."))


@dataclass(frozen=True)
class Figure:
    """A figure with different pixels, or a new or deleted one."""

    file: str
    what: str


@dataclass(frozen=True)
class Weights:
    """The weights of a model with other numbers, or new or deleted ones."""

    file: str
    what: str


@dataclass(frozen=True)
class ChangedStage:
    """A stage whose command, parameters or code changed, or a new or deleted stage."""

    address: str
    what: str
    changes: list[Change]


@dataclass(frozen=True)
class NotCompared:
    """A file that differs and cannot be compared, and why."""

    file: str
    why: str


@dataclass
class Diff:
    """All differences; `equal` counts the files that differ only in their lineage key."""

    old: Revision
    new: Revision
    claims: list[ChangedClaim] = field(default_factory=list)
    metrics: list[Metric] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    weights: list[Weights] = field(default_factory=list)
    stages: list[ChangedStage] = field(default_factory=list)
    not_compared: list[NotCompared] = field(default_factory=list)
    equal: int = 0

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in LISTS)

    def json(self) -> dict[str, Any]:
        """As plain values."""
        sides = (("old", self.old), ("new", self.new))
        return {
            **{name: {"name": side.name, "commit": side.commit} for name, side in sides},
            **{
                name: [asdict(entry) for entry in getattr(self, name)]
                for name in (*LISTS, "not_compared")
            },
            "equal": self.equal,
        }


def between(revision: str, other: str | None = None) -> Diff:
    """The differences between a revision and another one, or the workspace.

    revision: it may be `main...` or `main...topic`, as in `git diff`: from the commit where the
    branch left main. Raises UserError if one is not a commit of this repository.
    """
    base, dots, tip = revision.partition("...")
    if dots and other is not None:
        raise UserError(f"{revision} {other}: names three commits; `{base}...{other}` names two")
    old = _at(_merge_base(base, tip or "HEAD") if dots else revision)
    named = tip or other
    new = _at(named) if named else Revision("the workspace")
    ids = old.ids(*EVIDENCE), new.ids(*EVIDENCE)
    apart = sorted({path for path, _ in ids[0].items() ^ ids[1].items()})
    diff = Diff(old, new)
    paths = _readable(diff, apart)
    before, after = old.files(*paths), new.files(*paths)
    # Pages come last, because they follow from all else.
    for path in sorted(paths, key=lambda path: path.endswith(PAGES)):
        try:
            _add(diff, path, before.get(path), after.get(path))
        except Exception as error:  # a branch may hold anything, and decoders raise anything
            diff.not_compared.append(NotCompared(path, str(error) or type(error).__name__))
    diff.metrics.sort(key=lambda metric: (metric.delta is None, metric.depth, metric.file))
    return diff


def _readable(diff: Diff, paths: list[str]) -> list[str]:
    """The paths that may be read; the others are not compared."""
    found, room = [], ALL
    sizes = [side.sizes(*paths[:MOST]) for side in (diff.old, diff.new)]
    for path in paths[:MOST]:
        size, why = max(of.get(path, 0) for of in sizes), ""
        if not path.isprintable():
            why = "its name has unprintable characters"
        elif size > LARGEST:
            why = f"it has {size} bytes; at most {LARGEST} are read"
        elif size > room:
            why = f"it has {size} bytes; at most {ALL} of all files are read"
        if why:
            diff.not_compared.append(NotCompared(printable(path), why))
        else:
            room -= size
            found.append(path)
    if paths[MOST:]:
        why = f"{count(len(paths), 'file')} differ; the first {MOST} are compared"
        diff.not_compared.append(NotCompared(f"{printable(paths[MOST])} and all after it", why))
    return found


def _add(diff: Diff, path: str, *sides: bytes | None) -> None:
    """Add the differences of a file."""
    match path.split("/", maxsplit=1)[0], Path(path).suffix:
        case "metrics", ".json" | ".csv":
            values = list(_metrics(path, *sides))
            diff.metrics += values
            diff.equal += not values
        case "figures", ".png":
            figures = list(_figures(path, *sides))
            diff.figures += figures
            diff.equal += not figures
        case "weights", ".safetensors":
            difference = compare.compare(path, *sides)
            is_other = difference.verdict is compare.Verdict.DIFFERENT
            diff.weights += [Weights(path, difference.line)] if is_other else []
            diff.equal += not is_other
        case "reports", ".json":
            claims = list(_claims(path, *sides))
            diff.claims += claims
            texts = compare.compare(path, *sides).verdict is compare.Verdict.DIFFERENT
            if texts and not _follows(diff, path):
                diff.not_compared.append(NotCompared(path, TEXTS))
        case "reports", ".html" | ".md":
            keyless = {side and _KEY.sub(b"", side) for side in sides}
            if len(keyless) > 1 and not _follows(diff, path):
                diff.not_compared.append(NotCompared(path, PAGE))
        case locks.LOCK, _:
            versions = zip((diff.old, diff.new), sides, strict=True)
            graphs = (locks.parse(text or "", side.called(path)) for side, text in versions)
            diff.stages += list(_stages(*graphs))
        case "metrics" | "figures" | "reports" | "weights", _:
            raise UserError(
                "metrics are JSON or CSV, figures PNG, weights safetensors, and reports JSON and "
                "pages"
            )


def _follows(diff: Diff, path: str) -> bool:
    """Whether a file of a report differs because of something that the difference shows."""
    report = path.split("/")[1]
    shown = {claim.report for claim in diff.claims}
    files = [metric.file for metric in diff.metrics] + [figure.file for figure in diff.figures]
    shown |= {file.split("/")[1] for file in files}
    stages = {stage.address for stage in diff.stages}
    return report in shown or f"report@{report}" in stages


def _at(name: str) -> Revision:
    commit = git.commit(name)
    short = commit[:7]
    return Revision(short if commit.startswith(name) else f"{printable(name)} ({short})", commit)


def _merge_base(one: str, other: str) -> str:
    ids = git.commit(one), git.commit(other)
    try:
        return git.run("merge-base", *ids).decode().strip()
    except git.NotFoundError as error:
        raise UserError(
            f"{one} and {other} have no commit in common{git.if_shallow('; ')}"
        ) from error


def _metrics(path: str, old: bytes | None, new: bytes | None) -> Iterator[Metric]:
    """The values of a metric file that differ; a list or table counts as one value."""
    if old is None or new is None:
        yield Metric(path, "", None, None, None, "is new" if old is None else "is missing")
        if not path.endswith(".json"):
            return
        found = compare.compare(path, old or b"{}", new or b"{}").changes
        found = tuple(change for change in found if change.name.isidentifier())  # headlines
    else:
        difference = compare.compare(path, old, new)
        found = difference.changes
        if difference.verdict is compare.Verdict.DIFFERENT and not found:  # unreadable
            yield Metric(path, "", None, None, None, difference.line)
    if len(values := [change for change in found if not _INDEXED.search(change.name)]) > MANY:
        yield Metric(path, "", None, None, None, differing(len(values)))
        return
    lists = Counter[str]()
    for change in found:
        name = _INDEXED.sub("", change.name)
        if name != change.name:
            lists[name] += 1
        elif name == "right" and (tested := _mcnemar(change.old, change.new)):
            yield Metric(path, name, None, None, None, tested)
        elif _is_number(change.old) and _is_number(change.new):
            delta = float(f"{change.new - change.old:.6g}")
            yield Metric(path, name, change.old, change.new, delta, change.amount)
        elif any(isinstance(v, str) and len(v) > LONGEST for v in (change.old, change.new)):
            yield Metric(path, name, None, None, None, "other text")
        else:
            yield Metric(path, name, change.old, change.new, None, change.amount)
    for name, number in lists.items():
        yield Metric(path, name, None, None, None, differing(number))


def _mcnemar(old: Any, new: Any) -> str | None:
    """McNemar's exact test of a model before and after, on the same test images, in words.

    old, new: which predictions are correct, packed; None if these are not of as many images.
    """
    if not (isinstance(old, str) and isinstance(new, str) and len(old) == len(new)):
        return None
    before, after = (metrics.unpack_bits(text, 4 * len(text)) for text in (old, new))
    tested = metrics.mcnemar(before, after)
    return (
        f"correct only before: {tested['only']}, only after: {tested['only_other']} "
        f"(McNemar's test: p {metrics.in_words(tested['p'], '= ')})"
    )


def differing(values: int) -> str:
    """The number of values that differ, in words."""
    return f"{count(values, 'value')} {'differs' if values == 1 else 'differ'}"


def _figures(path: str, old: bytes | None, new: bytes | None) -> Iterator[Figure]:
    difference = compare.compare(path, old, new)
    if difference.verdict is compare.Verdict.DIFFERENT:
        yield Figure(path, difference.line)


def _claims(path: str, old: bytes | None, new: bytes | None) -> Iterator[ChangedClaim]:
    before, after = _verdicts(path, old), _verdicts(path, new)
    for name in {**before, **after}:
        sides = before.get(name, {}), after.get(name, {})
        verdicts, values = ([side.get(key) for side in sides] for key in ("verdict", "obtained"))
        if verdicts[0] != verdicts[1] or not compare.are_close(*values):
            yield ChangedClaim(path.split("/")[1], name, *verdicts, *values)


def _verdicts(path: str, content: bytes | None) -> dict[str, dict[str, Any]]:
    if content is None:
        return {}
    try:
        claims = {str(claim["id"]): claim for claim in compare.of_json(content)["claims"]}
        values = [claim[key] for claim in claims.values() for key in ("verdict", "obtained")]
        if odd := [value for value in values if not isinstance(value, str | int | float | None)]:
            raise TypeError(f"{type(odd[0]).__name__} instead of a number or a text")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"it has no list of claims with verdicts: {error!r}") from error
    return claims


def _stages(old: Graph, new: Graph) -> Iterator[ChangedStage]:
    """The stages that changed themselves, not only through the outs of other stages."""
    for address in {**old.stages, **new.stages}:
        before, after = old.stages.get(address), new.stages.get(address)
        if before is None or after is None:
            yield ChangedStage(address, "is new" if before is None else "is gone", [])
            continue
        own = [
            change
            for change in changes.of_stage(before, after)
            if change.kind != "file" or not (old.makers(change.name) or new.makers(change.name))
        ]
        if own:
            yield ChangedStage(address, "; ".join(map(str, own)), own)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

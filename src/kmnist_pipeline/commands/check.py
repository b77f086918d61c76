"""Is the evidence up to date with code, configuration and data? If not, which commands fix it?

A view of `status` for people: what is stale, why, and the smallest commands that fix it.
"""

import json
import shlex
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from kmnist_pipeline.commands import imported, status, undetected
from kmnist_pipeline.commands.finding import Finding, Remedy
from kmnist_pipeline.commands.status import CLEAN, StageStatus, Status
from kmnist_pipeline.commands.words import count
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import lineage, paths
from kmnist_pipeline.repository import changes, git, locks
from kmnist_pipeline.repository.changes import Change
from kmnist_pipeline.repository.compare import Difference, Verdict, compare
from kmnist_pipeline.repository.locks import LOCK, Graph
from kmnist_pipeline.repository.revision import DamagedError, Revision, digest_of

PARAMS, MAIN = "params.yaml", "conf/config.yaml"
WIDTH = 100
KEEP = "keep the experiment: put its values into conf/, compose, check and commit"
SHOWN = 5  # values of params.yaml that differ from conf/, and downstream stages
MADE = ("lineage", "library", "arithmetic", "contradiction")  # changes that DVC does not notice


def findings(found: Status, composed: str) -> list[Finding]:
    """The stages and files that are stale, or not part of the evidence.

    composed: what `params.yaml` should be.
    """
    conf = locks.load(composed, "conf/")
    own = [stage for stage in found.stages if stage.state != "downstream"]
    apart = _apart(conf)
    experiment: tuple[Remedy, ...] = ()
    if own and status.edited(LOCK) and not status.of(status.head().lock(), conf).stages:
        way = Remedy("restore the committed lock, which is up to date", (f"{git.RESTORE} {LOCK}",))
        ways: dict[str, tuple[Remedy, ...]] = {stage.address: (way,) for stage in own}
    else:
        applied = [stage for stage in own if _is_applied(stage, apart)] if _is_after_conf() else []
        experiment = _of_experiment(applied, apart, composed, found) if applied else ()
        ways = _ways(own, found, experiment)
    stages = [
        Finding(stage.address, tuple(stage.reasons), ways.get(stage.address, ()))
        for stage in found.stages
    ]
    left = [out for stage in found.stages if stage.state == "gone" for out in stage.outs]
    alone = [f for f in found.orphans if not any(Path(f).is_relative_to(out) for out in left)]
    orphans = _of_orphans(alone)
    files = [Finding(file, ("no stage makes this file",), orphans) for file in alone]
    around = [*_of_lock(), *_of_pins(), *_of_hashes(), *_of_params(composed, apart, experiment)]
    return [*around, *stages, *imported.findings(conf), *files, *undetected.findings()]


def lines(findings: Iterable[Finding]) -> Iterator[str]:
    """The findings as text, grouped by the commands that fix them."""
    groups: dict[tuple[Remedy, ...], list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.remedies].append(finding)
    downstream = groups.pop((), [])
    for remedies, members in groups.items():
        places = defaultdict(list)
        for finding in members:
            places[finding.reasons].append(finding.where)
        for reasons, names in places.items():
            yield _wrapped(_counted(names))
            yield from (_wrapped(reason, "  ") for reason in reasons)
        yield from map(str, remedies)
    if downstream:
        names = [finding.where for finding in downstream]
        shown = _counted(names) if len(names) <= SHOWN else count(len(names), "stage")
        yield _wrapped(f"downstream of these: {shown}")


def last(found: Status, findings: list[Finding], differences: list[Difference]) -> str:
    """The sentence about files that differ from the commit; differences: of all files.

    It does not say how to restore results that are up to date, or those of an experiment.
    """
    way = ""
    has_new = any(status.made_here(found).values())
    if any(remedy.purpose == KEEP for finding in findings for remedy in finding.remedies):
        way = "the first commands above keep or discard the experiment"
    elif findings and has_new:
        way = "some are new and up to date: make the rest with the commands above, then commit all"
    elif has_new or (not findings and Verdict.DIFFERENT in (d.verdict for d in differences)):
        way = "they are up to date: commit them to keep them"
    return status.summary(differences, status.IN_GIT, way=way)


# The smallest remedies.


def _ways(
    own: list[StageStatus], found: Status, experiment: tuple[Remedy, ...]
) -> dict[str, tuple[Remedy, ...]]:
    """The remedies for each stage that is stale by itself; an experiment's go before any run."""
    head = status.head()
    before = _leaves(locks.load(head.read(PARAMS).decode(), PARAMS))
    undo = {stage.address: _undone(stage, head, before, found.wanted) for stage in own}
    kinds = defaultdict[str, list[str]](list)
    for stage in own:
        if stage.state == "gone":
            kind = "gone"
        elif undo[stage.address] and not any(map(_is_on_purpose, stage.changes)):
            kind = "restore"
        elif _is_left(stage, head):
            kind = "left"
        elif stage.changes and all(change.kind in MADE for change in stage.changes):
            kind = "force"
        else:
            kind = "run"
        kinds[kind].append(stage.address)
    again, forced = kinds["run"], kinds["force"]
    force = "make them again; DVC would not do it by itself"
    pins = []
    if any(c.kind == "library" for s in own for c in s.changes) and status.edited(str(status.PINS)):
        pins = [Remedy("restore the pins", (f"{git.RESTORE} {status.PINS}",))]
        force = "or keep the new ones: install them, and make these stages again"
    cut = f"remove what is left of them in {LOCK} and among the evidence"
    left = {change.name for s in own if s.address in kinds["left"] for change in s.changes}
    remedies = {
        "restore": [Remedy("restore the files", _merged(undo, kinds["restore"]))],
        "left": [
            *_of_changes(kinds["left"], undo, found),
            Remedy(
                "or remove these files; the evidence in Git is complete without them",
                (_command(status.DVC_CHECKOUT, sorted(left)),),
            ),
        ],
        "run": _of_changes(again, undo, found),
        "force": [
            *pins,
            Remedy(
                force,
                (
                    *(["make setup"] if pins else []),
                    *filter(None, [_command("dvc repro", _missing(forced, found.wanted))]),
                    _command("dvc repro --force --single-item", forced),
                ),
            ),
        ],
        "gone": [Remedy(cut, tuple(filter(None, [_command("kmnist prune --yes", kinds["gone"])])))],
    }
    return {
        name: (kind != "restore" and experiment) or tuple(way for way in ways if way.commands)
        for kind, ways in remedies.items()
        for name in kinds[kind]
    }


def _of_changes(
    names: list[str], undo: dict[str, list[tuple[str, str]]], found: Status
) -> list[Remedy]:
    """How to make stages again whose inputs were changed, and how to undo the changes.

    Other stages may have run with the changes: their results are kept first. To undo the changes
    undoes these results too, and no others: if there are others, no way back is named.
    """
    again = _repro(names, found.wanted)
    back = Remedy("or undo the uncommitted changes", _merged(undo, names))
    made = status.made_here(found)
    if not any(made.values()):
        return [Remedy("make them again", (again,)), back]
    keep = Remedy("make them again, and commit all results", (again, "git commit --all"))
    undone = {path for name in names for _, path in undo[name]}
    used = [name for name, changed in made.items() if any(_is_undone(c, undone) for c in changed)]
    if not used:
        return [keep, back]
    if made.keys() - {*used, *found.wanted.downstream(used)}:
        return [keep]
    results = [(git.RESTORE, path) for path in (LOCK, *status.folders("HEAD"))]
    results += [(CLEAN, path) for path in _untracked(*paths.TRACKED)]
    results += [(status.DVC_CHECKOUT, name) for name in (*made, *names)]
    both = _merged({**undo, "": results}, [*names, ""])
    return [keep, Remedy("or undo the uncommitted changes and the results made with them", both)]


def _is_undone(change: Change, undone: set[str]) -> bool:
    """Whether a change is gone when these paths are restored."""
    if change.kind != "file":
        return PARAMS in undone
    return any(f"{path}/".startswith(f"{change.name}/") for path in undone)


def _repro(names: list[str], wanted: Graph) -> str:
    """The command that makes these stages, and those downstream, again.

    `--downstream` makes no input, and fails after it has deleted outs. So if an input is missing,
    the command names the last stages instead.
    """
    below = wanted.downstream(names)
    again = list(dict.fromkeys([*filter(wanted.stages.get, names), *below]))
    if _missing(again, wanted):
        read = {name for reads in below.values() for name in reads}
        return _command("dvc repro", [name for name in again if name not in read])
    return _command("dvc repro --downstream", [name for name in again if name not in below])


def _missing(names: list[str], wanted: Graph) -> list[str]:
    """The other stages whose outs these stages read, and which are not in the workspace."""
    paths = {path for name in names for path in wanted.stages[name].deps}
    makers = {s.address for path in paths if not Path(path).exists() for s in wanted.makers(path)}
    return sorted(makers.difference(names))


def _is_on_purpose(change: Change) -> bool:
    """Whether a change is in files that people edit, and is not damage."""
    if change.kind == "file":
        return change.new != "" and not change.name.startswith(paths.TRACKED)
    return change.kind in ("command", "parameter")


def _is_left(stage: StageStatus, head: Revision) -> bool:
    """Whether only files that Git does not keep differ, and DVC's cache lacks the right ones."""
    return bool(stage.changes) and all(
        status.is_altered_out(change) and change.new and not head.files(change.name)
        for change in stage.changes
    )


def _undone(
    stage: StageStatus, head: Revision, before: dict[str, Any], wanted: Graph
) -> list[tuple[str, str]]:
    """Commands, each with a path, that go back to the committed state; empty if they cannot."""
    found: list[tuple[str, str]] = []
    for change in stage.changes:
        back = []
        if change.kind == "parameter":
            known = {change.name: before[change.name]} if change.name in before else {}
            if changes.json_of(known, change.name) == change.old:
                pointers = status.edited(imported.FOLDER)
                back = [(git.RESTORE, file) for file in status.edited("conf", PARAMS) + pointers]
                back += [(imported.CHECKOUT, file) for file in pointers]
        elif change.kind in ("file", "out") and change.old and change.new is not None:
            back = _restored(head, change.name, change.old)
            if change.kind == "file" and wanted.makers(change.name):  # stages made it
                back = [step for step in back if step[0] == CLEAN]
        if not back:
            return []
        found += back
    return found


def _restored(head: Revision, path: str, md5: str) -> list[tuple[str, str]]:
    """The commands that restore a path with this md5, if Git or DVC's cache has it."""
    files = head.files(path)
    if not files:
        with suppress(DamagedError):
            return [(imported.CHECKOUT, path)] if head.cached(path, md5) else []
        return []
    back = [(git.RESTORE, name) for name in status.edited(path)]
    back += [(CLEAN, name) for name in _untracked(path)]
    return back if digest_of(path, files) == md5 else []


def _of_orphans(files: list[str]) -> tuple[Remedy, ...]:
    kept = status.head().ids(*paths.TRACKED)
    old, new = ([f for f in files if (f in kept) is known] for known in (True, False))
    commands = (_command("git rm --", old), _command("git rm --force --", new))
    return (Remedy("delete them", tuple(filter(None, commands))),)


# If params.yaml is not up to date with conf/.


def _of_params(
    composed: str, apart: dict[str, Change], experiment: tuple[Remedy, ...]
) -> list[Finding]:
    if status.is_composed(composed):
        return []
    reasons = ["is not up to date with conf/"]
    if experiment:
        reasons = [f"has the parameters of an experiment, like {LOCK} but unlike conf/"]
    reasons += [
        f"{name} is {change.old or 'missing'}, but {change.new or 'missing'} in conf/"
        for name, change in list(apart.items())[:SHOWN]
    ]
    if len(apart) > SHOWN:
        reasons.append(f"and {len(apart) - SHOWN} more values: see `kmnist compose --check`")
    remedies = experiment or (Remedy("compose it", ("kmnist compose",)),)
    return [Finding(PARAMS, tuple(reasons), remedies)]


def _of_lock() -> list[Finding]:
    if not status.is_lock_lost():
        return []
    way = Remedy("restore it", (f"{git.RESTORE} {LOCK}",))
    return [Finding(LOCK, (status.LOST,), (way,))]


def _of_pins() -> list[Finding]:
    reasons = [f"{name} has no hash of its files" for name in status.unhashed()]
    if not status.PINS.exists():
        reasons = ["is missing"]
    way = Remedy("restore it", (f"{git.RESTORE} {status.PINS}",))
    return [Finding(str(status.PINS), tuple(reasons), (way,))] if reasons else []


def _of_hashes() -> list[Finding]:
    reasons = [f"{name} has other hashes than in the last commit" for name in status.rehashed()]
    ways = (
        Remedy("restore it", (f"{git.RESTORE} {status.PINS}",)),
        Remedy("or, if you trust these files", (f"git commit {status.PINS}",)),
    )
    return [Finding(str(status.PINS), tuple(reasons), ways)] if reasons else []


def _apart(conf: dict[str, Any]) -> dict[str, Change]:
    """The parameters that differ between params.yaml (old) and conf/ (new)."""
    here: dict[str, Any] = {}
    with suppress(OSError, UserError):
        here = locks.load(Path(PARAMS).read_text("utf-8"), PARAMS)
    found = changes.of_parameters(_leaves(here), _leaves(conf)) if here else []
    # `models` is composed from the experiments and studies.
    return {change.name: change for change in found if not change.name.startswith("models.")}


def _is_after_conf() -> bool:
    """Whether params.yaml was changed after `conf/`, as `dvc exp` does."""
    if status.edited(PARAMS) or status.edited("conf"):
        return bool(status.edited(PARAMS))
    last = ("log", "-1", "--format=%H", "HEAD", "--", PARAMS)
    return git.run(*last) == git.run(*last, "conf")


def _is_applied(stage: StageStatus, apart: dict[str, Change]) -> bool:
    """Whether the lock and params.yaml agree on a stage's parameters, and conf/ differs."""
    own = [change for change in stage.changes if change.kind == "parameter"]
    if stage.state == "gone":
        return any(stage.address.partition("@")[2] == name.split(".")[1] for name in apart)
    return own != [] and all(apart.get(change.name) == change for change in own)


def _of_experiment(
    applied: list[StageStatus], apart: dict[str, Change], composed: str, found: Status
) -> tuple[Remedy, ...]:
    """The remedies that keep the experiment whose parameters are here, or discard it."""
    roots = [stage.address for stage in applied]
    below = found.wanted.downstream(roots)
    kept = git.paths("log", "-z", "--format=%H", "HEAD", "--", PARAMS)
    ids = git.objects(kept, PARAMS)
    wanted = git.run("hash-object", "--stdin", stdin=composed.encode()).decode().strip()
    found_at = [place for place, commit in enumerate(kept) if ids.get(commit) == wanted]
    if found_at:  # up to the commit before the next one that changed it
        since = f"{kept[found_at[0] - 1][:12]}~1" if found_at[0] else "HEAD"
        back = [
            f"git checkout {since} -- {PARAMS} {LOCK} {' '.join(status.folders(since))}",
            _command("dvc checkout --force --allow-missing", [*roots, *below]),
        ]
    else:
        back = ["kmnist compose", _repro(roots, found.wanted)]
    edits = (f"# {line}" for line in dict.fromkeys(_edits(apart)))
    keep = (*edits, "kmnist compose", "kmnist check", "git commit --all")
    return (
        Remedy(KEEP, keep),
        Remedy("or discard the experiment and go back to conf/", tuple(back)),
    )


def _edits(apart: dict[str, Change]) -> Iterator[str]:
    """The edits of files in conf/ after which it gives the values of params.yaml."""
    here = locks.load(Path(PARAMS).read_text("utf-8"), PARAMS)
    defaults = locks.load(Path(MAIN).read_text("utf-8"), MAIN)["defaults"]
    files = {
        package: f"conf/{group}/{option}.yaml"
        for line in defaults
        if isinstance(line, dict)
        for entry, option in line.items()
        for group, _, package in [entry.partition("@")]
    }
    for name in dict.fromkeys(name.partition("[")[0] for name in apart):
        item = ".".join(name.split(".")[:2])
        value = None
        with suppress(KeyError, TypeError):
            value = json.dumps(lineage.value(here, name), ensure_ascii=False)
        if item in files and value is not None:
            yield f"in {files[item]}, set {name.removeprefix(f'{item}.')}: {value}"
        elif item in files:
            yield f"in {files[item]} or in `defaults` of {MAIN}, remove {name}"
        elif any(package.startswith(f"{item.partition('.')[0]}.") for package in files):
            yield f"add {item}: a file under conf/ and a line in `defaults` of {MAIN}"
        else:
            yield f"in {MAIN}, set {name}: {value}"


# Comparing with HEAD.


def of_head() -> list[Difference]:
    """The comparison of the lock and the files of evidence with the committed ones.

    An edited lock counts as the worst of the edited files, or as different if there are none.
    """
    kept = status.head().files(*paths.TRACKED)
    apart = {*status.edited(*paths.TRACKED), *_untracked(*paths.TRACKED)}
    here = Revision("the workspace").files(*apart)
    found = [compare(path, kept.get(path), here.get(path)) for path in sorted(apart)]
    edited = max((each.verdict for each in found), default=Verdict.DIFFERENT)
    verdict = edited if status.edited(LOCK) else Verdict.IDENTICAL
    unchanged = (Difference(path, Verdict.IDENTICAL, "") for path in kept.keys() - apart)
    return [*found, Difference(LOCK, verdict, ""), *unchanged]


def _untracked(*paths: str) -> list[str]:
    return git.paths("ls-files", "-z", "--others", "--exclude-standard", "--", *paths)


# Words.


def _leaves(params: dict[str, Any]) -> dict[str, Any]:
    return dict(lineage.leaves("", params))


def _command(command: str, targets: Iterable[str]) -> str:
    """A command with its targets; empty if there are none."""
    quoted = shlex.join(dict.fromkeys(targets))
    return f"{command} {quoted}" if quoted else ""


def _merged(undo: dict[str, list[tuple[str, str]]], addresses: list[str]) -> tuple[str, ...]:
    """The commands for these stages, each once with all its paths."""
    paths = defaultdict(list)
    for address in addresses:
        for command, path in undo[address]:
            paths[command].append(path)
    return tuple(_command(command, sorted(found)) for command, found in paths.items())


def _counted(names: list[str]) -> str:
    return ", ".join(names) + (f" ({len(names)})" if len(names) > 2 else "")


def _wrapped(text: str, indent: str = "") -> str:
    wrapper = textwrap.TextWrapper(WIDTH, break_long_words=False, break_on_hyphens=False)
    wrapper.initial_indent, wrapper.subsequent_indent = indent, 2 * indent
    return wrapper.fill(text)

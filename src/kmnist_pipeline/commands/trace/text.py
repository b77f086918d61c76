"""A trace as trees of text and as JSON, and the sentences about a file for all forms."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from kmnist_pipeline.commands.trace.ancestry import Step, Trace
from kmnist_pipeline.commands.trace.identify import Identified, Match
from kmnist_pipeline.commands.words import count
from kmnist_pipeline.evidence import lineage
from kmnist_pipeline.repository import git

STYLES = {"exact": "bold green", "altered": "bold yellow", "unknown": "bold red"}
GAP = "  (NO VERSION OF dvc.lock SAYS WHAT MADE THIS; the stage below writes to this path)"


def show(found: Trace, console: Console) -> None:
    """Print the trees."""
    for tree in _trees(found):
        console.print(tree)
    if found.runs.problem:
        console.print(Text(f"MLflow store: {found.runs}", "dim"))


def verdict(file: Identified) -> str:
    """The result for a file, in one line."""
    remark = f": {file.remark}" if file.remark else ""
    if file.status == "unknown":
        return f"was not made by any commit of this repository{remark} (md5 {file.md5})"
    match = file.matches[0]
    if file.status == "altered":
        remedy = f"; `{git.RESTORE} {file.file}` restores it" if _is_edited(file) else ""
        return f"is ALTERED{remark}{remedy} (md5 {file.md5})"
    name = f" as {match.path}" if match.path != file.file else ""
    made = f"what {match.stage.address} made{name}"
    return f"is, byte for byte, recorded in dvc.lock as {made}{remark} (md5 {file.md5})"


def _is_edited(file: Identified) -> bool:
    """Whether HEAD has the file that the stage made at this path, and the file here differs."""
    match = file.matches[0]
    changed = ("diff", "--name-only", "-z", "--relative", "HEAD", "--", file.file)
    return (
        match.path == file.file
        and any(commit.is_head for commit in match.commits)
        and git.paths(*changed) != []
    )


def history_of(file: Identified) -> Iterator[str]:
    """The locks that have the stage that made a file, and other paths with the same bytes."""
    match, *others = file.matches
    yield from _locks_with(match)
    keys = {other.stage.key for other in others} - {match.stage.key}
    names = sorted({other.path for other in others} - {match.path})
    if keys:
        yield f"the same bytes were also made under {len(keys)} other lineage key(s)"
    if names:
        yield f"the same bytes are also {', '.join(names)}"


def _locks_with(match: Match) -> Iterator[str]:
    named = [f"{c.id[:12]} {c.date[:10]} {c.subject!r}" for c in match.commits]
    if named:
        ends = named[0] if len(named) == 1 else f"{named[-1]} to {named[0]}"
        yield f"in dvc.lock of {count(len(named), 'commit')}: {ends}"
    if not match.versions[0].here:
        yield "no longer in dvc.lock of this folder"
    elif not named:
        yield "in dvc.lock of this folder, not committed yet"


def verified(found: Trace, key: str) -> list[str]:
    """The verifications that have run a stage again, and what they found."""
    address = found.steps[key].stage.address
    lines = [
        f"run again by `{receipt.ran.command}` on {receipt.ran.machine}: "
        f"{receipt.verdict(address)} ({receipt.signature})"
        for receipt in found.verifications(key)
    ]
    return lines or ["no receipt of `kmnist verify` says that this stage was run again"]


def flat(params: dict[str, Any]) -> list[str]:
    """Each parameter by its dotted name, as rows `name: value`."""
    rows = lineage.leaves("", params, lists=dict)
    return [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in rows]


def _trees(found: Trace) -> Iterator[Tree]:
    """A tree for each stage that made some of the files; these files are at the top."""
    groups: dict[str, list[Identified]] = {}
    for file in found.files:
        key = file.matches[0].stage.key if file.matches else file.file
        groups.setdefault(key, []).append(file)
    for key, files in groups.items():
        heads = [
            Text.assemble((file.file, "bold"), " ", (verdict(file), STYLES[file.status]))
            for file in files
        ]
        tree = Tree(Text("\n").join(heads), guide_style="dim")
        if match := next(iter(files[0].matches), None):
            for line in history_of(files[0]) if len(files) == 1 else _locks_with(match):
                tree.add(Text(line))
            for line in verified(found, key):
                tree.add(Text(line))
            _add_step(tree, found, key, set())
        yield tree


def _add_step(tree: Tree, found: Trace, key: str, seen: set[str]) -> None:
    """Add a stage and those it depends on; seen: the keys and rows that the tree already shows."""
    step = found.steps[key]
    if key in seen:
        tree.add(Text.assemble((step.stage.address, "cyan"), (" as above", "dim")))
        return
    seen.add(key)
    branch = tree.add(Text.assemble((step.stage.address, "bold cyan"), f"  lineage key {key}"))
    branch.add(Text.assemble(("command  ", "dim"), step.stage.cmd))
    _add_rows(branch, "parameters", flat(step.stage.params), seen)
    rows = [f"{path}  md5 {md5}" for path, md5 in step.code.items()]
    _add_rows(branch, "code, claims and reviews", rows, seen)
    if run := found.runs.by_key.get(key):
        place = f"run {run.id} of experiment {run.experiment}"
        branch.add(Text.assemble(("MLflow  ", "dim"), place))
    for original in step.originals:
        data = branch.add(Text.assemble(("original data  ", "dim"), (original.title, "bold")))
        for name, digest in original.files.items():
            data.add(Text(f"{name}  sha256 {digest}"))
        data.add(Text(f"licence: {original.licence}"))
        data.add(Text(f"from: {', '.join(original.sources)}"))
    if step.inputs:
        read = branch.add(Text("read", "dim"))
        for source in step.inputs:
            gap = "" if source.exact else GAP
            read.add(Text.assemble(f"{source.path}  md5 {source.md5}", (gap, "bold red")))
    for maker in step.makers:
        _add_step(branch, found, maker, seen)


def _add_rows(tree: Tree, name: str, rows: list[str], seen: set[str]) -> None:
    """Add the rows that the tree does not show yet, and the number of the others."""
    new = [row for row in rows if row not in seen]
    seen |= set(new)
    repeated = f"  {len(rows) - len(new)} more, listed above" if len(rows) > len(new) else ""
    if rows:
        branch = tree.add(Text(name + repeated, "dim"))
        for row in new:
            branch.add(Text(row))


def as_json(found: Trace) -> dict[str, Any]:
    """The trace as one JSON document, for programs.

    files: each traced file with its `status` (exact, altered, unknown), the stages that `made` it
    (the likeliest first; `here`: in this folder's lock; `commits`: whose lock has the stage, the
    newest first), the lineage keys of the stages `behind` it, the `originals` that these read,
    and `whole` (nothing is missing between); stages: by lineage key, with `code` (md5 by path),
    `inputs` and the keys of their `makers` (`exact`: they made exactly this content), `outs` and
    the `files` in them, the MLflow `run`, and the receipts of verifications that have run the stage
    again (`verified`); mlflow: the store, and why it is incomplete.
    """
    return {
        "files": [_file(found, file) for file in found.files],
        "stages": {key: _stage(found, step) for key, step in found.steps.items()},
        "mlflow": str(found.runs),
    }


def _file(found: Trace, file: Identified) -> dict[str, Any]:
    made = [
        {
            "stage": match.stage.address,
            "lineage": match.stage.key,
            "path": match.path,
            "here": match.versions[0].here,
            "commits": [
                {"id": each.id, "date": each.date, "subject": each.subject}
                for each in match.commits
            ],
        }
        for match in file.matches
    ]
    behind = found.behind(file.matches[0].stage.key) if made else []
    return {
        "file": file.file,
        "md5": file.md5,
        "status": file.status,
        "remark": file.remark,
        "whole": found.is_whole(file),
        "made": made,
        "behind": [step.stage.key for step in behind],
        "originals": [asdict(original) for step in behind for original in step.originals],
    }


def _stage(found: Trace, step: Step) -> dict[str, Any]:
    run = found.runs.by_key.get(step.stage.key)
    return {
        "stage": step.stage.address,
        "cmd": step.stage.cmd,
        "params": step.stage.params,
        "code": step.code,
        "inputs": [asdict(source) for source in step.inputs],
        "outs": step.stage.outs,
        "files": step.files,
        "originals": [asdict(original) for original in step.originals],
        "run": asdict(run) if run else None,
        "verified": [
            {
                "receipt": receipt.path.as_posix(),
                "command": receipt.ran.command,
                "commit": receipt.ran.commit,
                "machine": receipt.ran.machine,
                "verdict": receipt.verdict(step.stage.address),
                "signature": receipt.signature,
            }
            for receipt in found.verifications(step.stage.key)
        ],
    }

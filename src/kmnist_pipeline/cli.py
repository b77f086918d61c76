"""The command `kmnist`: the configuration, the evidence, where it comes from and what it shows."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kmnist_pipeline.errors import UserError

PARAMS = Path("params.yaml")

HELP = """The configuration and the evidence of the pipeline in this folder.

conf/ holds the configuration in groups, params.yaml is composed from it, and DVC runs the stages
of dvc.yaml with those parameters: `dvc repro`, or `dvc exp run -S KEY=VALUE` to try another value.
Exit status: 0 all is well, 1 something is not (the message says what), 2 the command is misspelt.
"""
COMPOSE = """Compose params.yaml from conf/.

Refuses a misspelt key, a wrong type and an impossible value, saying what is allowed.

  kmnist compose                          after every change in conf/
  kmnist compose --show kmnist_softmax    what one experiment comes to
  kmnist compose experiments.digits_softmax.optimizer.lr=0.4
"""
CHECK = """Is the committed evidence what code, configuration and data give?

Names every stage whose entry in dvc.lock, or whose files under metrics/, figures/ or reports/,
are older than code, configuration, data or the libraries of requirements.lock, or were changed by
hand; and says what changed from what to what. Needs neither DVC's cache nor the data, runs no
stage and changes nothing.
"""
VERIFY = """Does a run from scratch give what was committed?

Clones HEAD into a temporary folder, runs TARGET there with all that it rests on, and compares
every out with the committed lock: numbers, figures by their pixels, arrays by their largest
difference; and says where a difference is likely to come from. The workspace is left alone.

  kmnist verify report@digits     a quick look: under a minute
  kmnist verify                   every stage: hours
  kmnist verify --quick           run nothing, hash what lies in the workspace and the cache

Exit status: 0 identical; 3 other bytes, but figures that look the same and numbers that are equal
to six digits, as another type of machine makes them; 1 different, or the run failed (the message
says which); 2 the command is misspelt; 130 interrupted.
"""
TRACE = """Where does a file come from? The stage that made it, from what, back to original data.

For any figure, metric, model, prediction, report or data file, wherever it lies and whatever it is
called; a folder stands for the files in it. A file is known by its bytes, from dvc.lock and from
that of every commit, and Git keeps the figures of each. A PNG, a JSON metric or a page that was
changed is known by the lineage key that it carries, and is said to be altered.

  kmnist trace figures/digits/digits_softmax/curves.png
  kmnist trace --json ~/Downloads/figure.png
  kmnist trace --svg reports/digits/index.html > lineage.svg
  kmnist trace --html > lineage.html       the whole graph, without a FILE

Exit status: 0 every file is, byte for byte, what a stage made, and all that is behind it is known;
3 a file is altered; 1 a file was not made by any commit of this repository.
"""
PUBLISH = """Bring the MLflow store level with the evidence.

Shows each stage of dvc.lock, with its folds and trials, in the store of MLFLOW_TRACKING_URI, by
default mlflow.db in this folder: also what DVC restored without running it, and after the store
was lost. What the store shows already stays as it is. A stage whose files are not what dvc.lock
says is refused.

  kmnist publish                                 all stages of the workspace
  kmnist publish evaluate@kmnist_softmax         one of them
  kmnist publish --rev HEAD~3 --rev tacky-tang   a commit, and an experiment of `dvc exp`
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0 where all is well, 1 where not, 2 for misuse.

    `trace` has a fourth, 3, for a file that is known but altered.
    """
    parser = _command(argparse.ArgumentParser, "kmnist", HELP)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    compose = _command(commands.add_parser, "compose", COMPOSE)
    only = compose.add_mutually_exclusive_group()
    only.add_argument(
        "--check",
        action="store_true",
        help="write nothing; where params.yaml is not level with conf/, print the difference "
        "and exit with status 1",
    )
    only.add_argument(
        "--show",
        metavar="NAME",
        help="write nothing; print the data set, experiment, study or report of this name",
    )
    compose.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="change a value, as `dvc exp run -S KEY=VALUE` does",
    )

    _command(commands.add_parser, "check", CHECK)

    trace = _command(commands.add_parser, "trace", TRACE)
    form = trace.add_mutually_exclusive_group()
    for name, text in {
        "json": "print all of it for programs",
        "dot": "print the graph for graphviz",
        "svg": "print the graph as a picture",
        "html": "print the graph as a page that stands alone, whose boxes unfold",
    }.items():
        form.add_argument(f"--{name}", dest="form", action="store_const", const=name, help=text)
    trace.add_argument("files", nargs="*", metavar="FILE", type=_absolute)

    publish = _command(commands.add_parser, "publish", PUBLISH)
    publish.add_argument("stages", nargs="*", metavar="STAGE", help="only this stage")
    publish.add_argument(
        "--rev",
        action="append",
        default=[],
        metavar="REV",
        help="the evidence of a commit or experiment, not of the workspace; may be repeated",
    )

    verify = _command(commands.add_parser, "verify", VERIFY)
    verify.add_argument(
        "target",
        nargs="?",
        metavar="TARGET",
        help="a stage, such as report@digits; default: every stage",
    )
    verify.add_argument(
        "--quick", action="store_true", help="run nothing: hash what is there, as far as it is"
    )

    chosen = parser.parse_args(arguments)
    if chosen.command == "trace" and not (chosen.files or chosen.form):
        trace.error("name a FILE; --json, --dot, --svg and --html alone show the whole graph")
    try:
        _enter_project()
        if chosen.command == "compose":
            return _compose(chosen.check, chosen.show, chosen.overrides)
        if chosen.command == "trace":
            return _trace(chosen.files, chosen.form)
        if chosen.command == "publish":
            return _publish(chosen.stages, chosen.rev)
        if chosen.command == "verify":
            return _verify(chosen.target, chosen.quick)
        return _check()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _command(make: Any, name: str, text: str) -> argparse.ArgumentParser:
    """A parser whose help starts with `text`, and is listed by the first line of it."""
    listed = {} if make is argparse.ArgumentParser else {"help": text.splitlines()[0]}
    form = argparse.RawDescriptionHelpFormatter
    return make(name, description=text, formatter_class=form, **listed)


def _absolute(name: str) -> Path:
    """A path as the user means it, whatever folder the command goes to later."""
    return Path(os.path.abspath(name))


def _enter_project() -> None:
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").exists() and (folder / "conf").is_dir():
            os.chdir(folder)
            return
    raise UserError(f"{here} is not in a project: no dvc.yaml and conf/ here or above")


def _compose(check: bool, show: str | None, overrides: list[str]) -> int:
    from kmnist_pipeline import composition

    text = composition.compose(Path("conf"), overrides)
    if show is not None:
        print(composition.show(text, show), end="")
        return 0
    if PARAMS.exists() and PARAMS.read_text() == text:
        print(f"{PARAMS} is level with conf/")
        return 0
    if check:
        print(composition.difference(PARAMS, text), end="")
        print(f"{PARAMS} is not level with conf/: run `kmnist compose`", file=sys.stderr)
        return 1
    from kmnist_pipeline.evidence import outs

    outs.write_bytes(PARAMS, text.encode())
    print(f"{PARAMS} is written")
    return 0


def _check() -> int:
    from kmnist_pipeline import composition
    from kmnist_pipeline.provenance import check

    findings = check.findings(composition.compose(Path("conf"), []))
    if findings:
        print(check.grouped(findings))
        print(
            f"not fresh: {len(findings)} finding(s); `make repro` makes the evidence again",
            file=sys.stderr,
        )
        return 1
    print("fresh: the evidence is what code, configuration and data give")
    return 0


def _trace(files: list[Path], form: str | None) -> int:
    from kmnist_pipeline.provenance import trace

    found = trace.trace(files, unfold=form in ("json", "html"))
    if form == "json":
        print(json.dumps(trace.as_json(found), indent=2, ensure_ascii=False))
        return found.exit_status

    from kmnist_pipeline.provenance import drawing

    if form is None:
        drawing.show(found)
        return found.exit_status
    print({"dot": drawing.dot, "svg": drawing.svg, "html": drawing.html}[form](found), end="")
    for finding in found.findings:
        if finding.status != "exact":
            print(f"{finding.file} {drawing.verdict(finding)}", file=sys.stderr)
    return found.exit_status


def _publish(stages: list[str], revisions: list[str]) -> int:
    from kmnist_pipeline.provenance import publish

    try:
        outcome = publish.publish(stages, revisions)
    except KeyboardInterrupt:
        raise UserError("interrupted; run it again to go on") from None
    for note in outcome.notes:
        print(f"note: {note}: its run goes without", file=sys.stderr)
    for refused in outcome.refused:
        print(f"refused: {refused}", file=sys.stderr)
    counts = (len(stages) for stages in (outcome.new, outcome.kept, outcome.refused))
    print("stages: {} published, {} there already, {} refused".format(*counts))
    return 1 if outcome.refused else 0


def _verify(target: str | None, quick: bool) -> int:
    from kmnist_pipeline.provenance import verify

    result = verify.rehash(target) if quick else verify.rerun(target)
    for line in result.lines():
        print(line)
    return result.status


if __name__ == "__main__":
    sys.exit(main())

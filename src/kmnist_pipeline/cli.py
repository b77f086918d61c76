"""The command `kmnist`: compose the configuration, check the evidence."""

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
are older than code, configuration or data, or were changed by hand. Needs neither DVC's cache nor
the data, runs no stage and changes nothing.
"""
IMPACT = """What a change will re-make, before anything runs.

Names the stages that run again and why, the figures, metrics and reports that they write, and the
claims that are judged anew. A stage that only reads what others make runs again if that comes out
different. Without -S: what the files in conf/ and src/ have come to since the evidence was made.

  kmnist impact -S experiments.kmnist_softmax.optimizer.lr=0.05
  kmnist impact
"""
DIFF = """The difference that a branch makes to the evidence.

Claims whose verdict or obtained value is another, metrics beyond their last digits, figures by
their pixels, and the parameters, code and commands that changed. Read from Git's objects: nothing
is checked out or run.

  kmnist diff main...                     this branch, with what is not committed yet
  kmnist diff HEAD~3 HEAD --output diff   also diff/index.html, figures side by side
"""
EXPORT = """A report as a Workflow Run RO-Crate: data, code, parameters, runs, figures.

Packs what HEAD holds, each file proved by the hash in dvc.lock, with metadata that says what made
it from what and under which licence (https://www.researchobject.org/workflow-run-crate). Models
and data come from DVC's cache; what that lacks is named by its hash alone.

  kmnist export kmnist_linear                     the folder crates/kmnist_linear
  kmnist export digits --output /tmp/digits
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0 where all is well, 1 where not, 2 for misuse."""
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

    impact = _command(commands.add_parser, "impact", IMPACT)
    impact.add_argument(
        "-S",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a value, as `dvc exp run -S KEY=VALUE` does; can be given several times",
    )
    impact.add_argument("--json", action="store_true", help="print JSON for programs")

    diff = _command(commands.add_parser, "diff", DIFF)
    diff.add_argument("old", metavar="REV", help="a commit, or main... as in `git diff`")
    diff.add_argument("new", metavar="REV2", nargs="?", help="another (default: the workspace)")
    diff.add_argument("--output", type=Path, metavar="FOLDER", help="write a page there as well")
    form = diff.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON for programs")
    form.add_argument(
        "--markdown", action="store_true", help="print the comment of a pull request for GitHub"
    )
    diff.add_argument(
        "--images",
        metavar="URL",
        help="with --markdown: show figures from URL/<commit>/<path>, such as "
        "https://github.com/OWNER/REPOSITORY/raw",
    )

    export = _command(commands.add_parser, "export", EXPORT)
    export.add_argument("report", metavar="REPORT")
    export.add_argument(
        "--output", type=Path, metavar="FOLDER", help="write there (default: crates/REPORT)"
    )

    chosen = parser.parse_args(arguments)
    try:
        _enter_project()
        if chosen.command == "compose":
            return _compose(chosen.check, chosen.show, chosen.overrides)
        if chosen.command == "impact":
            return _impact(chosen.overrides, chosen.json)
        if chosen.command == "diff":
            return _diff(chosen)
        if chosen.command == "export":
            return _export(chosen.report, chosen.output)
        return _check()
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _command(make: Any, name: str, text: str) -> argparse.ArgumentParser:
    """A parser whose help starts with `text`, and is listed by the first line of it."""
    listed = {} if make is argparse.ArgumentParser else {"help": text.splitlines()[0]}
    form = argparse.RawDescriptionHelpFormatter
    return make(name, description=text, formatter_class=form, **listed)


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
    from kmnist_pipeline.evidence import freshness

    findings = freshness.findings(composition.compose(Path("conf"), []))
    for finding in findings:
        print(finding)
    if findings:
        print(
            f"not fresh: {len(findings)} finding(s); `make repro` makes the evidence again",
            file=sys.stderr,
        )
        return 1
    print("fresh: the evidence is what code, configuration and data give")
    return 0


def _impact(overrides: list[str], as_json: bool) -> int:
    from kmnist_pipeline.provenance import impact

    found = impact.of_change(overrides)
    _print_json(found.json()) if as_json else impact.show(found, _console())
    return 0


def _diff(chosen: argparse.Namespace) -> int:
    from kmnist_pipeline.provenance import diff, diff_views

    found = diff.between(chosen.old, chosen.new)
    if chosen.output is not None:
        chosen.output.mkdir(parents=True, exist_ok=True)
        (chosen.output / "index.html").write_text(diff_views.page(found), encoding="utf-8")
    if chosen.json:
        _print_json(found.json())
    elif chosen.markdown:
        print(diff_views.markdown(found, chosen.images), end="")
    else:
        diff_views.text(found, _console())
    return 0


def _export(report: str, folder: Path | None) -> int:
    from kmnist_pipeline.provenance import export, history

    done = export.export(report, folder or Path("crates") / report)
    if history.git("status", "--porcelain", "--untracked-files=no"):
        print("what is not committed is not in the crate", file=sys.stderr)
    for path, md5 in done.missing.items():
        print(f"not in DVC's cache, so named by its hash alone: {path} ({md5})", file=sys.stderr)
    print(
        f"{done.folder}: commit {done.commit[:7]}, {done.runs} runs, {done.files} files, "
        f"{done.size / 1e6:.1f} MB"
    )
    return 0


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=2, ensure_ascii=False))


def _console() -> Any:
    """A console that wraps and cuts nothing in a pipe."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 10_000)


if __name__ == "__main__":
    sys.exit(main())

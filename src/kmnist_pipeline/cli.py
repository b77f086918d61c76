"""The command `kmnist`: compose the configuration, check the evidence."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from kmnist_pipeline.errors import UserError

PARAMS = Path("params.yaml")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0 where all is well, 1 where not, 2 for misuse."""
    parser = argparse.ArgumentParser(
        prog="kmnist", description="Configuration and evidence of the pipeline in this folder."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    compose = commands.add_parser(
        "compose",
        help="compose params.yaml from conf/",
        description="Compose params.yaml from conf/, refusing what cannot be.",
    )
    only = compose.add_mutually_exclusive_group()
    only.add_argument(
        "--check", action="store_true", help="write nothing; fail where params.yaml is not level"
    )
    only.add_argument(
        "--show", metavar="NAME", help="print one data set, experiment, study or report"
    )
    compose.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="change a value, as `dvc exp run -S` does"
    )

    commands.add_parser(
        "check",
        help="is the committed evidence what code, configuration and data give?",
        description="Fail, naming the stages, where dvc.lock, metrics/, figures/ or reports/ are "
        "older than code, configuration or data. Needs neither DVC's cache nor the data.",
    )
    chosen = parser.parse_args(arguments)
    try:
        _enter_project()
        if chosen.command == "compose":
            return _compose(chosen.check, chosen.show, chosen.overrides)
        return _check()
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


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

    text = composition.compose(Path("conf"), [])
    findings = [] if PARAMS.read_text() == text else ["params.yaml is not level with conf/"]
    findings += freshness.findings()
    for finding in findings:
        print(finding)
    if findings:
        print(f"{len(findings)} findings: `dvc repro` makes the evidence again", file=sys.stderr)
        return 1
    print("the committed evidence is what code, configuration and data give")
    return 0


if __name__ == "__main__":
    sys.exit(main())

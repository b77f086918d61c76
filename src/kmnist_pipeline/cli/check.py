"""Check that the committed evidence is up to date with code, configuration and data.

Names every stage whose entry in dvc.lock, or whose files under metrics/, figures/ or reports/,
are older than code, configuration, data or the libraries of requirements.lock, or were changed by
hand; and says what changed from what to what. Needs neither DVC's cache nor the data, runs no
stage and changes nothing.
"""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from kmnist_pipeline.cli.common import absolute
from kmnist_pipeline.errors import UserError


def add(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--except",
        dest="tolerated",
        type=absolute,
        metavar="FILE",
        help="leave out the stages that this file names, one a line",
    )


def run(chosen: Namespace) -> int:
    from kmnist_pipeline import arithmetic
    from kmnist_pipeline.commands import check
    from kmnist_pipeline.config import compose as composition

    findings = check.findings(composition.compose(Path("conf"), []))
    if chosen.tolerated is not None:
        left_out = set(chosen.tolerated.read_text().split())
        current = left_out - {finding.where for finding in findings}
        if current:
            names = ", ".join(sorted(current))
            raise UserError(f"{chosen.tolerated.name} names what is not stale: {names}")
        findings = [finding for finding in findings if finding.where not in left_out]
    if note := arithmetic.note():
        print(note)
    if findings:
        print(check.grouped(findings))
        print(
            f"not fresh: {len(findings)} finding(s); `make repro` makes the evidence again",
            file=sys.stderr,
        )
        return 1
    print("fresh: the evidence is what code, configuration and data give")
    return 0

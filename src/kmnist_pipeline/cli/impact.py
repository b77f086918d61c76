"""Show which stages, figures and claims a change makes stale, before anything runs.

Lists the stages that run again and why, the figures, metrics and reports that they write, and the
claims that are compared again. A downstream stage runs again only if the outs that it reads change.
Without -S: shows the impact of changes in conf/, src/ and files since the evidence was made.

  kmnist impact -S experiments.kmnist_softmax.optimizer.lr=0.05
  kmnist impact
"""

import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from kmnist_pipeline.cli.common import (
    MADE,
    SOURCES,
    console,
    mend_lock,
    print_json,
    refuse_conflicts,
    say,
)


def add(parser: ArgumentParser) -> None:
    parser.add_argument(
        "-S",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a value, as `dvc exp run -S KEY=VALUE` does; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def run(chosen: Namespace) -> int:
    from kmnist_pipeline.commands import impact, status
    from kmnist_pipeline.repository import git
    from kmnist_pipeline.repository.locks import LOCK

    refuse_conflicts(*SOURCES, *MADE)
    mend_lock()
    if status.is_lock_lost():
        say(f"note: {status.LOST}: `{git.RESTORE} {LOCK}` restores it", sys.stderr)
    found = impact.of_change(chosen.overrides)
    if chosen.json:
        print_json(asdict(found))
    else:
        impact.show(found, console())
    return 0

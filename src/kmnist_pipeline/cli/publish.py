"""Bring the MLflow store up to date with the evidence.

Publishes each stage of dvc.lock, with its folds and trials, to the store of MLFLOW_TRACKING_URI, by
default mlflow.db in this folder. This includes stages that DVC restored from its cache, and it
fills a new store after the old one was lost. Runs that the store already has stay unchanged. A
stage whose files differ from what dvc.lock records is refused.

  kmnist publish                                  all stages of the workspace
  kmnist publish evaluate@kmnist_softmax          only this stage
  kmnist publish --rev HEAD~3 --rev tacky-tang    a commit, and an experiment of `dvc exp`
"""

import sys
from argparse import ArgumentParser, Namespace

from kmnist_pipeline.cli.common import MADE, SOURCES, end_in_order, mend_lock, refuse_conflicts, say
from kmnist_pipeline.errors import UserError

SHOWN = 3  # missing files that are named


def add(parser: ArgumentParser) -> None:
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="only this stage")
    parser.add_argument(
        "--rev",
        action="append",
        default=[],
        metavar="REV",
        help="a commit or experiment to publish instead of the workspace; may be repeated",
    )


def run(chosen: Namespace) -> int:
    from kmnist_pipeline.commands import publish

    end_in_order()
    if not chosen.rev:
        refuse_conflicts(*SOURCES, *MADE)
        mend_lock()
    try:
        outcome = publish.stages(chosen.stages, chosen.rev)
    except KeyboardInterrupt:
        raise UserError("interrupted; run the command again to continue") from None
    for note in outcome.notes[:SHOWN]:
        say(f"note: {note}: the run lacks it", sys.stderr)
    if (more := len(outcome.notes) - SHOWN) > 0:
        say(f"note: and {more} more: `kmnist publish` adds what is there later", sys.stderr)
    for refused in outcome.refused:
        say(f"refused: {refused}", sys.stderr)
    counts = (len(stages) for stages in (outcome.new, outcome.kept, outcome.refused))
    print("stages: {} published, {} already there, {} refused".format(*counts))
    return 1 if outcome.refused else 0

"""Bring the MLflow store up to date with the evidence.

Shows each stage of dvc.lock, with its folds and trials, in the store of MLFLOW_TRACKING_URI, by
default mlflow.db in this folder: also what DVC restored without running it, and after the store
was lost. What the store shows already stays as it is. A stage whose files are not what dvc.lock
says is refused.

  kmnist publish                                 all stages of the workspace
  kmnist publish evaluate@kmnist_softmax         one of them
  kmnist publish --rev HEAD~3 --rev tacky-tang   a commit, and an experiment of `dvc exp`
"""

import sys
from argparse import ArgumentParser, Namespace

from kmnist_pipeline.errors import UserError


def add(parser: ArgumentParser) -> None:
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="only this stage")
    parser.add_argument(
        "--rev",
        action="append",
        default=[],
        metavar="REV",
        help="the evidence of a commit or experiment, not of the workspace; may be repeated",
    )


def run(chosen: Namespace) -> int:
    from kmnist_pipeline.commands import publish

    try:
        outcome = publish.stages(chosen.stages, chosen.rev)
    except KeyboardInterrupt:
        raise UserError("interrupted; run it again to go on") from None
    for note in outcome.notes:
        print(f"note: {note}: its run goes without", file=sys.stderr)
    for refused in outcome.refused:
        print(f"refused: {refused}", file=sys.stderr)
    counts = (len(stages) for stages in (outcome.new, outcome.kept, outcome.refused))
    print("stages: {} published, {} there already, {} refused".format(*counts))
    return 1 if outcome.refused else 0

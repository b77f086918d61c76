"""Remove an experiment, study, dataset or report from the configuration and the evidence.

Removes its line from conf/config.yaml, its parameters from params.yaml and its stages from
dvc.lock, and deletes its metrics, figures, model, predictions, data or page. It also deletes
leftovers of removed items. The files of an item in conf/ stay, but --all-but removes these too.
Shows everything and asks first. Refuses if the rest of the configuration, a claim or a numbered
figure needs it.

  kmnist prune digits_cnn
  kmnist prune digits_softmax digits_softmax_grid    both: the study is based on the experiment
  kmnist prune reports.mnist_logistic mnist_simple_cnn mnist_sklearn_logistic
  kmnist prune --all-but digits    a clean starting point for other data

The third command removes a report with its models; `reports.` is only needed if a dataset or model
has the same name.

Exit status: 0 it was removed; 1 it was not.
"""

import sys
from argparse import ArgumentParser, Namespace

from kmnist_pipeline.cli.common import agreed, end_in_order, mend_lock, say


def add(parser: ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="do not ask")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--all-but",
        nargs="+",
        metavar="NAME",
        help="keep only these and what they need, such as the models and the dataset of a report",
    )
    which.add_argument(
        "names",
        nargs="*",
        default=[],
        metavar="NAME",
        help="an experiment, study, dataset or report, or a stage that only dvc.lock has",
    )


def run(chosen: Namespace) -> int:
    from kmnist_pipeline.commands import prune

    end_in_order()
    mend_lock()
    removal = prune.all_but(chosen.all_but) if chosen.all_but else prune.plan(chosen.names)
    lines = [*removal.lines()]
    if not lines:
        say("there is nothing to remove")
        return 0
    for line in lines:
        say(line)
    if not (chosen.yes or agreed("Remove all this?")):
        say("nothing was removed; --yes removes without asking", sys.stderr)
        return 1
    prune.remove(removal)
    say("removed; what was committed is still in Git, and what DVC's cache has stays there")
    if removal.stale:
        say(f"these are stale now: `dvc repro {' '.join(removal.stale)}`")
    return 0

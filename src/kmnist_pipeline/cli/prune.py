"""Remove an experiment, study, dataset or report from the configuration and the evidence.

Takes its line out of conf/config.yaml, its parameters out of params.yaml and its stages out of
dvc.lock, and deletes its metrics, figures, model, predictions, data or page; also what is left of
one that is no longer in conf/config.yaml. Its files in conf/ stay. Shows everything and asks first.
Refuses if the rest of the configuration, a claim or a numbered figure needs it.

  kmnist prune digits_cnn
  kmnist prune digits_softmax digits_softmax_grid    both: the study is based on the experiment
  kmnist prune reports.mnist_logistic mnist_simple_cnn mnist_sklearn_logistic

The last one removes a report with its models; `reports.` is only needed if a dataset or model has
the same name.

Exit status: 0 it was removed; 1 it was not.
"""

import sys
from argparse import ArgumentParser, Namespace


def add(parser: ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "names",
        nargs="+",
        metavar="NAME",
        help="an experiment, study, dataset or report, or a stage that only dvc.lock has",
    )


def run(chosen: Namespace) -> int:
    from kmnist_pipeline.commands import prune

    removal = prune.plan(chosen.names)
    for line in removal.lines():
        print(line)
    if not (chosen.yes or _is_wanted()):
        print("nothing was removed; --yes removes without asking", file=sys.stderr)
        return 1
    prune.remove(removal)
    print("removed; what was committed is still in Git, and models and data are in DVC's cache")
    if removal.stale:
        print(f"these are stale now: `dvc repro {' '.join(removal.stale)}`")
    return 0


def _is_wanted() -> bool:
    try:
        return input("Remove all this? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False

"""Make a model the champion of its dataset, in MLflow's registry.

Registers the model with its weights, code, evidence and model card, and gives it the alias
`champion`, which `kmnist predict` and `make serve` use. Refuses a model whose evidence is stale,
and a model that is worse than the champion beyond sampling error: its validation accuracy is lower
by more than 1.96 standard errors, or it has fewer correct test images by McNemar's test (p < 0.05).
Test images can only refuse a model, never choose one.

  kmnist promote kmnist_softmax
  kmnist promote --dataset kmnist    the model for all classes with the best validation accuracy
  kmnist promote                     the best model of every dataset; `make repro` ends with it
"""

import sys
from argparse import ArgumentParser, Namespace

from kmnist_pipeline.cli.common import end_in_order, mend_lock, say
from kmnist_pipeline.errors import UserError


def add(parser: ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("name", nargs="?", metavar="NAME", help="default: the best of each dataset")
    which.add_argument("--dataset", help="only the best of this dataset")
    parser.add_argument(
        "--force",
        action="store_true",
        help="promote although its evidence is stale, or it is worse than the champion",
    )


def run(chosen: Namespace) -> int:
    from kmnist_pipeline.serving import candidates, registry

    end_in_order()
    mend_lock()
    if chosen.name is not None:
        models = [candidates.read(chosen.name)]
    else:
        wanted = [chosen.dataset] if chosen.dataset else candidates.datasets()
        models = [candidates.best(dataset) for dataset in wanted]
    status = 0
    for model in models:
        try:
            for line in registry.promote(model, chosen.force):
                say(line)
        except UserError as error:
            say(f"error: {error}", sys.stderr)
            status = 1
    return status

"""Train the missing fits of all stale stages in parallel.

A fit is the training of one trial on one seed and fold. DVC runs one stage after the other; this
command trains the fits of all stale stages together, each on one core of this machine or of a
cluster, the longest first. Fits that the store has are not trained again. `dvc repro` then writes
the evidence. After an interruption run the command again: it trains only what is not finished.

  kmnist fit                          what `dvc repro` needs
  kmnist fit report@kmnist_linear     what `dvc repro report@kmnist_linear` needs
  KMNIST_SCHEDULER=tcp://127.0.0.1:8786 kmnist fit     on the workers of a Dask scheduler
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from kmnist_pipeline.cli.common import PARAMS, hash_bytecode, mend_lock, read_params, say
from kmnist_pipeline.errors import UserError


def add(parser: ArgumentParser) -> None:
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help="a stage; default: every stage"
    )


def run(chosen: Namespace) -> int:
    hash_bytecode(Path("src"))  # before most modules are imported
    from kmnist_pipeline import arithmetic

    arithmetic.select()  # before NumPy is loaded
    from kmnist_pipeline.commands import fit, status
    from kmnist_pipeline.config import compose as composition

    mend_lock()
    params = read_params()
    if not status.is_composed(composition.compose(Path("conf"), [])):
        raise UserError(f"{PARAMS} is not up to date with conf/: run `kmnist compose`")
    names = fit.train_missing(chosen.targets, params)
    if names:
        say(f"all fits are trained: {', '.join(names)}; `dvc repro` writes the evidence")
    else:
        say("no stage that trains is stale")
    return 0

"""Run the pipeline from scratch and compare with the committed evidence.

Clones HEAD into a temporary folder, runs TARGET there with all stages that it depends on, and
compares every out with the committed one: numbers, pixels of figures, and arrays by their largest
difference. Says the likely cause of a difference. Writes a receipt into receipts/, whatever the
result. Commit it: `kmnist check` lists it as long as the evidence stays the same. Changes nothing
else in the workspace.

  kmnist verify report@digits    one small report: takes a few minutes
  kmnist verify                  every stage: takes hours
  kmnist verify --epochs 1       compare weights after one epoch of every fit: a tenth of that time
  kmnist verify --quick          run nothing: compare the workspace and the cache with HEAD

Exit status: 0 identical; 3 other bytes, but figures that look the same and numbers that are equal
to six digits, as on another type of machine; 1 different, not up to date, or the run failed (the
message says which); 2 invalid command line; 130 interrupted.
"""

import contextlib
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace

from kmnist_pipeline.cli.common import MADE, SOURCES, absolute, refuse_conflicts, say


def add(parser: ArgumentParser) -> None:
    parser.add_argument(
        "target",
        nargs="?",
        metavar="TARGET",
        help="a stage, such as report@digits; default: every stage",
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument(
        "--quick",
        action="store_true",
        help="run nothing: compare the workspace and the cache with HEAD",
    )
    only.add_argument(
        "--epochs",
        type=_at_least_one,
        metavar="N",
        help="train only the first N epochs of every fit, and compare the weights after each",
    )
    parser.add_argument(
        "--sign",
        type=absolute,
        metavar="KEY",
        help="sign the receipt with an SSH key: a private one, or a public one of ssh-agent",
    )
    parser.set_defaults(misuse=parser.error)


def _at_least_one(text: str) -> int:
    with contextlib.suppress(ValueError):
        if (number := int(text)) >= 1:
            return number
    raise ArgumentTypeError(f"{text}: must be a whole number, at least 1")


def run(chosen: Namespace) -> int:
    if chosen.quick and chosen.sign:
        chosen.misuse("--sign: --quick runs nothing, so it leaves no receipt to sign")
    from kmnist_pipeline.commands import quick, receipts, verify

    if chosen.sign:
        receipts.sign(b"", chosen.sign)  # a key that cannot sign is refused before the run
    if chosen.quick:
        refuse_conflicts(*SOURCES, *MADE)
        result = quick.compare_here(chosen.target)
    elif chosen.epochs is not None:
        result = verify.first_epochs(chosen.epochs, chosen.target)
    else:
        result = verify.rerun(chosen.target)
    for line in result.lines():
        say(line)
    if result.receipt:
        try:
            path = receipts.leave(result.receipt, chosen.sign)
            print(f"receipt: {path}; `kmnist check` shows it", file=sys.stderr)
        except OSError as error:  # what the run has found is true all the same
            say(f"warning: no receipt: {error}", sys.stderr)
    return result.status

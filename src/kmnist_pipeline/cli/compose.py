"""Compose params.yaml from conf/.

Refuses misspelt keys, wrong types and impossible values, and says what is allowed. Lists files in
conf/ that are not in use, because no line of conf/config.yaml leads to them.

  kmnist compose                          after every change in conf/
  kmnist compose --show kmnist_softmax    one experiment, with all its values
  kmnist compose experiments.digits_softmax.optimizer.lr=0.4
"""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from kmnist_pipeline.cli.common import PARAMS, end_in_order, mend_lock, say


def add(parser: ArgumentParser) -> None:
    only = parser.add_mutually_exclusive_group()
    only.add_argument(
        "--check",
        action="store_true",
        help="write nothing; if params.yaml is not up to date with conf/, print the "
        "difference and exit with status 1",
    )
    only.add_argument(
        "--show",
        metavar="NAME",
        help="write nothing; print only the dataset, experiment, study or report of this name",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="change a value, as `dvc exp run -S KEY=VALUE` does",
    )


def run(chosen: Namespace) -> int:
    from kmnist_pipeline.config import compose as composition
    from kmnist_pipeline.config import menu

    end_in_order()
    conf = Path("conf")
    text = composition.compose(conf, chosen.overrides)
    if chosen.show is not None:
        say(composition.show(text, chosen.show), end="")
        return 0
    if not chosen.check:
        mend_lock()  # now, because the old params.yaml still has the stages that DVC knew
    if unused := menu.unused(conf):
        names = ", ".join(str(path.relative_to(conf)) for path in unused)
        why = f"because no line of conf/{menu.FILE} leads to them"
        say(f"note: these files of conf/ are not in use, {why}: {names}", sys.stderr)
    if PARAMS.exists() and PARAMS.read_text("utf-8") == text:
        print(f"{PARAMS} is up to date with conf/")
        return 0
    if chosen.check:
        say(composition.difference(PARAMS, text), end="")
        print(f"{PARAMS} is not up to date with conf/: run `kmnist compose`", file=sys.stderr)
        return 1
    from kmnist_pipeline.evidence import outs

    outs.write_bytes(PARAMS, text.encode())
    print(f"{PARAMS} was written")
    return 0

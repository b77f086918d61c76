"""The command `kmnist`, with a module for each subcommand; the docstring is the help text.

`add` adds the arguments to the parser; `run` does the work and returns the exit status. `run`
imports what it needs, so that no command waits for another command's libraries.
"""

import importlib
import os
import sys
from argparse import SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from kmnist_pipeline.cli.common import say
from kmnist_pipeline.errors import UserError

INTERRUPTED = 130
GROUPS = {
    "Configure and train": ("compose", "fit", "fits"),
    "Check the evidence": ("impact", "check", "verify"),
    "Explore and share the evidence": ("trace", "diff", "publish", "export"),
    "Use the models": ("predict", "promote"),
}
HELP = """Manage the configuration, the evidence and the models of the pipeline in this folder.

`kmnist compose` writes params.yaml from conf/. DVC runs the stages of dvc.yaml with it:
`dvc repro`, or `dvc exp run -S KEY=VALUE` to try another value.

{commands}
`kmnist COMMAND --help` explains a command. Exit status: 0 success, 1 failure (the message says
why), 2 an invalid command line; the help of a command lists any others.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit status."""
    parser = ArgumentParser(
        "kmnist", usage="kmnist [-h] COMMAND ...", formatter_class=RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", prog="kmnist", help=SUPPRESS
    )
    listed = ""
    for group, names in GROUPS.items():
        listed += f"{group}:\n"
        for name in names:
            module = importlib.import_module(f"kmnist_pipeline.cli.{name}")
            text = module.__doc__ or ""
            command = commands.add_parser(
                name, description=text, formatter_class=RawDescriptionHelpFormatter
            )
            command.set_defaults(run=module.run)
            module.add(command)
            listed += f"  {name:9} {text.partition(chr(10))[0]}\n"
        listed += "\n"
    parser.description = HELP.format(commands=listed.rstrip("\n") + "\n")
    chosen = parser.parse_args(arguments)
    try:
        _enter_project()
        return chosen.run(chosen)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except (UserError, OSError) as error:
        say(f"error: {error}", sys.stderr)
        return 1


def _enter_project() -> None:
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").exists() and (folder / "conf").is_dir():
            os.chdir(folder)
            return
    raise UserError(f"{here}: no project (a folder with dvc.yaml and conf/) is here or above")

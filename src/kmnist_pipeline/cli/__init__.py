"""The command `kmnist`, with a module for each subcommand; the docstring is the help text.

`add` adds the arguments to the parser; `run` does the work and returns the exit status. `run`
imports what it needs, so that no command loads another command's libraries. The module `dvc`
is not a subcommand but a separate command.
"""

import getpass
import importlib
import os
import shlex
import sys
from argparse import SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from kmnist_pipeline.cli.common import open_streams, say
from kmnist_pipeline.errors import UserError

INTERRUPTED = 130
GROUPS = {
    "Configure and train": ("compose", "import", "new", "fit", "fits", "prune"),
    "Check the evidence": ("impact", "check", "verify"),
    "Explore and share the evidence": ("trace", "diff", "publish", "export"),
    "Use the models": ("predict", "review", "promote"),
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
    open_streams()
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
    here = Path.cwd()
    try:
        name_user()
        if (folder := project()) is None:
            raise UserError(
                f"{Path.cwd()}: no project (a folder with dvc.yaml and conf/) is here or above"
            )
        os.chdir(folder)
        status = chosen.run(chosen)
        sys.stdout.flush()
        if status:
            note_place(here)
        return status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of the output, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (UserError, OSError) as error:
        say(f"error: {error}", sys.stderr)
        note_place(here)
        return 1


def name_user() -> None:
    """If the user has an id but no name, as in containers, use the id: DVC needs a name."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = str(os.getuid())


def note_place(start: Path) -> None:
    """If the user is in another folder, say that commands are for the project's folder."""
    here = Path.cwd()
    if here != start and (here / "dvc.yaml").exists():
        way = shlex.quote(os.path.relpath(here, start))
        say(f"note: commands and paths above are for the project's folder: `cd {way}`", sys.stderr)


def project() -> Path | None:
    """The folder of the project that contains the current folder."""
    here = Path.cwd()
    folders = (here, *here.parents)
    return next((f for f in folders if (f / "dvc.yaml").exists() and (f / "conf").is_dir()), None)

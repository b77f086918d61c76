"""The command `kmnist`: compose the configuration, check the evidence, use the models."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kmnist_pipeline.errors import UserError

PARAMS = Path("params.yaml")
DATASET = "kmnist"  # whose champion is meant where nothing is said

HELP = """The configuration and the evidence of the pipeline in this folder.

conf/ holds the configuration in groups, params.yaml is composed from it, and DVC runs the stages
of dvc.yaml with those parameters: `dvc repro`, or `dvc exp run -S KEY=VALUE` to try another value.
Exit status: 0 all is well, 1 something is not (the message says what), 2 the command is misspelt.
"""
COMPOSE = """Compose params.yaml from conf/.

Refuses a misspelt key, a wrong type and an impossible value, saying what is allowed.

  kmnist compose                          after every change in conf/
  kmnist compose --show kmnist_softmax    what one experiment comes to
  kmnist compose experiments.digits_softmax.optimizer.lr=0.4
"""
CHECK = """Is the committed evidence what code, configuration and data give?

Names every stage whose entry in dvc.lock, or whose files under metrics/, figures/ or reports/,
are older than code, configuration or data, or were changed by hand. Needs neither DVC's cache nor
the data, runs no stage and changes nothing.
"""
PREDICT = """Name the characters in images.

PATH is a PNG or JPEG, an IDX (plain or gzip) or NPZ file of images, a folder of such files, or `-`
for one file on standard input. Images of any size, dark on light or light on dark, are brought to
what the model was trained on; the column `prepared` says how. What cannot be read is reported, and
the rest goes on. Where the model has a confidence threshold, `decision` says which answers to
accept and which a person should review.

  kmnist predict scans/                                     the champion of kmnist
  kmnist predict a.png b.jpg --model kmnist_softmax --sheet sheet.png
  kmnist predict t10k-images-idx3-ubyte.gz --output parquet --to answers.parquet

In CSV, a name that a spreadsheet would take for a formula begins with an apostrophe.
Exit status: 0 every image is answered, 1 not every one, or there was none.
"""
PROMOTE = """Make a model the champion of its data set, in MLflow's registry.

The model is registered with its weights, code, evidence and model card, and the alias `champion`
is given to it: `kmnist predict` and `make serve` use it. Refused are a model whose evidence is
stale, and one that is worse than the champion beyond sampling error: with a validation accuracy
lower by more than 1.96 standard errors, or with fewer test images right by McNemar's test (p <
0.05). The test set can only refuse, never choose.

  kmnist promote kmnist_softmax
  kmnist promote --dataset kmnist    the best by validation accuracy of those that know all classes
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0 where all is well, 1 where not, 2 for misuse."""
    parser = _command(argparse.ArgumentParser, "kmnist", HELP)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    compose = _command(commands.add_parser, "compose", COMPOSE)
    only = compose.add_mutually_exclusive_group()
    only.add_argument(
        "--check",
        action="store_true",
        help="write nothing; where params.yaml is not level with conf/, print the difference "
        "and exit with status 1",
    )
    only.add_argument(
        "--show",
        metavar="NAME",
        help="write nothing; print the data set, experiment, study or report of this name",
    )
    compose.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="change a value, as `dvc exp run -S KEY=VALUE` does",
    )

    _command(commands.add_parser, "check", CHECK)

    predict = _command(commands.add_parser, "predict", PREDICT)
    predict.add_argument("places", nargs="+", metavar="PATH", help="a file, a folder, or -")
    model = predict.add_mutually_exclusive_group()
    model.add_argument("--model", metavar="NAME", help="default: the champion of the data set")
    model.add_argument("--dataset", default=DATASET, help="whose champion; default: %(default)s")
    predict.add_argument(
        "--output", choices=["csv", "json", "parquet"], default="csv", help="default: %(default)s"
    )
    predict.add_argument("--to", type=Path, metavar="FILE", help="default: standard output")
    predict.add_argument(
        "--sheet", type=Path, metavar="FILE.png", help="draw the first images with their answers"
    )

    promote = _command(commands.add_parser, "promote", PROMOTE)
    which = promote.add_mutually_exclusive_group()
    which.add_argument("name", nargs="?", metavar="NAME", help="default: the best of the data set")
    which.add_argument("--dataset", default=DATASET, help="default: %(default)s")
    promote.add_argument("--force", action="store_true", help="promote in spite of all objections")

    chosen = parser.parse_args(arguments)
    start = Path.cwd()
    try:
        _enter_project()
        if chosen.command == "compose":
            return _compose(chosen.check, chosen.show, chosen.overrides)
        if chosen.command == "predict":
            return _predict(chosen, start)
        if chosen.command == "promote":
            return _promote(chosen.name, chosen.dataset, chosen.force)
        return _check()
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _command(make: Any, name: str, text: str) -> argparse.ArgumentParser:
    """A parser whose help starts with `text`, and is listed by the first line of it."""
    listed = {} if make is argparse.ArgumentParser else {"help": text.splitlines()[0]}
    form = argparse.RawDescriptionHelpFormatter
    return make(name, description=text, formatter_class=form, **listed)


def _enter_project() -> None:
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").exists() and (folder / "conf").is_dir():
            os.chdir(folder)
            return
    raise UserError(f"{here} is not in a project: no dvc.yaml and conf/ here or above")


def _compose(check: bool, show: str | None, overrides: list[str]) -> int:
    from kmnist_pipeline import composition

    text = composition.compose(Path("conf"), overrides)
    if show is not None:
        print(composition.show(text, show), end="")
        return 0
    if PARAMS.exists() and PARAMS.read_text() == text:
        print(f"{PARAMS} is level with conf/")
        return 0
    if check:
        print(composition.difference(PARAMS, text), end="")
        print(f"{PARAMS} is not level with conf/: run `kmnist compose`", file=sys.stderr)
        return 1
    from kmnist_pipeline.evidence import outs

    outs.write_bytes(PARAMS, text.encode())
    print(f"{PARAMS} is written")
    return 0


def _check() -> int:
    from kmnist_pipeline import composition
    from kmnist_pipeline.evidence import freshness

    findings = freshness.findings(composition.compose(Path("conf"), []))
    for finding in findings:
        print(finding)
    if findings:
        print(
            f"not fresh: {len(findings)} finding(s); `make repro` makes the evidence again",
            file=sys.stderr,
        )
        return 1
    print("fresh: the evidence is what code, configuration and data give")
    return 0


def _predict(chosen: argparse.Namespace, start: Path) -> int:
    from kmnist_pipeline.serving import predict

    classifier, why = predict.choose(chosen.model, chosen.dataset)
    print(f"model: {classifier.name} ({why})", file=sys.stderr)
    try:
        with contextlib.chdir(start):  # paths are those of the user's folder
            whole = predict.predict(
                classifier, chosen.places, chosen.output, chosen.to, chosen.sheet
            )
            sys.stdout.flush()
    except BrokenPipeError:  # its reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    return 0 if whole else 1


def _promote(name: str | None, dataset: str, force: bool) -> int:
    from kmnist_pipeline.serving import candidates, registry

    model = candidates.best(dataset) if name is None else candidates.read(name)
    for line in registry.promote(model, force):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())

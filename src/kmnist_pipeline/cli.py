"""The command `kmnist`: configuration, evidence, where it comes from, and the models it gives.

Each command is a block of its own: the text of its help, its arguments, and what it does with
them. What does the work is imported there, so that no command waits for another's libraries.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kmnist_pipeline.errors import UserError

PARAMS = Path("params.yaml")
DATASET = "kmnist"  # whose champion is meant where nothing is said
INTERRUPTED = 130

HELP = """The configuration and the evidence of the pipeline in this folder.

conf/ holds the configuration in groups, params.yaml is composed from it, and DVC runs the stages
of dvc.yaml with those parameters: `dvc repro`, or `dvc exp run -S KEY=VALUE` to try another value.
Exit status: 0 all is well, 1 something is not (the message says what), 2 the command is misspelt;
what else a command may say with it stands in its own help.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit status."""
    parser = argparse.ArgumentParser("kmnist", description=HELP, formatter_class=_Form)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        *(_add_compose, _add_fit, _add_fits, _add_impact, _add_check, _add_verify, _add_trace),
        *(_add_diff, _add_publish, _add_export, _add_predict, _add_promote),
    ):
        add(commands)
    chosen = parser.parse_args(arguments)
    try:
        _enter_project()
        return chosen.run(chosen)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


_Form = argparse.RawDescriptionHelpFormatter


def _command(
    commands: Any, name: str, text: str, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    """The parser of a command, whose help is `text` and which is listed by the first line of it."""
    parser = commands.add_parser(
        name, help=text.splitlines()[0], description=text, formatter_class=_Form
    )
    parser.set_defaults(run=run)
    return parser


def _enter_project() -> None:
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").exists() and (folder / "conf").is_dir():
            os.chdir(folder)
            return
    raise UserError(f"{here} is not in a project: no dvc.yaml and conf/ here or above")


def _absolute(name: str) -> Path:
    """A path as the user means it, whatever folder the command goes to later."""
    return Path(os.path.abspath(name))


def _params() -> dict[str, Any]:
    """The content of params.yaml. Raises UserError where it cannot be read or be right."""
    from kmnist_pipeline.config import rules
    from kmnist_pipeline.repository import locks

    params = locks.load(PARAMS.read_text(), PARAMS.name)
    rules.check(params)
    return params


def _select_arithmetic() -> None:
    """Have this process compute as evidence is computed; to be called before NumPy is loaded."""
    from kmnist_pipeline import arithmetic

    arithmetic.select()


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=2, ensure_ascii=False))


def _console() -> Any:
    """A console that wraps and cuts nothing in a pipe."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 10_000)


COMPOSE = """Compose params.yaml from conf/.

Refuses a misspelt key, a wrong type and an impossible value, saying what is allowed.

  kmnist compose                          after every change in conf/
  kmnist compose --show kmnist_softmax    what one experiment comes to
  kmnist compose experiments.digits_softmax.optimizer.lr=0.4
"""


def _add_compose(commands: Any) -> None:
    parser = _command(commands, "compose", COMPOSE, _compose)
    only = parser.add_mutually_exclusive_group()
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
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="change a value, as `dvc exp run -S KEY=VALUE` does",
    )


def _compose(chosen: argparse.Namespace) -> int:
    from kmnist_pipeline.config import compose as composition

    text = composition.compose(Path("conf"), chosen.overrides)
    if chosen.show is not None:
        print(composition.show(text, chosen.show), end="")
        return 0
    if PARAMS.exists() and PARAMS.read_text() == text:
        print(f"{PARAMS} is level with conf/")
        return 0
    if chosen.check:
        print(composition.difference(PARAMS, text), end="")
        print(f"{PARAMS} is not level with conf/: run `kmnist compose`", file=sys.stderr)
        return 1
    from kmnist_pipeline.evidence import outs

    outs.write_bytes(PARAMS, text.encode())
    print(f"{PARAMS} is written")
    return 0


FIT = """Train the missing fits of all stale stages at once, over all cores or machines.

A fit is the training of one trial on one seed and fold. DVC runs stages one after the other; this
asks it which are stale, and trains all that they need and the store of fits lacks as one pool, one
core each, the longest first. `dvc repro` then writes the evidence. An interrupted run goes on from
what is finished.

  kmnist fit                          what `dvc repro` needs
  kmnist fit report@kmnist_linear     what `dvc repro report@kmnist_linear` needs
  KMNIST_SCHEDULER=tcp://127.0.0.1:8786 kmnist fit     on the workers of a Dask scheduler
"""


def _add_fit(commands: Any) -> None:
    parser = _command(commands, "fit", FIT, _fit)
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help="a stage; default: every stage"
    )


def _fit(chosen: argparse.Namespace) -> int:
    _select_arithmetic()
    from kmnist_pipeline.commands import fit

    names = fit.fit(chosen.targets, _params())
    if names:
        print(f"every fit is known of {', '.join(names)}: `dvc repro` writes the evidence")
    else:
        print("no stage that trains is stale")
    return 0


FITS = """List the store of fits, or clean it.

The store is a cache: deleting it costs the time of training again. KMNIST_FITS names another
folder than .kmnist/fits, such as one that a team shares.

  kmnist fits            what is there, by experiment and study
  kmnist fits --clean    remove what no stage of params.yaml uses
  kmnist fits --clear    remove everything

Both also remove what other branches, and the others who share a folder, would have used.
"""


def _add_fits(commands: Any) -> None:
    parser = _command(commands, "fits", FITS, _fits)
    only = parser.add_mutually_exclusive_group()
    only.add_argument(
        "--clean", action="store_true", help="remove what no stage of params.yaml uses"
    )
    only.add_argument("--clear", action="store_true", help="remove everything")


def _fits(chosen: argparse.Namespace) -> int:
    _select_arithmetic()
    from kmnist_pipeline import arithmetic
    from kmnist_pipeline.commands import fits
    from kmnist_pipeline.fits import store

    kept = store.default()
    if chosen.clean and arithmetic.name() == arithmetic.NATIVE:
        raise UserError(
            f"--clean would remove all that evidence is made of, for {arithmetic.VARIABLE} is "
            f"{arithmetic.NATIVE}: unset it"
        )
    if chosen.clear or chosen.clean:
        keys = None
        if chosen.clean:
            keys, absent = fits.used(_params())
            if absent:
                targets = " ".join(f"preprocess@{name}" for name in absent)
                raise UserError(
                    f"data/processed lacks {', '.join(absent)}, so that it cannot be told which "
                    f"fits are used: `dvc repro {targets}` makes them"
                )
        print(f"removed: {fits.told(fits.clean(kept, keys))}")
    for line in fits.lines(kept):
        print(line)
    return 0


IMPACT = """What a change will re-make, before anything runs.

Names the stages that run again and why, the figures, metrics and reports that they write, and the
claims that are judged anew. A stage that only reads what others make runs again if that comes out
different. Without -S: what the files in conf/ and src/ have come to since the evidence was made.

  kmnist impact -S experiments.kmnist_softmax.optimizer.lr=0.05
  kmnist impact
"""


def _add_impact(commands: Any) -> None:
    parser = _command(commands, "impact", IMPACT, _impact)
    parser.add_argument(
        "-S",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a value, as `dvc exp run -S KEY=VALUE` does; can be given several times",
    )
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def _impact(chosen: argparse.Namespace) -> int:
    from kmnist_pipeline.commands import impact

    found = impact.of_change(chosen.overrides)
    if chosen.json:
        _print_json(found.json())
    else:
        impact.show(found, _console())
    return 0


CHECK = """Is the committed evidence what code, configuration and data give?

Names every stage whose entry in dvc.lock, or whose files under metrics/, figures/ or reports/,
are older than code, configuration, data or the libraries of requirements.lock, or were changed by
hand; and says what changed from what to what. Needs neither DVC's cache nor the data, runs no
stage and changes nothing.
"""


def _add_check(commands: Any) -> None:
    parser = _command(commands, "check", CHECK, _check)
    parser.add_argument(
        "--except",
        dest="tolerated",
        type=_absolute,
        metavar="FILE",
        help="leave out the stages that this file names, one a line",
    )


def _check(chosen: argparse.Namespace) -> int:
    from kmnist_pipeline import arithmetic
    from kmnist_pipeline.commands import check
    from kmnist_pipeline.config import compose as composition

    findings = check.findings(composition.compose(Path("conf"), []))
    if chosen.tolerated is not None:
        left_out = set(chosen.tolerated.read_text().split())
        current = left_out - {finding.where for finding in findings}
        if current:
            names = ", ".join(sorted(current))
            raise UserError(f"{chosen.tolerated.name} names what is not stale: {names}")
        findings = [finding for finding in findings if finding.where not in left_out]
    if note := arithmetic.note():
        print(note)
    if findings:
        print(check.grouped(findings))
        print(
            f"not fresh: {len(findings)} finding(s); `make repro` makes the evidence again",
            file=sys.stderr,
        )
        return 1
    print("fresh: the evidence is what code, configuration and data give")
    return 0


VERIFY = """Does a run from scratch give what was committed?

Clones HEAD into a temporary folder, runs TARGET there with all that it rests on, and compares
every out with the committed lock: numbers, figures by their pixels, arrays by their largest
difference; and says where a difference is likely to come from. The workspace is left alone.

  kmnist verify report@digits     a quick look: under a minute
  kmnist verify                   every stage: hours
  kmnist verify --epochs 1        the first epoch of every fit: a tenth of that; compares weights
  kmnist verify --quick           run nothing, hash what lies in the workspace and the cache

Exit status: 0 identical; 3 other bytes, but figures that look the same and numbers that are equal
to six digits, as another type of machine makes them; 1 different, or the run failed (the message
says which); 2 the command is misspelt; 130 interrupted.
"""


def _add_verify(commands: Any) -> None:
    parser = _command(commands, "verify", VERIFY, _verify)
    parser.add_argument(
        "target",
        nargs="?",
        metavar="TARGET",
        help="a stage, such as report@digits; default: every stage",
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument(
        "--quick", action="store_true", help="run nothing: hash what is there, as far as it is"
    )
    only.add_argument(
        "--epochs",
        type=_at_least_one,
        metavar="N",
        help="train only the first N epochs of every fit, and compare the weights after each",
    )


def _at_least_one(text: str) -> int:
    with contextlib.suppress(ValueError):
        if (number := int(text)) >= 1:
            return number
    raise argparse.ArgumentTypeError(f"{text}: must be a whole number, at least 1")


def _verify(chosen: argparse.Namespace) -> int:
    from kmnist_pipeline.commands import verify

    if chosen.quick:
        result = verify.rehash(chosen.target)
    elif chosen.epochs is not None:
        result = verify.first_epochs(chosen.epochs, chosen.target)
    else:
        result = verify.rerun(chosen.target)
    for line in result.lines():
        print(line)
    return result.status


TRACE = """Where does a file come from? The stage that made it, from what, back to original data.

For any figure, metric, model, prediction, report or data file, wherever it lies and whatever it is
called; a folder stands for the files in it. A file is known by its bytes, from dvc.lock and from
that of every commit, and Git keeps the figures of each. A PNG, a JSON metric or a page that was
changed is known by the lineage key that it carries, and is said to be altered.

  kmnist trace figures/digits/digits_softmax/curves.png
  kmnist trace --json ~/Downloads/figure.png
  kmnist trace --svg reports/digits/index.html > lineage.svg
  kmnist trace --html > lineage.html       the whole graph, without a FILE

Exit status: 0 every file is, byte for byte, what a stage made, and all that is behind it is known;
3 a file is altered; 1 a file was not made by any commit of this repository.
"""


def _add_trace(commands: Any) -> None:
    parser = _command(commands, "trace", TRACE, _trace)
    form = parser.add_mutually_exclusive_group()
    for name, text in {
        "json": "print all of it for programs",
        "dot": "print the graph for graphviz",
        "svg": "print the graph as a picture",
        "html": "print the graph as a page that stands alone, whose boxes unfold",
    }.items():
        form.add_argument(f"--{name}", dest="form", action="store_const", const=name, help=text)
    parser.add_argument("files", nargs="*", metavar="FILE", type=_absolute)
    parser.set_defaults(misuse=parser.error)


def _trace(chosen: argparse.Namespace) -> int:
    if not (chosen.files or chosen.form):
        chosen.misuse("name a FILE; --json, --dot, --svg and --html alone show the whole graph")
    from kmnist_pipeline.commands import trace

    found = trace.trace(chosen.files, unfold=chosen.form in ("json", "html"))
    if chosen.form == "json":
        _print_json(trace.as_json(found))
        return found.exit_status

    from kmnist_pipeline.commands import drawing

    if chosen.form is None:
        drawing.show(found)
        return found.exit_status
    draw = {"dot": drawing.dot, "svg": drawing.svg, "html": drawing.html}[chosen.form]
    print(draw(found), end="")
    for finding in found.findings:
        if finding.status != "exact":
            print(f"{finding.file} {drawing.verdict(finding)}", file=sys.stderr)
    return found.exit_status


DIFF = """The difference that a branch makes to the evidence.

Claims whose verdict or obtained value is another, metrics beyond their last digits, figures by
their pixels, and the parameters, code and commands that changed. Read from Git's objects: nothing
is checked out or run.

  kmnist diff main...                     this branch, with what is not committed yet
  kmnist diff HEAD~3 HEAD --output diff   also diff/index.html, figures side by side
"""


def _add_diff(commands: Any) -> None:
    parser = _command(commands, "diff", DIFF, _diff)
    parser.add_argument("old", metavar="REV", help="a commit, or main... as in `git diff`")
    parser.add_argument("new", metavar="REV2", nargs="?", help="another (default: the workspace)")
    parser.add_argument(
        "--output", type=_absolute, metavar="FOLDER", help="write a page there as well"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON for programs")
    form.add_argument(
        "--markdown", action="store_true", help="print the comment of a pull request for GitHub"
    )
    parser.add_argument(
        "--images",
        metavar="URL",
        help="with --markdown: show figures from URL/<commit>/<path>, such as "
        "https://github.com/OWNER/REPOSITORY/raw",
    )


def _diff(chosen: argparse.Namespace) -> int:
    from kmnist_pipeline.commands import diff, diff_views

    found = diff.between(chosen.old, chosen.new)
    if chosen.output is not None:
        chosen.output.mkdir(parents=True, exist_ok=True)
        (chosen.output / "index.html").write_text(diff_views.page(found), encoding="utf-8")
    if chosen.json:
        _print_json(found.json())
    elif chosen.markdown:
        print(diff_views.markdown(found, chosen.images), end="")
    else:
        diff_views.text(found, _console())
    return 0


PUBLISH = """Bring the MLflow store level with the evidence.

Shows each stage of dvc.lock, with its folds and trials, in the store of MLFLOW_TRACKING_URI, by
default mlflow.db in this folder: also what DVC restored without running it, and after the store
was lost. What the store shows already stays as it is. A stage whose files are not what dvc.lock
says is refused.

  kmnist publish                                 all stages of the workspace
  kmnist publish evaluate@kmnist_softmax         one of them
  kmnist publish --rev HEAD~3 --rev tacky-tang   a commit, and an experiment of `dvc exp`
"""


def _add_publish(commands: Any) -> None:
    parser = _command(commands, "publish", PUBLISH, _publish)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="only this stage")
    parser.add_argument(
        "--rev",
        action="append",
        default=[],
        metavar="REV",
        help="the evidence of a commit or experiment, not of the workspace; may be repeated",
    )


def _publish(chosen: argparse.Namespace) -> int:
    from kmnist_pipeline.commands import publish

    try:
        outcome = publish.publish(chosen.stages, chosen.rev)
    except KeyboardInterrupt:
        raise UserError("interrupted; run it again to go on") from None
    for note in outcome.notes:
        print(f"note: {note}: its run goes without", file=sys.stderr)
    for refused in outcome.refused:
        print(f"refused: {refused}", file=sys.stderr)
    counts = (len(stages) for stages in (outcome.new, outcome.kept, outcome.refused))
    print("stages: {} published, {} there already, {} refused".format(*counts))
    return 1 if outcome.refused else 0


EXPORT = """A report as a Workflow Run RO-Crate: data, code, parameters, runs, figures.

Packs what HEAD holds, each file proved by the hash in dvc.lock, with metadata that says what made
it from what and under which licence (https://www.researchobject.org/workflow-run-crate). Models
and data come from DVC's cache; what that lacks is named by its hash alone.

  kmnist export kmnist_linear                     the folder crates/kmnist_linear
  kmnist export digits --output /tmp/digits
"""


def _add_export(commands: Any) -> None:
    parser = _command(commands, "export", EXPORT, _export)
    parser.add_argument("report", metavar="REPORT")
    parser.add_argument(
        "--output", type=_absolute, metavar="FOLDER", help="write there (default: crates/REPORT)"
    )


def _export(chosen: argparse.Namespace) -> int:
    from kmnist_pipeline.commands import export
    from kmnist_pipeline.repository import git

    done = export.export(chosen.report, chosen.output or Path("crates") / chosen.report)
    if git.run("status", "--porcelain", "--untracked-files=no"):
        print("what is not committed is not in the crate", file=sys.stderr)
    for path, md5 in done.missing.items():
        print(f"not in DVC's cache, so named by its hash alone: {path} ({md5})", file=sys.stderr)
    print(
        f"{done.folder}: commit {done.commit[:7]}, {done.runs} runs, {done.files} files, "
        f"{done.size / 1e6:.1f} MB"
    )
    return 0


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


def _add_predict(commands: Any) -> None:
    parser = _command(commands, "predict", PREDICT, _predict)
    parser.add_argument("places", nargs="+", metavar="PATH", help="a file, a folder, or -")
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--model", metavar="NAME", help="default: the champion of the data set")
    model.add_argument("--dataset", default=DATASET, help="whose champion; default: %(default)s")
    parser.add_argument(
        "--output", choices=["csv", "json", "parquet"], default="csv", help="default: %(default)s"
    )
    parser.add_argument("--to", type=Path, metavar="FILE", help="default: standard output")
    parser.add_argument(
        "--sheet", type=Path, metavar="FILE.png", help="draw the first images with their answers"
    )
    parser.set_defaults(start=Path.cwd())


def _predict(chosen: argparse.Namespace) -> int:
    from kmnist_pipeline import arithmetic

    arithmetic.select()
    from kmnist_pipeline.serving import predict

    classifier, why = predict.choose(chosen.model, chosen.dataset)
    native = "" if arithmetic.name() != arithmetic.NATIVE else ", in native arithmetic"
    print(f"model: {classifier.name} ({why}){native}", file=sys.stderr)
    try:
        with contextlib.chdir(chosen.start):  # images are shown by the names that the user gave
            whole = predict.predict(
                classifier, chosen.places, chosen.output, chosen.to, chosen.sheet
            )
            sys.stdout.flush()
    except BrokenPipeError:  # its reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0 if whole else 1


PROMOTE = """Make a model the champion of its data set, in MLflow's registry.

The model is registered with its weights, code, evidence and model card, and the alias `champion`
is given to it: `kmnist predict` and `make serve` use it. Refused are a model whose evidence is
stale, and one that is worse than the champion beyond sampling error: with a validation accuracy
lower by more than 1.96 standard errors, or with fewer test images right by McNemar's test (p <
0.05). The test set can only refuse, never choose.

  kmnist promote kmnist_softmax
  kmnist promote --dataset kmnist    the best by validation accuracy of those that know all classes
  kmnist promote                     the same for every data set, as `make repro` does in the end
"""


def _add_promote(commands: Any) -> None:
    parser = _command(commands, "promote", PROMOTE, _promote)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("name", nargs="?", metavar="NAME", help="default: the best of each data set")
    which.add_argument("--dataset", help="the best of this data set alone")
    parser.add_argument("--force", action="store_true", help="promote in spite of all objections")


def _promote(chosen: argparse.Namespace) -> int:
    from kmnist_pipeline.serving import candidates, registry

    if chosen.name is not None:
        models = [candidates.read(chosen.name)]
    else:
        wanted = [chosen.dataset] if chosen.dataset else candidates.datasets()
        models = [candidates.best(dataset) for dataset in wanted]
    status = 0
    for model in models:
        try:
            for line in registry.promote(model, chosen.force):
                print(line)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())

"""Show which stage made a file, and from what, back to the original data.

FILE is a figure, metric, model, prediction, report or data file, in any folder and under any name;
a folder means the files in it. A file is identified by its bytes, which are looked up in the
dvc.lock of this folder and in all commits. A PNG, a JSON metric or a page that was changed is
identified by the lineage key in it, and reported as altered. What dvc.lock records can be wrong, so
this also shows the receipts that say that `kmnist verify` has run the stage again.

  kmnist trace figures/digits/digits_softmax/curves.png
  kmnist trace --json ~/Downloads/figure.png
  kmnist trace --svg reports/digits/index.html > lineage.svg
  kmnist trace --html > lineage.html    without a FILE: the whole graph

Exit status: 0 every file is, byte for byte, recorded in dvc.lock, and its whole lineage is known; 3
a file is altered; 1 a file was not made by any commit of this repository, or its lineage has a gap.
"""

import sys
from argparse import ArgumentParser, Namespace

from kmnist_pipeline.cli.common import absolute, console, print_json, say


def add(parser: ArgumentParser) -> None:
    form = parser.add_mutually_exclusive_group()
    for name, text in {
        "json": "print everything as JSON for programs",
        "dot": "print the graph for graphviz",
        "svg": "print the graph as SVG",
        "html": "print the graph as one HTML page, whose boxes unfold",
    }.items():
        form.add_argument(f"--{name}", dest="form", action="store_const", const=name, help=text)
    parser.add_argument("files", nargs="*", metavar="FILE", type=absolute)
    parser.set_defaults(misuse=parser.error)


def run(chosen: Namespace) -> int:
    if not (chosen.files or chosen.form):
        chosen.misuse("name a FILE; only --json, --dot, --svg and --html show the whole graph")
    from kmnist_pipeline.commands.trace import text
    from kmnist_pipeline.commands.trace.ancestry import trace

    found = trace(chosen.files, unfold=chosen.form in ("json", "html"))
    if chosen.form is None:
        text.show(found, console())
    elif chosen.form == "json":
        print_json(text.as_json(found))
    else:
        from kmnist_pipeline.commands.trace import graph

        say({"dot": graph.dot, "svg": graph.svg, "html": graph.html}[chosen.form](found), end="")
        for file in found.files:
            if file.status != "exact":
                say(f"{file.file} {text.verdict(file)}", sys.stderr)
    return found.exit_status

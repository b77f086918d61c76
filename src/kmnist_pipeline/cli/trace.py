"""Show which stage made a file, and from what, back to the original data.

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

import sys
from argparse import ArgumentParser, Namespace

from kmnist_pipeline.cli.common import absolute, print_json


def add(parser: ArgumentParser) -> None:
    form = parser.add_mutually_exclusive_group()
    for name, text in {
        "json": "print all of it for programs",
        "dot": "print the graph for graphviz",
        "svg": "print the graph as a picture",
        "html": "print the graph as a page that stands alone, whose boxes unfold",
    }.items():
        form.add_argument(f"--{name}", dest="form", action="store_const", const=name, help=text)
    parser.add_argument("files", nargs="*", metavar="FILE", type=absolute)
    parser.set_defaults(misuse=parser.error)


def run(chosen: Namespace) -> int:
    if not (chosen.files or chosen.form):
        chosen.misuse("name a FILE; --json, --dot, --svg and --html alone show the whole graph")
    from kmnist_pipeline.commands.trace.ancestry import trace
    from kmnist_pipeline.commands.trace.rendering import document, text

    found = trace(chosen.files, unfold=chosen.form in ("json", "html"))
    if chosen.form == "json":
        print_json(document.as_json(found))
        return found.exit_status
    if chosen.form is None:
        text.show(found)
        return found.exit_status

    from kmnist_pipeline.commands.trace.rendering import graph, picture

    draw = {"dot": graph.dot, "svg": picture.svg, "html": picture.html}[chosen.form]
    print(draw(found), end="")
    for file in found.files:
        if file.status != "exact":
            print(f"{file.file} {text.verdict(file)}", file=sys.stderr)
    return found.exit_status

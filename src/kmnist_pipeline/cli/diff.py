"""Compare the evidence of two commits, or of a commit and the workspace.

Shows claims with another verdict or obtained value, metrics that differ by more than the last
digit, figures with other pixels, and the parameters, code and commands that changed. Reads Git's
objects: nothing is checked out or run.

  kmnist diff main...                      this branch, with uncommitted changes
  kmnist diff HEAD~3 HEAD --output diff    also writes diff/index.html, with figures side by side
"""

from argparse import ArgumentParser, Namespace

from kmnist_pipeline.cli.common import absolute, console, print_json, require_regular
from kmnist_pipeline.errors import UserError


def add(parser: ArgumentParser) -> None:
    parser.add_argument("old", metavar="REV", help="a commit, or main... as in `git diff`")
    parser.add_argument(
        "new", metavar="REV2", nargs="?", help="another commit (default: the workspace)"
    )
    parser.add_argument("--output", type=absolute, metavar="FOLDER", help="also write a page there")
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


def run(chosen: Namespace) -> int:
    from kmnist_pipeline.commands import diff, diff_views
    from kmnist_pipeline.evidence import output, paths

    found = diff.between(chosen.old, chosen.new)
    if chosen.output is not None:
        page = chosen.output / "index.html"
        require_regular(page)
        if any(page.is_relative_to(absolute(folder)) for folder in paths.TRACKED):
            raise UserError(f"{chosen.output}: has the evidence itself; name another folder")
        chosen.output.mkdir(parents=True, exist_ok=True)
        with output.replacing(page) as file:
            file.write(diff_views.page(found).encode())
    if chosen.json:
        print_json(found.json())
    elif chosen.markdown:
        print(diff_views.markdown(found, chosen.images), end="")
    else:
        diff_views.text(found, console())
    return 0

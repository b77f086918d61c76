"""Export a report with its data, code, parameters and runs as an RO-Crate.

The folder is a Workflow Run RO-Crate of HEAD. Each file is checked against its hash in dvc.lock.
The metadata say which stage made each file, from which inputs and under which licence
(https://www.researchobject.org/workflow-run-crate). Models and data come from DVC's cache; for
files that it lacks, only the hash is listed.

  kmnist export kmnist_linear                     the folder crates/kmnist_linear
  kmnist export digits --output /tmp/digits
"""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from kmnist_pipeline.cli.common import absolute, end_in_order, say


def add(parser: ArgumentParser) -> None:
    parser.add_argument("report", metavar="REPORT")
    parser.add_argument(
        "--output", type=absolute, metavar="FOLDER", help="write there (default: crates/REPORT)"
    )


def run(chosen: Namespace) -> int:
    from kmnist_pipeline.commands import export
    from kmnist_pipeline.repository import git

    end_in_order()
    done = export.export(chosen.report, chosen.output or Path("crates") / chosen.report)
    if git.run("status", "--porcelain", "--untracked-files=no", "--", "."):
        print("note: the crate does not have the uncommitted changes", file=sys.stderr)
    for path, md5 in done.missing.items():
        say(f"note: not in DVC's cache, so only listed: {path} ({md5})", sys.stderr)
    say(
        f"{done.folder}: commit {done.commit[:7]}, {done.runs} runs, {done.files} files, "
        f"{done.size / 1e6:.1f} MB"
    )
    return 0

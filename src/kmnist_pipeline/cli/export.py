"""Export a report with its data, code, parameters and runs as an RO-Crate.

The folder is a Workflow Run RO-Crate of what HEAD holds, each file proved by the hash in dvc.lock,
with metadata that says what made it from what and under which licence
(https://www.researchobject.org/workflow-run-crate). Models and data come from DVC's cache; what
that lacks is named by its hash alone.

  kmnist export kmnist_linear                     the folder crates/kmnist_linear
  kmnist export digits --output /tmp/digits
"""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from kmnist_pipeline.cli.common import absolute


def add(parser: ArgumentParser) -> None:
    parser.add_argument("report", metavar="REPORT")
    parser.add_argument(
        "--output", type=absolute, metavar="FOLDER", help="write there (default: crates/REPORT)"
    )


def run(chosen: Namespace) -> int:
    from kmnist_pipeline.commands import export
    from kmnist_pipeline.repository import git

    done = export.export(chosen.report, chosen.output or Path("crates") / chosen.report)
    if git.run("status", "--porcelain", "--untracked-files=no", "--", "."):
        print("what is not committed is not in the crate", file=sys.stderr)
    for path, md5 in done.missing.items():
        print(f"not in DVC's cache, so named by its hash alone: {path} ({md5})", file=sys.stderr)
    print(
        f"{done.folder}: commit {done.commit[:7]}, {done.runs} runs, {done.files} files, "
        f"{done.size / 1e6:.1f} MB"
    )
    return 0

"""Files of the digits evidence for `kmnist trace`, and what it finds of any file."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from support.project import Project

from kmnist_pipeline.commands.trace.ancestry import Trace, trace

FIGURE = "figures/digits/digits_softmax/correct.png"
METRIC = "metrics/digits/digits_softmax/test_details.json"
TABLE = "metrics/digits/digits_softmax/curves.csv"
MODEL = "models/digits_softmax.safetensors"
PREDICTIONS = "predictions/digits_softmax.npz"
PROCESSED = "data/processed/digits.npz"
RAW = "data/raw/digits/all-images-idx3-ubyte"
PAGE = "reports/digits/index.html"
EVALUATE, TRAIN = "evaluate@digits_softmax", "kfold-train@digits_softmax"
UNKNOWN = "was not made by any commit of this repository"


def make_history(digits: Project, folder: Path) -> None:
    """Below a folder, `project` with three commits of history, and `old`: the first one's files.

    In the second a parameter is different, and one stage ran again but not the report; in the
    third the report did too.
    """
    archive = digits.copy(folder / "project")
    archive.commit("Show ten samples")
    for name in ("figures", "metrics", "reports", "models", "predictions"):
        shutil.copytree(archive.folder / name, folder / "old" / name)
    for file in ("conf/config.yaml", "params.yaml"):
        archive.replace(file, " samples: 10", " samples: 9")
    for stage, message in ((EVALUATE, "Show nine samples"), ("report@digits", "Report it")):
        done = archive.run("dvc", "repro", "--single-item", stage)
        assert done.returncode == 0, done.stdout + done.stderr
        archive.commit(message)


def of(*files: str | Path) -> Trace:
    return trace([Path(file).absolute() for file in files])


def published(folder: Path) -> set[str]:
    """Every sha256 in conf/dataset."""
    texts = [file.read_text() for file in (folder / "conf/dataset").glob("*.yaml")]
    return {digest for text in texts for digest in re.findall(r"\b[0-9a-f]{64}\b", text)}


def digests(found: Trace, key: str) -> set[str]:
    """Every sha256 that a lineage ends in."""
    originals = [original for step in found.behind(key) for original in step.originals]
    return {digest for original in originals for digest in original.files.values()}

"""The memory of stages with large coloured images, drawn at random: a gigabyte of pixels."""

from __future__ import annotations

import hashlib
from pathlib import Path

import yaml

from benchmarks.measuring import run, unmeasured, verdict
from benchmarks.stages import peak, stage, workplace

IMAGES, TEST, SHAPE, CLASSES = 100_000, 10_000, (64, 64, 3), 10
BOUND = 4  # GiB
WATCHED = 300  # seconds of a stage in which its memory is measured
NAME = "large"
STAGES = ("preprocess", "softmax", "simple_cnn")

# Draws the file that `kmnist import` would make.
DRAW = f"""
from pathlib import Path
import numpy as np
from kmnist_pipeline.data import dataset
rng = np.random.default_rng(0)
labels = np.arange({IMAGES}) % {CLASSES}
images = rng.integers(0, 256, ({IMAGES}, *{SHAPE}), np.uint8)
images[:, 0, :{CLASSES}] = 255 * np.eye({CLASSES}, dtype=np.uint8)[labels][..., None]
rows = np.arange({IMAGES})
path = Path("data/imported/{NAME}.npz")
path.parent.mkdir(parents=True, exist_ok=True)
with path.open("wb") as file:
    train, test = rows[{TEST}:], rows[:{TEST}]
    dataset.save(file, images, labels, train, test, [str(c) for c in range({CLASSES})])
"""

EXPERIMENT = """\
defaults: [base, /model: {model}, /optimizer: {of}, /validation: holdout, /trainer: {of}, _self_]
report: digits
dataset: large
trainer: {{epochs: 1}}
seeds: [0]
"""


def memory() -> bool:
    """Peak memory with 100,000 coloured images of 64x64."""
    with workplace() as folder:
        run("-c", DRAW, folder=folder)
        _describe(folder)
        run(
            "-m",
            "kmnist_pipeline.stages.download",
            f"name={NAME}",
            folder=folder,
            variables={"DVC_STAGE": f"download@{NAME}"},
        )
        return all([_holds(name, folder) for name in STAGES])


def _describe(folder: Path) -> None:
    """Write the configuration of the images and of two experiments with them."""
    file = Path(f"data/imported/{NAME}.npz")
    with (folder / file).open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    content = {"train": IMAGES - TEST, "test": TEST, "file": str(file), "sha256": sha256}
    about = {
        "title": "Noise",
        "licence": "none",
        "shape": list(SHAPE),
        "pixel_max": 255,
        "classes": [str(c) for c in range(CLASSES)],
        "imported": content,
    }
    conf = folder / "conf"
    (conf / f"dataset/{NAME}.yaml").write_text(yaml.safe_dump(about))
    lines = [f"  - dataset@datasets.{NAME}: {NAME}"]
    for model, of in (("softmax", "sgd"), ("simple_cnn", "adam")):
        name = f"{NAME}_{model}"
        (conf / f"experiment/{name}.yaml").write_text(EXPERIMENT.format(model=model, of=of))
        lines.append(f"  - experiment@experiments.{name}: {name}")
    menu = (conf / "config.yaml").read_text()
    (conf / "config.yaml").write_text(menu.replace("  - _self_", "\n".join([*lines, "  - _self_"])))
    run("-m", "kmnist_pipeline.cli", "compose", folder=folder)


def _holds(name: str, folder: Path) -> bool:
    kind, item = ("preprocess", NAME) if name == "preprocess" else ("kfold-train", f"{NAME}_{name}")
    what = f"peak memory of {kind}@{item}, GiB"
    with stage(kind, item, folder) as process:
        found = peak(process, WATCHED, 2 * BOUND)
    if found is None:
        return unmeasured(what, "it fails: run it by hand to see why")
    return verdict(what, found, BOUND, False, f"{IMAGES:,} images of {SHAPE}")

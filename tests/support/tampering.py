"""Files of the digits evidence, and faults for `kmnist verify` to find in them."""

from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from support.project import Project

from kmnist_pipeline.evidence import lineage
from kmnist_pipeline.repository.compare import Verdict

SOFTMAX, DATA = "kfold-train@digits_softmax", "preprocess@digits"
EVALUATE = "evaluate@digits_softmax"
CURVES = "figures/digits/digits_softmax/curves.png"
MATRIX = "figures/data/digits/matrix.png"
COUNTS = "metrics/data/digits.json"
VALIDATION = "metrics/digits/digits_softmax/validation.json"
DETAILS = "metrics/digits/digits_softmax/validation_details.json"
MODEL = "models/digits_softmax.safetensors"
IDENTICAL, EQUAL, DIFFERENT = Verdict


def change_lock(project: Project, stage: str, **md5s: str) -> None:
    """Give outs and dependencies of a stage other md5s, by file name; `now` is the file's own."""
    path = project.folder / "dvc.lock"
    lock = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    entry = lock["stages"][stage]
    for file in entry["deps"] + entry["outs"]:
        if (given := md5s.get(file["path"])) is not None:
            file["md5"] = given if given != "now" else lineage.digest(project.folder / file["path"])
    path.write_text(yaml.dump(lock, Dumper=yaml.CSafeDumper, sort_keys=False))


def repaint(file: Path, pixels: int, by: int = 255) -> None:
    """Make the first so many pixels darker, by default black, and keep the text."""
    with Image.open(file) as image:
        text, levels = PngInfo(), np.array(image.convert("RGB")).astype(int)
        for key, value in image.info.items():
            text.add_text(str(key), str(value))
    levels[0, :pixels] -= by
    picture = Image.fromarray(levels.clip(0).astype(np.uint8))
    picture.save(file, pnginfo=text)

"""A data set of noise, and its files as a server has them."""

from __future__ import annotations

import gzip
import hashlib

import numpy as np

from kmnist_pipeline.data import idx
from kmnist_pipeline.data.sources import Dataset

COUNTS = {"train": 200, "t10k": 60}
FIRST = "/small/train-images-idx3-ubyte.gz"


def made(seed: int = 0) -> tuple[dict[str, bytes], Dataset]:
    """The raw files of a dataset of noise, and what the configuration would say of it."""
    random = np.random.default_rng(seed)
    raw, parts = {}, []
    for name, count in COUNTS.items():
        images = idx.encode(random.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        labels = idx.encode(random.integers(0, 10, count, dtype=np.uint8))
        raw[f"{name}-images-idx3-ubyte"], raw[f"{name}-labels-idx1-ubyte"] = images, labels
        digests = [hashlib.sha256(content).hexdigest() for content in (images, labels)]
        parts.append({"name": name, "count": count, "images": digests[0], "labels": digests[1]})
    dataset = {
        "title": "Noise",
        "licence": "none",
        "shape": [28, 28],
        "pixel_max": 255,
        "classes": [str(c) for c in range(10)],
        "parts": parts,
        "sources": [],
        "split": {"method": "files", "train_size": None, "seed": None},
    }
    return raw, dataset


RAW, _ = made()
PACKED = {f"/small/{name}.gz": gzip.compress(content, mtime=0) for name, content in RAW.items()}

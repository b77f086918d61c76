"""How fast all cores reach an accuracy on KMNIST's test images, in native bfloat16.

Each record is one training of our loop on all training images, with the seed 0. Its settings were
chosen on held-out training images; the test images only measure it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from benchmarks.candidate import Candidate
from benchmarks.measuring import prepare, tell, verdict
from benchmarks.training import has_bfloat16

MODEL = {"architecture": "quick", "dropout": 0.0}
OPTIMIZER = {
    "name": "nesterov",
    "lr": 0.4,
    "batch_size": 256,
    "momentum": 0.85,
    "weight_decay": 0.0005,
    "label_smoothing": 0.1,
}
TRAINER = {
    "precision": "bfloat16",
    "patience": None,
    "keep": "last",
    "loss": "mean",
    "schedule": "linear",
    "warmup": 0.2,
    "averaging": "none",
    "augmentation": "distortions",
    "affine": 0.15,
}


@dataclass(frozen=True)
class Record:
    """accuracy: the least of the test images; seconds: the most, on two cores."""

    accuracy: float
    seconds: float
    settings: dict[str, dict[str, Any]]


RECORDS = {
    97: Record(
        0.97,
        20,
        {"model": MODEL, "optimizer": OPTIMIZER, "trainer": {**TRAINER, "epochs": 3}},
    ),
}


def fast() -> bool:
    """Seconds to 97 % of KMNIST's test images on all cores, in native bfloat16."""
    return _holds(RECORDS[97])


def _holds(record: Record) -> bool:
    prepare("kmnist")
    if not has_bfloat16():
        tell(f"{record.accuracy:.0%} in native bfloat16: left out, this CPU has no bfloat16")
        return True
    with Candidate("loops", "native", threads=os.cpu_count() or 1) as ours:
        found = ours.ask("record", settings=record.settings, seed=0)
    detail = f"test accuracy {found['accuracy']:.4f}, seed 0, {os.cpu_count()} threads"
    reached = found["accuracy"] >= record.accuracy
    seconds = found["seconds"] if reached else float("inf")
    name = f"seconds to {record.accuracy:.0%} of the test images"
    return verdict(name, seconds, record.seconds, False, detail)

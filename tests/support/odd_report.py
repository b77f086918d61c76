"""A small report of a dataset with class names of many scripts and with special characters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from kmnist_pipeline.evaluation import acceptance
from kmnist_pipeline.evidence import numbers
from kmnist_pipeline.figures import canvas
from kmnist_pipeline.figures import models as model_figures
from kmnist_pipeline.reporting import page

NAMES = ("お", "ゝ", "變", "한글", "<b>&amp;", "$x_1$", "a_b^c", "1, 2", "ไབ", "الف")
CAPTION = "the weights of <b>&amp;, $x_1$, *a_b* and [お]."
DATASET: dict[str, Any] = {
    "title": "Odd <names> & scripts", "licence": "CC BY | 4.0", "shape": [8, 8],
    "classes": list(NAMES), "parts": [{"name": "all", "images": "a" * 64, "labels": "b" * 64}],
}  # fmt: skip
ABOUT: dict[str, Any] = {
    "title": "Names in <any> script", "summary": "A report of *odd* names.", "reproduces": None,
    "dataset": "odd", "confidence": 0.95, "margin": 0.05,
    "figures": {"1": "odd/model/confusion.png"},
}  # fmt: skip
REVIEWS = {
    "reviewed": 9, "corrected": 2, "confirmed": 1, "excluded": 1, "added": 3, "new_excluded": 1,
    "test": 1,
}  # fmt: skip
CORRECTED = {"accuracy": 11 / 19, "n": 19, "correct": 11, "changed": 1, "excluded": 1}
SUSPECTS: dict[str, Any] = {
    "experiment": "model", "n": 80, "contradicted": 7, "first": [3, 1],
    "swapped": {"n": 4, "of": 80, "ranks": [{"rank": 8, "found": 3, "share": 0.75}]},
}  # fmt: skip
LOOP: dict[str, Any] = {
    "held_out": 20, "needed": 20.0, "saved": 4.4,
    "rounds": [
        {"labels": count, "accuracy": {
            "least_confident_first": {"n": 2, "mean": high, "sd": 0.01, "values": [high, high]},
            "at_random": {"n": 2, "mean": low, "sd": None, "values": [low, low]},
        }} for count, high, low in ((10, 0.5, 0.5), (20, 0.7, 0.6))
    ],
}  # fmt: skip
CONDITIONS: dict[str, Any] = {
    "promise": 0.995,
    "conditions": [
        {"name": "clean", **acceptance.outcome_of(200, 190, 100, 100, 0.995)},
        {"name": "a <dark> sheet", **acceptance.outcome_of(200, 150, 80, 60, 0.995)},
        {"name": "torn", **acceptance.outcome_of(200, 20, 0, 0, 0.995)},
    ],
    "unanswerable": [{"name": "two | three", "n": 200, "accepted": 7, "doubts": {"several": 193}}],
}
VERDICTS = ("exact", "reproduced", "differs", "inconclusive", "beaten", "missed", "context")
MODELS = ("model", "another_model_with_a_long_name")


def content(folder: Path) -> dict[str, Any]:
    """What the page of this report shows, of files written below a folder."""
    metrics = folder / "metrics/odd"
    write(folder / "metrics/data/odd.json", "preprocess@odd", {
        "n_train": 80, "n_test": 20, "overlap": {"test_images_in_train": 0}, "reviews": REVIEWS,
    })  # fmt: skip
    write(metrics / "suspects.json", "suspects@odd", SUSPECTS)
    write(metrics / "loop.json", "loop@odd", LOOP)
    for name in MODELS:
        score = {"precision": 0.5, "recall": 0.5, "f1": 0.5}
        environment = {"arithmetic": "x86-64-v3", "libraries": {"numpy": "2"}}
        stage, seeds = f"evaluate@{name}", {"accuracy": {"n": 3, "mean": 0.5, "sd": 0.1}}
        write(
            metrics / name / "validation.json", stage, {"accuracy": 0.5, "environment": environment}
        )
        write(metrics / name / "test.json", stage, {
            **score, "accuracy": 0.5, "n": 20, "correct": 10, "seeds": seeds, "right": "ffc000",
            "per_class": dict.fromkeys(NAMES, score), "corrected": CORRECTED,
        })  # fmt: skip
        if name == MODELS[0]:
            write(metrics / name / "conditions.json", f"conditions@{name}", CONDITIONS)
        drawn = folder / "figures/odd" / name
        drawn.mkdir(parents=True)
        text = {"Caption": CAPTION, "Stage": stage, "Lineage": "c" * 64, "Data": '{"x": "d"}'}
        figure = model_figures.confusion_matrix(np.eye(len(NAMES), dtype=int), NAMES)
        (drawn / "confusion.png").write_bytes(canvas.png_bytes(figure, text))
    claims = [
        {
            "id": f"claim-{verdict}", "where": "Section V.1",
            "quote": "accuracy < 0.5 | *for* 한글",
            "configuration": "model, lr=0.075, batch=512, epochs=50", "metric": "macro F1",
            "reported": "0.5", "same_as": "", "obtained": 0.5, "mean": 0.5, "tolerance": 0.1,
            "interval": [0.4, 0.6], "verdict": verdict, "note": "mean 0.5, standard deviation 0.1",
            "source": f"{metrics / MODELS[n % 2]}/test.json: f1",
        }
        for n, verdict in enumerate(VERDICTS)
    ]  # fmt: skip
    made_by = {"stage": "report@odd", "lineage": "e" * 64, "arithmetic": "x86-64-v3"}
    params = {"reports": {"odd": ABOUT}, "datasets": {"odd": DATASET}}
    return page.content("odd", params, {"made_by": made_by, "claims": claims}, folder)


def write(path: Path, stage: str, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    made_by = {"stage": stage, "lineage": "c" * 64, "data": {"x": "d"}, "code": {"src/a.py": "f"}}
    values = {"made_by": made_by | {"parameters": {"name": "<i>お"}}, **values}
    path.write_text(json.dumps(numbers.encode(values)))

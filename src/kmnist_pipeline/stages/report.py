"""Write the page of a report: claims with verdicts, models, studies, and figures with origin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kmnist_pipeline.evaluation import claims
from kmnist_pipeline.evidence import outs, paths
from kmnist_pipeline.evidence.stage import Stage
from kmnist_pipeline.faults import detection
from kmnist_pipeline.reporting import page
from kmnist_pipeline.stages.frame import entrypoint

LIBRARIES = ("numpy", "scipy", "pillow", "jinja2")


def report(stage: Stage, params: dict[str, Any]) -> None:
    """Judge the claims and write `claims.json`, `index.html` and `README.md`."""
    about = params["reports"][stage.item]
    metrics = Path(paths.METRICS) / stage.item
    stated = claims.read(Path(f"conf/claims/{about['claims']}.csv"))
    judged = [
        claims.judge(claim, metrics, about["confidence"], about["margin"]) for claim in stated
    ]
    detected = detection.of_report(judged, stated, metrics)
    written = outs.json_bytes({"made_by": stage.made_by, "claims": judged, **detected})
    content = page.content(stage.item, params, json.loads(written), Path("."))
    with stage.directory(paths.page(stage.item)) as folder:
        (folder / "claims.json").write_bytes(written)
        (folder / "index.html").write_bytes(page.html(content).encode())
        (folder / "README.md").write_bytes(page.markdown(content).encode())


if __name__ == "__main__":
    entrypoint(report, kind="report", items="reports", libraries=LIBRARIES)

"""Does the evidence agree with itself? What follows from other evidence is computed again.

An out that was edited and then recorded by `dvc commit` has the md5 that `dvc.lock` says, so only
its content can show the edit. Rates, scores and means follow from counts, confusion matrices and
fits; verdicts follow from claims and numbers, pages from verdicts, numbers and figures. This takes
two seconds and needs neither models nor data. `kmnist verify` finds all other edits.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from kmnist_pipeline.commands import derived_results, derived_training
from kmnist_pipeline.commands.apart import flat
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evaluation import claims
from kmnist_pipeline.evidence import numbers, outs, paths
from kmnist_pipeline.faults import detection
from kmnist_pipeline.reporting import page
from kmnist_pipeline.repository.changes import Change
from kmnist_pipeline.repository.compare import are_close
from kmnist_pipeline.repository.locks import LockedStage
from kmnist_pipeline.repository.revision import below

EMBEDDED = "data:image/webp;base64,"  # before each picture of a page
PICTURE = re.compile(EMBEDDED + r"([\w+/=]*)")


def contradictions(
    stages: Iterable[LockedStage], params: dict[str, Any]
) -> dict[str, list[Change]]:
    """What does not follow from other evidence, by the stage that wrote it.

    stages: those whose outs on disk are as the lock says; params: the content of `params.yaml`.
    """
    kinds = {
        "preprocess": derived_results.of_data,
        "kfold-train": derived_training.of_training,
        "tune": derived_training.of_training,
        "evaluate": derived_results.of_test,
        "conditions": derived_results.of_conditions,
        "weights": derived_training.of_weights,
        "suspects": derived_results.of_suspects,
        "loop": derived_results.of_loop,
        "faults": derived_results.of_faults,
        "readings": derived_results.of_readings,
        "report": _of_report,
    }
    found = {}
    for stage in stages:
        lines: list[str] = []
        try:
            lines.extend(_of_origin(stage))
            if stage.kind in kinds:
                lines.extend(kinds[stage.kind](stage, params))
        except UserError as error:
            lines.append(f"its outs cannot be computed again: {error}")
        except (LookupError, TypeError, ValueError, AttributeError, OSError) as error:
            files = ", ".join(out for out in stage.outs if Path(out).suffix in (".json", ".csv"))
            what = f"{type(error).__name__}: {error}"
            lines.append(f"{files}: its numbers cannot be computed again: {what}")
        if lines:
            found[stage.address] = [Change("contradiction", line, None, None) for line in lines]
    return found


def _of_origin(stage: LockedStage) -> Iterator[str]:
    """Each file of numbers states the origin that the lock says."""
    folders = {"data/": "data", "src/": "code"}
    origin: dict[str, Any] = {"stage": stage.address, "parameters": stage.params} | {
        part: {path: md5 for path, md5 in stage.deps.items() if path.startswith(folder)}
        for folder, part in folders.items()
    }
    expected = outs.rounded(origin)
    for out in stage.outs:
        for file in map(Path, below(Path(out), out)):
            content = (
                numbers.decode(json.loads(file.read_bytes())) if file.suffix == ".json" else {}
            )
            stated = content.get("made_by", expected)
            for part in expected:
                if stated.get(part) != expected[part]:
                    yield f"{file}: {part} of made_by is not what dvc.lock says"


def _of_report(stage: LockedStage, params: dict[str, Any]) -> Iterator[str]:
    """Verdicts follow from claims and numbers; pages follow from verdicts, numbers and figures."""
    folder = Path(paths.page(stage.item))
    path = folder / "claims.json"
    about, written = params["reports"][stage.item], json.loads(path.read_bytes())
    stated = written["claims"]
    measured = Path(paths.METRICS) / stage.item
    rows = claims.read(Path(f"conf/claims/{about['claims']}.csv"))
    judged = [claims.judge(row, measured, about["confidence"], about["margin"]) for row in rows]
    detected = detection.of_report(judged, rows, measured)
    if added := written.keys() - {"made_by", "claims", "faults"}:
        yield f"{path}: has {', '.join(sorted(added))}, which no report has"
    if written.get("faults") != detected.get("faults"):
        yield f"{path}: the injected faults that claims detect are not what the numbers give"
    for given, claim in itertools.zip_longest(stated, json.loads(outs.json_bytes(judged))):
        before, after = (flat("", each or {}) for each in (given, claim))
        if before.keys() != after.keys() or not all(
            map(are_close, before.values(), after.values())
        ):
            name = (claim or given)["id"]
            yield f"{path}: claim {name} is not what conf/claims and the numbers give"
    content = page.content(stage.item, params, written, Path("."))
    # Comparing pixels takes a tenth of the time of encoding the pictures again.
    shown = (folder / "index.html").read_bytes().decode()
    expected = {
        "index.html": (PICTURE.sub(EMBEDDED, shown), page.html(content, lambda picture: EMBEDDED)),
        "README.md": ((folder / "README.md").read_bytes().decode(), page.markdown(content)),
    }
    for name, (text, again) in expected.items():
        if text != again:
            yield f"{folder / name}: is not what claims.json, the numbers and the figures give"
    embedded, pictures = PICTURE.findall(shown), content["pictures"]
    if len(embedded) != len(pictures):
        yield f"{folder / 'index.html'}: shows {len(embedded)} pictures instead of {len(pictures)}"
        return
    for encoded, picture in zip(embedded, pictures, strict=True):
        if _pixels(io.BytesIO(base64.b64decode(encoded))) != _pixels(picture["path"]):
            yield f"{folder / 'index.html'}: does not show {picture['path']}"


def _pixels(picture: Path | io.BytesIO) -> tuple[tuple[int, int], bytes]:
    with Image.open(picture, formats=["PNG", "WEBP"]) as image:
        return image.size, image.convert("RGB").tobytes()

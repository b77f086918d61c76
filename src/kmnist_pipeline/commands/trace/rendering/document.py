"""A trace as one JSON document, for programs."""

from dataclasses import asdict
from typing import Any

from kmnist_pipeline.commands.trace.ancestry import Step, Trace
from kmnist_pipeline.commands.trace.identify import Identified


def as_json(found: Trace) -> dict[str, Any]:
    """The JSON document.

    files: each traced file with its `status` (exact, altered, unknown), the stages that `made` it
    (the likeliest first; `here`: in this folder's lock; `commits`: whose lock has the stage, the
    newest first), the lineage keys of the stages `behind` it, the `originals` that these read,
    and `whole` (nothing is missing between); stages: by lineage key, with `code` (md5 by path),
    `inputs` and the keys of their `makers` (`fits`: they made exactly this content), `outs` and
    the `files` in them, and the MLflow `run`; mlflow: the store, and why it is incomplete.
    """
    return {
        "files": [_file(found, file) for file in found.files],
        "stages": {key: _stage(found, step) for key, step in found.steps.items()},
        "mlflow": str(found.runs),
    }


def _file(found: Trace, file: Identified) -> dict[str, Any]:
    made = [
        {
            "stage": match.stage.address,
            "lineage": match.stage.key,
            "path": match.path,
            "here": match.here,
            "commits": [
                {"id": each.id, "date": each.date, "subject": each.subject}
                for each in match.commits
            ],
        }
        for match in file.matches
    ]
    behind = found.behind(file.matches[0].stage.key) if made else []
    return {
        "file": file.file,
        "md5": file.md5,
        "status": file.status,
        "remark": file.remark,
        "whole": found.is_whole(file),
        "made": made,
        "behind": [step.stage.key for step in behind],
        "originals": [asdict(original) for step in behind for original in step.originals],
    }


def _stage(found: Trace, step: Step) -> dict[str, Any]:
    run = found.runs.by_key.get(step.stage.key)
    return {
        "stage": step.stage.address,
        **{name: getattr(step.stage, name) for name in ("cmd", "params", "outs")},
        **{name: part for name, part in asdict(step).items() if name != "stage"},
        "run": asdict(run) if run else None,
    }

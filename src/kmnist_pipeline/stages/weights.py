"""Cut the weights of a model's first seed out of its model file, so that Git can have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import paths
from kmnist_pipeline.evidence.stage import Stage
from kmnist_pipeline.families import excerpt, file
from kmnist_pipeline.stages.frame import entrypoint


def weights(stage: Stage, params: dict[str, Any]) -> None:
    """Write the model that `evaluate` measures, without the other seeds and trials."""
    dataset = params["models"][stage.item]["dataset"]
    whole, part = Path(paths.weights(stage.item)), paths.weights_in_git(stage.item)
    content = excerpt.of(whole.read_bytes(), part)
    about = file.decode(content)[1]
    if (about["name"], about["dataset"]) != (stage.item, dataset):
        raise UserError(
            f"{whole} holds {about['name']} trained on {about['dataset']}, not {stage.item} on "
            f"{dataset}: `dvc repro weights@{stage.item}` makes it again"
        )
    stage.write(part, content)


if __name__ == "__main__":
    entrypoint(weights, kind="weights", items="models")

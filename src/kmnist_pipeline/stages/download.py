"""Get the raw files of a dataset from the first source that works, or its imported file."""

from __future__ import annotations

from typing import Any

from kmnist_pipeline.data import sources
from kmnist_pipeline.evidence import paths
from kmnist_pipeline.evidence.stage import Stage
from kmnist_pipeline.stages.frame import entrypoint


def download(stage: Stage, params: dict[str, Any]) -> None:
    """Write the decoded and checked raw files: all or none."""
    dataset = params["datasets"][stage.item]
    if content := dataset.get("imported"):
        with stage.directory(paths.raw(stage.item)) as folder:
            sources.copy_imported(content, folder)
        stage.pinned.append(content["file"])
        return
    with stage.partial() as partial:
        content = sources.fetch(stage.item, dataset, sources.mirror_folder(), partial)
        with stage.directory(paths.raw(stage.item)) as folder:
            for name, decoded in content.items():
                (folder / name).write_bytes(decoded)


if __name__ == "__main__":
    entrypoint(download, kind="download", items="datasets")

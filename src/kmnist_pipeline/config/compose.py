"""Composing `params.yaml` from `conf/`, byte for byte as `dvc exp run` does."""

from __future__ import annotations

import difflib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.repository import locks
from kmnist_pipeline.repository.names import unknown


def compose(conf: Path, overrides: list[str]) -> str:
    """The text of `params.yaml` that `conf/config.yaml` selects, with `overrides` applied.

    Raises UserError with the key, the value and what is allowed: the message of the Hydra plugin.
    """
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    locks.refuse_conflicts(conf)
    with initialize_config_dir(str(conf.resolve()), version_base=None):
        cfg = compose("config", overrides)
    OmegaConf.resolve(cfg)
    return OmegaConf.to_yaml(cfg)


def with_files(conf: Path, files: Mapping[Path, str]) -> str:
    """The text of `params.yaml` that `conf/` would give if it had these files; nothing changes.

    files: text by path in `conf`. Raises UserError as `compose` does.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "conf"
        shutil.copytree(conf, copy)
        for path, text in files.items():
            (copy / path.relative_to(conf)).write_text(text, encoding="utf-8")
        try:
            return compose(copy, [])
        except UserError as error:
            said = str(error).replace(os.path.relpath(copy), str(conf))
            raise UserError(said.replace(str(copy), str(conf))) from None


def show(text: str, name: str) -> str:
    """The parts of `params.yaml` under `name`, such as a dataset, experiment, study or report."""
    from omegaconf import OmegaConf

    cfg: Any = OmegaConf.create(text)
    without = ("evaluation", "weights", "models", "code", "reviews")  # no items of their own
    cfg = {str(section): cfg[section] or {} for section in cfg if section not in without}
    sections = tuple(cfg)
    found = [f"# {s}.{name}\n{OmegaConf.to_yaml(cfg[s][name])}" for s in sections if name in cfg[s]]
    if not found:
        known = sorted({str(key) for section in sections for key in cfg[section]})
        raise unknown(f"conf/ has no {name}", name, known)
    return "".join(found)


def difference(path: Path, text: str) -> str:
    """The changes that turn the file `path` into `text`, as a unified diff."""
    old = path.read_text("utf-8") if path.exists() else ""
    return "".join(
        difflib.unified_diff(
            old.splitlines(keepends=True), text.splitlines(keepends=True), str(path), "conf/"
        )
    )

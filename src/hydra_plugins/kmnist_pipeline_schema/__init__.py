"""Hydra plugin: checks the composed configuration and composes its `models` map.

DVC loads it from `hydra.plugins_path` when `dvc exp run` composes `conf/`, and `kmnist compose`
loads it the same way, so that both refuse the same mistakes before any stage runs.
"""

from typing import Any

from omegaconf import DictConfig, OmegaConf

# At import time: DVC takes the plugins' folder off sys.path afterwards.
from kmnist_pipeline import schema


def _models(_root_: DictConfig) -> Any:
    sections = {key: _root_._get_node(key) for key in _root_ if key != "models"}
    content = OmegaConf.to_container(OmegaConf.create(sections), resolve=True)
    assert isinstance(content, dict)
    return OmegaConf.create(schema.models_of(schema.check(content)))


OmegaConf.register_new_resolver("kmnist.models", _models, replace=True)

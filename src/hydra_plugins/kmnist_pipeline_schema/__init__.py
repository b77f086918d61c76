"""Hydra plugin: checks the composed configuration and composes its `models` map.

DVC loads it from `hydra.plugins_path` when `dvc exp run` composes `conf/`. `kmnist compose` loads
it the same way. So both refuse the same mistakes with the same message, before any stage runs.
"""

import functools
from collections.abc import Iterator
from typing import Any, cast

from dvc.exceptions import DvcException
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

# At import time, because DVC removes the plugins' folder from sys.path afterwards.
from kmnist_pipeline.config import rules
from kmnist_pipeline.errors import UserError

MAIN = "config"


class ConfigurationError(UserError, ConfigCompositionException, DvcException):
    """An invalid configuration: `kmnist`, Hydra and DVC print only the message."""


def _models(_root_: DictConfig) -> Any:
    sections = {key: _root_._get_node(key) for key in _root_ if key not in ("hydra", "models")}
    config = OmegaConf.create(sections)
    try:
        content = _plain(config)
    except OmegaConfBaseException:
        # These interpolate keys of an experiment: name its mistake, not that of the interpolation.
        others = [str(key) for key in sections if key not in ("studies", "conditions")]
        rules.check(_plain(OmegaConf.masked_copy(config, others)))
        rules.check_bases(_plain(config, resolve=False))
        raise
    return OmegaConf.create(rules.models_of(rules.check(content)))


def _plain(config: DictConfig, resolve: bool = True) -> dict[Any, Any]:
    return cast(dict[Any, Any], OmegaConf.to_container(config, resolve=resolve))


def _refusing(load: Any) -> Any:
    """Wrap `load_configuration`, so that its errors say what is allowed, which Hydra's do not.

    Hydra's plugins cannot act between reading a configuration and applying overrides to it, and
    DVC reports an error of Hydra as an unexpected error in DVC.
    """

    @functools.wraps(load)
    def load_and_check(
        self: Any, config_name: str | None, overrides: list[str], *args: Any, **named: Any
    ) -> DictConfig:
        try:
            cfg = load(self, config_name, overrides, *args, **named)
            if config_name == MAIN:
                if "models" not in cfg or not OmegaConf.is_interpolation(cfg, "models"):
                    raise UserError("models: is composed; must be ${kmnist.models:}")
                cfg.models = cfg.models  # keep it: each read of the node composes and checks
        except OverrideParseException as error:
            raise ConfigurationError(_no_override(error)) from None
        except (UserError, HydraException, OmegaConfBaseException, YAMLError) as error:
            raise ConfigurationError(_explain(error, overrides)) from None
        return cfg

    return load_and_check


def _explain(error: BaseException, overrides: list[str]) -> str:
    """What is wrong with a configuration that Hydra refused, and what is allowed instead."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, UserError):
            return str(cause)
        if isinstance(cause, MissingConfigException):
            known = f"; known: {', '.join(cause.options)}" if cause.options else ""
            return str(cause).splitlines()[0] + known
    for cause in causes:
        key = getattr(cause, "full_key", None)
        if key and isinstance(cause, ConfigAttributeError | ConfigKeyError):
            wanted = (line for line in overrides if line.lstrip("+~").startswith(key))
            known = ", ".join(str(k) for k in cause.parent_node or () if k != "hydra")
            return f"{next(wanted, key)}: there is no key {key}; known keys: {known}"
        if key:
            return f"{key}: {str(cause).splitlines()[0]}"
    # The outermost error names the file, the innermost the reason; either may be empty.
    return next(text for text in map(str, (error, *reversed(causes))) if text)


def _no_override(error: OverrideParseException) -> str:
    if "=" not in error.override:
        return f"{error.override}: must be KEY=VALUE"
    lines = str(error).splitlines()  # the first may only repeat the override, the last is a link
    reason = next((line for line in lines if error.override not in line), lines[0])
    return f"{error.override}: {reason}; a text with other signs needs quotes"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


OmegaConf.register_new_resolver("kmnist.models", _models, replace=True)
ConfigLoaderImpl.load_configuration = _refusing(  # type: ignore[method-assign]
    ConfigLoaderImpl.load_configuration
)

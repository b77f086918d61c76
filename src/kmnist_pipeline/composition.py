"""Composing `params.yaml` from `conf/`, byte for byte as `dvc exp run` does."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kmnist_pipeline.errors import UserError


class CompositionError(UserError):
    """A `conf/` that does not compose; the message is the cause alone."""


def compose(conf: Path, overrides: list[str]) -> str:
    """The text of `params.yaml` for the menu `conf/config.yaml` with `overrides` applied.

    Raises UserError with the key, the value and what is allowed.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    try:
        with initialize_config_dir(str(conf.resolve()), version_base=None):
            cfg = compose("config", overrides)
    except HydraException as error:
        raise CompositionError(explain(error, overrides)) from error
    OmegaConf.resolve(cfg)
    return OmegaConf.to_yaml(cfg)


def explain(error: BaseException, overrides: list[str]) -> str:
    """What is wrong with a configuration that Hydra refused, and what is allowed instead."""
    from hydra.errors import MissingConfigException
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError

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


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def show(text: str, name: str) -> str:
    """The part of `params.yaml` that stands under `name` in one of its sections."""
    from omegaconf import OmegaConf

    cfg: Any = OmegaConf.create(text)
    found = {
        f"{section}.{name}": cfg[section][name]
        for section in ("datasets", "experiments", "studies", "reports")
        if name in cfg[section]
    }
    if not found:
        known = [str(key) for section in cfg if section != "evaluation" for key in cfg[section]]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else "."
        raise UserError(f"nothing is called {name}{hint} Known: {', '.join(sorted(set(known)))}")
    return "".join(f"# {key}\n{OmegaConf.to_yaml(part)}" for key, part in found.items())


def difference(path: Path, text: str) -> str:
    """What `path` lacks of `text`, as a unified diff."""
    old = path.read_text() if path.exists() else ""
    return "".join(
        difflib.unified_diff(
            old.splitlines(keepends=True), text.splitlines(keepends=True), str(path), "conf/"
        )
    )

"""Hydra plugin: checks the composed configuration and composes `models`, `code` and `reviews`.

DVC loads it from `hydra.plugins_path` when `dvc exp run` composes `conf/`. `kmnist compose` loads
it the same way. So both refuse the same mistakes with the same message, before any stage runs.
"""

import functools
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
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
from yaml import MarkedYAMLError, YAMLError

# At import time, because DVC removes the plugins' folder from sys.path afterwards.
from kmnist_pipeline.config import rules
from kmnist_pipeline.config.schema import Config
from kmnist_pipeline.errors import UserError

MAIN = "config"
COMPOSED = ("models", "code")
INTERPOLATING = {"conditions", "suspects", "readings", "faults"}  # experiments and studies


class ConfigurationError(UserError, ConfigCompositionException, DvcException):
    """An invalid configuration: `kmnist`, Hydra and DVC print only the message."""


def _models(_root_: DictConfig) -> Any:
    return OmegaConf.create(rules.models_of(_checked(_root_)))


def _code(_root_: DictConfig) -> Any:
    from kmnist_pipeline.config import code  # stages load this plugin, but do not compose

    return OmegaConf.create(code.of(_checked(_root_)))


def _checked(root: DictConfig) -> Config:
    """The typed configuration. Raises ConfigError for the first mistake."""
    sections = {
        key: root._get_node(key) for key in root if key not in ("hydra", "reviews", *COMPOSED)
    }
    config = OmegaConf.create(sections)
    try:
        content = _plain(config)
    except OmegaConfBaseException:
        # Some sections interpolate others: name the mistakes in these, not those of interpolation.
        for left_out in (INTERPOLATING, {*INTERPOLATING, "studies", "weights"}):
            others = [str(key) for key in sections if key not in left_out]
            with suppress(OmegaConfBaseException):
                rules.check(_plain(OmegaConf.masked_copy(config, others)))
        rules.check_bases(_plain(config, resolve=False))
        raise
    return rules.check(content)


def _plain(config: DictConfig, resolve: bool = True) -> dict[Any, Any]:
    return cast(dict[Any, Any], OmegaConf.to_container(config, resolve=resolve))


def _conf(loader: ConfigLoaderImpl) -> Path:
    """The folder of the configuration."""
    main = next(s.path for s in loader.config_search_path.get_path() if s.provider == "main")
    return Path(os.path.relpath(str(main).removeprefix("file://")))


def _reviews(datasets: Iterable[Any], root: Path) -> dict[str, dict[str, str]]:
    """The files with people's decisions about each dataset, or the empty ones in reviews/.

    DVC needs a dependency that exists, and every dataset may be without reviews. If images are
    here or only in DVC's cache, their `.dvc` file is here.
    """
    from kmnist_pipeline.evidence import paths

    found = {}
    for name in map(str, datasets):
        decisions, images = paths.decisions(name), paths.reviewed(name)
        has_images = any((root / f"{images}{ending}").exists() for ending in ("", ".dvc"))
        found[name] = {
            "decisions": decisions if (root / decisions).exists() else paths.NO_DECISIONS,
            "images": images if has_images else paths.NO_IMAGES,
        }
    return found


def _check_reports(loader: ConfigLoaderImpl, config: DictConfig) -> None:
    """Refuse what the report stages could not show or judge, before the other stages have run."""
    from kmnist_pipeline.config import grid, stated  # slow to import; stages do not need it
    from kmnist_pipeline.evaluation import claims
    from kmnist_pipeline.repository import git
    from kmnist_pipeline.repository.names import unknown

    for name, report in (config.get("reports") or {}).items():
        known = [model for model, about in config.models.items() if about.report == name]
        if not known:
            raise UserError(f"reports.{name}: no experiment or study has report={name}")
        path = _conf(loader) / f"claims/{report.claims}.csv"
        if not path.exists():
            raise UserError(
                f"reports.{name}.claims={report.claims}: {path} does not exist; if it was deleted, "
                f"`{git.RESTORE} {path}` restores it"
            )
        figures = report.figures.items()
        shown = [(f"reports.{name}.figures.{n}={file}", file) for n, file in figures]
        rows = stated.read(path)
        for line, claim in rows:
            where = f"{path}: line {line}: {claim['id']}"
            shown += [(where, f"{name}/{file}") for file in claims.files(claim)]
            study = (config.get("studies") or {}).get(claim["file"].partition("/")[0])
            trials = [grid.name(point) for point in grid.points(study)] if study else []
            if claim["trial"] and trials and claim["trial"] not in trials:
                raise unknown(
                    f"{where}: there is no trial {claim['trial']}", claim["trial"], trials
                )
        for where, file in shown:
            of_report, _, rest = file.partition("/")
            model = rest.partition("/")[0]
            if of_report == name and model not in known:
                needed = f"{model} is not an experiment or study of the report {name}"
                raise UserError(f"{where}: {needed}; known: {', '.join(known)}")
        for section, values in stated.ASKED.items():
            asked = (config.get(section) or {}).get(name)
            if asked and not stated.concerned([c for _, c in rows], section, _plain(asked)):
                models = [*asked.experiments, *(f"a trial of {study}" for study in asked.studies)]
                raise UserError(
                    f"{section}.{name}: {path} has no claim about {' or '.join(models)} (with the "
                    f"value {' or '.join(values)}): let reports.{name}.claims name a file with "
                    f"one, or remove {section}.{name} from {_conf(loader)}/{MAIN}.yaml"
                )


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
            for override in overrides:
                key, equals, _ = override.partition("=")
                if not key.lstrip("+~") or not (equals or key.startswith("~")):
                    raise UserError(f"{override}: must be KEY=VALUE")
            cfg = load(self, config_name, overrides, *args, **named)
            if config_name == MAIN:
                for name in COMPOSED:
                    if name not in cfg or not OmegaConf.is_interpolation(cfg, name):
                        raise UserError(f"{name}: is composed; must be ${{kmnist.{name}:}}")
                    cfg[name] = cfg[name]  # keep it: each read of the node composes and checks
                if cfg.get("reviews") != {}:
                    raise UserError("reviews: is composed; must be {}")
                cfg.reviews = _reviews(cfg.get("datasets") or (), _conf(self).parent)
                _check_reports(self, cfg)
        except OverrideParseException as error:
            raise ConfigurationError(_no_override(error)) from None
        except (UserError, HydraException, OmegaConfBaseException, YAMLError) as error:
            raise ConfigurationError(_explain(error, overrides)) from None
        except UnicodeDecodeError as error:
            files = (f for f in _conf(self).rglob("*.yaml") if error.object in f.read_bytes())
            raise ConfigurationError(f"{next(files)}: is not UTF-8: {error}") from None
        except ValueError as error:
            raise ConfigurationError(f"{' '.join(overrides)}: {error}") from None
        return cfg

    return load_and_check


def _explain(error: BaseException, overrides: list[str]) -> str:
    """What is wrong with a configuration that Hydra refused, and what is allowed instead."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, UserError):
            return str(cause)
        if isinstance(cause, MarkedYAMLError) and cause.problem_mark is not None:
            from kmnist_pipeline.repository import locks  # slow to import

            file = Path(os.path.relpath(cause.problem_mark.name))
            try:
                locks.refuse_conflict(file.read_text("utf-8"), str(file))
            except UserError as conflict:
                return str(conflict)
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
    lines = str(error).splitlines()[:-1]  # the last is a link; others may only repeat the override
    said = (line for line in lines if error.override not in line and line.strip() != "^")
    reason = next(said, "must be KEY=VALUE")
    return f"{error.override}: {reason}; text with other characters needs quotes"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


OmegaConf.register_new_resolver("kmnist.models", _models, replace=True)
OmegaConf.register_new_resolver("kmnist.code", _code, replace=True)
ConfigLoaderImpl.load_configuration = _refusing(  # type: ignore[method-assign]
    ConfigLoaderImpl.load_configuration
)

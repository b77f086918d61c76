"""The stages of `dvc.yaml`, with parameters filled in by DVC's own resolver."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from dvc.exceptions import DvcException
from dvc.fs import MemoryFileSystem
from dvc.parsing import DataResolver
from dvc.schema import COMPILED_MULTI_STAGE_SCHEMA
from dvc.utils.serialize import YAMLFileCorruptedError, load_yaml
from voluptuous import MultipleInvalid

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import lineage


def stages(params: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every stage by address, as `dvc.yaml` describes one, without variables.

    params: the content of `params.yaml`, or other content for it. Raises UserError where `dvc.yaml`
    is broken or needs a parameter that `params` lacks.
    """
    try:
        # All that the resolver needs of a repository, with no params.yaml in it.
        repo = cast(Any, SimpleNamespace(fs=MemoryFileSystem(), config={}))
        content = COMPILED_MULTI_STAGE_SCHEMA(load_yaml("dvc.yaml"))
        resolver = DataResolver(repo, "", {**content, "vars": [params]})
        return {name: resolver.resolve_one(name)[name] for name in resolver.get_keys()}
    except YAMLFileCorruptedError as error:
        raise UserError(f"dvc.yaml: {error.__cause__ or error}") from error
    except (DvcException, MultipleInvalid) as error:
        raise UserError(f"dvc.yaml: {error}") from error


def outs(stage: dict[str, Any]) -> dict[str, bool]:
    """Each out, and whether Git keeps it (else DVC's cache does)."""
    found = {}
    for kind in ("outs", "metrics", "plots"):
        for out in stage.get(kind, []):
            path, flags = next(iter(out.items())) if isinstance(out, dict) else (out, {})
            found[path] = flags.get("cache") is False
    return found


def values(stage: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """The values of a stage's parameters by dotted name; those that `params` lacks are left out."""
    found = {}
    for name in stage.get("params", []):
        try:
            found[name] = lineage.value(params, name)
        except (KeyError, TypeError):
            continue
    return found

"""The key of a fit, computed from everything it depends on: equal keys mean equal results.

A key is the sha256 of canonical JSON. Its parts are the digests of the fit's arrays (so the code
that makes them does not count), its settings, seed and fold, the code of its family, the versions
of its numeric libraries, and the arithmetic. A setting that is null does not count. So a family can
get a new setting, and the fits without it are not trained again.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kmnist_pipeline import arithmetic
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import lineage
from kmnist_pipeline.families.base import FORMAT, Data, Fit
from kmnist_pipeline.families.registry import FAMILIES

PACKAGE = Path(__file__).parents[1]
ARRAYS = ("training", "validation", "shift", "scale")  # of a fit
# Modules that do not count, because they compute none of a fit's numbers.
NEUTRAL = {
    "__init__.py",
    "arithmetic.py",
    "errors.py",
    "families/registry.py",
    "families/base.py",
    "families/file.py",
}


def key(fit: Fit, data: str, around: dict[str, Any] | None = None) -> str:
    """The key of a fit.

    data: the digest of its `Data`; around: its `surroundings`, by default the current ones.
    """
    parts = {
        "arrays": {"data": data} | {name: digest_of_array(getattr(fit, name)) for name in ARRAYS},
        "settings": _without_null(fit.settings),
        "seed": fit.seed,
        "fold": fit.fold,
        "family": fit.family,
        "format": FORMAT,
        **(around or surroundings(fit.family, fit.settings)),
    }
    content = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()


def stopped(key: str, epochs: int) -> str:
    """The key of a fit that is stopped after so many epochs; key: that of the whole fit."""
    return hashlib.sha256(f"{key} stopped after {epochs}".encode()).hexdigest()


def surroundings(family: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The current code, libraries and arithmetic that a fit with these settings depends on."""
    return {
        "code": code(family, settings),
        "libraries": libraries(family),
        "arithmetic": {"name": arithmetic.name(), **arithmetic.variables()},
    }


def environment(family: str, *others: str) -> dict[str, Any]:
    """The libraries and the arithmetic that a family computes with, for the evidence.

    others: more libraries that decide its numbers.
    """
    used = {**libraries(family), **lineage.versions(others)}
    return {"arithmetic": arithmetic.name(), "libraries": used}


def libraries(family: str) -> dict[str, str]:
    """The versions of a family's libraries."""
    return lineage.versions(FAMILIES[family].libraries)


def digest(data: Data) -> str:
    """The digest of the images and labels from which fits draw their rows."""
    both = digest_of_array(data.pixels) + digest_of_array(data.labels) + str(data.classes)
    return hashlib.sha256(both.encode()).hexdigest()


def digest_of_array(array: np.ndarray) -> str:
    """The sha256 of an array's type, shape and content."""
    total = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def code(family: str, settings: Mapping[str, Any], package: Path = PACKAGE) -> dict[str, str]:
    """The digest of each module that a fit uses, by its path in the package.

    These are the modules in the family's folder, the exchangeable modules that the settings name,
    and the modules of the package that they import.
    """
    folder = package / "families" / family
    # A hidden file, such as an editor's backup, is not a module.
    waiting = sorted(file for file in folder.glob("*.py") if not file.name.startswith("."))
    for choices, setting in FAMILIES[family].choices.items():
        named = functools.reduce(lambda node, part: node[part], setting.split("."), settings)
        waiting.append(folder / choices / f"{named}.py")
    found: dict[str, str] = {}
    while waiting:
        module = waiting.pop()
        path = module.relative_to(package).as_posix()
        if path not in found and path not in NEUTRAL:
            found[path], imported = _read(module, package, module.stat().st_mtime_ns)
            waiting += imported
    return dict(sorted(found.items()))


@functools.cache
def _read(module: Path, package: Path, changed: int) -> tuple[str, list[Path]]:
    """The digest of a module's code, and the modules of the package that it imports.

    Only imports of names that the code uses count. Raises UserError if it is not valid Python.
    """
    try:
        tree = ast.parse(module.read_bytes())
    except SyntaxError as error:
        raise UserError(f"{module}:{error.lineno}: not valid Python: {error.msg}") from error
    bound = dict(pair for node in ast.walk(tree) for pair in _bound(node, module, package))
    imported = [file for name in bound.values() for file in _files(name, package)]
    bare = _Bare().visit(tree)
    used = {node.id for node in ast.walk(bare) if isinstance(node, ast.Name)}
    names = {name: origin for name, origin in sorted(bound.items()) if name in used}
    text = f"{names} {ast.unparse(bare)}"
    return hashlib.sha256(text.encode()).hexdigest(), imported


def _bound(node: ast.AST, module: Path, package: Path) -> Iterator[tuple[str, str]]:
    """The names that an import defines in a module, each with the full name of its object."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            whole = alias.asname or alias.name.split(".")[0]
            yield whole, alias.name if alias.asname else whole
            yield f"import {alias.name}", alias.name  # `import a.b` also loads a.b
    elif isinstance(node, ast.ImportFrom):
        origin = node.module or ""
        if node.level:
            above = (package.name, *module.relative_to(package).parts[: -node.level])
            origin = ".".join([*above, *filter(None, [node.module])])
        for alias in node.names:
            yield alias.asname or alias.name, f"{origin}.{alias.name}"


def _files(name: str, package: Path) -> list[Path]:
    """The modules of the package that a full name, of a module or of an object, may refer to."""
    first, *parts = name.split(".")
    if first != package.name:
        return []
    found = []
    for path in (package.joinpath(*parts), package.joinpath(*parts[:-1])):
        found += [path.with_suffix(".py"), path / "__init__.py"]
    return [file for file in found if file.is_file() and file.parent != package.parent]


class _Bare(ast.NodeTransformer):
    """Removes docstrings and imports from a syntax tree, which has no comments."""

    def visit(self, node: ast.AST) -> Any:
        """The node; None for an import, whose names count where the code uses them."""
        if isinstance(node, ast.Import | ast.ImportFrom):
            return None
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:]
        return super().visit(node)


def _without_null(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_null(value) if isinstance(value, Mapping) else value
        for name, value in settings.items()
        if value is not None
    }

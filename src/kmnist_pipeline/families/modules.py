"""The modules of a family that its settings use, found by reading their imports.

The keys of fits have their digests, and stages depend on them in `dvc.yaml`: see `config/code.py`.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.families.registry import FAMILIES

PACKAGE = Path(__file__).parents[1]
# Modules that do not count, because they compute none of a fit's numbers.
NEUTRAL = {
    "__init__.py",
    "arithmetic.py",
    "errors.py",
    "families/registry.py",
    "families/base.py",
    "families/file.py",
}


def chosen(family: str, settings: Mapping[str, Any], package: Path = PACKAGE) -> list[Path]:
    """The exchangeable modules that the settings name, in the order of the family's choices."""
    found = []
    for folder, setting in FAMILIES[family].choices.items():
        name = functools.reduce(lambda node, part: node[part], setting.split("."), settings)
        found.append(package / "families" / family / folder / f"{name}.py")
    return found


def used(family: str, settings: Mapping[str, Any], package: Path = PACKAGE) -> list[Path]:
    """The modules in a family's folder, and the exchangeable ones that the settings name."""
    folder = package / "families" / family
    # A hidden file, such as an editor's backup, is not a module.
    own = sorted(file for file in folder.glob("*.py") if not file.name.startswith("."))
    return [*own, *chosen(family, settings, package)]


def closure(modules: Iterable[Path], package: Path = PACKAGE) -> dict[str, str]:
    """The digests of modules and of those that they import, by their paths in the package.

    Neutral modules are left out. Raises UserError if one is not valid Python.
    """
    waiting = list(modules)
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

"""Lineage keys, which identify a stage's command, dependencies and parameters.

The key is the sha256 of canonical JSON `{cmd, deps: {path: md5}, params}`, with the values of the
stage's entry in `dvc.lock`. A stage computes it at its start, from the files that it is about to
read; DVC writes the lock after the command. If the two disagree, a file was changed while the stage
ran, and `kmnist check` reports it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from kmnist_pipeline.errors import UserError

if TYPE_CHECKING:
    from dvc.parsing import DataResolver

_md5 = partial(hashlib.md5, usedforsecurity=False)


def digest(path: Path) -> str:
    """DVC's md5 of a file, or of a directory's sorted listing (then with the ending `.dir`)."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, _md5).hexdigest()
    return digest_of_listing(listing(path))


def listing(folder: Path) -> dict[str, str]:
    """The md5 of each file in a folder, by its path in the folder."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {
        file.relative_to(folder).as_posix(): digest(file)
        for file in files
        if "__pycache__" not in file.parts
    }


def digest_of_listing(listing: dict[str, str]) -> str:
    """DVC's md5 of a folder, from the md5 of its files."""
    rows = sorted(listing.items(), key=lambda row: row[0].split("/"))
    text = json.dumps([{"md5": md5, "relpath": path} for path, md5 in rows])
    return digest_of_bytes(text.encode()) + ".dir"


def digest_of_bytes(content: bytes) -> str:
    """The md5 of a file's content."""
    return _md5(content).hexdigest()


def key(cmd: str, deps: dict[str, str], params: dict[str, Any]) -> str:
    """The lineage key of a stage."""
    content = {"cmd": cmd, "deps": deps, "params": params}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def of_running_stage(address: str, params: dict[str, Any]) -> dict[str, Any]:
    """The command, dependencies, parameters and key of the stage that DVC is running.

    address: the stage's name in DVC_STAGE, such as `evaluate@digits_softmax`; params: the whole
    content of `params.yaml`.
    """
    from dvc.utils.serialize import load_yaml

    resolved = resolver(load_yaml("dvc.yaml"), params).resolve_one(address)[address]
    used = {name: value(params, name) for name in sorted(resolved.get("params", []))}
    deps = {path: digest(Path(path)) for path in sorted(resolved.get("deps", []))}
    known = {"cmd": resolved["cmd"], "deps": deps, "params": used}
    return {**known, "key": key(**known)}


def resolver(content: dict[str, Any], params: dict[str, Any]) -> DataResolver:
    """DVC's resolver of the stages in `content`, that of `dvc.yaml`; it fills in the parameters."""
    from dvc.fs import MemoryFileSystem
    from dvc.parsing import DataResolver

    # It needs no more of a repository, and to open one takes as long as all the rest. The empty
    # file system has no other params.yaml.
    repo = cast(Any, SimpleNamespace(fs=MemoryFileSystem(), config={}))
    return DataResolver(repo, "", {**content, "vars": [params]})


def versions(libraries: Iterable[str]) -> dict[str, str]:
    """The installed versions of libraries, without the build: 2.13.0, not 2.13.0+cpu."""
    return {name: importlib.metadata.version(name).partition("+")[0] for name in libraries}


def value(params: dict[str, Any], dotted: str) -> Any:
    """The value of a dotted key such as `experiments.kmnist_softmax.model`."""
    for part in dotted.split("."):
        params = params[part]
    return params


class Declared(dict[str, Any]):
    """Parameters that a stage declares, by section; `name` is the dotted key of this section.

    Another parameter could change results under the same key, so reading one is an error.
    """

    def __init__(self, name: str = "") -> None:
        super().__init__()
        self._name = name

    def __missing__(self, key: str) -> Any:
        raise UserError(
            f"reads the parameter {self._name}{key}, which is not among the params of this stage "
            "in dvc.yaml: add it there"
        )


def declared(values: dict[str, Any]) -> Declared:
    """The parameters of a stage as `params.yaml` nests them; values: by dotted name."""
    found = Declared()
    for dotted, content in values.items():
        section = found
        *path, last = dotted.split(".")
        for depth, part in enumerate(path, 1):
            section = section.setdefault(part, Declared(".".join(path[:depth]) + "."))
        section[last] = content
    return found


def leaves(
    name: str, content: Any, lists: type[object] | None = object
) -> Iterator[tuple[str, Any]]:
    """The values in nested maps and lists, by dotted names that begin with `name`.

    The name of a list item is its position, or its `id` or `name` if all items have one. lists:
    lists with items of this type are opened, no lists if it is None; other lists are one value,
    and so are empty maps and lists.
    """
    if isinstance(content, dict) and content:
        for key, part in content.items():
            yield from leaves(f"{name}.{key}" if name else key, part, lists)
    elif lists and isinstance(content, list) and content and isinstance(content[0], lists):
        for label, part in zip(_labels(content), content, strict=True):
            yield from leaves(f"{name}[{label}]", part, lists)
    else:
        yield name, content


def _labels(items: list[Any]) -> Iterable[Any]:
    for key in ("id", "name"):
        labels = [item.get(key) for item in items if isinstance(item, dict)]
        if len(items) == len(labels) == len(set(map(str, labels))) and all(labels):
            return labels
    return range(len(items))

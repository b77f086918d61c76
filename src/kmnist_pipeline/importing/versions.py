"""The versions of an imported dataset: its file, which DVC tracks, and its description in `conf/`.

`data/imported/NAME.npz.dvc` has the md5 of the file for DVC and, under `meta`, the options of the
import; `conf/dataset/NAME.yaml` has its sha256. Git keeps both, and so each version.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from kmnist_pipeline.commands import additions
from kmnist_pipeline.config import menu
from kmnist_pipeline.data import dataset
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import outs, paths
from kmnist_pipeline.importing import difference
from kmnist_pipeline.importing.content import Content, Options
from kmnist_pipeline.repository import dvc, locks
from kmnist_pipeline.repository.revision import Revision

META = "import"  # the key of the options in the .dvc file
UNKNOWN = "0" * 64
HEAD = """\
# Written by `kmnist import`, which replaces shape, pixel_max, classes and imported when the source
# has changed; title and licence are yours. DVC tracks the file of the images.
title: {name}
licence: "unknown: state it here"
"""


@dataclass(frozen=True)
class Earlier:
    """The version that an import replaces.

    options: those of its import; version: its images, or None if DVC's cache lacks the file.
    """

    options: Options
    version: difference.Version | None


State = list[bytes | None]


def state(name: str) -> State:
    """What tells the version of a dataset: the content of its description and of DVC's pointer.

    Raises UserError if the name is impossible.
    """
    additions.require_named("dataset", name)
    files = (additions.file("dataset", name), Path(f"{paths.imported(name)}.dvc"))
    return [file.read_bytes() if file.exists() else None for file in files]


def earlier(name: str) -> Earlier | None:
    """The imported version of a dataset that is here; None if there is no dataset of this name.

    A description may be left of a dataset that has been removed. Raises UserError if the dataset
    has not been imported.
    """
    file = additions.file("dataset", name)
    if not file.exists():
        additions.require_new("dataset", name)
        return None
    if "imported" not in _described(file):
        raise UserError(f"{file}: this dataset was not imported; choose another name")
    pointer = Path(f"{paths.imported(name)}.dvc")
    on_menu = ("dataset", name) in menu.items(additions.MENU.read_text("utf-8"))
    if not pointer.exists() and not on_menu:
        return None
    about = locks.load(pointer.read_text("utf-8"), str(pointer)) if pointer.exists() else {}
    options = Options.of_plain((about.get("meta") or {}).get(META) or {})
    return Earlier(options, _version(paths.imported(name), pointer))


def _described(file: Path) -> Any:
    """The description of a dataset, with its comments and quotes."""
    yaml = YAML()
    yaml.preserve_quotes = True
    locks.load(file.read_text("utf-8"), str(file))  # refuses what is no map
    return yaml.load(file.read_text("utf-8"))


def _version(path: str, pointer: Path) -> difference.Version | None:
    """The images that DVC tracks, read from its cache, or else from the workspace."""
    here = Revision("the workspace")
    known = here.cached(path, locks.pointed(pointer)) if pointer.exists() else {}
    if not known:
        return None
    with np.load(known[path], allow_pickle=False) as arrays:
        classes = [str(text) for text in arrays["classes"]]
        return difference.version(arrays["images"], arrays["labels"], arrays["test"], classes)


def of(content: Content) -> difference.Version:
    """The version that this content would be."""
    return difference.version(
        content.images, content.labels, content.test, content.classes, content.names
    )


def is_again(name: str, content: Content) -> bool:
    """Whether this content is, byte for byte, that of the version that `conf/` describes."""
    about = _described(additions.file("dataset", name))["imported"]
    return bool(about.get("sha256") == _sha256(content))


def left_undone(name: str, content: Content) -> list[str]:
    """The files that an interrupted import of this content has not written, or that are lost."""
    files = [*map(str, describe(name, content, _sha256(content)).files)]
    return files if Path(paths.imported(name)).exists() else [paths.imported(name), *files]


def _sha256(content: Content) -> str:
    with tempfile.TemporaryFile() as file:
        _save(file, content)
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _save(file: Any, content: Content) -> None:
    dataset.save(file, content.images, content.labels, content.train, content.test, content.classes)


def write(name: str, content: Content, options: Options, before: State) -> list[str]:
    """Write the dataset: its file and DVC's pointer to it, its description, menu and parameters.

    If anything fails or is interrupted, all of them are as before. Returns the written files.
    before: the `state` that this replaces; raises UserError if it is another one by now.
    """
    file = Path(paths.imported(name))
    pointer = Path(f"{file}.dvc")
    with additions.alone():
        if state(name) != before:
            raise UserError(
                f"nothing was written: another command has changed the dataset {name} meanwhile; "
                "import again to see the difference"
            )
        describe(name, content, UNKNOWN)  # what the configuration refuses is refused before
        addition = _write(file, pointer, name, content, options)
    return [str(file), str(pointer), *map(str, addition.files)]


def _write(
    file: Path, pointer: Path, name: str, content: Content, options: Options
) -> additions.Addition:
    with _replaced(file), additions.restored(pointer):
        with outs.writing(file) as opened:
            _save(opened, content)
        with file.open("rb") as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
        with dvc.opened() as repo:
            repo.scm_context.quiet = True  # it would name the files that Git does not have yet
            (stage,) = repo.add([str(file)])
            stage.meta = {**(stage.meta or {}), META: options.plain()}
            stage.dump()
        addition = describe(name, content, sha256)
        addition.write()
    return addition


@contextmanager
def _replaced(file: Path) -> Iterator[None]:
    """Keep a file aside, and put it back if the block ends with an error."""
    aside = file.parent / f"{outs.BEGINS}{file.name}{outs.ENDS}"
    if file.exists():
        os.replace(file, aside)
        os.utime(aside)  # old unfinished files are removed
    try:
        yield
    except BaseException:
        file.unlink(missing_ok=True)
        if aside.exists():
            os.replace(aside, file)
        raise
    aside.unlink(missing_ok=True)


def describe(name: str, content: Content, sha256: str) -> additions.Addition:
    """The description of a dataset in `conf/`, with the title and licence that it has already."""
    file = additions.file("dataset", name)
    yaml = YAML()
    yaml.width = 100
    about: Any = _described(file) if file.exists() else yaml.load(HEAD.format(name=name))
    about["shape"] = _in_one_line(content.images.shape[1:])
    about["pixel_max"] = content.pixel_max
    # In quotes, because `no` and `010` would be read as something else.
    about["classes"] = _in_one_line(map(DoubleQuotedScalarString, content.classes))
    about["imported"] = {
        "file": paths.imported(name),
        "sha256": sha256,
        "train": len(content.train),
        "test": len(content.test),
    }
    text = io.StringIO()
    yaml.dump(about, text)
    return additions.plan({("dataset", name): text.getvalue()})


def _in_one_line(values: Iterable[Any]) -> CommentedSeq:
    listed = CommentedSeq(values)
    listed.fa.set_flow_style()
    return listed

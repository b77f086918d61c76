"""What changes the key of a fit, and what does not."""

from __future__ import annotations

import ast
import dataclasses
import importlib.metadata
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.small_fits import SETTINGS, a_fit, data_of, images, run, task_of

from kmnist_pipeline import arithmetic
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.families.base import Checkpoint, Data, Fit
from kmnist_pipeline.families.modules import NEUTRAL
from kmnist_pipeline.families.registry import FAMILIES
from kmnist_pipeline.fits import key, tasks, work


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package to change the code of."""
    return Path(shutil.copytree(key.PACKAGE, tmp_path / key.PACKAGE.name))


def modules() -> Iterator[tuple[str, str]]:
    for family in FAMILIES:
        for path in key.code(family, SETTINGS[family]):
            yield family, path


@pytest.mark.parametrize(("family", "path"), list(modules()))
def test_one_number_changes_the_key_and_words_do_not(family: str, path: str, package: Path):
    settings, file = SETTINGS[family], package / path
    before = key.code(family, settings, package)
    assert before == key.code(family, settings)
    text = file.read_text()
    assert text.startswith('"""')
    words = re.sub(r'"""(.*?)"""', '"""Other words."""', text, count=1, flags=re.DOTALL)
    file.write_text(f"# a comment\n{words}\nimport os as another\n")
    assert key.code(family, settings, package) == before
    constants = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant)]
    number = next((n for n in constants if type(n.value) in (int, float)), None)
    if number is None:
        file.write_text(f"{text}\nNUMBER = 1\n")
    else:
        lines = text.encode().splitlines(keepends=True)
        line = lines[number.lineno - 1]
        lines[number.lineno - 1] = line[: number.col_offset] + b"7" + line[number.col_offset :]
        file.write_bytes(b"".join(lines))
    assert key.code(family, settings, package) != before


def test_all_modules_of_a_family_are_in_its_key():
    for family in FAMILIES:
        found = key.code(family, SETTINGS[family])
        folder = key.PACKAGE / "families" / family
        own = {f"families/{family}/{file.name}" for file in folder.glob("*.py")}
        assert own <= found.keys()


def test_a_new_choice_changes_no_key(package: Path):
    before = key.code("cnn", SETTINGS["cnn"], package)
    for folder in FAMILIES["cnn"].choices:
        (package / "families/cnn" / folder / "another.py").write_text("NUMBER = 1\n")
    assert key.code("cnn", SETTINGS["cnn"], package) == before
    for folder, setting in FAMILIES["cnn"].choices.items():
        part, name = setting.split(".")
        settings = SETTINGS["cnn"] | {part: SETTINGS["cnn"][part] | {name: "another"}}
        assert f"families/cnn/{folder}/another.py" in key.code("cnn", settings, package)


@pytest.mark.parametrize(
    ("family", "file", "old", "new"),
    [
        ("sklearn", "model.py", "import Logistic", "import Perceptron as Logistic"),
        ("linear", "train.py", "import numpy as np", "import numpy.ma as np"),
        ("cnn", "layers.py", "from torch import Tensor, nn", "from torch.ao import nn, Tensor"),
        ("cnn", "architectures/simple.py", "import head", "import ResidualBlock as head"),
    ],
)
def test_what_a_name_is_bound_to_is_in_the_key(family, file, old, new, package):
    before = key.code(family, SETTINGS[family], package)
    module = package / "families" / family / file
    text = module.read_text()
    assert old in text
    module.write_text(text.replace(old, new))
    after = key.code(family, SETTINGS[family], package)
    assert {path for path in before if before[path] != after[path]} == {f"families/{family}/{file}"}


@pytest.mark.parametrize(
    "imported", ["from . import {}", "from .{} import NUMBER", "from ..adams.{} import *"]
)
def test_modules_are_followed_whatever_way_they_are_imported(imported, package):
    folder = package / "families/cnn/optimizers"
    name = "helper"
    if ".." in imported:
        folder, name = package / "families/cnn/adams", "another"
        folder.mkdir()
    (folder / f"{name}.py").write_text("NUMBER = 1\n")
    adam = package / "families/cnn/optimizers/adam.py"
    adam.write_text(f"{adam.read_text()}\n{imported.format(name)}\n")
    before = key.code("cnn", SETTINGS["cnn"], package)
    (folder / f"{name}.py").write_text("NUMBER = 2\n")
    after = key.code("cnn", SETTINGS["cnn"], package)
    (changed,) = {path for path in before if before[path] != after[path]}
    assert changed == (folder / f"{name}.py").relative_to(package).as_posix()


def test_editor_files_are_ignored_and_a_broken_module_is_reported(package: Path):
    folder = package / "families/linear"
    before = key.code("linear", SETTINGS["linear"], package)
    (folder / ".#train.py").symlink_to("someone@somewhere")
    assert key.code("linear", SETTINGS["linear"], package) == before
    (folder / "half.py").write_text("def half(:\n")
    with pytest.raises(UserError, match=r"linear/half.py:1: not valid Python: "):
        key.code("linear", SETTINGS["linear"], package)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_code_that_runs_in_a_fit_is_in_its_key(family: str):
    data = images()
    fit = a_fit(family, data)
    run(fit, data)  # imports are done with
    executed: set[str] = set()

    def trace(frame: Any, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if file.startswith(str(key.PACKAGE)):
            executed.add(Path(file).relative_to(key.PACKAGE).as_posix())

    sys.setprofile(trace)
    try:
        run(fit, data)
    finally:
        sys.setprofile(None)
    assert executed - NEUTRAL <= key.code(family, fit.settings).keys()
    assert f"families/{family}/train.py" in executed


@pytest.mark.parametrize("family", FAMILIES)
def test_settings_arrays_libraries_and_arithmetic_change_the_key(family: str, monkeypatch):
    data = images()
    fit, digest = a_fit(family, data), key.digest(data_of(data))
    known = {key.key(fit, digest)}

    def is_new(fit: Fit, digest: str = digest) -> None:
        found = key.key(fit, digest)
        assert found not in known
        known.add(found)

    assert key.key(a_fit(family, data), digest) in known
    for part, values in fit.settings.items():
        for name in values or {}:
            if f"{part}.{name}" not in FAMILIES[family].choices.values():
                is_new(a_fit(family, data, settings=fit.settings | {part: values | {name: 7}}))
    is_new(a_fit(family, data, seed=1))
    is_new(a_fit(family, data, fold=1))
    for name in ("training", "validation", "shift", "scale"):
        is_new(a_fit(family, data, **{name: getattr(fit, name) + 1}))
    pixels = data.pixels.copy()
    pixels[3, 2, 1] += 1
    is_new(fit, key.digest(Data(pixels, data.labels, 3)))
    is_new(fit, key.digest(Data(data.pixels, data.labels[::-1], 3)))
    version = importlib.metadata.version
    for library in FAMILIES[family].libraries:
        monkeypatch.setattr(
            importlib.metadata,
            "version",
            lambda name, changed=library: "0.1" if name == changed else version(name),
        )
        is_new(fit)
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(key, "FORMAT", key.FORMAT + 1)
    is_new(fit)
    monkeypatch.setitem(arithmetic.THREADS, "OMP_NUM_THREADS", "3")
    is_new(fit)
    monkeypatch.setattr(arithmetic, "name", lambda: "native")
    is_new(fit)


def test_a_setting_that_is_null_changes_no_key():
    fit, digest = a_fit("cnn", images()), key.digest(data_of(images()))
    trainer = fit.settings["trainer"] | {"new": None}
    wider = dataclasses.replace(fit, settings=fit.settings | {"trainer": trainer})
    assert key.key(wider, digest) == key.key(fit, digest)


def test_a_worker_counts_what_it_has_loaded(monkeypatch):
    data = images()
    fit = a_fit("linear", data)
    tasks.surroundings("linear", fit.settings)
    code = key.code("linear", fit.settings) | {"families/linear/model.py": "edited"}
    monkeypatch.setattr(key, "code", lambda *_: dict(code))
    edited = work.decode(work.encode(task_of(fit, data_of(data))))
    with pytest.raises(work.RefusedError) as refused:
        work.train(edited, data_of(data), Checkpoint(), lambda _: None)
    mine = key.surroundings("linear", fit.settings)
    assert work.differences(mine, refused.value.surroundings) == [
        "another families/linear/model.py"
    ]


def test_another_build_of_a_library_changes_no_key(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.13.0+cpu")
    assert key.libraries("cnn") == {"numpy": "2.13.0", "torch": "2.13.0"}

"""The files of a registered version: weights, code that reads them, evidence and a model card."""

from __future__ import annotations

import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kmnist_pipeline.evidence import outs
from kmnist_pipeline.evidence.lineage import digest
from kmnist_pipeline.families.registry import FAMILIES
from kmnist_pipeline.serving import fingerprint
from kmnist_pipeline.serving.candidates import Candidate
from kmnist_pipeline.serving.classifier import Answer

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

LINEAGE = "kmnist.lineage"  # the tag of a version and of a run
BUNDLE, WEIGHTS = "bundle", "model.safetensors"
PACKAGE = Path(__file__).parents[1]
# The modules that a version needs, besides the model families.
CODE = (
    "arithmetic.py",
    "data/__init__.py",
    "data/pictures.py",
    "data/placement.py",
    "errors.py",
    "evaluation/__init__.py",
    "evaluation/acceptance.py",
    "evaluation/routing.py",
    "families/__init__.py",
    "families/registry.py",
    "families/file.py",
    "families/trained.py",
    "serving/__init__.py",
    "serving/character.py",
    "serving/classifier.py",
    "serving/fingerprint.py",
)
# What a version needs, besides the libraries of its family.
LIBRARIES = {"pillow", "safetensors", "scikit-image", "scipy"}


def saved(folder: Path, model: Candidate, lineage: str, about: str, logged: LoggedModel) -> Path:
    """Write a version to a folder: code as files, weights as safetensors, nothing pickled.

    about: its card; logged: the model in MLflow that it becomes. Returns the folder of the version.
    """
    import pandas as pd
    from mlflow.models import Model, infer_signature
    from mlflow.pyfunc import save_model
    from mlflow.types import Schema, TensorSpec

    from kmnist_pipeline.commands import status

    bundle = folder / BUNDLE
    bundle.mkdir()
    shutil.copy(model.weights, bundle / WEIGHTS)
    keys = ("name", "classes", "shape", "pixel_max", "placement")
    dataset = {name: model.placed[name] for name in keys}
    for name, content in {
        "about": {"model": model.name, "dataset": dataset, "lineage": lineage},
        "validation": model.validation,
        "test": model.test,
    }.items():
        (bundle / f"{name}.json").write_bytes(outs.json_bytes(content))
    (bundle / "README.md").write_text(about, encoding="utf-8")

    example = np.zeros((1, *model.dataset["shape"]), np.uint8)
    answers = [Answer(0, "", "", 0.0, decision) for decision in ("review", None)]
    rows = pd.DataFrame([{**vars(answer), "prepared": ""} for answer in answers])
    version = folder / "saved"
    libraries = sorted(LIBRARIES | {*FAMILIES[model.family].libraries})
    package, served = _code(folder, model.family)
    # The warnings about type hints and integers are not needed.
    with warnings.catch_warnings(record=True), _importable(package):
        signature = infer_signature(example, rows, {"as_is": False})
        any_size = (-1, -1, -1, *model.dataset["shape"][2:])
        signature.inputs = Schema([TensorSpec(example.dtype, any_size)])
        save_model(
            str(version),
            python_model=str(served),
            artifacts={BUNDLE: str(bundle)},
            code_paths=[str(package)],
            signature=signature,
            input_example=example,
            pip_requirements=[f"{name}=={status.installed(name)}" for name in libraries],
            mlflow_model=Model(
                run_id=logged.source_run_id,
                model_id=logged.model_id,
                metadata={LINEAGE: lineage, fingerprint.BUNDLE: fingerprint.of(bundle)},
            ),
        )
    return version


@contextmanager
def _importable(package: Path) -> Iterator[None]:
    """Make a package importable within the block, because MLflow tries the code that it saves."""
    sys.path.insert(0, str(package.parent))
    try:
        yield
    finally:
        sys.path.remove(str(package.parent))
        for name in [name for name in sys.modules if name.split(".")[0] == package.name]:
            del sys.modules[name]


def _code(folder: Path, family: str) -> tuple[Path, Path]:
    """A copy of the modules that a version needs, and of the module that MLflow loads.

    A process has only one package of a name. So the copy has a name that only equal code has, and
    several versions, and the package itself, can be loaded in one process.
    """
    copy = folder / "code"
    for name in (*CODE, f"families/{family}"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        if (PACKAGE / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(PACKAGE / name, copy / name, ignore=ignored)
        else:
            shutil.copy(PACKAGE / name, copy / name)
    (copy / "__init__.py").write_text('"""The code of a registered model."""\n', encoding="utf-8")
    package = copy.rename(folder / f"{PACKAGE.name}_{digest(copy)[:12]}")
    served = Path(shutil.copy(PACKAGE / "serving/served.py", folder))
    for file in (*package.rglob("*.py"), served):
        text = file.read_text("utf-8")
        file.write_text(re.sub(rf"\b{PACKAGE.name}\b", package.name, text), encoding="utf-8")
    return package, served

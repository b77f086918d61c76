"""Model files: tensors by name and one JSON text of metadata, in safetensors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from kmnist_pipeline.errors import UserError

KEY = "kmnist"


class ModelFileError(UserError, ValueError):
    """A file that is not a model file of this project."""


def encode(tensors: dict[str, np.ndarray], metadata: dict) -> bytes:
    """The bytes of a model file; equal content gives equal bytes.

    All metadata goes under one key, because safetensors writes several in no fixed order.
    """
    contiguous = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    return save(contiguous, {KEY: json.dumps(metadata, sort_keys=True)})


def decode(content: bytes) -> tuple[dict[str, np.ndarray], dict]:
    """The tensors and metadata of a model file.

    Raises ModelFileError if the bytes are not a model file.
    """
    try:
        tensors = load(content)
        size = int.from_bytes(content[:8], "little")
        return tensors, json.loads(json.loads(content[8 : 8 + size])["__metadata__"][KEY])
    except (SafetensorError, KeyError, ValueError) as error:
        raise ModelFileError(f"not a model file of this project: {error}") from error


def read(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """The tensors and metadata of the model file at `path`. Raises ModelFileError with the path."""
    try:
        return decode(path.read_bytes())
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error


def name(trial: int, seed: int, tensor: str, fold: int | None = None) -> str:
    """The name in the file of a trial's tensor of one seed; fold: None if only one is kept."""
    return f"trial{trial}.seed{seed}.{'' if fold is None else f'fold{fold}.'}{tensor}"


def select(
    tensors: dict[str, np.ndarray], trial: int, seed: int, fold: int | None = None
) -> dict[str, np.ndarray]:
    """The tensors of one trial and seed, by their own names; fold: None if only one is kept."""
    prefix = name(trial, seed, "", fold)
    return {key.removeprefix(prefix): tensors[key] for key in tensors if key.startswith(prefix)}

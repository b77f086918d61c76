"""The part of a model file that predicts, small enough for Git."""

from __future__ import annotations

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.families import file

LIMIT = 3_000_000  # bytes


def of(content: bytes, path: str) -> bytes:
    """The model file of the winner's first seed alone, which represents all seeds.

    content: a whole model file; path: where the part goes. The part has the weights of the kept
    fold, or of all folds of an ensemble. So its predictions are those of the whole file. Raises
    ModelFileError if the content is not a model file, and UserError if the part has more than LIMIT
    bytes.
    """
    tensors, about = file.decode(content)
    trial = about["winner"]
    settings = about["trials"][trial]["validation"]
    folds = range(settings["folds"]) if settings.get("ensemble") else [None]
    part = {
        file.name(0, 0, name, fold): tensor
        for fold in folds
        for name, tensor in file.select(tensors, trial, 0, fold).items()
    }
    of_part = {
        "seeds": about["seeds"][:1],
        "trials": [about["trials"][trial]],
        "kept_folds": [about["kept_folds"][trial][:1]],
        "winner": 0,
    }
    found = file.encode(part, {**about, **of_part})
    if len(found) > LIMIT:
        raise UserError(
            f"{path} would have {len(found):,} bytes, and at most {LIMIT:,} go into Git: set "
            f"`trainer.stored: float16`, which halves those of a network, or take {about['name']} "
            "out of `weights` in conf/config.yaml"
        )
    return found

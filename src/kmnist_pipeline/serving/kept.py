"""The new images that people have decided about: in a file of which DVC keeps each version."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from kmnist_pipeline.data import reviews
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import lineage, outs
from kmnist_pipeline.repository import locks
from kmnist_pipeline.repository.revision import Revision


def keep(file: Path, shape: Sequence[int]) -> bool:
    """Give DVC the images that its version of `file` lacks; returns whether there are any.

    DVC's version may have other images, such as those of a colleague: then `file` gets them too.
    Raises UserError if they are not here, because the next version would be without them, and with
    DVC's reason if it refuses the file.
    """
    pointer = Path(f"{file}.dvc")
    if pointer.exists():
        md5 = locks.pointed(pointer)
        if not file.exists():
            raise UserError(f"{file} does not exist, but {pointer} does: `dvc pull {file}` first")
        content = file.read_bytes()
        if lineage.digest_of_bytes(content) == md5:
            return False
        _add_images(file, shape, content, _version(file, md5))
    elif not file.exists():
        return False
    command = ["kmnist_pipeline.cli.dvc", "add", str(file)]
    done = subprocess.run(
        [sys.executable, "-m", *command], check=False, capture_output=True, encoding="utf-8"
    )
    if done.returncode:
        raise UserError(
            f"{file}: the images stay in this file, and the next start of `kmnist review` gives "
            f"them to DVC, which says: {done.stderr.strip().removeprefix('ERROR: ')}"
        )
    return True


def _version(file: Path, md5: str) -> bytes:
    """What DVC has of a file, from its cache."""
    cached = Revision("the workspace").cached(str(file), md5)
    if not cached:
        raise UserError(
            f"{file}: is another version than {file}.dvc says (md5 {md5[:12]}...), which is not "
            f"here: `dvc fetch {file}` first; your images stay and theirs are added"
        )
    return cached[str(file)].read_bytes()


def _add_images(file: Path, shape: Sequence[int], ours: bytes, theirs: bytes) -> None:
    images = [
        *reviews.images_of(ours, str(file), shape),
        *reviews.images_of(theirs, f"DVC's version of {file}", shape),
    ]
    distinct = {reviews.digest(image): image for image in images}
    outs.write_bytes(file, reviews.images_bytes([*distinct.values()]))

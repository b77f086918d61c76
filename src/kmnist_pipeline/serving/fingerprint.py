"""One digest of all files of a registered version, which shows whether one has changed.

It imports nothing from this project: a registered version has a copy, and a script runs it.
"""

import hashlib
from pathlib import Path

BUNDLE = "kmnist.bundle"  # the name of the digest of a bundle, which its version carries
ADDED = "registered_model_meta"  # MLflow writes it when it downloads a version


def of(folder: Path) -> str:
    """The sha256 of the names and contents of the files in a folder, without Python's caches."""
    whole = hashlib.sha256()
    for name in sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")):
        file = folder / name
        if file.is_file() and name != ADDED and "__pycache__" not in file.parts:
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            whole.update(f"{content} {name}\n".encode())
    return whole.hexdigest()

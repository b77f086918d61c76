"""What Git remembers: files and trees as they stood at a commit."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator

from kmnist_pipeline.errors import UserError


def git(*arguments: str, stdin: bytes | None = None) -> bytes:
    """What a git command prints. Raises UserError with git's own words where it fails."""
    try:
        done = subprocess.run(["git", *arguments], input=stdin, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise UserError("git is not installed, or not in PATH") from error
    if done.returncode:
        raise UserError(f"git {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def commit(revision: str) -> str:
    """The full id of the commit that a revision names."""
    try:
        return git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").decode().strip()
    except UserError as error:
        raise UserError(f"{revision} is not a commit of this repository") from error


def commit_or_experiment(revision: str) -> tuple[str, str | None]:
    """The full id of a commit, and the name of the experiment of `dvc exp` that it holds, if any.

    revision: what git knows a commit by, or the name of an experiment.
    """
    try:
        found = [commit(revision)]
    except UserError:
        listing = git("for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{revision}")
        found = listing.decode().split()
    if not found:
        raise UserError(f"{revision} is neither a commit nor an experiment of this repository")
    if len(found) > 1:
        raise UserError(f"several experiments are called {revision}: {', '.join(found)}")
    names = git("for-each-ref", "--format=%(refname)", "--points-at", found[0], "refs/exps/*/*/*")
    return found[0], next((name.rpartition("/")[2] for name in names.decode().split()), None)


def tree(revision: str, *paths: str) -> dict[str, str]:
    """Blob ids by path of all files at a revision, or of those under the given paths."""
    listing = git("ls-tree", "-r", "-z", "--full-tree", revision, "--", *paths).decode()
    rows = (row.split("\t", 1) for row in listing.split("\0") if row)
    return {path: about.split()[2] for about, path in rows}


def blobs(ids: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Contents of blobs, each with its id, in the order asked, by one git process."""
    wanted = list(ids)
    output = git("cat-file", "--batch", stdin="".join(f"{name}\n" for name in wanted).encode())
    position = 0
    for name in wanted:
        end = output.index(b"\n", position)
        header = output[position:end].split()
        if len(header) != 3:
            raise UserError(f"git has no object {name}")
        size = int(header[2])
        yield name, output[end + 1 : end + 1 + size]
        position = end + 1 + size + 1


def read(revision: str, path: str) -> bytes:
    """A file as it stood at a revision. Raises UserError where there was none."""
    try:
        return git("cat-file", "blob", f"{revision}:{path}")
    except UserError as error:
        raise UserError(f"there is no {path} at {revision}") from error

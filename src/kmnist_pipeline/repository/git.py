"""Commits, and the files and folders in them.

Paths are relative to the current folder, which may be any folder of a repository.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kmnist_pipeline.errors import UserError

EMPTY = "nothing is committed yet: `git add --all && git commit -m start`"
RESTORE = "git checkout HEAD --"  # the command that gives files their committed content
LISTING = 1 << 24  # bytes of the file names of a tree


class NotFoundError(UserError):
    """The repository does not have what a git command was asked for."""


def run(
    *arguments: str, stdin: bytes | None = None, environment: dict[str, str] | None = None
) -> bytes:
    """The output of a git command. Raises UserError with git's message if it fails."""
    english = {**(os.environ if environment is None else environment), "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", *arguments], input=stdin, capture_output=True, check=False, env=english
        )
    except FileNotFoundError as error:
        raise UserError("git is not installed, or not in PATH") from error
    if not done.returncode:
        return done.stdout
    message = _said(done.stderr)
    if "not a git repository (or any" in message:
        raise UserError(
            f"{Path.cwd()} is not in a Git repository, as after unpacking a ZIP archive: clone the "
            "repository instead, or make one: `git init && git add --all && git commit -m start`"
        )
    if "bad revision 'HEAD'" in message:
        raise UserError(EMPTY)
    if not message:
        command = shlex.join(["git", *arguments])
        raise NotFoundError(f"`{command}` ended with status {done.returncode} and no message")
    raise UserError(f"git {_subcommand(arguments)}: {message}")


def _said(stderr: bytes) -> str:
    """Git's message. It indents commands to copy with tabs, which would be shown escaped."""
    return stderr.decode(errors="replace").strip().expandtabs()


def _subcommand(arguments: tuple[str, ...]) -> str:
    """The name of the command, which options of Git itself may precede."""
    rest = list(arguments)
    while len(rest) > 1 and rest[0].startswith("-"):
        del rest[: 2 if rest[0] in ("-c", "-C") else 1]
    return rest[0]


def environment_elsewhere() -> dict[str, str]:
    """This process's environment for a command in another repository.

    It lacks the variables that name this repository, such as GIT_DIR; Git sets them in hooks.
    """
    names = run("rev-parse", "--local-env-vars").decode().split()
    return {name: value for name, value in os.environ.items() if name not in names}


def paths(*arguments: str) -> list[str]:
    """The paths, or other fields, that a git command with `-z` prints."""
    return [path for path in os.fsdecode(run(*arguments)).split("\0") if path]


def commit(revision: str) -> str:
    """The full id of the commit that a revision names. Raises NotFoundError if there is none."""
    try:
        return run("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").decode().strip()
    except NotFoundError as error:
        if revision == "HEAD":
            problem = EMPTY
        else:
            problem = f"{revision} is not a commit of this repository{if_shallow('; ')}"
        raise NotFoundError(problem) from error


def hash_name() -> str:
    """The hash of this repository's object ids: sha1 or sha256."""
    return run("rev-parse", "--show-object-format").decode().strip()


def if_shallow(before: str = "") -> str:
    """If this clone lacks commits that the repository has: `before`, and how to get them."""
    if run("rev-parse", "--is-shallow-repository").strip() != b"true":
        return ""
    return f"{before}this clone does not have all commits: `git fetch --unshallow` gets them"


@dataclass(frozen=True)
class Commit:
    """A commit: full id, date (ISO 8601), the names that point at it, first line of its message."""

    id: str
    date: str
    names: str
    subject: str

    @property
    def is_head(self) -> bool:
        """Whether the commit is checked out."""
        return any(name.partition(" -> ")[0] == "HEAD" for name in self.names.split(", "))


def commits() -> list[Commit]:
    """All commits that HEAD or a ref reaches, with DVC's experiments, the newest first."""
    fields = "%H%x1f%cI%x1f%D%x1f%s"
    log = run("log", "--all", "-z", "--no-show-signature", "--encoding=UTF-8", f"--format={fields}")
    rows = log.decode(errors="replace").split("\0")
    return [Commit(*row.split("\x1f", 3)) for row in rows if row]


def objects(revisions: Iterable[str], path: str) -> dict[str, str]:
    """The ids of a file or folder by revision, without revisions that lack it."""
    wanted = list(revisions)
    asked = "".join(f"{revision}:./{path}\n" for revision in wanted)
    answers = run("cat-file", "--batch-check=%(objectname)", stdin=asked.encode()).decode()
    pairs = zip(wanted, answers.splitlines(), strict=True)
    return {revision: answer for revision, answer in pairs if " " not in answer}


def restoring(file: str, made_by: str) -> str:
    """How a missing or damaged file comes back: from HEAD if it has the file.

    made_by: the command that makes it otherwise.
    """
    try:
        committed = bool(objects(["HEAD"], file))
    except UserError:  # no repository, or no commit
        committed = False
    return f"`{RESTORE} {file}` restores it" if committed else f"`{made_by}` makes it"


def places(blobs: Iterable[str]) -> dict[str, set[str]]:
    """The paths that blobs have ever had, in any commit."""
    found: dict[str, set[str]] = {blob: set() for blob in blobs}
    if not found:
        return {}
    fields = paths(
        *("log", "--all", "--root", "-m", "-z", "--no-show-signature", "--no-renames"),
        *("--format=", "--raw", "--no-abbrev", "--relative"),
        *(f"--find-object={blob}" for blob in found),
    )
    for about, path in zip(fields[::2], fields[1::2], strict=True):
        for blob in about.split()[2:4]:
            if blob in found:
                found[blob].add(path)
    return found


def commit_or_experiment(revision: str) -> tuple[str, str | None]:
    """The full id of a commit, and the name of the experiment of `dvc exp` that it is, if any.

    revision: any name of a commit, or the name of an experiment.
    """
    try:
        found = [commit(revision)]
    except NotFoundError:
        listing = run("for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{revision}")
        found = listing.decode().split()
    if not found:
        problem = f"{revision} is neither a commit nor an experiment of this repository"
        raise UserError(problem + if_shallow("; "))
    if len(found) > 1:
        raise UserError(f"several experiments have the name {revision}: {', '.join(found)}")
    names = run("for-each-ref", "--format=%(refname)", "--points-at", found[0], "refs/exps/*/*/*")
    return found[0], next((name.rpartition("/")[2] for name in names.decode().split()), None)


def tree(name: str) -> dict[str, str]:
    """The blob ids by path of all files in a tree; name: the tree's id, or `<commit>:./`.

    Raises UserError if it lists too much: trees that hold each other many times are small, and
    their listing fills any memory.
    """
    command = ["git", "ls-tree", "-r", "-z", "--full-tree", name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        listing = process.stdout.read(LISTING + 1)
        if len(listing) > LISTING:
            process.kill()
            raise UserError(f"{name} lists more than {LISTING >> 20} MiB of file names")
        problem = _said(process.stderr.read())
    if process.returncode:
        raise UserError(f"git ls-tree: {problem}")
    rows = (row.split("\t", 1) for row in os.fsdecode(listing).split("\0") if row)
    entries = ((about.split(), path) for about, path in rows)
    return {path: about[2] for about, path in entries if about[1] == "blob"}


def sizes(ids: Iterable[str]) -> dict[str, int]:
    """The size in bytes of each of these blobs, which are not read."""
    asked = "".join(f"{name}\n" for name in ids).encode()
    answers = run("cat-file", "--batch-check=%(objectname) %(objectsize)", stdin=asked).decode()
    rows = (answer.split() for answer in answers.splitlines())
    return {name: int(size) for name, size in rows}


def workspace(*places: str) -> dict[str, str]:
    """The blob ids by path of files and of folders' files on disk, without those Git ignores."""
    kinds = ("--cached", "--others", "--exclude-standard")
    listing = dict.fromkeys(paths("ls-files", "-z", *kinds, "--", *places))
    files = [file for file in listing if Path(file).is_file()]
    top, here = place()  # hash-object needs paths from the top
    names = os.fsencode("".join(f"{_quoted(here + file)}\n" for file in files))
    ids = run("-C", str(top), "hash-object", "--stdin-paths", stdin=names).decode().split()
    return dict(zip(files, ids, strict=True))


def _quoted(path: str) -> str:
    """A path on one line, as git reads it."""
    escaped = path.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'"{escaped}"'


def place() -> tuple[Path, str]:
    """The repository's top folder, and the path of the current folder from there.

    The path ends with a slash; it is empty if the current folder is the top.
    """
    lines = run("rev-parse", "--show-toplevel", "--show-prefix").decode().split("\n")
    return Path(lines[0]), lines[1]


def blobs(ids: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """The contents of blobs, each with its id, in the order of `ids`."""
    wanted = list(ids)
    output = run("cat-file", "--batch", stdin="".join(f"{name}\n" for name in wanted).encode())
    position = 0
    for name in wanted:
        end = output.index(b"\n", position)
        header = output[position:end].split()
        if len(header) != 3:
            raise UserError(f"git has no object {name}")
        size = int(header[2])
        yield name, output[end + 1 : end + 1 + size]
        position = end + 1 + size + 1

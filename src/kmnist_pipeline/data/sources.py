"""Getting the raw files of a dataset from the first source that has all of them.

A source is a mirror folder, a web address of gz files, OpenML's table of pixels, or scikit-learn's
digits. The same check covers all: `conf/dataset/` has the sha256 of the decoded IDX content. An
imported dataset has one source, the file that `kmnist import` has made, and its sha256.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import re
import shutil
import socket
import sys
import textwrap
import time
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import requests
import urllib3
from tqdm import tqdm

from kmnist_pipeline.data import idx
from kmnist_pipeline.errors import UserError

Dataset = dict[str, Any]  # as params.yaml describes it

MIRROR_VARIABLE = "KMNIST_PIPELINE_MIRROR"
DEFAULT_MIRROR = "../shared/datasets"
CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 30.0
ATTEMPTS = 4
BACKOFF = 1.0
CHUNK = 1 << 16
# Pixels and labels as bytes take an eighth of the memory of the default, and avoid the default's
# categories, with which scikit-learn 1.9.1 and pandas 3.1 fail (scikit-learn 34902).
OPENML_CSV = {"dtype": "uint8", "quotechar": "'"}
GZIP_MAGIC = b"\x1f\x8b"


class SourceError(UserError):
    """No source has the files; the message lists the answer of each, and says what to do."""


class NoFilesError(Exception):
    """A source does not have the files; the message is one line with its answer."""


class RepeatableError(Exception):
    """A request failed but may succeed if repeated; the message is one line with the reason."""


@dataclass(frozen=True)
class File:
    """One decoded IDX file of a dataset."""

    name: str
    size: int
    sha256: str

    @property
    def largest_gz(self) -> int:
        """An upper bound of the size of this file as gz, which may be larger than the content."""
        return self.size + self.size // 100 + 4096

    def check(self, content: bytes) -> bytes:
        """Returns `content`; raises NoFilesError if it is not the content of this file."""
        if len(content) > self.size:
            raise NoFilesError(f"{self.name} has more than the {self.size} bytes it should have")
        if len(content) < self.size:
            raise NoFilesError(f"{self.name} has {len(content)} bytes instead of {self.size}")
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise NoFilesError(
                f"{self.name} has sha256 {found[:12]}... instead of {self.sha256[:12]}..."
            )
        return content


def files(dataset: Dataset) -> list[File]:
    """The raw files of a dataset, images before labels of each part."""
    listed = []
    for part in dataset["parts"]:
        name, count = part["name"], part["count"]
        pixels = count * math.prod(dataset["shape"])
        listed.append(File(f"{name}-images-idx3-ubyte", 4 + 4 * 3 + pixels, part["images"]))
        listed.append(File(f"{name}-labels-idx1-ubyte", 4 + 4 * 1 + count, part["labels"]))
    return listed


def mirror_folder() -> Path:
    """The folder of local copies, a folder for each dataset; it is tried before the network."""
    return Path(os.environ.get(MIRROR_VARIABLE) or DEFAULT_MIRROR)


def copy_imported(content: Dataset, folder: Path) -> None:
    """Copy the file of an imported dataset to a folder, and check the copy.

    content: the file and its sha256. Raises SourceError with the remedies if the file does not
    exist, or is another version than the configuration says.
    """
    file = Path(content["file"])
    copy = folder / file.name
    force, problem = "", "does not exist"
    try:
        shutil.copyfile(file, copy)
        with copy.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if found == content["sha256"]:
            return
        force = " --force"
        problem = f"has sha256 {found[:12]}..., but conf/ says {content['sha256'][:12]}..."
    except FileNotFoundError:
        pass
    raise SourceError(
        f"{file} {problem}: `dvc checkout{force} {file}.dvc` takes it from the cache, "
        f"`dvc pull{force} {file}.dvc` from a remote, and `kmnist import {file.stem} SOURCE` "
        "makes it again"
    )


def fetch(name: str, dataset: Dataset, mirror: Path, partial_folder: Path) -> dict[str, bytes]:
    """The decoded and checked raw files of the dataset `name`, by file name.

    mirror: is tried first; its folder `name` has the files, packed (`.gz`) or not;
    partial_folder: keeps the received part of an interrupted download, which a later call resumes.
    Raises SourceError if neither the mirror nor any of the dataset's `sources` has all files.
    """
    local = mirror / name
    sources = [str(local), *dataset["sources"]] if local.is_dir() else dataset["sources"]
    refusals = [] if local.is_dir() else [f"{local}: no such folder"]
    for source in sources:
        try:
            return _ask(source, dataset, partial_folder)
        except NoFilesError as refused:
            refusals.append(f"{source}: {refused}")
            tqdm.write(f"{name}: {refusals[-1]}", file=sys.stderr)
    names = ", ".join(f"{file.name}.gz" for file in files(dataset))
    raise SourceError(
        f"no source has the raw files of {name}. Tried:\n"
        + "".join(f"  {refusal}\n" for refusal in refusals)
        + f"Put {names} (or the same files unpacked) into {local}, or into a folder "
        f"{name}/ of another mirror folder that {MIRROR_VARIABLE} names; or run `make demo`, which "
        "needs no network."
    )


def _ask(source: str, dataset: Dataset, partial_folder: Path) -> dict[str, bytes]:
    if re.match("https?://", source):
        return _from_web(source, dataset, partial_folder)
    if named := re.fullmatch("openml:(.+)/([0-9]+)", source):
        return _from_openml(named[1], int(named[2]), dataset, partial_folder / "openml")
    if source == "sklearn:digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        return _cut(dataset, digits.data, digits.target)
    if Path(source).is_dir():
        return _from_folder(Path(source), dataset)
    raise NoFilesError(
        "no such source; known are http(s)://..., openml:NAME/VERSION, sklearn:digits and a folder"
    )


def _from_folder(folder: Path, dataset: Dataset) -> dict[str, bytes]:
    found = {}
    for file in files(dataset):
        packed, plain = folder / f"{file.name}.gz", folder / file.name
        try:
            found[file.name] = _content(packed if packed.exists() else plain, file)
        except FileNotFoundError:
            raise NoFilesError(f"{packed.name} is not there") from None
        except EOFError:
            raise NoFilesError(f"{packed.name} is truncated") from None
        except OSError as error:
            raise NoFilesError(f"{file.name} cannot be read: {error.strerror}") from error
    return found


def _from_openml(name: str, version: int, dataset: Dataset, cache: Path) -> dict[str, bytes]:
    from sklearn.datasets import fetch_openml

    try:
        # The error below repeats scikit-learn's warnings (retries, a wrong digest).
        with _socket_timeout(READ_TIMEOUT), warnings.catch_warnings(action="ignore"):
            table = fetch_openml(
                name,
                version=version,
                as_frame=False,
                data_home=cache,
                n_retries=1,
                delay=BACKOFF,
                read_csv_kwargs=OPENML_CSV,
            )
            return _cut(dataset, table.data, table.target)
    except NoFilesError:
        raise
    # The parsers in fetch_openml may raise any exception for unexpected content. Each of them
    # means that this source does not have the dataset.
    except Exception as error:
        shutil.rmtree(cache, ignore_errors=True)
        raise NoFilesError(_one_line(f"{type(error).__name__}: {error}")) from error


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """A timeout for libraries that set none, and would wait forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _cut(dataset: Dataset, pixels: np.ndarray, labels: np.ndarray) -> dict[str, bytes]:
    """The files of a dataset from one table, where its parts follow one another."""
    expected = (sum(part["count"] for part in dataset["parts"]), math.prod(dataset["shape"]))
    if pixels.shape != expected or labels.shape != expected[:1]:
        raise NoFilesError(f"a table of {pixels.shape} and {labels.shape} instead of {expected}")
    arrays, start = [], 0
    for part in dataset["parts"]:
        rows = slice(start, start + part["count"])
        arrays.append(pixels[rows].astype(np.uint8).reshape(-1, *dataset["shape"]))
        arrays.append(labels[rows].astype(np.uint8))
        start += part["count"]
    return {
        file.name: file.check(idx.encode(array))
        for file, array in zip(files(dataset), arrays, strict=True)
    }


def _from_web(base: str, dataset: Dataset, partial_folder: Path) -> dict[str, bytes]:
    partial_folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for file in files(dataset):
        url = f"{base.rstrip('/')}/{file.name}.gz"
        # One file name for each address, so that no file mixes the bytes of two servers.
        server = hashlib.sha256(base.encode()).hexdigest()[:16]
        found[file.name] = _download(url, file, partial_folder / f"{server}-{file.name}.gz")
    return found


def _download(url: str, file: File, partial: Path) -> bytes:
    """The content of `file`; `partial` may have its beginning from an earlier run.

    The server may have changed its file since then. The digest shows this, so no ETag is needed:
    a file with wrong content is downloaded once more from the start.
    """
    reason, spoiled = "", False
    for attempt in range(ATTEMPTS + 1):
        partial.touch()
        if partial.stat().st_size:
            try:
                return _content(partial, file)
            except EOFError:
                reason = reason or f"{partial.stat().st_size} bytes, then the connection ended"
            except NoFilesError as refused:
                partial.write_bytes(b"")
                if spoiled:
                    raise
                reason, spoiled = str(refused), True
        if attempt < ATTEMPTS:
            time.sleep(BACKOFF * (2**attempt - 1))
            try:
                _receive(url, file, partial)
                reason = ""
            except RepeatableError as error:
                reason = str(error)
    raise NoFilesError(f"{file.name}.gz: {reason} ({ATTEMPTS} attempts)")


def _receive(url: str, file: File, partial: Path) -> None:
    """Request the rest of `partial` once, and append what arrives."""
    have = partial.stat().st_size
    # Without `identity` a server may compress the gz file again.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    timeout = (CONNECT_TIMEOUT, READ_TIMEOUT)
    try:
        with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
            _store(response, file, partial, have)
    except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
        raise RepeatableError(_cause(error)) from error
    except requests.RequestException as error:
        raise NoFilesError(f"{file.name}.gz: {_cause(error)}") from error


def _store(response: requests.Response, file: File, partial: Path, have: int) -> None:
    status = f"HTTP {response.status_code} {response.reason}"
    if response.status_code == 416:
        partial.unlink(missing_ok=True)
    if response.status_code in (408, 416, 429) or response.status_code >= 500:
        raise RepeatableError(status)
    if response.status_code not in (200, 206):
        raise NoFilesError(f"{file.name}.gz: {status}")

    have = have if response.status_code == 206 else 0
    announced = have + (response.raw.length_remaining or 0)
    chunks = response.raw.stream(CHUNK, decode_content=False)
    first = next(chunks, b"")
    if not first:
        raise RepeatableError(f"{status}, but an empty body")
    # Checked before writing: a login or error page must not overwrite what was received before.
    if have == 0 and not first.startswith(GZIP_MAGIC):
        kind = response.headers.get("Content-Type", "content of no stated type")
        raise NoFilesError(f"{file.name}.gz: {status}, but {kind} instead of gzip")
    # Unbuffered, so that a killed process leaves everything that it received.
    with (
        partial.open("ab" if have else "wb", buffering=0) as stored,
        tqdm(
            desc=f"{file.name}.gz",
            total=announced or None,
            initial=have,
            unit="B",
            unit_scale=True,
            leave=False,
            disable=None,
        ) as progress,
    ):
        for chunk in chain([first], chunks):
            have += len(chunk)
            if max(announced, have) > file.largest_gz:
                partial.unlink()
                raise NoFilesError(
                    f"{file.name}.gz: more than the {file.largest_gz} bytes it can have at most"
                )
            stored.write(chunk)
            progress.update(len(chunk))


def _content(path: Path, file: File) -> bytes:
    """The checked content, unpacked; raises EOFError if the end of a gz file is missing."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as opened:
            # One byte more than expected shows that the file is too large; the rest stays packed.
            return file.check(opened.read(file.size + 1))
    except (gzip.BadGzipFile, zlib.error) as error:
        raise NoFilesError(f"{file.name}.gz is not a valid gzip file: {error}") from error


def _cause(error: BaseException) -> str:
    """The original cause of an error that `requests` wraps several times."""
    while deeper := error.__cause__ or error.__context__:
        error = deeper
    return _one_line(str(error) or type(error).__name__)


def _one_line(text: str) -> str:
    return textwrap.shorten(text, 200, placeholder=" ...")

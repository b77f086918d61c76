"""One execution of a stage: where its outs go, and the origin that each of them states."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from kmnist_pipeline import arithmetic
from kmnist_pipeline.evidence import lineage, numbers, outs


@dataclass
class Stage:
    """One execution of a stage: its name, its lineage, and the folder of its outs.

    libraries: the names of those that affect the bytes of its outs; written: its outs; pinned:
    files that it read, whose sha256 is among its parameters, so that they are not dependencies.
    """

    kind: str
    item: str
    root: Path
    lineage: dict[str, Any] | None
    libraries: tuple[str, ...] = ()
    started: float = field(default_factory=time.time)
    written: list[str] = field(default_factory=list)
    pinned: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        """The stage's name in DVC."""
        return f"{self.kind}@{self.item}"

    @property
    def made_by(self) -> dict[str, Any]:
        """The origin of the outs, as every JSON out states it."""
        known = self.lineage or {"key": None, "params": {}, "deps": {}}
        data = {path: md5 for path, md5 in known["deps"].items() if path.startswith("data/")}
        return {
            "stage": self.address,
            "lineage": known["key"],
            "arithmetic": arithmetic.name(),
            "data": data,
            "code": {path: md5 for path, md5 in known["deps"].items() if path.startswith("src/")},
            "libraries": lineage.versions(self.libraries),
            "parameters": known["params"],
        }

    def png_text(self, caption: str, parameters: dict[str, Any]) -> dict[str, str]:
        """The text entries of a figure: caption, origin, and the parameters that made it."""
        origin = self.made_by
        return {
            "Caption": caption,
            "Stage": self.address,
            "Lineage": origin["lineage"] or "by hand",
            "Arithmetic": origin["arithmetic"],
            "Data": json.dumps(origin["data"], sort_keys=True),
            "Parameters": json.dumps(parameters, sort_keys=True),
        }

    def write(self, path: str, content: bytes) -> None:
        """Write one out."""
        outs.write_bytes(self.root / path, content)
        self.written.append(path)

    @contextmanager
    def writing(self, path: str) -> Iterator[BinaryIO]:
        """One out as an open file, which is complete when the block ends."""
        with outs.writing(self.root / path) as file:
            yield file
        self.written.append(path)

    def write_details(self, path: str, content: dict[str, Any]) -> None:
        """Write numbers that DVC does not compare, with their origin."""
        self.write(path, outs.json_bytes(numbers.encode({"made_by": self.made_by, **content})))

    def write_numbers(self, path: str, compared: dict[str, Any], details: dict[str, Any]) -> None:
        """Write the numbers that people compare, and the details in the same folder."""
        self.write(path, outs.json_bytes(compared))
        self.write_details(numbers.beside(path), details)

    def write_csv(self, path: str, header: list[str], rows: list) -> None:
        """Write a table."""
        self.write(path, outs.csv_bytes(header, rows))

    @contextmanager
    def directory(self, path: str) -> Iterator[Path]:
        """A directory out, which is complete when the block ends."""
        with outs.fresh_directory(self.root / path) as temporary:
            yield temporary
        self.written.append(path)

    @contextmanager
    def partial(self) -> Iterator[Path]:
        """A folder that a run with the same lineage key reuses within a day; removed on success."""
        partial = Path(".kmnist/partial")
        partial.mkdir(parents=True, exist_ok=True)
        outs.remove_leftovers(partial.iterdir())
        if self.lineage is None:  # a run by hand is never resumed
            with tempfile.TemporaryDirectory(prefix=f"{self.kind}-", dir=partial) as folder:
                yield Path(folder)
            return
        path = partial / self.lineage["key"]
        path.mkdir(exist_ok=True)
        yield path
        shutil.rmtree(path)

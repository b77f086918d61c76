"""A data set's files come from the web, a mirror folder or a table, or it is told why not."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.fault_server import FaultServer, serving
from support.noise import COUNTS, FIRST, PACKED, RAW, made
from support.project import ROOT

from kmnist_pipeline.data import idx, sources
from kmnist_pipeline.data.sources import Dataset

pytestmark = pytest.mark.usefixtures("impatient")


def fetch(dataset: Dataset, folder: Path) -> dict[str, bytes]:
    return sources.fetch("small", dataset, folder / "mirror", folder / "partial")


def partial(dataset: Dataset, folder: Path) -> Path:
    """Where the beginning of the first file is kept."""
    server = hashlib.sha256(dataset["sources"][0].encode()).hexdigest()[:16]
    return folder / "partial" / f"{server}-{Path(FIRST).name}"


def refusal(dataset: Dataset, folder: Path) -> str:
    with pytest.raises(sources.SourceError) as caught:
        fetch(dataset, folder)
    return str(caught.value)


# Over the web


@pytest.mark.parametrize(
    "faults",
    [
        "ok",
        "chunked",
        "truncate ok",
        "cut ok",
        "stall ok",
        "silent ok",
        "empty ok",
        "500 ok",
        "503 429 408 ok",
        "flip ok",
        "elsewhere ok",
        "truncate restart ok",
        "truncate other-range ok",
        "truncate overrun",
        "truncate flip ok",
        "truncate truncate truncate ok",
    ],
)
def test_a_fault_that_passes_costs_nothing(
    faults: str, faulty: FaultServer, dataset: Dataset, tmp_path: Path
) -> None:
    faulty.faults = faults.split()
    assert fetch(dataset, tmp_path) == RAW


@pytest.mark.parametrize(
    ("fault", "answer", "requests"),
    [
        ("truncate", "IncompleteRead", sources.ATTEMPTS),
        ("stall", "timed out", sources.ATTEMPTS),
        ("silent", "timed out", sources.ATTEMPTS),
        ("empty", "empty body", sources.ATTEMPTS),
        ("500", "HTTP 500 Internal Server Error", sources.ATTEMPTS),
        ("404", "HTTP 404 Not Found", 1),
        ("403", "HTTP 403 Forbidden", 1),
        ("html", "HTTP 200 OK, but text/html instead of gzip", 1),
        ("flip", "sha256|not a valid gzip file", 2),
        ("endless", "more than the .* bytes it can have at most", 1),
    ],
)
def test_a_permanent_fault_is_reported_in_one_line(
    *,
    fault: str,
    answer: str,
    requests: int,
    faulty: FaultServer,
    dataset: Dataset,
    tmp_path: Path,
) -> None:
    faulty.faults = [fault]
    message = refusal(dataset, tmp_path)
    lines = [line for line in message.splitlines() if line.startswith(f"  {faulty.url}small/: ")]
    assert len(lines) == 1
    assert "train-images-idx3-ubyte" in lines[0]

    assert re.search(answer, lines[0])
    assert len(faulty.requests) == requests
    assert len({path for path, _ in faulty.requests}) == 1, "no file after the first that failed"


def test_nobody_listens(dataset: Dataset, tmp_path: Path) -> None:
    with serving() as gone:
        dataset["sources"] = [gone.url]
    assert "Connection refused" in refusal(dataset, tmp_path)


def test_only_missing_bytes_are_asked_for(
    faulty: FaultServer, dataset: Dataset, tmp_path: Path
) -> None:
    faulty.faults = ["truncate", "404"]
    refusal(dataset, tmp_path)
    half = len(PACKED[FIRST]) // 2
    assert partial(dataset, tmp_path).read_bytes() == PACKED[FIRST][:half]

    faulty.faults, faulty.requests = ["ok"], []
    assert fetch(dataset, tmp_path) == RAW
    assert faulty.requests[0] == (FIRST, half)

    faulty.faults, faulty.requests = ["404"], []
    assert fetch(dataset, tmp_path) == RAW, "whole files are kept and not asked for again"
    assert faulty.requests == []


def test_a_server_without_ranges_starts_over(
    faulty: FaultServer, dataset: Dataset, tmp_path: Path
) -> None:
    faulty.faults = ["truncate", "restart"]
    assert fetch(dataset, tmp_path) == RAW
    assert len(faulty.requests) == 1 + len(RAW), "one answer was enough"


def test_an_outage_page_does_not_cost_the_beginning(
    faulty: FaultServer, dataset: Dataset, tmp_path: Path
) -> None:
    faulty.faults = ["truncate", "html"]
    assert "instead of gzip" in refusal(dataset, tmp_path)
    assert partial(dataset, tmp_path).stat().st_size == len(PACKED[FIRST]) // 2


@pytest.mark.parametrize("faults", ["ok", "restart ok", "overrun"])
@pytest.mark.parametrize("length", [1, 5000, 10**6])
def test_a_beginning_of_another_file_is_never_joined_to_this_one(
    faults: str, length: int, faulty: FaultServer, dataset: Dataset, tmp_path: Path
) -> None:
    other, _ = made(seed=1)
    stale = gzip.compress(other["train-images-idx3-ubyte"])[:length]
    partial(dataset, tmp_path).parent.mkdir()
    partial(dataset, tmp_path).write_bytes(stale)
    faulty.faults = faults.split()
    assert fetch(dataset, tmp_path) == RAW


def test_a_gz_bomb_is_neither_unpacked_nor_fetched_whole(
    faulty: FaultServer, dataset: Dataset, tmp_path: Path
) -> None:
    bomb = gzip.compress(bytes(100 << 20))
    most = sources.files(dataset)[0].largest_gz
    large = gzip.compress(RAW["train-images-idx3-ubyte"] * 2)
    assert len(bomb) < most < len(large)
    for packed, answer in ((bomb, "has more than the 156816 bytes"), (large, "can have at most")):
        faulty.content[FIRST] = packed
        tracemalloc.start()
        assert answer in refusal(dataset, tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
        tracemalloc.stop()
    assert sum(path.stat().st_size for path in (tmp_path / "partial").iterdir()) == 0


def test_the_next_source_is_asked(faulty: FaultServer, dataset: Dataset, tmp_path: Path) -> None:
    dataset["sources"] = [f"{faulty.url}nowhere/", f"{faulty.url}small"]
    assert fetch(dataset, tmp_path) == RAW


def test_every_source_and_the_ways_out_are_named(
    faulty: FaultServer, dataset: Dataset, tmp_path: Path
) -> None:
    dataset["sources"] = [f"{faulty.url}nowhere/", "ftp://example.org/", "sklearn:digits"]
    message = refusal(dataset, tmp_path)
    assert message.splitlines()[1:5] == [
        f"  {tmp_path}/mirror/small: no such folder",
        f"  {faulty.url}nowhere/: train-images-idx3-ubyte.gz: HTTP 404 Not Found",
        "  ftp://example.org/: no such source; known are http(s)://..., openml:NAME/VERSION, "
        "sklearn:digits and a folder",
        "  sklearn:digits: a table of (1797, 64) and (1797,) instead of (260, 784)",
    ]
    for name in RAW:
        assert f"{name}.gz" in message
    for way_out in (f"{tmp_path}/mirror/small", sources.MIRROR_VARIABLE, "make demo"):
        assert way_out in message


# From a mirror folder


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    folder = tmp_path / "mirror" / "small"
    folder.mkdir(parents=True)
    for path, content in PACKED.items():
        (folder / Path(path).name).write_bytes(content)
    return folder


def test_the_mirror_comes_first(
    faulty: FaultServer, dataset: Dataset, mirror: Path, tmp_path: Path
) -> None:
    assert fetch(dataset, tmp_path) == RAW
    for name in list(RAW)[:2]:
        (mirror / f"{name}.gz").unlink()
        (mirror / name).write_bytes(RAW[name])
    assert fetch(dataset, tmp_path) == RAW
    assert faulty.requests == []


@pytest.mark.parametrize(
    ("name", "content", "answer"),
    [
        ("t10k-images-idx3-ubyte.gz", gzip.compress(RAW["train-images-idx3-ubyte"]), "more than"),
        ("t10k-labels-idx1-ubyte.gz", gzip.compress(bytes(68)), "has sha256 "),
        ("t10k-labels-idx1-ubyte.gz", gzip.compress(bytes(1 << 24)), "more than the 68 bytes"),
        ("t10k-labels-idx1-ubyte.gz", b"<html>", "is not a valid gzip file"),
        ("t10k-labels-idx1-ubyte.gz", b"", "has 0 bytes instead of 68"),
        ("t10k-labels-idx1-ubyte.gz", PACKED["/small/t10k-labels-idx1-ubyte.gz"][:-9], "truncated"),
        ("t10k-labels-idx1-ubyte", RAW["t10k-labels-idx1-ubyte"][:-1], "67 bytes instead of 68"),
        ("t10k-labels-idx1-ubyte", bytes(68), "has sha256 "),
        ("t10k-labels-idx1-ubyte.gz", None, "is not there"),
    ],
    ids=[
        "larger",
        "other",
        "bomb",
        "html",
        "empty",
        "truncated",
        "plain-short",
        "plain-other",
        "missing",
    ],
)
def test_a_wrong_mirror_is_passed_over(
    *,
    name: str,
    content: bytes | None,
    answer: str,
    faulty: FaultServer,
    dataset: Dataset,
    mirror: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (mirror / f"{name.removesuffix('.gz')}.gz").unlink()
    if content is not None:
        (mirror / name).write_bytes(content)
    assert fetch(dataset, tmp_path) == RAW
    assert answer in capsys.readouterr().err
    assert len(faulty.requests) == len(RAW)

    dataset["sources"] = []
    assert answer in refusal(dataset, tmp_path)


def test_the_mirror_is_the_environments_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(sources.MIRROR_VARIABLE, raising=False)
    assert sources.mirror_folder() == Path("../shared/datasets")
    monkeypatch.setenv(sources.MIRROR_VARIABLE, "elsewhere")
    assert sources.mirror_folder() == Path("elsewhere")


# From tables


def test_the_bundled_digits_have_the_configured_content(tmp_path: Path) -> None:
    digits = yaml.safe_load((ROOT / "conf/dataset/digits.yaml").read_text())
    raw = sources.fetch("digits", digits, tmp_path, tmp_path)
    assert idx.decode(raw["all-images-idx3-ubyte"]).shape == (1797, 8, 8)
    assert idx.decode(raw["all-labels-idx1-ubyte"]).max() == 9


@pytest.fixture
def openml(faulty: FaultServer, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """The dataset as OpenML serves it, from the local server."""
    from sklearn.datasets import _openml

    for constant in ("_SEARCH_NAME", "_DATA_INFO", "_DATA_FEATURES", "_DATA_QUALITIES"):
        address = getattr(_openml, constant).replace("https://www.openml.org/", faulty.url)
        monkeypatch.setattr(_openml, constant, address)
    images = np.concatenate([idx.decode(RAW[f"{part}-images-idx3-ubyte"]) for part in COUNTS])
    labels = np.concatenate([idx.decode(RAW[f"{part}-labels-idx1-ubyte"]) for part in COUNTS])
    columns = [f"pixel{i}" for i in range(28 * 28)]
    header = ["@RELATION noise", *(f"@ATTRIBUTE {name} numeric" for name in columns)]
    header += ["@ATTRIBUTE class {0,1,2,3,4,5,6,7,8,9}", "@DATA"]
    table = np.column_stack([images.reshape(len(images), -1), labels])
    arff = "\n".join([*header, *(",".join(map(str, row)) for row in table), ""]).encode()
    usual = {"is_ignore": "false", "is_row_identifier": "false", "number_of_missing_values": "0"}
    features = [
        {"name": name, "data_type": "numeric", "is_target": "false", **usual} for name in columns
    ]
    features.append({"name": "class", "data_type": "nominal", "is_target": "true", **usual})
    description = {
        "id": "7",
        "name": "noise",
        "version": "1",
        "description": "noise",
        "format": "ARFF",
        "status": "active",
        "url": f"{faulty.url}data/v1/download/7/noise.arff",
        "md5_checksum": hashlib.md5(arff).hexdigest(),
    }
    api = {
        "list/data_name/noise/limit/2/data_version/1": {"data": {"dataset": [{"did": 7}]}},
        "7": {"data_set_description": description},
        "features/7": {"data_features": {"feature": features}},
        "qualities/7": {"data_qualities": {"quality": []}},
    }
    faulty.content = {f"/api/v1/json/data/{k}": json.dumps(v).encode() for k, v in api.items()}
    faulty.content["/data/v1/download/7/noise.arff"] = arff
    dataset["sources"] = ["openml:Noise/1"]
    return dataset


def test_openml_gives_the_same_files(openml: Dataset, tmp_path: Path) -> None:
    assert fetch(openml, tmp_path) == RAW


def test_openml_with_other_rows_is_refused(openml: Dataset, tmp_path: Path) -> None:
    t10k = openml["parts"][1]
    t10k["count"] -= 1
    assert "(260, 784) and (260,) instead of (259, 784)" in refusal(openml, tmp_path)
    t10k["count"] += 1
    t10k["labels"] = "0" * 64
    assert "t10k-labels-idx1-ubyte has sha256" in refusal(openml, tmp_path)


@pytest.mark.parametrize(
    ("path", "content", "answer"),
    [
        ("data/v1/download/7/noise.arff", b"<html>", "md5 checksum"),
        ("api/v1/json/data/7", b"<html>", "JSONDecodeError"),
        ("api/v1/json/data/7", b"{}", "KeyError"),
        ("api/v1/json/data/list/data_name/noise/limit/2/data_version/1", None, "404"),
    ],
)
def test_a_wrong_openml_is_refused_and_forgotten(
    *,
    path: str,
    content: bytes | None,
    answer: str,
    faulty: FaultServer,
    openml: Dataset,
    tmp_path: Path,
) -> None:
    right = faulty.content.pop(f"/{path}")
    if content is not None:
        faulty.content[f"/{path}"] = content
    assert answer in refusal(openml, tmp_path)
    faulty.content[f"/{path}"] = right
    assert fetch(openml, tmp_path) == RAW


def test_a_silent_openml_does_not_hold_us(
    faulty: FaultServer, openml: Dataset, tmp_path: Path
) -> None:
    faulty.faults = ["silent"]
    assert "timed out" in refusal(openml, tmp_path)

"""Comparing two versions of an out: what counts as the same, and what is said of the rest."""

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from kmnist_pipeline.families import file
from kmnist_pipeline.repository.compare import ChangedValue, Difference, Verdict, compare

IDENTICAL, EQUAL, DIFFERENT = Verdict


def as_json(content: Any) -> bytes:
    return json.dumps(content).encode()


def as_png(content: tuple[np.ndarray, str]) -> bytes:
    pixels, text = content
    info = PngImagePlugin.PngInfo()
    info.add_text("Lineage", text)
    Image.fromarray(pixels).save(stream := io.BytesIO(), "png", pnginfo=info)
    return stream.getvalue()


def as_npz(content: dict[str, Any]) -> bytes:
    np.savez(stream := io.BytesIO(), **content)
    return stream.getvalue()


def as_model(content: tuple[dict[str, np.ndarray], dict]) -> bytes:
    return file.encode(*content)


ENCODERS: dict[str, Callable[[Any], bytes]] = {
    "json": as_json,
    "csv": str.encode,
    "png": as_png,
    "npz": as_npz,
    "safetensors": as_model,
    "html": str.encode,
}


def differ(name: str, old: Any, new: Any) -> Difference:
    encode = ENCODERS[name.rpartition(".")[2]]
    return compare(name, encode(old), encode(new))


FLAT = np.full((40, 50), 200, np.uint8)
WEIGHTS = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
HALVES = WEIGHTS.astype(np.float16)


def changed(array: np.ndarray, place: Any, value: Any) -> np.ndarray:
    copy = array.copy()
    copy[place] = value
    return copy


def test_the_same_bytes_are_identical_whatever_they_are():
    for name in ("a.json", "a.png", "a"):
        assert compare(name, b"\0", b"\0").verdict is IDENTICAL
    assert compare("a.json", None, None).verdict is IDENTICAL


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("a.json", {"accuracy": 0.974952}, {"accuracy": 0.974953}),
        ("a.json", {"loss": 0.0, "n": 5}, {"loss": 1e-12, "n": 5.0}),
        ("a.json", {"made_by": {"lineage": "a"}, "n": 1}, {"made_by": {"lineage": "b"}, "n": 1}),
        ("a.json", {"environment": {"cpu": ["avx2"]}}, {"environment": {"cpu": []}}),
        ("a.csv", "epoch,loss\n1,0.123456\n", "epoch,loss\n1,0.123457\n"),
        ("a.png", (FLAT, "one key"), (FLAT, "another")),
        ("a.png", (FLAT, ""), (changed(FLAT, (3, 4), 202), "")),
        ("a.npz", {"p": WEIGHTS}, {"p": WEIGHTS + np.float32(1e-5)}),
        ("a.npz", {"p": HALVES}, {"p": np.nextafter(HALVES, np.float16(9))}),  # the last digit
        ("a.npz", {"p": changed(WEIGHTS, 0, np.nan)}, {"p": changed(WEIGHTS + 1e-5, 0, np.nan)}),
        ("a.safetensors", ({"w": WEIGHTS}, {}), ({"w": WEIGHTS + np.float32(1e-5)}, {})),
        ("a.html", "<p>key 0123456789abcdef</p>", "<p>key 0123456789abcdee</p>"),
        ("a.html", 'x "data:image/png;base64,AA=="', 'x "data:image/png;base64,BB=="'),
    ],
)  # fmt: skip
def test_what_counts_as_equal(name, old, new):
    difference = differ(name, old, new)
    assert difference.verdict is EQUAL
    assert difference.changes == ()


@pytest.mark.parametrize(
    ("name", "old", "new", "line"),
    [
        ("a.json", {"accuracy": 0.974952}, {"accuracy": 0.974972}, "accuracy 0.974952 -> 0.974972"),
        ("a.json", {"n": 1000000}, {"n": 1000001}, "n 1000000 -> 1000001"),
        ("a.json", {"p": {"f": 1.0}, "a": 1}, {"p": {"f": 5}, "a": 2}, "a 1 -> 2, p.f 1.0 -> 5"),
        ("a.json", {"ok": True}, {"ok": 1}, "ok true -> 1"),
        ("a.json", {"x": None}, {"x": 0}, "x null -> 0"),
        ("a.json", {"v": "exact"}, {"w": "exact"}, "v is gone: exact, w is new: exact"),
        ("a.json", [{"id": "a", "v": 1}, {"id": "b", "v": 1}], [{"id": "b", "v": 2}],
         "[a].id is gone: a, [a].v is gone: 1, [b].v 1 -> 2"),
        ("a.json", {"x": [0] * 9}, {"x": [1] * 9},
         "x[0] 0 -> 1, x[1] 0 -> 1, x[2] 0 -> 1 and 6 more"),
        ("a.json", {"right": "f" * 90 + "0"}, {"right": "f" * 90 + "1"},
         f"right ...{'f' * 20}0 -> ...{'f' * 20}1"),
        ("a.csv", "epoch,loss\n1,0.5\n", "epoch,loss\n1,0.6\n", "line 2.loss 0.5 -> 0.6"),
        ("a.csv", "epoch,loss\n1,0.5\n", "epoch,loss\n",
         "rows 1 -> 0, line 2.epoch is gone: 1, line 2.loss is gone: 0.5"),
        ("a.png", (FLAT, ""), (changed(FLAT, (slice(2), 0), 100), ""),
         "pixels differ in 2 of 2000 by up to 100 of 255 levels"),
        ("a.png", (FLAT, ""), (FLAT[:30], ""), "pixels 50x40 -> 50x30"),
        ("a.npz", {"p": WEIGHTS}, {"p": changed(WEIGHTS, (0, 0), -1.5)},
         "p differs by up to 0.5 (largest value 2)"),
        ("a.npz", {"p": WEIGHTS}, {"p": changed(WEIGHTS, (0, 0), np.nan)},
         "p is infinite or not a number on one side in 1 of 12"),
        ("a.npz", {"k": np.arange(4)}, {"k": np.arange(4)[::-1]}, "k differs in 4 of 4"),
        ("a.npz", {"p": WEIGHTS}, {"p": WEIGHTS.T, "q": WEIGHTS},
         "p 3x4 float32 -> 4x3 float32, q is new: 3x4 float32"),
        ("a.safetensors", ({"w": WEIGHTS}, {"name": "x"}), ({"w": 2 * WEIGHTS}, {"name": "y"}),
         "w differs by up to 2 (largest value 2), metadata.name x -> y"),
        ("a.html", "<p>a</p>\n<p>0.97</p>\nb", "<p>a</p>\nmore\n<p>0.98</p>\nb",
         "text differs in 2 lines, first: 0.97 -> more 0.98"),
    ],
)  # fmt: skip
def test_what_is_said_of_a_difference(name, old, new, line):
    difference = differ(name, old, new)
    assert difference.verdict is DIFFERENT
    assert difference.line == line
    assert difference.path == name


def test_changes_have_names_and_values_for_programs():
    difference = differ("a.json", {"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2})
    assert difference.changes == (ChangedValue("a.b", "1 -> 3", 1, 3),)
    (change,) = differ("a.npz", {"p": WEIGHTS}, {"p": 2 * WEIGHTS}).changes
    assert (change.name, change.old, change.new) == ("p", None, None)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", as_json({"a": 1})),
        ("a.csv", b"a,b\n1,2\n"),
        ("a.png", as_png((FLAT, "key"))),
        ("a.npz", as_npz({"p": WEIGHTS})),
        ("a.safetensors", as_model(({"w": WEIGHTS}, {}))),
        ("a.html", b"<p>a</p>\n<p>b</p>"),
    ],
)
def test_damaged_bytes_never_pass_as_identical_and_never_raise(name, content):
    for place in range(0, len(content), 1 + len(content) // 200):
        damaged = bytearray(content)
        damaged[place] ^= 0x80
        assert compare(name, content, bytes(damaged)).verdict is not IDENTICAL
    assert compare(name, content, content[: len(content) // 2]).verdict is DIFFERENT
    assert compare(name, content, b"").verdict is DIFFERENT


def test_what_cannot_be_read_is_compared_by_bytes():
    assert (
        compare("a.json", b'{"a": 1}', b'{"a": 1').line
        == "8 -> 7 bytes; the new file cannot be read"
    )
    assert compare("a.png", b"12", as_png((FLAT, ""))).line.endswith("the old file cannot be read")
    assert compare("a-idx3-ubyte", b"abcd", b"abxx").line == "2 of 4 bytes differ"
    assert compare("a.json", None, b"{}").line == "is new"
    assert compare("a.json", b"{}", None).line == "is missing"

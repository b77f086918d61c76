"""`kmnist predict`: images of every kind come to the model's form, and no file stops the rest."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import stat
import struct
import subprocess
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from support import drawn
from support.project import ROOT, Project, stripped

from kmnist_pipeline import cli
from kmnist_pipeline.data import idx
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evaluation import conditions
from kmnist_pipeline.evidence import numbers, output
from kmnist_pipeline.repository import locks
from kmnist_pipeline.serving import candidates, inputs, predict
from kmnist_pipeline.serving.character import Form
from kmnist_pipeline.serving.classifier import Answer, Classifier
from kmnist_pipeline.serving.inputs import Picture

PLACEMENTS = {
    name: numbers.read(ROOT / f"metrics/data/{name}.json")["placement"]
    for name in ("kmnist", "digits")
}
KMNIST, DIGITS = Form((28, 28), 255, PLACEMENTS["kmnist"]), Form((8, 8), 16, PLACEMENTS["digits"])
WIDE = {**PLACEMENTS["digits"], "size": 10.0, "centre": [6.0, 10.0]}
FORMS = st.sampled_from([KMNIST, DIGITS, Form((12, 20), 255, WIDE)])
IMAGES = load_digits().images


def png(image: Image.Image, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, "png", **options)
    return content.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue()


def decoded(content: bytes, form: Form, as_is: bool = False) -> tuple[list[Picture], list[str]]:
    """The pictures of a file's bytes, and what was wrong with it."""
    faults: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "_content", lambda path: content)
        pictures = list(inputs.read(["file"], form, lambda _, fault: faults.append(fault), as_is))
    return pictures, faults


def one(content: bytes, form: Form, as_is: bool = False) -> Picture:
    (picture,), faults = decoded(content, form, as_is)
    assert not faults
    return picture


def digit(number: int, height: int) -> np.ndarray:
    """A real digit, white on black, (h, h) uint8, enlarged from 8x8."""
    image = Image.fromarray(np.uint8(IMAGES[number] * (255 / 16)))
    return np.asarray(image.resize((height, height), Image.Resampling.BICUBIC))


@st.composite
def drawings(draw: st.DrawFn, levels: int = 256) -> np.ndarray:
    """A real digit of any size, white on black (h, w) uint8, anywhere on a sheet."""
    drawn = digit(draw(st.integers(0, 1796)), draw(st.integers(12, 70)))
    if levels == 2:
        drawn = np.where(drawn > 127, 255, 0).astype(np.uint8)
    room = st.tuples(st.integers(1, 30), st.integers(1, 30))
    return np.pad(drawn, (draw(room), draw(room)))


def grid(form: Form) -> np.ndarray:
    """Three different images in a model's own form."""
    drawn = np.random.default_rng(0).integers(form.pixel_max + 1, size=(3, *form.shape))
    drawn[:, [0, -1]], drawn[:, :, [0, -1]] = 0, 0
    drawn[:, 3, 3] = form.pixel_max
    return drawn.astype(np.uint8)


# --- every size, mode and polarity ---------------------------------------------------------------


@given(drawings(), FORMS)
def test_any_size_comes_to_the_models_form(drawn, form):
    prepared = one(png(Image.fromarray(drawn)), form).prepared
    assert (prepared.pixels.shape, prepared.pixels.dtype) == (form.shape, np.uint8)
    assert form.pixel_max / 2 < prepared.pixels.max() <= form.pixel_max


@given(
    drawings(),
    st.sampled_from(["RGB", "RGBA", "LA", "P", "I;16", "palette", "RGBX jpeg"]),
    st.booleans(),
)
def test_any_mode_and_polarity_gives_the_same_pixels(drawn, mode, inverted):
    seen = 255 - drawn if inverted else drawn
    grey = Image.fromarray(seen)
    if mode == "I;16":
        content = png(Image.fromarray(seen.astype(np.uint16) * 257))
    elif mode == "palette":  # colours in another order than their numbers
        image = Image.fromarray(255 - seen, "P")
        image.putpalette([255 - level for level in range(256) for _ in range(3)])
        content = png(image)
    elif mode == "RGBX jpeg":
        packed = io.BytesIO()
        grey.convert("RGB").save(packed, "jpeg", quality=100)
        content = packed.getvalue()
    else:
        content = png(grey.convert(mode))
    plain, other = (one(c, KMNIST).prepared for c in (png(Image.fromarray(drawn)), content))
    apart = np.abs(plain.pixels.astype(int) - other.pixels)
    assert apart.mean() < (4 if "jpeg" in mode else 0.5)  # rounding
    assert ("inverted" in other.steps) == inverted


@given(drawings(), st.sampled_from([2, 4, 8, 10, 12, 14, 16]), st.booleans())
def test_a_16_bit_image_may_use_only_its_low_bits(drawn, bits, inverted):
    levels = np.rint((255 - drawn if inverted else drawn) * ((2**bits - 1) / 255))
    if not inverted:  # a mark as bright as white, which paper is when the ink is dark
        levels[0, 0] = 2**bits - 1
    white = np.rint(levels * (255 / (2**bits - 1))).astype(np.uint8)
    deep, plain = png(Image.fromarray(levels.astype(np.uint16))), png(Image.fromarray(white))
    found, expected = (one(each, KMNIST).prepared for each in (deep, plain))
    assert found.steps == expected.steps
    assert np.array_equal(found.pixels, expected.pixels)


def deep(bits: int, channels: int, opaque: bool = True) -> np.ndarray:
    """A digit in numbers of 16 bits, of which `bits` are used; the last of 2 or 4 is opacity."""
    grey = np.pad(digit(3, 40), 9) * ((2**bits - 1) / 255)
    levels = np.repeat(grey[..., None], channels, axis=2).astype(np.uint16)
    if channels in (2, 4) and opaque:
        levels[..., -1] = 2**16 - 1
    return levels


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("bits", [4, 10, 12, 14])
def test_low_bits_that_are_lost_are_no_blank_picture(channels, bits):
    for levels in (deep(bits, channels), deep(bits, channels, opaque=False)):
        found, faults = decoded(drawn.deep_png(levels), KMNIST)
        assert (found, len(faults)) == ([], 1)
        assert "16 bits for each colour, of which only the low ones are used: save it" in faults[0]


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_a_picture_of_16_bits_that_uses_the_high_ones_is_read(channels):
    plain = one(png(Image.fromarray(np.pad(digit(3, 40), 9))), KMNIST).prepared
    found = one(drawn.deep_png(deep(16, channels)), KMNIST).prepared
    assert np.array_equal(found.pixels, plain.pixels)
    if channels != 3:  # black ink on nothing: all colours are 0
        ink = deep(16, channels, opaque=False)
        ink[..., :-1] = 0
        assert one(drawn.deep_png(ink), KMNIST).prepared.pixels.any()


@given(drawings(levels=2), st.booleans())
def test_black_and_white_of_one_bit_is_the_same_as_grey(drawn, inverted):
    image = Image.fromarray(255 - drawn if inverted else drawn)
    assert np.array_equal(
        one(png(image.convert("1", dither=Image.Dither.NONE)), KMNIST).prepared.pixels,
        one(png(image), KMNIST).prepared.pixels,
    )


@given(drawings(), st.sampled_from([0, 255]))
def test_ink_on_nothing_is_seen_whatever_its_colour(drawn, ink):
    colour = np.full_like(drawn, ink)
    image = Image.fromarray(np.stack([colour, colour, colour, drawn], axis=-1))
    plain, other = (one(png(each), KMNIST).prepared for each in (Image.fromarray(drawn), image))
    assert np.abs(plain.pixels.astype(int) - other.pixels).mean() < 0.5


def test_each_image_of_an_array_has_its_own_polarity():
    images = np.stack([digit(number, 40) for number in range(4)])
    mixed = images.copy()
    mixed[[1, 3]] = 255 - mixed[[1, 3]]
    (plain, _), (other, _) = (decoded(npz(images=array), KMNIST) for array in (images, mixed))
    assert ["inverted" in picture.prepared.steps for picture in other] == [False, True] * 2
    for one_, same in zip(plain, other, strict=True):
        assert np.array_equal(one_.prepared.pixels, same.prepared.pixels)


def test_the_polarity_of_real_digits_is_seen():
    for number in range(0, 1797, 12):
        for picture in (digit(number, 8), digit(number, 24)):
            assert "inverted" not in one(png(Image.fromarray(picture)), DIGITS).prepared.steps
            assert "inverted" in one(png(Image.fromarray(255 - picture)), DIGITS).prepared.steps


def test_an_image_is_turned_as_its_camera_was_held():
    drawn = digit(3, 50)
    content = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # stored a quarter turn to the left
    Image.fromarray(np.rot90(drawn)).save(content, "png", exif=exif)
    straight = one(png(Image.fromarray(drawn)), KMNIST).prepared
    assert np.array_equal(one(content.getvalue(), KMNIST).prepared.pixels, straight.pixels)


def test_a_long_character_is_not_stretched():
    drawn = np.zeros((112, 224), np.uint8)
    drawn[20:92, 40:184] = 255
    drawn[40:72, 60:164] = 0
    prepared = one(png(Image.fromarray(drawn)), KMNIST).prepared
    assert prepared.steps == ("ink of 144x72 placed in 28x28",)
    rows = np.flatnonzero((prepared.pixels > 99).any(axis=1))
    assert rows[-1] - rows[0] in (12, 13, 14)


def test_blank_pictures_are_no_character():
    for blank in (Image.new("L", (9, 9), 7), Image.new("RGBA", (9, 9))):
        assert str(one(png(blank), KMNIST).prepared) == "review: no character"


# --- as they are ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [KMNIST, DIGITS])
@pytest.mark.parametrize("kind", ["npz", "unnamed", "idx", "idx.gz"])
def test_images_are_used_as_they_are_if_asked(form, kind):
    images = grid(form)
    content = {
        "npz": lambda: npz(images=images, labels=np.zeros(3)),
        "unnamed": lambda: npz(arr_0=images),
        "idx": lambda: idx.encode(images),
        "idx.gz": lambda: gzip.compress(idx.encode(images)),
    }[kind]()
    pictures, faults = decoded(content, form, as_is=True)
    assert not faults
    assert np.array_equal([picture.prepared.pixels for picture in pictures], images)
    assert {str(picture.prepared) for picture in pictures} == {""}
    assert [picture.name for picture in pictures] == ["file[0]", "file[1]", "file[2]"]


def test_a_picture_as_it_is_keeps_every_pixel():
    for image in (grid(KMNIST)[0], 255 - grid(KMNIST)[0]):
        for mode in ("L", "RGB"):
            picture = one(png(Image.fromarray(image).convert(mode)), KMNIST, as_is=True)
            assert picture.prepared.pixels.tolist() == image.tolist()
    white = png(Image.fromarray(grid(DIGITS)[0] * 15))
    assert one(white, DIGITS, as_is=True).prepared.pixels.max() == round(16 * 240 / 255)


@pytest.mark.parametrize("white", [1, 1.0, True])
def test_masks_and_fractions_are_parts_of_white(white):
    mask = (grid(KMNIST) > 99).astype(type(white))
    content = npz(images=mask.astype(np.uint8) if white == 1 else mask)
    pictures, _ = decoded(content, KMNIST, as_is=True)
    assert np.array_equal([each.prepared.pixels for each in pictures], (mask > 0) * 255)


def test_another_size_as_it_is_is_a_fault():
    pictures, faults = decoded(png(Image.fromarray(digit(0, 30))), KMNIST, as_is=True)
    assert not pictures
    assert "must be 28x28, white on black, 0 to 255, but this one is 30x30" in faults[0]


# --- what cannot be read -------------------------------------------------------------------------

GOOD = png(Image.fromarray(grid(KMNIST)[0]))


def claiming(width: int, height: int) -> bytes:
    """A small PNG that says it is large."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packed = zlib.compress(bytes(1000))
    start = b"\x89PNG\r\n\x1a\n"
    return start + drawn.chunk(b"IHDR", header) + drawn.chunk(b"IDAT", packed)


BAD = {
    "empty": (b"", "is empty"),
    "text": (b"hello", "neither PNG nor JPEG"),
    "gif": (b"GIF89a", "neither PNG nor JPEG"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(99), "neither PNG nor JPEG"),
    "ico": (b"\0\0\1\0" + bytes(99), "neither PNG nor JPEG"),
    "header": (GOOD[:12], "broken image: its header cannot be read"),
    "truncated": (GOOD[: len(GOOD) // 2], "broken image: image file is truncated"),
    "bomb": (claiming(20_000, 20_000), "decompression bomb"),
    "smaller bomb": (claiming(10_000, 10_000), "decompression bomb"),
    "labels": (idx.encode(np.zeros(5, np.uint8)), "an array of shape (5,), not images"),
    "rows": (npz(images=np.zeros((2, 784))), "an array of shape (2, 784), not images"),
    "no images": (npz(images=np.zeros((0, 28, 28))), "has no images"),
    "cut": (idx.encode(grid(KMNIST))[:-1], "truncated"),
    "integers": (npz(images=np.ones((1, 9, 9), int)), "pixels of type int64"),
    "numbers": (npz(images=np.full((1, 9, 9), np.nan)), "pixels of type float64"),
    "pickle": (npz(images=np.array([[[{}]]], object)), "allow_pickle=False"),
    "several": (npz(a=grid(KMNIST), b=grid(KMNIST)), "no array `images`"),
    "zip": (b"PK\x03\x04nonsense", "broken NPZ"),
    "gzip": (b"\x1f\x8bnonsense", "broken gzip"),
    "gzip of gzip": (gzip.compress(gzip.compress(GOOD)), "neither PNG nor JPEG"),
    "cut gzip": (gzip.compress(GOOD)[:-9], "broken gzip"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_unreadable_file_is_reported_and_skipped(name):
    content, expected = BAD[name]
    pictures, faults = decoded(content, KMNIST)
    assert not pictures
    assert len(faults) == 1 and expected in faults[0]
    assert "0x" not in faults[0]  # no address of an object in memory


def test_a_blank_image_of_an_array_is_doubted_and_no_other():
    images = np.stack([digit(number, 28) for number in range(3)])
    images[1] = 0
    pictures, faults = decoded(npz(images=images), KMNIST)
    assert not faults
    doubts = [picture.prepared.doubt for picture in pictures]
    assert doubts[1] == "no character" and "no character" not in (doubts[0], doubts[2])


@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, lambda content: npz(images=np.frombuffer(content, np.uint8))]
)
def test_no_more_is_unpacked_than_is_allowed(monkeypatch, pack):
    monkeypatch.setattr(inputs, "LARGEST", 5000)
    assert inputs._bounded(bytes(5000))
    content = bytes(5001)
    monkeypatch.setattr(inputs, "_files", lambda place, fault: iter([place]))
    monkeypatch.setattr(inputs, "_content", lambda path: inputs._bounded(pack(content)))
    faults: list[str] = []
    assert not list(inputs.read(["x"], KMNIST, lambda name, fault: faults.append(fault)))
    assert "split it" in faults[0]


@given(
    st.sampled_from(
        [GOOD, npz(images=grid(KMNIST)), idx.encode(grid(KMNIST)), gzip.compress(GOOD)]
    ),
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=6),
    st.integers(0, 5000),
)
def test_damaged_files_raise_nothing(content, damage, cut):
    damaged = bytearray(content)
    for place, value in damage:
        damaged[place % len(damaged)] = value
    pictures, faults = decoded(bytes(damaged[: max(cut % (len(damaged) + 1), 1)]), KMNIST)
    assert pictures or faults
    assert all(picture.prepared.pixels.shape == (28, 28) for picture in pictures)


# --- folders and names ---------------------------------------------------------------------------


def names_and_faults(*places: Path | str) -> tuple[list[str], dict[str, str]]:
    faults: dict[str, str] = {}
    pictures = inputs.read(map(str, places), KMNIST, faults.__setitem__)
    return [picture.name for picture in pictures], faults


def test_a_folder_is_read_in_order_without_hidden_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("in/b.png", "in/a.png", "in/sub/c", "in/.hidden.png", "in/.git/d.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(GOOD)
    assert names_and_faults("in") == (["in/a.png", "in/b.png", "in/sub/c"], {})


def test_symlink_loops_and_links_outside_are_ignored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in/sub").mkdir(parents=True)
    Path("in/a.png").write_bytes(GOOD)
    Path("secret.png").write_bytes(GOOD)
    os.symlink("..", "in/sub/loop")
    os.symlink("../secret.png", "in/out.png")
    os.symlink("a.png", "in/within.png")
    os.symlink("within.png2", "in/within.png2")
    os.mkfifo("in/pipe")
    found, faults = names_and_faults("in")
    assert found == ["in/a.png", "in/within.png"]
    assert set(faults) == {"in/sub/loop", "in/out.png", "in/within.png2", "in/pipe"}
    assert "out of the folder" in faults["in/out.png"]
    assert names_and_faults("in/out.png")[0] == ["in/out.png"]  # named by the user: wanted


def test_empty_and_missing_places_are_faults(tmp_path):
    (tmp_path / "empty/below").mkdir(parents=True)
    found, faults = names_and_faults(tmp_path / "empty", tmp_path / "missing.png")
    assert not found
    assert list(faults.values()) == ["there is no file in this folder", "No such file or directory"]


def test_files_are_opened_one_after_the_other(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(GOOD)
    faults: dict[str, str] = {}
    pictures = inputs.read([str(tmp_path)], KMNIST, faults.__setitem__)
    next(pictures)
    (tmp_path / "1.png").unlink()
    assert len(list(pictures)) == 2
    assert list(faults) == [str(tmp_path / "1.png")]


@given(st.binary(min_size=1).filter(lambda name: name != b"-"))
def test_every_name_is_printable_and_can_be_encoded(name):
    shown = inputs._called(os.fsdecode(name))
    assert shown.isprintable() and shown.encode()


# --- answers and how they are written ------------------------------------------------------------


class Sure(Classifier):
    """Answers with what it is told to."""

    def __init__(self, answers: list[Answer]) -> None:
        self.name, self.dataset, self.form = "sure", "kmnist", KMNIST
        self.routing: dict[str, Any] | None = None
        self._answers = answers

    def answers(self, pixels: np.ndarray, doubts: Sequence[str | None] = ()) -> list[Answer]:
        return [self._answers[number % len(self._answers)] for number in range(len(pixels))]


ANSWER = Answer(3, "tsu", "つ", 1 / 3, "accept")


def written(tmp_path: Path, output: str, answers: list[Answer], places: list[str]) -> bytes:
    to = tmp_path / "out"
    predict.predict(Sure(answers), places, output, to, None, as_is=True)
    return to.read_bytes()


def test_all_formats_say_the_same(tmp_path, monkeypatch):
    from pyarrow import parquet

    monkeypatch.setattr(predict, "BATCH", 2)
    source = tmp_path / "images.npz"
    source.write_bytes(npz(images=grid(KMNIST)))
    answers = [ANSWER, replace(ANSWER, decision=None)]
    rows = json.loads(written(tmp_path, "json", answers, [str(source)]))
    assert rows[0] == {
        "image": f"{source}[0]",
        "label": 3,
        "name": "tsu",
        "character": "つ",
        "probability": 0.333333,
        "decision": "accept",
        "prepared": "",
    }
    assert [row["decision"] for row in rows] == ["accept", None, "accept"]
    table = io.BytesIO(written(tmp_path, "parquet", answers, [str(source)]))
    assert parquet.read_table(table).to_pylist() == rows
    text = written(tmp_path, "csv", answers, [str(source)]).decode()
    assert list(csv.DictReader(io.StringIO(text))) == [
        {name: "–" if value is None else str(value) for name, value in row.items()} for row in rows
    ]


@pytest.mark.parametrize("output", ["csv", "json", "parquet"])
def test_no_image_gives_an_empty_table(tmp_path, output):
    (tmp_path / "empty").mkdir()
    content = written(tmp_path, output, [ANSWER], [str(tmp_path / "empty")])
    assert content[:4] in (b"imag", b"[]\n", b"PAR1")
    if output == "json":
        assert json.loads(content) == []


@given(st.text(st.sampled_from("=+-@\t\r\n'a")))
def test_no_cell_is_a_formula(text):
    cell = predict._cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert cell in (text, f"'{text}")


def test_a_hostile_name_harms_no_table_and_no_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('=HYPERLINK("x")', "a,b\nc.png", "$x^2$\x1b[31m.png", "つ.png"):
        Path(name).write_bytes(GOOD)
    names = sorted(os.listdir())
    assert predict.predict(Sure([ANSWER]), names, "csv", Path("out.csv"), Path("sheet.png"))
    rows = list(csv.DictReader(io.StringIO(Path("out.csv").read_text())))
    assert [row["image"] for row in rows] == [
        "$x^2$\\x1b[31m.png",
        '\'=HYPERLINK("x")',
        "a,b\\nc.png",
        "つ.png",
    ]
    with Image.open("sheet.png") as sheet:
        assert sheet.width > 300
        assert np.asarray(sheet.convert("L")).min() < 100


def test_an_interrupted_run_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(GOOD)
    (tmp_path / "out").write_text("old")
    monkeypatch.setattr(Sure, "answers", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path, "csv", [], [str(tmp_path / "a.png")])
    assert sorted(os.listdir(tmp_path)) == ["a.png", "out"]
    assert (tmp_path / "out").read_text() == "old"


# --- with a real model ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answering(digits_run: tuple[Project, str], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project after `make demo`, without a store; tests add files to it."""
    return stripped(digits_run, tmp_path_factory.mktemp("predict") / "project")


@pytest.mark.parametrize("option", ["--to", "--sheet"])
@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "folder"])
def test_only_regular_files_are_written(option, kind, answering, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(answering.folder)
    other, place = tmp_path / "other", tmp_path / "place"
    other.write_text("mine")
    match kind:
        case "link":
            place.symlink_to(other)
        case "dangling":
            place.symlink_to(tmp_path / "none")
        case "pipe":
            os.mkfifo(place)
        case "folder":
            place.mkdir()
    before = place.lstat()
    assert cli.main(["predict", "README.md", "--model", "digits_softmax", option, str(place)]) == 1
    assert capsys.readouterr().err == (
        f"error: {place}: is not a regular file; name a new file or a regular one\n"
    )
    assert place.lstat() == before and other.read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"other", "place"}


def test_outputs_keep_their_permissions_and_new_ones_follow_the_umask(tmp_path):
    kept, new = tmp_path / "kept", tmp_path / "new"
    kept.touch(mode=0o600)
    mask = os.umask(0o077)
    try:
        for path in (kept, new):
            with output.replacing(path) as file:
                file.write(b"mine")
        assert os.umask(0o022) == 0o077
        with output.replacing(tmp_path / "open") as file:
            file.write(b"all")
    finally:
        os.umask(mask)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"kept": 0o600, "new": 0o600, "open": 0o644}
    assert kept.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.png", "--to", "new", "--sheet", "./new"], "new: is named twice"),
        (["a.png", "--to", "a.png"], "a.png: is among the files to classify"),
        (["a.png", "--sheet", "in/../a.png"], "is among the files to classify"),
        (["link.png", "--to", "a.png"], "a.png: is among the files to classify"),
        (["in", "--to", "in/below/b.png"], "in/below/b.png: is among the files to classify"),
        ([".", "--sheet", "a.png"], "a.png: is among the files to classify"),
    ],
)
def test_no_output_replaces_an_input_or_the_other(arguments, words, tmp_path, monkeypatch):
    (tmp_path / "in/below").mkdir(parents=True)
    for name in ("a.png", "in/below/b.png"):
        (tmp_path / name).write_bytes(GOOD)
    (tmp_path / "link.png").symlink_to("a.png")
    monkeypatch.chdir(tmp_path)
    place, *options = arguments
    with pytest.raises(UserError, match=re.escape(words)):
        inputs.require_apart([place], [Path(name) for name in options[1::2]])
    inputs.require_apart([".", "a.png"], [Path("new.csv"), Path("in/new.png")])


def test_a_folder_that_is_not_there_is_said_before_anything_is_computed(capsys, tmp_path):
    place = tmp_path / "none/sheet.png"
    assert cli.main(["predict", "README.md", "--model", "no_model", "--sheet", str(place)]) == 1
    assert capsys.readouterr().err == f"error: {place}: there is no folder {place.parent}\n"


@pytest.fixture(scope="module")
def images(answering: Project) -> np.ndarray:
    """Forty images of the digits' test split, (40, 8, 8)."""
    with np.load(answering.folder / "data/processed/digits.npz") as arrays:
        return arrays["images"][arrays["test"][:40]]


def classifier(answering: Project, name: str, routing: dict[str, Any] | None = None) -> Classifier:
    dataset = {"shape": [8, 8], "pixel_max": 16, "name": "digits", "placement": DIGITS.placement}
    return Classifier(answering.folder / f"models/{name}.safetensors", name, dataset, routing)


@pytest.mark.parametrize("name", ["digits_softmax", "digits_softmax_grid"])
def test_the_answers_are_those_of_the_evidence(answering, name):
    with np.load(answering.folder / "data/processed/digits.npz") as arrays:
        pixels = arrays["images"][arrays["test"]]
    with np.load(answering.folder / f"predictions/{name}.npz") as arrays:
        expected = arrays["test_probabilities"]
    found = classifier(answering, name).probabilities(pixels)
    assert np.array_equal(found.astype(np.float32), expected)


def test_the_threshold_of_the_report_decides(answering, images):
    plain = classifier(answering, "digits_softmax")
    sure = plain.probabilities(images).max(axis=1)
    assert {answer.decision for answer in plain.answers(images)} == {None}

    routed = classifier(
        answering, "digits_softmax", {"temperature": 1.0, "threshold": float(sure[0])}
    )
    decisions = [answer.decision for answer in routed.answers(images)]
    assert decisions == ["accept" if value >= sure[0] else "review" for value in sure]
    warm = classifier(answering, "digits_softmax", {"temperature": 5.0, "threshold": 0.5})
    assert warm.probabilities(images).max() < sure.max()
    never = classifier(answering, "digits_softmax", {"temperature": 1.0, "threshold": None})
    assert {answer.decision for answer in never.answers(images)} == {"review"}


def test_scans_are_answered_as_the_images_they_were_made_from(answering, images):
    folder = answering.folder / "scans"
    folder.mkdir()
    for number, image in enumerate(images):
        scan = Image.fromarray(255 - np.rint(image * (255 / 16)).astype(np.uint8))
        scan.resize((64 + number, 64 + number), Image.Resampling.BICUBIC).save(
            folder / f"{number:02d}.png"
        )
    (folder / "broken.png").write_bytes(GOOD[:40])
    np.savez(answering.folder / "native.npz", images=images)

    command = ["kmnist", "predict", "--dataset", "digits", "--output", "json"]
    native = answering.run(*command, "native.npz", "--as-is")
    assert native.returncode == 0
    assert "digits_softmax (no champion of digits is registered; best validation" in native.stderr
    scans = Project(folder).run(  # from a folder below, with paths as seen from there
        *command, ".", "--to", "answers.json", "--sheet", "../sheet.png",
        PYTHONPATH=str(answering.folder / "src"),
    )  # fmt: skip
    assert scans.returncode == 1
    assert "error: ./broken.png: broken image" in scans.stderr
    assert "40 of them were brought to 8x8, white on black, 0 to 16" in scans.stderr
    rows = json.loads((folder / "answers.json").read_text())
    labels = [[row["label"] for row in found] for found in (json.loads(native.stdout), rows)]
    assert np.mean(np.equal(labels[0], labels[1])) >= 0.92
    assert re.fullmatch(r"inverted, ink of \d\dx6\d placed in 8x8(, .*)?", rows[3]["prepared"])
    with Image.open(answering.folder / "sheet.png") as sheet:
        assert sheet.info["Caption"] == "Predicted by digits_softmax"
    assert not list(answering.folder.rglob("*.db"))  # no store is made to be asked


def test_real_pictures_are_answered_and_doubted_ones_never_accepted(answering, images):
    folder = answering.folder / "pictures"
    folder.mkdir()
    names = ["dark paper", "coloured ink", "uneven light", *conditions.UNANSWERABLE]
    for name in names:
        for number, picture in enumerate(conditions.rendered(name, images / np.float32(16), 5)):
            image = Image.fromarray(np.uint8(np.rint(picture * 255)))
            image.save(folder / f"{name}-{number:02d}.png")
    done = answering.run(
        "kmnist", "predict", "pictures", "--model", "digits_cnn", "--output", "json",
        "--sheet", "before-after.png",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert len(rows) == 40 * len(names)
    with np.load(answering.folder / "data/processed/digits.npz") as arrays:
        labels = arrays["labels"][arrays["test"][:40]]
    for name in names:
        of = [row for row in rows if row["image"].startswith(f"pictures/{name}-")]
        accepted = [row for row in of if row["decision"] == "accept"]
        if name in conditions.UNANSWERABLE:
            assert len(accepted) <= (8 if name == "a scribble" else 0), name
            doubted = ["review: " in row["prepared"] for row in of]
            assert all(doubted) or name == "a scribble", name
        else:
            assert np.mean([row["label"] for row in of] == labels) > 0.85, name
            assert len(accepted) > 10, name
    with Image.open(answering.folder / "before-after.png") as sheet:
        assert sheet.width > 800


def test_standard_input_and_a_reader_that_has_seen_enough(answering, images):
    arguments = ["kmnist", "predict", "-", "--model", "digits_softmax"]
    options: dict[str, Any] = {"cwd": answering.folder, "env": answering.environment()}
    scan = png(Image.fromarray(images[0] * 15))
    done = subprocess.run(arguments, input=scan, capture_output=True, check=True, **options)
    header, row = done.stdout.decode().splitlines()
    assert header == ",".join(predict.COLUMNS)
    assert row.startswith("stdin,")

    (answering.folder / "many.npz").write_bytes(npz(images=np.tile(images, (300, 1, 1))))
    command = "kmnist predict many.npz --model digits_softmax | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, check=True, **options)
    assert b"Traceback" not in done.stderr and b"Broken pipe" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "digits_sofmax"], "did you mean digits_softmax?"),
        (["--dataset", "letters"], "there is no dataset letters; known: digits"),
        (["--model", "digits_softmax", "--to", "no/such/folder/x"], "no/such/folder/x"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_way_out(
    evidence, monkeypatch, capsys, arguments, words
):
    monkeypatch.chdir(evidence.folder)
    assert cli.main(["predict", "README.md", *arguments]) == 1
    assert words in capsys.readouterr().err


def test_a_path_that_does_not_exist_is_said_before_a_model_is_needed(clone, monkeypatch, capsys):
    monkeypatch.chdir(clone.folder)
    assert cli.main(["predict", "a\n.png", "b.png"]) == 1
    missing = "No such file or directory"
    assert capsys.readouterr().err == f"error: a\\n.png: {missing}\nb.png: {missing}\n"


def test_only_remedies_that_are_possible_are_named_for_a_missing_model(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    name = "kmnist_softmax"
    weights = Path(f"models/{name}.safetensors")

    def said() -> str:
        with pytest.raises(UserError) as caught:
            candidates.require(weights, name)
        return str(caught.value)

    absent, made = f"{weights} does not exist: ", f"`dvc repro evaluate@{name}` trains it"
    assert said() == absent + made

    Path(".dvc/config.local").write_text("['remote \"store\"']\n    url = elsewhere\n")
    assert said() == f"{absent}`dvc pull {weights}` takes it from a remote, {made}"

    cached = Path(".dvc/cache/files/md5", *md5_of(project, weights))
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert said() == f"{absent}`dvc checkout {weights}` takes it from the cache"


def md5_of(project: Project, out: Path) -> tuple[str, str]:
    """The md5 of an out in dvc.lock, as DVC's cache divides it into folder and file."""
    graph = locks.parse((project.folder / locks.LOCK).read_bytes())
    [stage] = graph.makers(out.as_posix())
    md5 = stage.outs[out.as_posix()]
    return md5[:2], md5[2:]


def test_altered_weights_are_refused_until_they_are_restored(unlogged, monkeypatch, capsys):
    monkeypatch.chdir(unlogged.folder)
    weights = Path("models/digits_softmax.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1  # of the last number
    weights.unlink()
    weights.write_bytes(content)
    command = ["predict", "a.png", "--model", "digits_softmax"]
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save("a.png")
    assert cli.main(command) == 1
    said = capsys.readouterr()
    assert said.out == "" and f"{weights} is not as dvc.lock says: " in said.err
    remedy = said.err.split("`")[1]
    assert remedy == f"dvc checkout --force {weights}"
    done = unlogged.run(*remedy.split())
    assert done.returncode == 0, done.stderr
    assert cli.main(command) == 0

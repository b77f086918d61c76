"""`kmnist predict`: images of every kind come to the model's form, and no file stops the rest."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import struct
import subprocess
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image
from support.project import Project, stripped

from kmnist_pipeline import cli
from kmnist_pipeline.data import idx
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.repository import locks
from kmnist_pipeline.serving import candidates, inputs, predict
from kmnist_pipeline.serving.classifier import Answer, Classifier
from kmnist_pipeline.serving.inputs import Form, Picture

KMNIST, DIGITS = Form((28, 28), 255), Form((8, 8), 16)
FORMS = st.sampled_from([KMNIST, DIGITS, Form((12, 20), 255)])


def png(image: Image.Image, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, "png", **options)
    return content.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue()


def decoded(content: bytes, form: Form) -> tuple[list[Picture], list[str]]:
    """The pictures of a file's bytes, and what was wrong with it."""
    faults: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "_content", lambda path: content)
        pictures = list(inputs.read(["file"], form, lambda name, fault: faults.append(fault)))
    return pictures, faults


def one(content: bytes, form: Form) -> Picture:
    (picture,), faults = decoded(content, form)
    assert not faults
    return picture


@st.composite
def drawings(draw: st.DrawFn, levels: int = 256) -> np.ndarray:
    """White on black (h, w) uint8, of any size, with an edge of paper."""
    height, width = draw(st.integers(3, 70)), draw(st.integers(3, 70))
    drawn = np.random.default_rng(draw(st.integers(0, 2**32))).integers(
        levels, size=(height, width)
    )
    drawn = (drawn * (255 // (levels - 1))).astype(np.uint8)
    drawn[[0, -1]], drawn[:, [0, -1]] = 0, 0
    assume(drawn.any())
    return drawn


def grid(form: Form) -> np.ndarray:
    """Three different images in a model's own form."""
    drawn = np.random.default_rng(0).integers(form.pixel_max + 1, size=(3, *form.shape))
    drawn[:, [0, -1]], drawn[:, :, [0, -1]] = 0, 0
    drawn[:, 3, 3] = form.pixel_max
    return drawn.astype(np.uint8)


# --- every size, mode and polarity ---------------------------------------------------------------


@given(drawings(), FORMS)
def test_any_size_comes_to_the_models_form(drawn, form):
    picture = one(png(Image.fromarray(drawn)), form)
    assert (picture.pixels.shape, picture.pixels.dtype) == (form.shape, np.uint8)
    assert picture.pixels.max() <= form.pixel_max
    assert not inputs._is_dark_on_light(picture.pixels[None], form.pixel_max)
    assert ("x".join(map(str, drawn.shape[::-1])) in picture.prepared) == (
        drawn.shape != form.shape
    )


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
    plain, other = one(png(Image.fromarray(drawn)), KMNIST), one(content, KMNIST)
    far = 8 if "jpeg" in mode else 1  # rounding, once in each polarity
    assert np.abs(plain.pixels.astype(int) - other.pixels).max() <= far
    assert ("inverted" in other.prepared) == inverted


@given(drawings(), st.sampled_from([1, 16, 257]), st.booleans())
def test_a_16_bit_image_may_use_only_its_low_bits(drawn, step, inverted):
    drawn[0, 0] = 255
    seen = 255 - drawn if inverted else drawn
    deep = one(png(Image.fromarray(seen.astype(np.uint16) * step)), KMNIST)
    plain = one(png(Image.fromarray(seen)), KMNIST)
    assert np.abs(plain.pixels.astype(int) - deep.pixels).max() <= 2


@given(drawings(levels=2), st.booleans())
def test_black_and_white_of_one_bit_is_the_same_as_grey(drawn, inverted):
    image = Image.fromarray(255 - drawn if inverted else drawn)
    assert np.array_equal(
        one(png(image.convert("1", dither=Image.Dither.NONE)), KMNIST).pixels,
        one(png(image), KMNIST).pixels,
    )


@given(drawings(), st.sampled_from([0, 255]))
def test_ink_on_nothing_is_seen_whatever_its_colour(drawn, ink):
    colour = np.full_like(drawn, ink)
    image = Image.fromarray(np.stack([colour, colour, colour, drawn], axis=-1))
    plain = one(png(Image.fromarray(drawn)), KMNIST)
    assert np.abs(plain.pixels.astype(int) - one(png(image), KMNIST).pixels).max() <= 1


@pytest.mark.parametrize("form", [KMNIST, DIGITS])
@pytest.mark.parametrize("kind", ["npz", "unnamed", "idx", "idx.gz"])
def test_images_in_the_models_own_form_are_not_touched(form, kind):
    images = grid(form)
    content = {
        "npz": lambda: npz(images=images, labels=np.zeros(3)),
        "unnamed": lambda: npz(arr_0=images),
        "idx": lambda: idx.encode(images),
        "idx.gz": lambda: gzip.compress(idx.encode(images)),
    }[kind]()
    pictures, faults = decoded(content, form)
    assert not faults
    assert np.array_equal([picture.pixels for picture in pictures], images)
    assert {picture.prepared for picture in pictures} == {""}
    assert [picture.name for picture in pictures] == ["file[0]", "file[1]", "file[2]"]


def test_a_picture_of_the_models_size_keeps_every_pixel():
    image = grid(KMNIST)[0]
    picture = one(png(Image.fromarray(image)), KMNIST)
    assert (picture.prepared, picture.pixels.tolist()) == ("", image.tolist())
    picture = one(png(Image.fromarray(255 - image)), KMNIST)
    assert (picture.prepared, picture.pixels.tolist()) == ("inverted", image.tolist())


@pytest.mark.parametrize("white", [1, 1.0, True])
def test_masks_and_fractions_are_parts_of_white(white):
    mask = (grid(KMNIST) > 99).astype(type(white))
    pictures, _ = decoded(npz(images=mask.astype(np.uint8) if white == 1 else mask), KMNIST)
    assert np.array_equal([picture.pixels for picture in pictures], (mask > 0) * 255)


def test_the_images_of_one_array_have_one_polarity():
    images = grid(KMNIST)
    images[1, [0, -1]] = images[1, :, [0, -1]] = 255  # bright to its edges, as no other
    assert {p.prepared for p in decoded(npz(images=images), KMNIST)[0]} == {""}
    assert {p.prepared for p in decoded(npz(images=255 - images), KMNIST)[0]} == {"inverted"}


def test_no_image_of_the_digits_is_taken_for_dark_on_light(digits_run):
    with np.load(digits_run[0].folder / "data/processed/digits.npz") as arrays:
        images = arrays["images"]
    assert not any(inputs._is_dark_on_light(image[None], 16) for image in images)
    assert all(inputs._is_dark_on_light(16 - image[None], 16) for image in images)


def test_an_image_is_turned_as_its_camera_was_held():
    drawn = grid(KMNIST)[0]
    content = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # stored a quarter turn to the left
    Image.fromarray(np.rot90(drawn)).save(content, "png", exif=exif)
    assert np.array_equal(one(content.getvalue(), KMNIST).pixels, drawn)


def test_a_long_image_is_fitted_without_being_stretched():
    drawn = np.zeros((56, 112), np.uint8)
    drawn[10:46, 20:92] = 255
    picture = one(png(Image.fromarray(drawn)), KMNIST)
    assert picture.prepared == "112x56 to 28x28, filled up to a square"
    assert np.flatnonzero(picture.pixels.any(axis=1))[[0, -1]].tolist() == [9, 18]
    assert not picture.pixels[:7].any() and not picture.pixels[-7:].any()


# --- what cannot be read -------------------------------------------------------------------------

GOOD = png(Image.fromarray(grid(KMNIST)[0]))


def claiming(width: int, height: int) -> bytes:
    """A small PNG that says it is large."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packed = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed)


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
    "blank": (png(Image.new("L", (9, 9), 7)), "is blank"),
    "nothing": (png(Image.new("RGBA", (9, 9))), "is blank"),
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


def test_one_blank_image_of_an_array_does_not_stop_the_others():
    images = grid(KMNIST)
    images[1] = 0
    pictures, faults = decoded(npz(images=images), KMNIST)
    assert [picture.name for picture in pictures] == ["file[0]", "file[2]"]
    assert len(faults) == 1


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
    assert all(picture.pixels.shape == (28, 28) for picture in pictures)


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
        self.name, self.dataset, self.shape, self.pixel_max = "sure", "kmnist", (28, 28), 255
        self.routing: dict[str, Any] | None = None
        self._answers = answers

    def answers(self, pixels: np.ndarray) -> list[Answer]:
        return [self._answers[number % len(self._answers)] for number in range(len(pixels))]


ANSWER = Answer(3, "tsu", "つ", 1 / 3, "accept")


def written(tmp_path: Path, output: str, answers: list[Answer], places: list[str]) -> bytes:
    to = tmp_path / "out"
    predict.predict(Sure(answers), places, output, to, None)
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
    dataset = {"classes": list("0123456789"), "shape": [8, 8], "pixel_max": 16, "name": "digits"}
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
    native = answering.run(*command, "native.npz")
    assert native.returncode == 0
    assert "digits_softmax (no champion of digits is registered; best validation" in native.stderr
    scans = Project(folder).run(  # from a folder below, with paths as seen from there
        *command, ".", "--to", "answers.json", "--sheet", "../sheet.png",
        PYTHONPATH=str(answering.folder / "src"),
    )  # fmt: skip
    assert scans.returncode == 1
    assert "error: ./broken.png: broken image" in scans.stderr
    assert "40 of them were converted to 8x8, white on black, 0 to 16" in scans.stderr
    rows = json.loads((folder / "answers.json").read_text())
    labels = [[row["label"] for row in found] for found in (json.loads(native.stdout), rows)]
    assert np.mean(np.equal(labels[0], labels[1])) >= 0.95
    assert rows[3]["prepared"] == "67x67 to 8x8, inverted, 0..255 to 0..16"
    with Image.open(answering.folder / "sheet.png") as sheet:
        assert sheet.info["Caption"] == "Predicted by digits_softmax"
    assert not list(answering.folder.rglob("*.db"))  # no store is made to be asked


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

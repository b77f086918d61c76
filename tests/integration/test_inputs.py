"""Pictures of every kind come to the form of a model, and no file stops the rest."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from support import drawn, wording
from support.pictures import DIGITS, GOOD, KMNIST, PLACEMENTS, grid, npz, png

from kmnist_pipeline.data import idx
from kmnist_pipeline.serving import character, inputs
from kmnist_pipeline.serving.character import Form
from kmnist_pipeline.serving.inputs import Picture

WIDE = {**PLACEMENTS["digits"], "size": 10.0, "centre": [6.0, 10.0]}
FORMS = st.sampled_from([KMNIST, DIGITS, Form((12, 20), 255, WIDE)])
IMAGES = load_digits().images


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


@pytest.mark.parametrize("white", [16, 31, 40, 64, 256])
@pytest.mark.parametrize("inverted", [False, True])
def test_a_16_bit_image_whose_white_is_no_power_of_two_less_one(white, inverted):
    """The digits of scikit-learn have a white of 16."""
    drawn = np.pad(digit(3, 40), 9) * 0.8  # no pen is as dark as paper is light
    levels = np.rint((255 - drawn if inverted else drawn) * (white / 255)).astype(np.uint16)
    found = one(png(Image.fromarray(levels)), KMNIST).prepared
    assert found.doubt != character.EMPTY
    assert ("inverted" in found.steps) == inverted


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
    assert list(faults.values()) == [wording.EMPTY, "No such file or directory"]


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

"""Finding the character in a picture: each step, with real digits on rendered paper."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from kmnist_pipeline.data import placement
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evaluation import acceptance, conditions
from kmnist_pipeline.serving import character
from kmnist_pipeline.serving.character import Form, Prepared

DIGITS = load_digits().images.astype(np.float32) / 16
PLACE = placement.measured(DIGITS[:1400])
FORM = Form((8, 8), 16, PLACE)
DIGIT = DIGITS[1500]
LARGE = conditions._large(DIGIT)
PLAIN = character.prepare(LARGE, FORM).pixels.astype(int)


def unlike(prepared: Prepared) -> float:
    """The mean difference from the same digit without paper, as a share of white."""
    return float(np.abs(prepared.pixels - PLAIN).mean()) / 16


def on(paper: Any, ink: Any, noise: float = 0.0, drawing: np.ndarray = LARGE) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.clip(conditions._written(rng, drawing, paper, ink, noise), 0, 1)


# --- how a dataset places its characters ---------------------------------------------------------


def test_the_placement_of_the_digits_is_measured():
    assert (PLACE["size"], PLACE["centre_of"][0]) == (pytest.approx(8, abs=0.3), "box")
    assert PLACE["centre"] == pytest.approx([4, 4], abs=0.2)
    assert PLACE["level"] == 1
    assert not PLACE["dark_on_light"]
    doubted = [placement.doubt(digit, PLACE) is not None for digit in DIGITS[:1400]]
    assert placement.RARE < np.mean(doubted) < 3 * placement.RARE + 0.002  # one of three limits


def test_a_dataset_of_black_ink_on_white_is_measured_and_prepared_as_one():
    place = placement.measured(1 - DIGITS[:1400])
    assert place == {**PLACE, "dark_on_light": True}
    form = Form((8, 8), 16, place)
    assert str(form) == "8x8, black on white, 0 to 16"
    assert np.array_equal(character.prepare(LARGE, form).pixels, 16 - PLAIN)


@given(st.integers(0, 9), st.integers(0, 9), st.integers(3, 9), st.integers(3, 9))
def test_box_and_centre_are_those_of_a_rectangle(top, left, height, width):
    image = np.zeros((1, 20, 20))
    image[0, top : top + height, left : left + width] = 1
    boxes = placement.box(image)
    assert boxes.tolist() == [[top, left, top + height, left + width]]
    middle = pytest.approx([top + height / 2, left + width / 2])
    for of in ("box", "mass"):
        assert placement.centre(image, boxes, (of, of))[0] == middle


def test_a_pixel_that_is_half_covered_is_half_inside():
    image = np.zeros((1, 9, 9))
    image[0, 3:6, 3:6], image[0, 6, 3:6] = 1, 0.5
    assert placement.box(image).tolist() == [[3, 3, 6.5, 6]]


def test_each_axis_is_centred_by_what_differs_less():
    images = np.zeros((40, 20, 20))
    for n, image in enumerate(images):
        image[2:12, 5:9] = 1  # the same box, with more or less ink below
        image[12 - n % 8 : 12, 9:15] = 1
        image[2, 9:15] = 1
    assert placement.measured(images)["centre_of"] == ["box", "box"]
    spread = np.zeros((40, 20, 20))
    for n, image in enumerate(spread):
        image[5:15, 5:15] = 1
        image[0 if n % 2 else 10, 10] = 1  # a thin stroke that changes the box, not the mass
    assert placement.measured(spread)["centre_of"][0] == "mass"


def test_parts_are_described_along_both_axes():
    two = np.zeros((1, 20, 30))
    two[0, 2:18, 2:10], two[0, 4:18, 16:26] = 1, 1  # 16x8 and 14x10, in 16x24
    parts = [14 / 16 * 24 / 16, 128 / 268]
    assert placement._features(two)[0, 4:] == pytest.approx([*parts, 0, 0])
    assert placement._features(two.transpose(0, 2, 1))[0, 4:] == pytest.approx([0, 0, *parts])
    assert not placement._features(two[:, :, :14])[0, 4:].any()


# --- the steps -----------------------------------------------------------------------------------

PAPERS = {
    "black": (0.0, 1.0, 0.0, set()),
    "white": (1.0, 0.0, 0.0, {"inverted"}),
    "grey with noise": (0.8, 0.15, 0.05, {"paper removed", "inverted"}),
    "dark": (0.4, 0.08, 0.02, {"paper removed", "inverted"}),
    "coloured": ((0.95, 0.85, 0.5), (0.1, 0.1, 0.1), 0.02, {"paper removed", "inverted"}),
    "light ink on grey": (0.5, 0.9, 0.02, {"paper removed"}),
    "ink of the same lightness": ((0.8, 0.5, 0.5), (0.4, 0.7, 0.5), 0.01, {"paper removed"}),
}


@pytest.mark.parametrize("name", PAPERS)
def test_every_paper_and_ink_gives_the_same_digit(name):
    paper, ink, noise, steps = PAPERS[name]
    prepared = character.prepare(on(paper, ink, noise), FORM)
    assert unlike(prepared) < 0.03
    assert steps <= set(prepared.steps)
    assert ("inverted" in prepared.steps) == ("inverted" in steps) or "lightness" in name
    assert prepared.doubt is None


def test_uneven_light_is_removed():
    light = 0.75 + 0.25 * conditions._ramp(LARGE.shape, 0.7)
    prepared = character.prepare(on(0.95, 0.15, 0.01) * light, FORM)
    assert unlike(prepared) < 0.05
    assert "uneven paper removed" in prepared.steps


def test_weak_ink_becomes_as_strong_as_that_of_the_dataset():
    prepared = character.prepare(on(0.9, 0.7), FORM)
    assert prepared.pixels.max() == 16
    assert any("times as strong" in step for step in prepared.steps)


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 120), st.integers(0, 120))
@settings(max_examples=25, deadline=None)
def test_neither_place_nor_margin_matters(above, below, left, right):
    sheet = np.pad(LARGE, ((above, below), (left, right)))
    assert unlike(character.prepare(sheet, FORM)) < 0.03


@given(st.floats(2, 20), st.booleans())
@settings(max_examples=25, deadline=None)
def test_neither_size_nor_polarity_matters(scale, inverted):
    picture = conditions._resized(DIGIT, round(8 * scale))
    prepared = character.prepare(1 - picture if inverted else picture, FORM)
    assert unlike(prepared) < 0.08
    assert ("inverted" in prepared.steps) == inverted


def test_a_large_picture_is_reduced():
    prepared = character.prepare(np.pad(LARGE, ((0, 0), (900, 720))), FORM)
    assert prepared.steps[0] == "reduced to 640x30"
    assert prepared.pixels.max() == 16


def test_an_image_that_is_placed_as_most_is_not_moved():
    for digit in DIGITS[1400:1440]:
        prepared = character.prepare(digit, FORM)
        if not any("placed" in step for step in prepared.steps):
            assert np.abs(prepared.pixels - digit * 16).max() <= (1 if not prepared.steps else 4)
            continue
        boxes = placement.box(digit[None])
        found = [
            placement.sides(boxes).max(),
            *placement.centre(digit[None], boxes, ["box"] * 2)[0],
        ]
        assert any(
            not low <= value <= high
            for value, (low, high) in zip(found, PLACE["usual"].values(), strict=False)
        )


def test_a_digit_in_the_datasets_resolution_is_moved_by_whole_pixels():
    sheet = np.pad(DIGIT, ((5, 2), (1, 9)))
    found = character.prepare(sheet, FORM).pixels
    places = [np.roll(np.rint(DIGIT * 16), shift, axis=1) for shift in (-1, 0, 1)]
    assert min(np.abs(found - place).mean() for place in places) < 0.3  # only the ink's strength


def test_specks_are_no_part_of_the_digit():
    drawing = np.pad(LARGE, 20)
    drawing[2:4, 2:4] = drawing[-4:-2, -3:-1] = 0.8
    prepared = character.prepare(on(0.95, 0.1, 0.01, drawing), FORM)
    assert unlike(prepared) < 0.03
    assert "specks removed" in prepared.steps


# --- what is never accepted ----------------------------------------------------------------------


@pytest.mark.parametrize("paper", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_paper_without_a_character(paper, noise):
    prepared = character.prepare(on(paper, 0, noise, 0 * LARGE), FORM)
    assert (prepared.doubt, str(prepared)) == ("no character", "review: no character")
    assert not prepared.pixels.any()


def test_a_line_around_the_digit_is_removed_and_said():
    box = np.pad(np.pad(np.pad(LARGE, 8), 2, constant_values=1), 8)
    prepared = character.prepare(on(0.95, 0.15, 0.01, box), FORM)
    assert prepared.doubt == "a line around the character"
    assert unlike(prepared) < 0.03
    assert str(prepared).endswith("review: a line around the character")


@pytest.mark.parametrize("axis", [0, 1])
def test_two_digits_are_several(axis):
    doubts = []
    for digit in range(1500, 1600):
        one, other = (conditions._large(DIGITS[k]) for k in (digit, digit + 100))
        gap = np.zeros((80, 30) if axis else (30, 80))
        two = np.pad(np.concatenate([one, gap, other], axis=axis), 9)
        doubts.append(character.prepare(1 - two, FORM).doubt)
    assert doubts.count(None) <= 2
    assert doubts.count("several characters") > 60  # of some, no gap is left in 8x8 pixels


def test_a_form_that_no_digit_has_is_doubted():
    blob = np.zeros((80, 80))
    blob[10:70, 10:70] = 1
    doubt = character.prepare(blob, FORM).doubt
    assert doubt is not None and doubt.startswith("unlike the training images (")


def test_the_digits_themselves_are_rarely_doubted():
    doubts = [character.prepare(digit, FORM).doubt for digit in DIGITS[1400:1500]]
    assert np.mean([doubt is not None for doubt in doubts]) < 0.05


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_any_picture_is_prepared_or_doubted(height, width, channels, seed):
    rng = np.random.default_rng(seed)
    shape = (height, width, channels) if channels == 3 else (height, width)
    picture = rng.random(shape) ** rng.integers(1, 9)
    prepared = character.prepare(picture, FORM)
    assert (prepared.pixels.shape, prepared.pixels.dtype) == ((8, 8), np.uint8)
    assert prepared.pixels.max() <= 16
    assert prepared.doubt or prepared.pixels.any()


# --- as they are ---------------------------------------------------------------------------------


def test_only_images_of_the_models_size_are_used_as_they_are():
    image = np.arange(64, dtype=np.uint8).reshape(8, 8) % 17
    prepared = character.as_it_is(image / np.float32(16), FORM)
    assert np.array_equal(prepared.pixels, image) and str(prepared) == ""
    assert character.as_it_is(np.full((8, 8), 0.3), FORM).doubt == "no character"
    with pytest.raises(UserError, match="must be 8x8, white on black, 0 to 16, but this one is 9x"):
        character.as_it_is(np.zeros((9, 9)), FORM)


@pytest.mark.parametrize(("brightest", "white"), [(0, 1), (1, 1), (2, 16), (16, 16), (17, 255)])
def test_the_white_of_bytes_follows_from_the_brightest(brightest, white):
    assert character.white(np.full((1, 2, 2), brightest, np.uint8), FORM) == white


# --- the renderings ------------------------------------------------------------------------------


def test_renderings_are_the_same_for_the_same_seed_and_differ_for_others():
    drawings = DIGITS[:3]
    for name in (*conditions.CONDITIONS, *conditions.UNANSWERABLE):
        one, same = (conditions.rendered(name, drawings, 1) for _ in range(2))
        assert all(map(np.array_equal, one, same)), name
        for picture in one:
            assert picture.min() >= 0 and picture.max() <= 1, name
    assert len(conditions.CONDITIONS) >= 12
    one, other = (conditions.rendered("grey paper with noise", drawings, seed) for seed in (1, 2))
    assert not np.array_equal(one[0], other[0])


def test_the_interval_of_accepted_answers_is_exact():
    from scipy.stats import binomtest

    right, accepted = np.array([1, 1, 0, 1, 0], bool), np.array([1, 1, 1, 0, 0], bool)
    found = acceptance.outcome(right, accepted, 0.995)
    interval = binomtest(2, 3).proportion_ci(0.95, "exact")
    assert found["interval"] == pytest.approx([interval.low, interval.high])
    assert (found["accuracy"], found["accepted_accuracy"]) == (0.6, 2 / 3)
    assert found["target"] == "not met"
    assert acceptance.target(2, 3, 0.99) == "within the interval"
    assert acceptance.outcome(right, right, 0.995)["target"] == "met"
    assert acceptance.outcome(right, ~accepted & False, 0.995)["accepted_accuracy"] is None


def test_a_jpeg_of_a_photo_is_read_as_the_picture_that_it_shows():
    picture = conditions.rendered("mild photo", DIGITS[:1], 3)[0]
    assert picture.ndim == 3
    packed = io.BytesIO()
    Image.fromarray(np.uint8(picture * 255)).save(packed, "png")
    with Image.open(packed) as image:
        same = character.prepare(np.asarray(image) / np.float32(255), FORM)
    assert np.array_equal(same.pixels, character.prepare(picture, FORM).pixels)

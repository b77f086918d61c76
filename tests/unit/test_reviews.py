"""People's decisions: their file, and what they do to a dataset."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmnist_pipeline.config import rules
from kmnist_pipeline.data import reviews
from kmnist_pipeline.data.reviews import EXCLUDED, LEFT_OUT, Review, ReviewError

CLASSES = ("o", "ki", "a,b", 'with "quotes"', "-", "'+")
FILE = "reviews/x.csv"
HEADER = "sha256,origin,old_label,new_label,asked_by\n"
KEY = "ab" * 32
OTHER = "cd" * 32

PRINTABLE = st.characters(blacklist_categories=["C", "Z"], whitelist_characters=" ")
DECISIONS = st.lists(
    st.builds(
        Review,
        st.binary(min_size=32, max_size=32).map(bytes.hex),
        st.one_of(st.text(PRINTABLE, max_size=20), st.text("'=+-@ x", max_size=4)),
        st.sampled_from((*CLASSES, "")),
        st.sampled_from((*CLASSES, EXCLUDED)),
        st.sampled_from(("", KEY)),
    ),
    unique_by=lambda review: review.sha256,
    max_size=8,
)


def parse(text: str) -> dict[str, Review]:
    return reviews.parse(text.encode(), FILE, CLASSES)[0]


@given(DECISIONS)
def test_what_is_written_is_read_again_whatever_its_order(decided):
    content = reviews.encode(decided)
    found, notes = reviews.parse(content, FILE, CLASSES)
    assert (found, notes) == ({review.sha256: review for review in decided}, [])
    assert reviews.encode(reversed(decided)) == content


@given(DECISIONS.filter(bool), st.data())
def test_a_cut_file_is_refused_or_is_whole_up_to_a_row(decided, data):
    content = reviews.encode(decided)
    cut = content[: data.draw(st.integers(0, len(content) - 1))]
    try:
        found, _ = reviews.parse(cut, FILE, CLASSES)
    except ReviewError as error:
        assert str(error).startswith(f"{FILE}:")
    else:
        assert cut.endswith(b"\n") and found.items() <= {r.sha256: r for r in decided}.items()


ROW = f"{KEY},scan.png,o,ki,{OTHER}"


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("", 1, "must be the header"),
        ("a,b\n", 1, "must be the header"),
        (f"{HEADER}{ROW}", 2, "may be half-written"),
        (f"{HEADER}{ROW}\n{ROW[:70]}", 3, "may be half-written"),
        (f"{HEADER}<<<<<<< ours\n{ROW}\n=======\n{ROW}\n>>>>>>> theirs\n", 2, "merge conflict"),
        (f"{HEADER}{ROW.replace('ki', 'kii')}\n", 2, "new_label=kii: must be excluded or one of"),
        (f"{HEADER}{ROW.replace(',o,', ',0,')}\n", 2, "old_label=0: must be empty for a new"),
        (f"{HEADER}{ROW[1:]}\n", 2, "must be 64 hexadecimal digits"),
        (f"{HEADER}{ROW}x\n", 2, "asked_by="),
        (f"{HEADER}{ROW},more\n", 2, "has 6 cells instead of 5"),
        (f"{HEADER}{ROW}\n\n", 3, "has 0 cells instead of 5"),
        (f'{HEADER}{KEY},"scan\n', 2, "unexpected end"),
        (f"{HEADER}{ROW}\n".replace("scan", "\0"), 2, r"origin='\\x00.png': must be printable"),
        (f"{HEADER}{ROW}\n".replace("ki", "\x1b"), 2, r"new_label='\\x1b': must be printable"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(text, line, problem):
    with pytest.raises(ReviewError, match=problem) as caught:
        parse(text)
    assert str(caught.value).startswith(f"{FILE}:{line}: ")


def test_another_encoding_is_refused_with_its_line():
    content = f"{HEADER}{ROW}\n".encode() + b"\xff\n"
    with pytest.raises(ReviewError, match=f"^{FILE}:3: is not UTF-8"):
        reviews.parse(content, FILE, CLASSES)


def test_of_two_answers_the_later_wins_and_is_said():
    text = f"{HEADER}{ROW}\n{ROW.replace('ki', EXCLUDED)}\n"
    found, notes = reviews.parse(text.encode(), FILE, CLASSES)
    assert found[KEY].new == EXCLUDED and found[KEY].line == 3
    assert notes == [f"{FILE}:3: excluded replaces ki in line 2, for the same image"]
    assert reviews.parse(f"{HEADER}{ROW}\n{ROW}\n".encode(), FILE, CLASSES)[1] == []


@pytest.mark.parametrize(("first", "second", "old"), [("o", "", "o"), ("", "o", "o"),
                                                     ("o", "ki", "ki")])  # fmt: skip
def test_of_two_answers_with_other_old_labels_the_later_wins_and_no_label_is_lost(
    first, second, old
):
    rows = [f"{KEY},a,{first},ki,{OTHER}", f"{KEY},b,{second},{EXCLUDED},{OTHER}"]
    found, notes = reviews.parse("\n".join([HEADER[:-1], *rows, ""]).encode(), FILE, CLASSES)
    assert (found[KEY].origin, found[KEY].old, found[KEY].new) == ("b", old, EXCLUDED)
    assert notes == [f"{FILE}:3: excluded replaces ki in line 2, for the same image"]


def test_no_text_is_a_formula_of_a_spreadsheet():
    content = reviews.encode([Review(KEY, "=1+1", "-", "'+", "")])
    assert content.decode().splitlines()[1] == f"{KEY},'=1+1,'-,''+,"
    by_hand = reviews.parse(content.replace(b",'=", b",="), FILE, CLASSES)[0]
    assert by_hand[KEY] == reviews.parse(content, FILE, CLASSES)[0][KEY]


def test_line_breaks_of_windows_are_read():
    assert parse(f"{HEADER}{ROW}\n".replace("\n", "\r\n"))[KEY].new == "ki"


def test_a_byte_order_mark_is_read_as_spreadsheets_write_it():
    content = f"{HEADER}{ROW}\n".encode("utf-8-sig")
    assert reviews.parse(content, FILE, CLASSES)[0][KEY].new == "ki"


# Applying them

IMAGES = np.arange(6 * 4, dtype=np.uint8).reshape(6, 2, 2)
LABELS = np.array([0, 1, 0, 1, 0, 1])
TRAIN, TEST = np.array([4, 0, 2, 1]), np.array([3, 5])
NEW = np.full((2, 2, 2), 200, np.uint8) + np.arange(2, dtype=np.uint8)[:, None, None]


def decision(pixels: np.ndarray, old: str, new: str, line: int = 2) -> Review:
    return Review(reviews.digest(pixels), "somewhere", old, new, "", line)


def applied(*decided: Review, new: np.ndarray = NEW[:0], images: np.ndarray = IMAGES):
    by_key = {review.sha256: review for review in decided}
    return reviews.apply(by_key, FILE, images, LABELS, TRAIN, TEST, ("o", "ki"), new)


def test_without_decisions_nothing_changes():
    found = applied(new=NEW)
    assert found.images is IMAGES and found.train is TRAIN and found.test is TEST
    assert (found.labels == LABELS).all() and found.counts == {}
    assert found.of_test == {}


def test_training_labels_are_corrected_and_images_left_out_and_added():
    found = applied(
        decision(IMAGES[0], "o", "ki"),
        decision(IMAGES[1], "ki", "ki"),
        decision(IMAGES[2], "o", EXCLUDED),
        decision(NEW[1], "", "ki"),
        decision(NEW[0], "", EXCLUDED),
        new=NEW,
    )
    assert found.train.tolist() == [4, 0, 1, 6] and found.test is TEST
    assert found.labels.tolist() == [1, 1, 0, 1, 0, 1, 1]
    assert (found.images[:6] == IMAGES).all() and (found.images[6] == NEW[1]).all()
    assert LABELS.tolist() == [0, 1, 0, 1, 0, 1]
    assert found.counts == {
        "reviewed": 5, "corrected": 1, "confirmed": 1, "excluded": 1, "added": 1,
        "new_excluded": 1, "test": 0,
    }  # fmt: skip


def test_test_images_keep_their_labels_and_stay_out_of_training(tmp_path):
    found = applied(
        decision(IMAGES[3], "ki", "o"), decision(IMAGES[5], "", EXCLUDED), new=IMAGES[[3, 5]]
    )
    assert (found.images is not None) and len(found.images) == 6
    assert (found.labels == LABELS).all() and (found.train == TRAIN).all()
    file = tmp_path / "x.npz"
    np.savez(file, images=found.images, labels=found.labels, **found.of_test)
    corrected = reviews.labels_of_test(file, TEST, LABELS[TEST], None)
    assert corrected is not None and corrected.tolist() == [0, LEFT_OUT]
    # A model of class 1 alone does not know class 0.
    of_one = reviews.labels_of_test(file, TEST, np.zeros(2, int), [1])
    assert of_one is not None and of_one.tolist() == [LEFT_OUT] * 2


def test_without_decisions_about_test_images_there_are_no_corrected_labels(tmp_path):
    np.savez(tmp_path / "x.npz", labels=LABELS)
    assert reviews.labels_of_test(tmp_path / "x.npz", TEST, LABELS[TEST], None) is None


def test_a_decision_counts_for_all_training_images_with_these_pixels():
    twice = IMAGES.copy()
    twice[1] = twice[0]  # once labelled o, once ki; the first test image is the same too
    twice[3] = twice[0]
    found = applied(decision(twice[0], "o", "o"), images=twice)
    assert found.labels.tolist() == [0, 0, 0, 1, 0, 1]
    assert found.test_rows.tolist() == [3] and found.test_labels.tolist() == [0]


@pytest.mark.parametrize(
    ("review", "problem"),
    [
        (decision(NEW[1], "", "ki", 7), r":7: the image [0-9a-f]{12} \(somewhere\) is neither in"),
        (decision(IMAGES[0], "ki", "o", 3), ":3: old_label=ki, but the image is o$"),
        (decision(NEW[0], "ki", "o", 3), ":3: old_label=ki, but the image is a new one, without"),
    ],
)
def test_a_row_about_other_data_is_refused_and_named(review, problem):
    with pytest.raises(ReviewError, match=problem):
        applied(review, new=NEW[:1])


# The new images


def test_new_images_have_one_order_and_are_read_again():
    content = reviews.images_bytes(list(NEW))
    assert content == reviews.images_bytes(list(NEW[::-1]))
    found = reviews.images_of(content, "x.npz", (2, 2))
    assert {reviews.digest(pixels) for pixels in found} == {reviews.digest(p) for p in NEW}
    assert reviews.images_of(reviews.images_bytes([]), "x.npz", (2, 2)).shape == (0, 2, 2)


@pytest.mark.parametrize("content", [b"", b"PK\3\4", reviews.images_bytes(list(NEW))[:-30]])
def test_a_broken_file_of_new_images_is_named(content):
    with pytest.raises(ReviewError, match=r"x\.npz: is no npz of images"):
        reviews.images_of(content, "x.npz", (2, 2))


def test_new_images_of_another_size_are_refused():
    with pytest.raises(ReviewError, match="not of uint8 and"):
        reviews.images_of(reviews.images_bytes(list(NEW)), "x.npz", (3, 2))


def test_no_class_of_a_dataset_may_have_the_name_that_excludes_images():
    assert rules.EXCLUDED == EXCLUDED

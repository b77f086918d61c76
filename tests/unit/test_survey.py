"""What an import says about the images that it has found, and what is new in a second version."""

from __future__ import annotations

import numpy as np
from support import drawn

from kmnist_pipeline.importing import difference, survey
from kmnist_pipeline.importing.content import Content


def content_of(images: np.ndarray, test: list[int], classes: tuple[str, str]) -> Content:
    """Images of two classes in turn."""
    rows = np.arange(len(images))
    names = [f"image {row}" for row in rows]
    train = np.setdiff1d(rows, test)
    return Content(images, rows % 2, train, np.array(test), [*classes], 255, names, True)


def test_duplicates_blank_images_and_polarity_are_found():
    images = drawn.stripes([0, 1] * 10)
    images[5] = images[3]  # exact, within training
    images[19] = images[4]  # exact, across, another class
    noise = np.random.default_rng(0).normal(0, 3, images[7].shape)
    images[18] = np.clip(images[7] + noise, 0, 255)  # near, across
    images[8], images[9] = 0, 255 - images[9]
    about = content_of(images, [18, 19], ("a", "b"))
    found = survey.survey(about)
    assert found.copies.tolist() == [[3, 5], [4, 19]]
    assert found.near.tolist() == [[7, 18]]
    assert found.blank.tolist() == [8]
    assert found.dark_on_light.tolist() == [9]
    lines = [*survey.lines(about, found, "drawn")]
    for line in (
        "drawn: 20 images of 12x10 pixels (height x width), grey, in 2 classes",
        "exact duplicates: 1 within training, 0 within test, 1 across both",
        "near duplicates: 0 within training, 0 within test, 1 across both",
        "warning: 1 exact duplicates have another class",
        "  image 7 and image 18",
        "blank images: 1",
    ):
        assert line in lines
    assert [line for line in lines if "suspicious polarity: 1 of 19 images" in line]


def test_near_duplicates_are_those_of_all_pairs():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (60, 9, 7, 3))
    noise = rng.normal(size=base.shape) * rng.uniform(1, 20, (60, 1, 1, 1))
    images = np.concatenate([base, base + noise])
    images = images.clip(0, 255).astype(np.uint8)
    flat = np.corrcoef(images.reshape(120, -1))
    expected = np.argwhere(np.triu(flat >= survey.NEAR, 1))
    assert 10 < len(expected) < 60
    found = survey.near_duplicates(images, np.arange(120))
    assert found.tolist() == expected.tolist()


def test_the_polarity_of_coloured_images_is_that_of_their_brightness():
    colours = [(255, 255, 0), (0, 255, 0), (0, 0, 255), (255, 0, 0)]  # two bright, two dark
    images = drawn.stripes(range(4), (*drawn.SHAPE, 3))
    images[:, [0, -1]] = images[:, :, [0, -1]] = np.array(colours)[:, None, None]
    about = content_of(images, [2, 3], ("a", "b"))
    found = survey.survey(about)
    assert found.dark_on_light.tolist() == [0, 1]
    lines = [*survey.lines(about, found, "drawn")]
    said = "warning: suspicious polarity: 2 of 4 images are dark on light; `kmnist predict` "
    assert said + "takes coloured images as they are" in lines


def test_examples_are_across_both_splits_first_and_the_others_are_counted():
    images = drawn.stripes([0, 1] * 10)
    images[[1, 2, 3, 4, 19]] = images[0]
    about = content_of(images, [18, 19], ("a", "b"))
    lines = [*survey.lines(about, survey.survey(about), "drawn")]
    at = lines.index("exact duplicates: 4 within training, 0 within test, 1 across both")
    assert lines[at + 1 : at + 5] == [
        "  image 0 and image 19", "  image 0 and image 1", "  image 0 and image 2", "  and 2 more",
    ]  # fmt: skip
    (share,) = [line for line in lines if line.startswith("each class was split")]
    assert share.endswith("rounded to whole images: 10.0 % of all are test images")


def test_the_counts_of_classes_with_wide_letters_are_aligned():
    about = content_of(drawn.stripes([0, 1] * 10), [18, 19], ("ひらがな", "a"))
    kana, other = [
        line
        for line in survey.lines(about, survey.survey(about), "x")
        if line.endswith("9       1")
    ]
    assert kana == "ひらがな         9       1" and other == "a                9       1"


def test_classes_that_have_only_other_names_are_renamed_and_not_relabelled():
    labels = np.repeat(np.arange(49), 3)
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 4, 4), np.uint8)
    test = np.arange(0, len(labels), 3)
    old = difference.version(images, labels, test, [str(c) for c in range(49)])
    names = [f"class {c}" for c in range(49)]
    labels[4] = 0
    new = difference.version(images, labels, test, names)
    found = difference.between(old, new)
    assert [*found.lines()] == [
        "classes renamed: 0 -> class 0, 1 -> class 1, 2 -> class 2 and 46 more",
        "added: 0", "removed: 0", "relabelled: 1 (class 1 -> class 0 1)", "  4",
    ]  # fmt: skip
    other = difference.version(images, labels, test, names[::-1])
    assert difference.between(new, other).form == ["classes: in another order"]
    few = difference.version(images[6:], labels[6:] - 2, test[2:] - 6, names[2:])
    assert difference.between(new, few).form == ["classes: without class 0, class 1"]

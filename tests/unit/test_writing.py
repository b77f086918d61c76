"""Groups of similar writing: they divide each class, and no fold divides a group."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmnist_pipeline.data import splits, writing
from kmnist_pipeline.data.dataset import Images

SIDES = st.sampled_from([(3, 3), (28, 20), (5, 40)])


def drawn(shape: tuple[int, ...], styles: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (60, *shape) of each of `styles` patterns with a little noise, and their patterns."""
    rng = np.random.default_rng(seed)
    patterns = rng.integers(0, 2, (styles, *shape)) * 200
    of = np.repeat(np.arange(styles), 60)
    noise = rng.integers(0, 20, (len(of), *shape))
    return (patterns[of] + noise).astype(np.uint8), of


@given(SIDES, st.booleans(), st.integers(2, 5), st.integers(0, 99))
def test_patterns_far_apart_are_never_one_group(side, colour, styles, seed):
    pixels, of = drawn((*side, 3) if colour else side, styles, seed)
    labels = np.zeros(len(of), dtype=np.int64)
    found = writing.groups(pixels, labels, 4 * styles, seed)
    different = {tuple(pixels[of == one][0].ravel() > 100) for one in range(styles)}
    if len(different) == styles:
        assert all(len(np.unique(of[found == group])) == 1 for group in np.unique(found))


def test_groups_belong_to_one_class_and_are_the_same_again():
    pixels, of = drawn((8, 8), 6, 0)
    labels = of % 3
    found = writing.groups(pixels, labels, 4, 1)
    assert all(len(np.unique(labels[found == group])) == 1 for group in np.unique(found))
    assert np.array_equal(found, writing.groups(pixels, labels, 4, 1))


def test_fewer_images_than_groups_and_equal_images():
    pixels, labels = np.zeros((5, 4, 4), np.uint8), np.array([0, 0, 1, 1, 1])
    found = writing.groups(pixels, labels, 9, 0)
    assert len(np.unique(found)) == 2  # one for each class


@pytest.mark.parametrize("folds", [2, 5])
def test_each_image_is_held_out_once_and_no_group_is_divided(folds):
    pixels, of = drawn((8, 8), 20, 0)
    images = Images(pixels, of % 2, np.arange(len(of)), ("a", "b"))
    rows = np.random.default_rng(0).permutation(len(of))[:1000]
    validation = {"method": "grouped", "folds": folds, "groups": 10}
    cut = splits.folds(images, rows, validation, 3)
    groups = writing.groups(pixels[rows], images.labels[rows], 10, 3)
    held = np.concatenate([unseen for _, unseen in cut])
    assert np.array_equal(np.sort(held), np.arange(len(rows)))
    for training, unseen in cut:
        assert not set(groups[training]) & set(groups[unseen])
        assert np.array_equal(np.sort(np.concatenate([training, unseen])), np.arange(1000))
        assert set(images.labels[rows][unseen]) == {0, 1}


def test_fewer_groups_than_folds_are_refused():
    with pytest.raises(splits.SplitError, match="class 1 has 1 groups, too few for 2 folds"):
        list(splits.grouped(np.array([0, 1, 2, 2]), np.array([0, 0, 1, 1]), 2))

"""Suspect labels, and the labels that reviewing the least confident images saves."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evaluation import labelling, out_of_fold, suspects
from kmnist_pipeline.figures import canvas
from kmnist_pipeline.figures import reviews as figures


def test_the_margin_is_that_of_confident_learning():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.4, 0.2, 0.4]])
    found = suspects.margins(probabilities, np.array([0, 2, 0]))
    np.testing.assert_allclose(found, [(1 + 0.5) / 2, (1 - 0.6) / 2, 0.5])
    assert suspects.ranking(probabilities, np.array([0, 2, 0])).tolist() == [1, 2, 0]


@given(st.integers(0, 2**32), st.integers(2, 5))
def test_exactly_the_labels_that_another_class_beats_are_contradicted(seed, classes):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(classes), 30)
    labels = rng.integers(0, classes, 30)
    margins = suspects.margins(probabilities, labels)
    assert ((margins >= 0) & (margins <= 1)).all()
    wrong = probabilities.argmax(axis=1) != labels
    assert ((margins < suspects.CONTRADICTED) == wrong).all()


def test_predictions_of_several_seeds_are_averaged():
    content = io.BytesIO()
    np.savez(
        content,
        probabilities=np.array([[1, 0], [0.5, 0.5], [0, 1]], np.float32),
        index=np.array([7, 3, 7]),
        labels=np.array([0, 1, 0]),
    )
    found = out_of_fold.load(io.BytesIO(content.getvalue()))
    assert found.index.tolist() == [3, 7] and found.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(found.probabilities, [[0.5, 0.5], [0.5, 0.5]])


@given(st.integers(0, 100), st.integers(0, 50), st.integers(2, 6))
def test_so_many_labels_are_swapped_and_no_others(seed, count, classes):
    labels = np.arange(50) % classes
    wrong, rows = suspects.swapped(labels, classes, count, seed)
    assert len(rows) == len(set(rows.tolist())) == count
    assert set(np.flatnonzero(wrong != labels)) == set(rows.tolist())
    assert ((wrong >= 0) & (wrong < classes)).all()
    again, _ = suspects.swapped(labels, classes, count, seed)
    assert (again == wrong).all()


def test_wrong_labels_are_counted_among_the_first_suspects():
    order, rows = np.array([5, 1, 0, 4, 2, 3]), np.array([0, 3, 5])
    assert suspects.found(order, rows, [1, 3, 5, 99]) == [1, 2, 2, 3]


# The loop

SETTINGS = {"held_out": 10, "start": 5, "size": 3, "rounds": 2}


def test_the_parts_have_each_image_once_and_are_those_of_the_seed():
    parts = labelling.parts(30, SETTINGS, 1)
    assert [len(rows) for rows in parts] == [10, 5, 15]
    assert sorted(np.concatenate(parts)) == list(range(30))
    other = labelling.parts(30, SETTINGS, 2)
    assert (parts.labelled == labelling.parts(30, SETTINGS, 1).labelled).all()
    assert (parts.labelled != other.labelled).any()
    labelling.parts(21, SETTINGS, 0)
    with pytest.raises(UserError, match="are 21 images, and there are 20"):
        labelling.parts(20, SETTINGS, 0)


def test_the_least_confident_images_come_first():
    probabilities = np.array([[0.9, 0.1], [0.5, 0.5], [0.3, 0.7], [0.6, 0.4]])
    assert labelling.choose(labelling.GUIDED, probabilities, 2, 0, 0).tolist() == [1, 3]
    many = np.full((50, 2), 0.5)
    drawn = [labelling.choose(labelling.RANDOM, many, 20, 0, n).tolist() for n in range(2)]
    assert all(len(set(places)) == 20 for places in drawn) and drawn[0] != drawn[1]


@pytest.mark.parametrize(
    ("guided", "random", "needed", "saved"),
    [
        ([0.5, 0.7, 0.8], [0.5, 0.6, 0.7], 300, 100),  # the goal 0.7 after the first round
        ([0.5, 0.9, 0.9], [0.5, 0.6, 0.7], 300, 150),  # halfway to the first round
        ([0.7, 0.7, 0.7], [0.5, 0.6, 0.7], 300, 200),
        ([0.5, 0.6, 0.7], [0.5, 0.6, 0.7], 300, 0),
        ([0.5, 0.6, 0.65], [0.5, 0.6, 0.7], 300, None),
        ([0.5, 0.6, 0.9], [0.5, 0.7, 0.6], 200, pytest.approx(-100 / 3)),
        # An order that is no better later has needed only the labels of its best round.
        ([0.5, 0.9, 0.9], [0.5, 0.7, 0.7], 200, 50),
        ([0.5, 0.6, 0.7], [0.7, 0.6, 0.7], 100, -200),
    ],
)
def test_labels_are_saved_at_equal_accuracy(guided, random, needed, saved):
    assert labelling.saving([100, 200, 300], guided, random) == (needed, saved)


# The figures


def test_the_figures_are_drawn_with_one_seed_and_more_ranks_than_images():
    curves = {labelling.GUIDED: np.array([[0.5, 0.6]]), labelling.RANDOM: np.array([[0.5, 0.55]])}
    hits = np.array([True, False, True, False])
    for draw in (
        lambda: figures.accuracy_by_labels([10, 20], curves),
        lambda: figures.found(hits, [2, 99]),
    ):
        content = canvas.png_bytes(draw(), {})
        assert content == canvas.png_bytes(draw(), {}) and len(content) < canvas.MAX_BYTES

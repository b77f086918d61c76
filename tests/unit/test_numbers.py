"""Numbers in two files: one that DVC shows, and one of details, which DVC does not show."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmnist_pipeline.evidence import numbers, outs

NAMES = st.text("abcxyz_", min_size=1, max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(st.dictionaries(NAMES, inner, max_size=3), min_size=1, max_size=12)
        | st.dictionaries(NAMES, inner, max_size=3)
    ),
    max_leaves=12,
)


def has_rows(value: object) -> bool:
    """Whether DVC finds what it draws: a list of maps that stands in maps alone."""
    if isinstance(value, dict):
        return any(map(has_rows, value.values()))
    return isinstance(value, list) and all(isinstance(v, dict) for v in value)


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_details_are_read_as_they_were_written_and_hold_no_list_of_maps(content: dict):
    written = json.loads(outs.json_bytes(numbers.encode(content)))
    assert not has_rows(written)
    assert numbers.decode(written) == content


def test_numbers_are_read_with_their_details(tmp_path):
    (tmp_path / "test.json").write_text('{"accuracy": 0.5}')
    with pytest.raises(FileNotFoundError, match="test_details"):
        numbers.read(tmp_path / "test.json")
    (tmp_path / "test_details.json").write_text('{"made_by": {}, "folds": {"#0": {"a": 1}}}')
    found = numbers.read(tmp_path / "test.json")
    assert found == {"accuracy": 0.5, "made_by": {}, "folds": [{"a": 1}]}
    del found["accuracy"]
    assert numbers.read(tmp_path / "test_details.json") == found

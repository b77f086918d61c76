"""A search over real workers: the same points and bytes, whatever happens on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.fit_program import results, train, training, wait_until

SEARCH: dict[str, Any] = {
    "label": "search", "family": "cnn", "seeds": [1], "epochs": 4,
    "search": {
        "seed": 0, "rounds": 2, "size": 4, "rungs": [1, 2], "reduction": 2,
        "space": {
            "optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True},
            "optimizer.batch_size": [64, 256],
        },
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The store after a search by one worker, and what the program printed."""
    store = tmp_path_factory.mktemp("search")
    status, out, messages = train(store, SEARCH, LOKY_MAX_CPU_COUNT="1")
    assert status == 0, messages
    return store, json.loads(out)


def test_each_round_halves_its_trials_and_the_best_one_is_last(searched):
    _, printed = searched
    waves = printed["waves"][0]
    assert [len(wave) for wave in waves] == [4, 2, 1, 4, 2, 1, 1]
    for longer, shorter in ((1, 0), (2, 1), (4, 3), (5, 4)):
        assert set(waves[longer]) < set(waves[shorter])
    last = waves[2] | waves[5]
    assert list(waves[6]) == ["retrained"] and waves[6]["retrained"] in last.values()
    assert set(waves[0]) != set(waves[3]), "the second round has other points"


def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path, searched):
    store, printed = searched
    status, out, messages = train(tmp_path, SEARCH, LOKY_MAX_CPU_COUNT="2")
    assert status == 0, messages
    assert json.loads(out)["waves"] == printed["waves"]
    assert results(tmp_path) == results(store)


def kill_after(fits: int, store: Path) -> None:
    """Search, and kill the program when its store has so many fits."""
    with training(store, SEARCH) as program:
        wait_until(lambda: program.finished() >= fits, f"{fits} fits")
        program.process.kill()


def test_a_killed_search_ends_with_the_same_bytes(tmp_path, searched):
    store, printed = searched
    kill_after(3, tmp_path)  # in the first rung
    kill_after(11, tmp_path)  # in a later one
    status, out, messages = train(tmp_path, SEARCH)
    assert status == 0, messages
    assert json.loads(out)["waves"] == printed["waves"]
    assert results(tmp_path) == results(store)


def test_lost_results_of_a_rung_are_made_again_although_a_longer_training_goes_on(
    tmp_path, searched
):
    store, _ = searched
    whole = results(store)
    for path in store.glob("??/*.fit"):
        path.unlink()  # the checkpoints stay
    assert list(store.glob("??/*.checkpoint"))
    status, _, messages = train(store, SEARCH)
    assert status == 0, messages
    assert results(store) == whole


def test_a_search_that_is_known_trains_nothing(searched):
    status, out, messages = train(searched[0], SEARCH)
    assert (status, messages) == (0, "")
    assert json.loads(out)["loky"] is False

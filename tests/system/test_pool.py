"""The pool of fits over processes of this machine, with real workers and real faults."""

from __future__ import annotations

import json
import os
import signal
import time

import psutil
import pytest
from support.fit_program import LONG, results, train, training, wait_until

QUICK = {"label": "quick"}


def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path):
    plans = [{**QUICK, "again": [7]}, {**QUICK, "label": "other", "seeds": [2, 3]}]
    found = []
    for workers in "12":
        store = tmp_path / workers
        status, out, messages = train(store, *plans, LOKY_MAX_CPU_COUNT=workers)
        assert status == 0, messages
        assert "fits: 0 known, 6 to train" in messages  # seed 2 belongs to both
        assert "quick: trained" in messages and "other: trained" in messages
        assert results(store).keys() == set(json.loads(out)["keys"])
        assert not list(store.glob("scratch/kmnist-fits-*"))
        found.append(results(store))
    assert len(found[0]) == 8  # with the second wave
    assert found[0] == found[1]


def test_what_is_known_starts_no_worker(tmp_path):
    train(tmp_path, {**QUICK, "again": [7]})
    status, out, messages = train(tmp_path, {**QUICK, "again": [7]})
    assert (status, messages) == (0, "")
    assert json.loads(out)["loky"] is False


def test_one_more_seed_trains_only_that(tmp_path):
    train(tmp_path, QUICK)
    _, _, messages = train(tmp_path, {**QUICK, "seeds": [1, 2, 3]})
    assert "fits: 4 known, 2 to train" in messages


def test_the_store_describes_a_fit(tmp_path):
    from kmnist_pipeline.fits.store import Store

    train(tmp_path, {**QUICK, "seeds": [1]})
    (about,) = [e.about for e in Store(tmp_path).entries() if e.about["fold"] == 1]
    assert about["label"] == "quick seed 1 fold 1"
    assert (about["family"], about["seed"]) == ("linear", 1)
    assert about["settings"]["trainer"]["epochs"] == 3
    assert about["seconds"] > 0


def test_a_killed_worker_costs_nothing(tmp_path, undisturbed):
    with training(tmp_path, LONG) as program:
        wait_until(program.progress, "a fit")
        wait_until(program.workers, "a worker")[0].kill()
        status, _, messages = program.end()
    assert status == 0, messages
    assert "its worker died by SIGKILL; another worker trains it" in messages
    assert results(tmp_path) == undisturbed


def test_a_stopped_worker_is_replaced(tmp_path, undisturbed):
    with training(tmp_path, LONG, KMNIST_TEST_SILENCE="5") as program:
        wait_until(program.progress, "a fit")
        stopped = program.workers()[0]
        stopped.suspend()
        status, _, messages = program.end()
    assert status == 0, messages
    assert "gave no heartbeat for 5 s" in messages
    assert not _is_alive(stopped)
    assert results(tmp_path) == undisturbed


def test_a_stopped_run_goes_on_where_it_was(tmp_path, undisturbed):
    with training(tmp_path, LONG, KMNIST_TEST_SILENCE="3") as program:
        wait_until(program.progress, "a fit")
        processes = [psutil.Process(program.process.pid), *program.workers()]
        for process in processes:  # as Ctrl-Z does
            process.suspend()
        time.sleep(6)
        for process in reversed(processes):
            process.resume()
        status, _, messages = program.end()
    assert status == 0, messages
    assert "heartbeat" not in messages
    assert results(tmp_path) == undisturbed


def test_a_fit_that_kills_its_workers_is_named(tmp_path):
    slow = {**LONG, "seeds": [1], "epochs": 3000}
    with training(tmp_path, QUICK, slow, LOKY_MAX_CPU_COUNT="1") as program:
        for _ in range(3):
            wait_until(lambda: program.progress() and program.workers(), "a fit")
            (worker,) = program.workers()
            worker.kill()
            worker.wait(60)
        status, _, messages = program.end()
    assert status == 1
    assert "error: long seed 1 fold " in messages and "memory" in messages
    assert "Traceback" not in messages


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL, signal.SIGINT])
def test_the_workers_end_with_the_run(tmp_path, undisturbed, number):
    with training(tmp_path, LONG) as program:
        wait_until(program.finished, "a finished fit")
        wait_until(program.progress, "another one")
        children = psutil.Process(program.process.pid).children(recursive=True)
        workers = program.workers()
        os.kill(program.process.pid, number)
        wait_until(lambda: not any(map(_is_alive, workers)), "the end of the workers")
        program.process.wait(timeout=60)
        wait_until(lambda: not any(map(_is_alive, children)), "the end of all processes")
        survived = program.finished()
    assert 1 <= survived < 4
    status, _, messages = train(tmp_path, LONG)
    assert status == 0, messages
    assert f"fits: {survived} known, {4 - survived} to train" in messages
    assert results(tmp_path) == undisturbed
    assert not list(tmp_path.glob("scratch/kmnist-fits-*"))


def test_a_damaged_fit_is_named_and_computed_again(tmp_path):
    train(tmp_path, QUICK)
    before = results(tmp_path)
    path = next(tmp_path.glob("??/*.fit"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    status, _, messages = train(tmp_path, QUICK)
    assert status == 0, messages
    assert f"{path} is damaged" in messages
    assert "fits: 3 known, 1 to train" in messages
    assert results(tmp_path) == before


def test_a_damaged_checkpoint_is_named_and_dropped(tmp_path):
    network = {
        "label": "network",
        "family": "cnn",
        "seeds": [1],
        "epochs": 1,
        "lr": 1e-3,
        "subset": 200,
    }
    one = {"LOKY_MAX_CPU_COUNT": "1"}
    status, out, messages = train(tmp_path / "right", network, **one)
    assert status == 0, messages
    key = json.loads(out)["keys"][0]
    damaged = tmp_path / "wrong" / key[:2] / f"{key}.checkpoint"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"not a checkpoint")
    status, _, messages = train(tmp_path / "wrong", network, **one)
    assert status == 0, messages
    assert f"{damaged} is damaged" in messages
    assert results(tmp_path / "wrong") == results(tmp_path / "right")


def test_the_error_of_a_fit_names_it_and_costs_no_other(tmp_path):
    plans = [{**QUICK, "epochs": 6}, {"label": "wild", "seeds": [1], "lr": 1e308}]
    status, _, messages = train(tmp_path, *plans, LOKY_MAX_CPU_COUNT="1")
    assert status == 1
    assert "error: wild seed 1 fold " in messages and "learning rate" in messages
    assert "Traceback" not in messages
    assert len(results(tmp_path)) == 4  # the costly ones went first
    assert not list(tmp_path.glob("scratch/kmnist-fits-*"))


def test_a_worker_that_would_compute_something_else_is_refused(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.metadata, sys\n"
        "real = importlib.metadata.version\n"
        "if any('popen_loky' in word for word in sys.orig_argv):\n"
        "    importlib.metadata.version = lambda n: '1.0' if n == 'numpy' else real(n)\n"
    )
    status, _, messages = train(tmp_path / "store", QUICK, PYTHONPATH=str(tmp_path))
    assert status == 1
    assert "error: quick seed" in messages and "numpy 1.0 instead of" in messages
    assert not results(tmp_path / "store")


def test_a_fit_that_is_lost_before_the_second_wave_is_computed_again(tmp_path):
    plan = {**QUICK, "again": [7]}
    status, _, messages = train(tmp_path / "lost", plan, KMNIST_TEST_DAMAGE="1")
    assert status == 0, messages
    assert "is damaged" in messages
    train(tmp_path / "kept", plan)
    assert results(tmp_path / "lost") == results(tmp_path / "kept")


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

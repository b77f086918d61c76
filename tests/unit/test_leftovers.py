"""What killed runs have left behind."""

from __future__ import annotations

import os
from pathlib import Path

from kmnist_pipeline.commands import fit
from kmnist_pipeline.fits import store


def test_what_killed_runs_left_in_kmnist_is_removed_after_a_day(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(store.VARIABLE, raising=False)
    partial, fits = Path(".kmnist/partial"), Path(".kmnist/fits/ab")
    written = {partial / "old/images", partial / "in_use/images"}
    written |= {fits / ".old.unfinished", fits / ".young.unfinished", fits / "old.checkpoint"}
    for path in written:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    old = {path for path in written if "old" in str(path)}
    for path in (*old, partial / "old", partial / "in_use"):
        os.utime(path, (0, 0))
    fit.remove_leftovers()
    left = {path for path in Path(".kmnist").rglob("*") if path.is_file()}
    assert left == written - old | {fits / "old.checkpoint"}
    assert not (partial / "old").exists()

"""The new images that people have decided about, and DVC's version of them."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dvc.repo import Repo
from support import wording

from kmnist_pipeline.data import reviews
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import outs
from kmnist_pipeline.repository.revision import DamagedError
from kmnist_pipeline.serving import kept

FILE = Path("data/reviewed/x.npz")
POINTER = Path(f"{FILE}.dvc")
DVC = (sys.executable, "-m", "dvc")
WHO = ("-c", "user.name=a", "-c", "user.email=a@b")
ONE, TWO, THREE = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)


@pytest.fixture(autouse=True)
def repository(workspace: Path) -> None:
    Repo.init(no_scm=True).close()


def write(*images: np.ndarray) -> None:
    outs.write_bytes(FILE, reviews.images_bytes(images))


def keep() -> bool:
    return kept.keep(FILE, (2, 2))


def pointed() -> str:
    """The md5 of the version in DVC."""
    return re.findall(r"md5: (\w{32})", POINTER.read_text())[0]


def test_dvc_gets_what_it_lacks_whoever_has_ended_before():
    assert not keep()
    write(ONE)
    assert keep() and not keep()
    write(ONE, TWO)  # and a kill ends the server before it tells DVC
    assert keep()
    assert pointed() == hashlib.md5(reviews.images_bytes([ONE, TWO])).hexdigest()


def test_what_dvc_refuses_is_said_and_kept_the_next_time():
    write(ONE)
    with Repo() as repo, repo.lock:
        with pytest.raises(UserError, match=f"{FILE}: the images stay .* Unable to acquire lock"):
            keep()
        assert not POINTER.exists()
    assert keep()


def test_images_of_another_version_are_never_lost():
    write(ONE)
    keep()
    write(TWO, THREE)
    assert keep()
    assert FILE.read_bytes() == reviews.images_bytes([ONE, TWO, THREE])
    before = POINTER.read_bytes()
    shutil.rmtree(".dvc/cache")
    write(TWO)
    with pytest.raises(UserError, match=f"{FILE}: is another version .* `dvc fetch {FILE}` first"):
        keep()
    FILE.unlink()
    with pytest.raises(UserError, match=f"`dvc pull {FILE}` first"):
        keep()
    assert POINTER.read_bytes() == before


def test_a_version_that_is_damaged_in_the_cache_is_named():
    write(ONE)
    keep()
    md5 = pointed()
    cached = Path(".dvc/cache/files/md5", md5[:2], md5[2:])
    cached.chmod(0o644)
    cached.write_bytes(b"damaged")
    write(TWO)
    found = f"{FILE} {wording.DAMAGED}.*{md5[2:]}; then `dvc pull {FILE}`"
    with pytest.raises(DamagedError, match=found):
        keep()


def test_after_a_merge_of_new_images_those_of_both_are_kept(tmp_path: Path):
    def run(*command: str) -> int:
        return subprocess.run(command, check=False, capture_output=True).returncode

    def branch(name: str, *images: np.ndarray) -> None:
        assert run("git", "checkout", "-b", name, "main") == 0
        write(*images)
        keep()
        assert run(*DVC, "push", str(FILE)) == 0
        assert run("git", "add", str(POINTER)) == run("git", *WHO, "commit", "-m", name) == 0

    assert run("git", "init", "--initial-branch", "main") == 0
    assert run(*DVC, "remote", "add", "--default", "team", str(tmp_path / "remote")) == 0
    assert run("git", *WHO, "commit", "--allow-empty", "-m", "first") == 0
    branch("theirs", ONE, TWO)
    branch("ours", THREE)
    shutil.rmtree(".dvc/cache")
    assert run("git", *WHO, "merge", "theirs") == 1
    # The commands of docs/review.md
    assert run("git", "checkout", "--theirs", str(POINTER)) == 0
    assert run(*DVC, "fetch", str(FILE)) == 0
    assert keep()
    assert run("git", "add", str(POINTER)) == 0
    assert FILE.read_bytes() == reviews.images_bytes([ONE, TWO, THREE])
    assert run("git", *WHO, "commit", "-m", "both") == 0


def test_a_pointer_that_is_none_is_named():
    write(ONE)
    POINTER.write_text("outs: []\n")
    with pytest.raises(
        UserError, match=rf"{POINTER}: has no outs\[0\]\.md5: `git checkout HEAD -- {POINTER}`"
    ):
        keep()

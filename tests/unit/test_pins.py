"""A `requirements.lock` that pip would refuse, or install otherwise than it says, is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import wording
from support.project import committed

from kmnist_pipeline.commands import check, status
from kmnist_pipeline.errors import UserError

HASH = f"    --hash=sha256:{'a' * 64}"
NUMPY = f"numpy==2.0 \\\n{HASH} \\\n{HASH}\n"
SKLEARN = f"scikit-learn==1.9 ; python_version > '3' \\\n{HASH}\n"
PINS = f"# pinned\n{NUMPY}{SKLEARN}"


@pytest.fixture
def pins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status.PINS.write_text(PINS)
    return status.PINS


def test_a_whole_lock(pins):
    assert status.pinned() == {"numpy": "2.0", "scikit-learn": "1.9"}
    assert check._of_pins() == []


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("numpy==2.0\n", "numpy==2.0: numpy is listed twice, first as 2.0"),
        ("NumPy==2.1\n", "NumPy==2.1: numpy is listed twice, first as 2.0"),
        ("scikit_learn==1.8\n", "scikit_learn==1.8: scikit-learn is listed twice, first as 1.9"),
        ("<<<<<<< HEAD\n", f"line 7: {wording.CONFLICT}"),
        (">>>>>>> other\n", f"line 7: {wording.CONFLICT}"),
    ],
)
def test_doubles_and_conflicts_are_refused(pins, more, says):
    pins.write_text(PINS + more)
    with pytest.raises(UserError) as caught:
        status.pinned()
    assert str(caught.value).startswith(f"requirements.lock: {says}")


@pytest.mark.parametrize(
    ("entry", "library"),
    [
        ("scikit-learn==1.9\n", "scikit-learn"),
        (f"scikit-learn==1.9 ; x \\\n{HASH[:-1]}\n", "scikit-learn"),
        (f"scikit-learn==1.9 \\\n{HASH.replace('sha256', 'md5')}\n", "scikit-learn"),
    ],
)
def test_a_library_without_a_hash_is_reported(pins, entry, library):
    pins.write_text(NUMPY + entry)
    (finding,) = check._of_pins()
    assert finding.reasons == (f"{library} has no hash of its files",)
    assert finding.remedies[0].commands == ("git checkout HEAD -- requirements.lock",)


def test_other_hashes_than_committed_are_reported(pins):
    committed(Path())
    assert check._of_hashes() == []
    pins.write_text(PINS.replace("a" * 64, "b" * 64, 1).replace("1.9 ;", "1.10 ;"))
    (finding,) = check._of_hashes()  # another version is compared with the evidence instead
    assert finding.reasons == ("numpy has other hashes than in the last commit",)
    restore, keep = (remedy.commands for remedy in finding.remedies)
    assert restore == ("git checkout HEAD -- requirements.lock",)
    assert keep == ("git commit requirements.lock",)
    pins.write_text(PINS.replace(NUMPY, "") + NUMPY)
    assert check._of_hashes() == []  # in another order
    pins.unlink()
    assert check._of_hashes() == []


def test_a_missing_lock_is_reported(pins):
    pins.unlink()
    (finding,) = check._of_pins()
    assert finding.reasons == ("is missing",)

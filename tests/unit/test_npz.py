"""The bytes of NPZ files depend on their arrays alone."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kmnist_pipeline.data import npz

DTYPES = st.sampled_from([np.dtype(of) for of in ("uint8", "int64", "float32", "<U3", "bool")])
ARRAYS: st.SearchStrategy[np.ndarray] = arrays.arrays(
    DTYPES, arrays.array_shapes(min_dims=0, min_side=0, max_side=4)
)


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), ARRAYS, max_size=4))
def test_what_is_written_is_read_again(content):
    with np.load(io.BytesIO(npz.encode(**content))) as found:
        assert found.files == list(content)
        for name, array in content.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)


def test_no_version_of_python_writes_other_bytes():
    """Python 3.11.2 and 3.11.7 write these, but two different ones with `np.savez`."""
    images, names = np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.array(["お", "b"])
    content = npz.encode(images=images, names=names)
    digest = "32b86ab8f267bad367b1f48974edd2670bf6db592a021367ad7bebc912a78240"
    assert hashlib.sha256(content).hexdigest() == digest
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert {entry.create_version for entry in archive.infolist()} == {20}  # 45: ZIP64


def test_an_array_of_objects_is_refused():
    with pytest.raises(ValueError, match="Object arrays"):
        npz.encode(objects=np.array([{}]))


def test_no_other_module_writes_npz_files():
    root = Path(npz.__file__).parents[1]
    wrote = {path.name for path in root.rglob("*.py") if "savez" in path.read_text()}
    assert wrote == {"npz.py"}  # its docstring says why

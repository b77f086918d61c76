"""File formats and metrics: round trips, refusals, and scikit-learn's definitions."""

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from kmnist_pipeline.data import dataset, idx
from kmnist_pipeline.evaluation import metrics
from kmnist_pipeline.evidence import outs
from kmnist_pipeline.evidence.stage import Stage
from kmnist_pipeline.families import file
from kmnist_pipeline.fits import store

uint8 = arrays(np.uint8, array_shapes(max_dims=4, min_side=0, max_side=6))


@given(uint8)
def test_idx_round_trip(array):
    decoded = idx.decode(idx.encode(array))
    assert decoded.shape == array.shape and (decoded == array).all()


@given(uint8, st.integers(1, 40))
def test_idx_refuses_what_is_truncated_or_too_long(array, cut):
    content = idx.encode(array)
    with pytest.raises(idx.FormatError):
        idx.decode(content[: -min(cut, len(content))])
    with pytest.raises(idx.FormatError, match="too long"):
        idx.decode(content + b"x" * cut)


@given(st.binary(max_size=64))
def test_idx_decodes_or_refuses_any_bytes(content):
    try:
        array = idx.decode(content)
    except idx.FormatError as error:
        assert str(error)
    else:
        assert idx.encode(array) == content


@given(
    st.dictionaries(
        st.text("abc.", min_size=1, max_size=5), arrays(np.float32, (2, 3)), max_size=4
    ),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=4),
)
def test_model_files_round_trip_and_are_deterministic(tensors, metadata):
    content = file.encode(tensors, metadata)
    assert file.encode(dict(reversed(tensors.items())), metadata) == content
    back, about = file.decode(content)
    assert about == metadata and back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08" + b"\0" * 7 + b'{"a": 1}'])
def test_other_bytes_are_no_model_file(tmp_path: Path, content):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(file.ModelFileError, match=r"m\.safetensors"):
        file.read(path)


def test_a_data_set_is_restricted_to_classes_and_relabelled(tmp_path: Path):
    images = np.arange(24, dtype=np.uint8).reshape(6, 2, 2)
    labels = np.array([0, 1, 2, 0, 1, 2])
    content = dataset.encode(images, labels, np.array([5, 3, 1]), np.array([0, 2, 4]), list("abc"))
    path = tmp_path / "d.npz"
    path.write_bytes(content)
    train = dataset.load(path, "train")
    assert train.index.tolist() == [5, 3, 1] and train.labels.tolist() == [2, 0, 1]
    pair = dataset.load(path, "train", [2, 0])
    assert pair.classes == ("c", "a") and pair.labels.tolist() == [0, 1]
    assert pair.flat.tolist() == [images[5].ravel().tolist(), images[3].ravel().tolist()]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=50))
def test_scores_are_those_of_scikit_learn(pairs):
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    labels, predicted = np.array(pairs).T
    counts = metrics.confusion(labels, predicted, 4)
    np.testing.assert_array_equal(counts, confusion_matrix(labels, predicted, labels=range(4)))
    scores = metrics.scores(counts, ("a", "b", "c", "d"))
    macro = precision_recall_fscore_support(
        labels, predicted, labels=range(4), average="macro", zero_division=0
    )
    ours = [scores["precision"], scores["recall"], scores["f1"]]
    np.testing.assert_allclose(ours, macro[:3])
    assert scores["accuracy"] == (labels == predicted).mean()


@given(arrays(bool, st.integers(1, 40)))
def test_right_predictions_round_trip(right):
    assert (metrics.unpack_bits(metrics.pack_bits(right), len(right)) == right).all()


def test_json_is_canonical():
    content = {"b": 1 / 3, "a": [np.float64(2), np.int64(3)], "c": [{"y": 1, "x": None}]}
    text = outs.json_bytes(content).decode()
    assert json.loads(text) == {"a": [2.0, 3], "b": 0.333333, "c": [{"x": None, "y": 1}]}
    assert text.index('"a"') < text.index('"b"') and text.endswith("}\n")


def test_a_directory_takes_its_place_only_when_it_is_whole(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    target = Path("figures")
    with outs.fresh_directory(target) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(RuntimeError), outs.fresh_directory(target) as folder:
        (folder / "b").write_text("new")
        raise RuntimeError
    assert [file.name for file in target.iterdir()] == ["a"]
    assert [path.name for path in Path().iterdir()] == ["figures"]


def test_an_out_on_another_file_system(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        if Path(elsewhere).stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("there is no other file system")
        Path("models").symlink_to(elsewhere)
        outs.write_bytes(Path("models/a.safetensors"), b"weights")
        with outs.fresh_directory(Path("models/figures")) as folder:
            (folder / "a").write_text("figure")
        assert Path("models/a.safetensors").read_bytes() == b"weights"
        assert sorted(os.listdir("models")) == ["a.safetensors", "figures"]


def test_what_a_killed_run_left_is_removed_after_a_day(tmp_path: Path):
    file, folder, young = (
        tmp_path / f".kmnist-{name}.unfinished" for name in ("file", "folder", "young")
    )
    folder.mkdir()
    for path in (file, folder / "figure.png", young):
        path.touch()
    for path in (file, folder / "figure.png", folder):
        os.utime(path, (0, 0))
    outs.write_bytes(tmp_path / "out", b"")
    assert {path.name for path in tmp_path.iterdir()} == {"out", young.name}


def test_what_killed_runs_left_in_kmnist_is_removed_after_a_day(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(store.VARIABLE, raising=False)
    partial, fits = Path(".kmnist/partial"), Path(".kmnist/fits/ab")
    written = {partial / "old/images", partial / "in_use/images"}
    written |= {
        fits / ".kmnist-old.unfinished",
        fits / ".kmnist-young.unfinished",
        fits / "old.checkpoint",
    }
    for path in written:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    old = {path for path in written if "old" in str(path)}
    for path in (*old, partial / "old", partial / "in_use"):
        os.utime(path, (0, 0))
    store.default()
    with Stage("download", "digits", Path(), {"key": "mine"}).partial():
        left = {path for path in Path(".kmnist").rglob("*") if path.is_file()}
    assert left == written - old | {fits / "old.checkpoint"}

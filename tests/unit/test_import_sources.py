"""Sources as other programs and people leave them: headers, stray files, broken and odd content."""

from __future__ import annotations

import json
import os
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet
from support import drawn, wording
from support.drawn import png, prepared

from kmnist_pipeline.data import depth, idx, pictures
from kmnist_pipeline.importing import content, difference
from kmnist_pipeline.importing.source import ImportSourceError

LABELS = [0, 1, 2, 3] * 5
ROWS = np.random.default_rng(0).integers(0, 256, (len(LABELS), 9))


# --- headers of CSV ------------------------------------------------------------------------------


def table(header: str, rows: np.ndarray = ROWS, labels: list | None = None) -> str:
    named = zip(labels or LABELS, rows.tolist(), strict=True)
    lines = [",".join(map(str, [label, *row])) for label, row in named]
    return "\n".join([*([header] if header else []), *lines])


@pytest.mark.parametrize(
    "header",
    [
        "",
        "label,0,1,2,3,4,5,6,7,8",  # as pandas writes numbered columns
        "class,1,2,3,4,5,6,7,8,9",
        "label,1x1,1x2,1x3,2x1,2x2,2x3,3x1,3x2,3x3",
        "digit,p0,p1,p2,p3,p4,p5,p6,p7,p8",
        "\n\nlabel,0,1,2,3,4,5,6,7,8",
    ],
)
def test_a_header_is_no_image(header, tmp_path):
    file = tmp_path / "a.csv"
    file.write_text(table(header))
    found = prepared(file)
    assert found.classes == ["0", "1", "2", "3"]
    assert (found.images.reshape(-1, 9) == ROWS).all()


@pytest.mark.parametrize("first", ["label", "0", "digit"])
def test_a_header_of_more_numbers_than_a_pixel_has_values_is_one(first, tmp_path):
    file = tmp_path / "a.csv"
    rows = np.random.default_rng(0).integers(0, 256, (len(LABELS), 784))
    file.write_text(table(",".join([first, *map(str, range(first == "0", 784 + (first == "0")))]),
                          rows))  # fmt: skip
    assert (prepared(file).images.reshape(-1, 784) == rows).all()


@pytest.mark.parametrize(
    "first", ["0,1,2,3,4,5,6,7,8,9", "digit,0,1,2,3,4,5,6,7,8", "label,0,9,2,3,4,5,6,7,8"]
)
def test_what_may_be_a_header_or_an_image_is_refused(first, tmp_path):
    file = tmp_path / "a.csv"
    file.write_text(table(first))
    with pytest.raises(
        ImportSourceError, match=r"a\.csv, line 1: .* may be a header or an image; write"
    ):
        prepared(file)


def test_the_column_of_labels_may_be_the_last(tmp_path):
    file = tmp_path / "a.csv"
    rows = np.hstack([ROWS, np.array(LABELS)[:, None]])
    file.write_text("\n".join(["0,1,2,3,4,5,6,7,8,label", *(",".join(map(str, r)) for r in rows)]))
    assert (prepared(file).images.reshape(-1, 9) == ROWS).all()


@pytest.mark.parametrize("cell", ["²", "٥", "1_0", "+5", "9" * 5000, "", "256", "1.0", "-1"])
def test_a_pixel_is_a_number_of_ascii_digits(cell, tmp_path):
    file = tmp_path / "a.csv"
    file.write_text(table("").replace("\n", f"\n3,{cell},1,1,1,1,1,1,1,1\n", 1))
    with pytest.raises(
        ImportSourceError, match=r"a\.csv, line 2: pixel 0 is .*, not a whole number"
    ):
        prepared(file)


def test_a_label_of_very_many_digits_is_a_name(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text(table("", labels=["9" * 5000 if label == 3 else label for label in LABELS]))
    assert prepared(file).classes[:3] == ["0", "1", "2"]


# --- what is refused -----------------------------------------------------------------------------


def archive(file: Path, **members: str) -> None:
    with zipfile.ZipFile(file, "w") as opened:
        for name, text in members.items():
            opened.writestr(name, text)


def hub(file: Path, names: object = None, labels: list | None = None) -> None:
    rows = {
        "image": [png(row.reshape(3, 3).astype(np.uint8)) for row in ROWS],
        "label": labels or LABELS,
    }
    features = {"label": {"names": names}} if names is not None else {}
    about = json.dumps({"info": {"features": features}})
    parquet.write_table(pa.table(rows).replace_schema_metadata({"huggingface": about}), file)


def damaged(place: Path) -> None:
    hub(file := place / "a.parquet")
    whole = file.read_bytes()
    file.write_bytes(whole[:200] + b"\0" * 100 + whole[300:])


def no_class(place: Path) -> None:
    hub(place / "train.parquet", [*"wxyz"])
    hub(place / "test.parquet", labels=["v"] * len(LABELS))


def arrays(place: Path, **found: object) -> None:
    np.savez(place / "a.npz", allow_pickle=False, **{k: np.array(v) for k, v in found.items()})


def idx_without_test_images(place: Path) -> None:
    images = ROWS.reshape(-1, 3, 3).astype(np.uint8)
    (place / "train-images-idx3-ubyte").write_bytes(idx.encode(images))
    for split in ("train", "t10k"):
        labels = idx.encode(np.array(LABELS, np.uint8))
        (place / f"{split}-labels-idx1-ubyte").write_bytes(labels)


def kaggle(place: Path) -> None:
    pixels = ",".join(f"pixel{n}" for n in range(9))
    (place / "train.csv").write_text(table(f"label,{pixels}"))
    rows = [",".join(map(str, row)) for row in ROWS.tolist()]
    (place / "test.csv").write_text("\n".join([pixels, *rows]))


def stray(name: str, start: bytes) -> Callable[[Path], object]:
    return lambda place: (drawn.folder(place, {"a": 3, "b": 3}) / "b" / name).write_bytes(start)


def animated(place: Path) -> None:
    drawn.folder(place, {"a": 3, "b": 3})
    first, second = (Image.fromarray(row.reshape(3, 3).astype(np.uint8)) for row in ROWS[:2])
    first.save(place / "b/x.png", save_all=True, append_images=[second])


REFUSED = {
    "tables in an archive": (
        lambda place: archive(place / "a.npz", **{"a.csv": "label,p0\n1,2\n"}),
        r"a\.npz: a\.csv: is not a NumPy array",
    ),
    "no array": (
        lambda place: archive(place / "a.npz", **{"images.npy": "text"}),
        r"a\.npz: images: is not a NumPy array",
    ),
    "labels without images": (
        lambda place: arrays(place, x_train=np.zeros((2, 3, 3)), y_train=[0, 1], y_test=[0]),
        r"a\.npz: y_test: has labels, but there is no array of images of test",
    ),
    "labels without images, in IDX": (
        idx_without_test_images,
        r"t10k-labels-idx1-ubyte: has labels, but there is no array of images of t10k",
    ),
    "test images without labels": (
        kaggle,
        r"test\.csv: has 9 columns, as many as an image has pixels, so there are no labels",
    ),
    "an empty label": (
        lambda place: (place / "a.csv").write_text(table("").replace("\n1,", "\n,", 1)),
        r"a\.csv, line 2: the cell of the label, 0, is empty",
    ),
    "a class that has no name": (
        lambda place: arrays(place, images=np.zeros((2, 3, 3), np.uint8), labels=["a", " "]),
        r"a\.npz: images\[1\]: class ' ': the name must be text",
    ),
    "a label that is no class": (
        no_class,
        r"test\.parquet, row 0: the class v is not one of those that the source names: w, x, y",
    ),
    "damaged Parquet": (damaged, r"a\.parquet: broken Parquet"),
    "an office file in a class": (
        stray("notes.docx", b"PK\3\4..."), rf"b/notes\.docx: {wording.NO_PICTURE}; remove it"
    ),
    "an archive in a class": (
        stray("more.npz", b"PK\3\4..."), rf"b/more\.npz: {wording.NO_PICTURE}; remove it"
    ),
    "a table in a class": (
        stray("x.parquet", b"PAR1...."), rf"b/x\.parquet: {wording.NO_PICTURE}; remove it"
    ),
    "several frames": (animated, r"b/x\.png: has 2 frames; save each as a picture of its own"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_read_is_named_with_its_reason(what, tmp_path):
    make, words = REFUSED[what]
    make(tmp_path)
    with pytest.raises(ImportSourceError, match=words):
        prepared(tmp_path)


def test_an_archive_of_pictures_is_to_be_unpacked(tmp_path):
    archive(tmp_path / "leaves.zip", **{"a/1.png": "..."})
    with pytest.raises(ImportSourceError, match=r"leaves\.zip: is a ZIP archive; unpack it"):
        prepared(tmp_path / "leaves.zip")


def test_a_pipe_is_no_source(tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(ImportSourceError, match=r"a\.csv: is neither a regular file nor a folder"):
        prepared(tmp_path / "a.csv")


@pytest.mark.parametrize("text", [b"index,char\n0,\xff", b"index\n0\n"])
def test_a_broken_map_of_classes_is_named(text, tmp_path):
    arrays(tmp_path, images=np.zeros((2, 3, 3), np.uint8), labels=[0, 1])
    (tmp_path / "k49_classmap.csv").write_bytes(text)
    with pytest.raises(ImportSourceError, match=r"k49_classmap\.csv: "):
        prepared(tmp_path)


# --- what is read all the same -------------------------------------------------------------------


@pytest.mark.parametrize("lacks", ["train", "test"])
def test_a_file_of_a_table_may_have_the_names_for_all(lacks, tmp_path):
    for split in ("train", "test"):
        hub(tmp_path / f"{split}.parquet", None if split == lacks else [*"wxyz"])
    assert prepared(tmp_path).classes == [*"wxyz"]


@pytest.mark.parametrize("names", [5, {"a": 1}, "wxyz"])
def test_names_that_are_no_list_are_left_out(names, tmp_path):
    hub(tmp_path / "a.parquet", names)
    assert prepared(tmp_path).classes == ["0", "1", "2", "3"]


def test_arrays_about_images_and_labels_are_left_out(tmp_path):
    images = ROWS.reshape(-1, 3, 3).astype(np.uint8)
    arrays(tmp_path, images=images, image_id=LABELS, target=LABELS, target_names=[*"wxyz"])
    assert len(prepared(tmp_path).images) == len(LABELS)


def test_an_archive_beside_the_classes_is_left_out(tmp_path):
    drawn.folder(tmp_path, {"a": 3, "b": 3})
    archive(tmp_path / "all.zip", **{"a/1.png": "..."})
    assert len(prepared(tmp_path).images) == 6


def test_composed_and_decomposed_names_are_one_class(tmp_path):
    name = unicodedata.normalize("NFC", "café")
    for split, form in (("train", name), ("test", unicodedata.normalize("NFD", name))):
        drawn.folder(tmp_path / split, {form: 3, "b": 3})
    found = prepared(tmp_path)
    assert found.classes == ["b", name]
    table = tmp_path / "classes.txt"
    table.write_text(unicodedata.normalize("NFD", f"{name}\nb\n"))
    chosen = prepared(tmp_path, classes=content.read_classes(table))
    assert chosen.classes == [name, "b"]


def test_equal_values_of_16_bits_are_equal_greys_in_one_dataset(tmp_path):
    drawn.folder(tmp_path, {"a": 2, "b": 2})
    for number, top in enumerate((1000, 4000)):
        deep = np.full(drawn.SHAPE, 500, np.uint16)
        deep[0] = top
        (tmp_path / f"a/deep{number}.png").write_bytes(png(deep))
    found = prepared(tmp_path)
    greys = [image for image, name in zip(found.images, found.names, strict=True) if "deep" in name]
    assert [int(image[1, 0]) for image in greys] == [round(500 * 255 / 4095)] * 2
    assert [int(image[0, 0]) for image in greys] == [round(t * 255 / 4095) for t in (1000, 4000)]


def test_a_picture_with_several_frames_is_refused_wherever_it_is_read(tmp_path):
    animated(tmp_path)
    with pytest.raises(pictures.PictureError, match="has 2 frames"):
        depth.decode((tmp_path / "b/x.png").read_bytes())


def test_the_example_of_an_added_image_is_that_image():
    image = drawn.stripes([0])
    old = difference.version(image, np.array([1]), np.array([0]), ["elm", "oak"], ["oak/2.png"])
    new = difference.version(
        np.concatenate([image, image]), np.array([0, 1]), np.array([0, 1]), ["elm", "oak"],
        ["elm/copy.png", "oak/2.png"],
    )  # fmt: skip
    assert difference.between(old, new).examples == {"added": ["elm/copy.png"]}

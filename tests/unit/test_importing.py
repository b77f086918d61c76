"""Reading sources of every kind, and what is refused, found and compared in them."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet
from support import drawn, wording
from support.drawn import png, prepared

from kmnist_pipeline.data import idx, pictures
from kmnist_pipeline.importing import content, difference
from kmnist_pipeline.importing.source import ImportSourceError

LABELS = [0, 1, 2] * 8
GREY = drawn.stripes(LABELS)
COLOURED = drawn.stripes(LABELS, (*drawn.SHAPE, 3))
NAMES = ["rows, wide", "や", "<b>"]


# --- what can be read ----------------------------------------------------------------------------


def as_folder(place: Path, images: np.ndarray) -> Path:
    for split, rows in (("train", range(18)), ("test", range(18, 24))):
        for row in rows:
            file = place / split / str(LABELS[row]) / f"{row}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(images[row]))
    return place


def as_npz(place: Path, images: np.ndarray) -> Path:
    y = np.array(LABELS)
    np.savez(
        place / "all.npz", x_train=images[:18], y_train=y[:18], x_test=images[18:], y_test=y[18:]
    )
    return place / "all.npz"


def as_four_npz(place: Path, images: np.ndarray) -> Path:
    for split, rows in (("train", slice(18)), ("test", slice(18, None))):
        np.savez_compressed(place / f"k49-{split}-imgs.npz", images[rows])
        np.savez_compressed(place / f"k49-{split}-labels.npz", np.array(LABELS, np.uint8)[rows])
    return place


def as_csv(place: Path, images: np.ndarray) -> Path:
    for split, rows in (("train", slice(18)), ("test", slice(18, None))):
        with (place / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            flat = images[rows].reshape(len(images[rows]), -1)
            writer.writerow(["label", *(f"pixel{n}" for n in range(flat.shape[1]))])
            writer.writerows([c, *row] for c, row in zip(LABELS[rows], flat, strict=True))
    return place


def as_idx(place: Path, images: np.ndarray) -> Path:
    for split, rows in (("train", slice(18)), ("t10k", slice(18, None))):
        (place / f"{split}-images-idx3-ubyte.gz").write_bytes(
            gzip.compress(idx.encode(images[rows]))
        )
        labels = idx.encode(np.array(LABELS, np.uint8)[rows])
        (place / f"{split}-labels-idx1-ubyte").write_bytes(labels)
    return place


def as_parquet(place: Path, images: np.ndarray, names: list[str] | None = None) -> Path:
    (place / "data").mkdir()
    for split, rows in (("train", range(18)), ("test", range(18, 24))):
        about = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = pa.table(
            {
                "image": [{"bytes": png(images[row]), "path": f"{row}.png"} for row in rows],
                "label": [LABELS[row] for row in rows],
            }
        )
        if names:
            table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
        parquet.write_table(table, place / f"data/{split}-00000-of-00001.parquet")
    return place


ALL = [as_folder, as_npz, as_four_npz, as_csv, as_idx, as_parquet]


@pytest.mark.parametrize("images", [GREY, COLOURED], ids=["grey", "colour"])
@pytest.mark.parametrize("write", ALL)
def test_every_kind_of_source_gives_the_images_with_their_labels_and_split(write, images, tmp_path):
    if write is as_idx and images is COLOURED:
        return  # IDX files are grey
    size = drawn.SHAPE if write is as_csv else None
    found = prepared(write(tmp_path, images), size=size)
    assert found.classes == ["0", "1", "2"]
    assert (len(found.train), len(found.test), found.is_split_here) == (18, 6, False)
    assert found.pixel_max == 255
    key = [image.tobytes() for image in images]
    order = [key.index(image.tobytes()) for image in found.images]
    assert sorted(order) == [*range(24)]  # a folder has the order of its classes
    assert found.images.shape == images.shape and found.images.dtype == np.uint8
    assert found.labels.tolist() == [LABELS[row] for row in order]
    assert {order[row] for row in found.test} == {*range(18, 24)}


def test_the_hubs_names_of_classes_are_taken(tmp_path):
    assert prepared(as_parquet(tmp_path, GREY, NAMES)).classes == NAMES


def test_the_map_of_kuzushiji_49_names_the_classes(tmp_path):
    rows = [f"{n},U+{n},{name}" for n, name in enumerate("あいう")]
    (tmp_path / "k49_classmap.csv").write_text("\n".join(["index,codepoint,char", *rows]))
    assert prepared(as_four_npz(tmp_path, GREY)).classes == ["あ", "い", "う"]


def test_validation_images_of_a_source_are_training_images(tmp_path):
    parts = {"train": slice(12), "val": slice(12, 18), "test": slice(18, None)}
    arrays: dict[str, Any] = {f"{s}_images": GREY[r] for s, r in parts.items()}
    arrays |= {f"{s}_labels": np.array(LABELS)[r, None] for s, r in parts.items()}
    np.savez(tmp_path / "medical.npz", allow_pickle=False, **arrays)
    found = prepared(tmp_path / "medical.npz")
    assert (len(found.train), len(found.test)) == (18, 6)


def test_jpeg_grey_palette_and_transparent_files_in_one_folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a/1.jpg").write_bytes(png(COLOURED[0], "JPEG"))
    Image.fromarray(GREY[1]).convert("P").save(tmp_path / "a/2.png")
    (tmp_path / "b/3.png").write_bytes(png(GREY[2]))
    Image.fromarray(GREY[3]).convert("LA").save(tmp_path / "b/4.png")
    found = prepared(tmp_path, test_share=0.5)
    assert found.images.shape == (4, *drawn.SHAPE, 3)
    assert (found.images[1] == GREY[1][..., None]).all()
    grey = prepared(tmp_path, test_share=0.5, colour=False)
    assert (grey.images[1:3] == GREY[1:3]).all()


def test_sizes_are_fitted_without_distortion(tmp_path):
    for name, shape in (("a", (20, 10)), ("b", (10, 20))):
        drawn.folder(tmp_path, {name: 2}, shape, seed=len(name))
    with pytest.raises(
        ImportSourceError, match=r"2 sizes.*20x10 \(2, such as .*a/001.png\).*--size"
    ):
        prepared(tmp_path)
    found = prepared(tmp_path, size=(20, 20))
    assert found.images.shape[1:] == (20, 20)
    assert not found.images[:2, :, :5].any() and found.images[:2, :, 5:15].any()


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_any_picture_fits_into_any_size(height, width, to_height, to_width):
    white = np.full((height, width, 3), 200, np.uint8)
    fitted = pictures.fitted(white, (to_height, to_width))
    assert fitted.shape == (to_height, to_width, 3)
    assert (fitted == 200).all()


def test_dark_bytes_keep_their_white(tmp_path):
    np.savez(tmp_path / "a.npz", images=GREY // 16, labels=np.array(LABELS))
    assert prepared(tmp_path / "a.npz").pixel_max == (GREY // 16).max()


def test_classes_are_chosen_and_named_by_a_table(tmp_path):
    place = drawn.folder(tmp_path / "all", {"a": 5, "b": 5})
    table = tmp_path / "classes.csv"
    table.write_text('b,"second, large"\na\n')
    found = prepared(place, classes=content.read_classes(table))
    assert found.classes == ["second, large", "a"]
    assert [Path(name).parent.name for name in found.names] == ["a"] * 5 + ["b"] * 5
    assert found.labels.tolist() == [1] * 5 + [0] * 5
    table.write_text("a\nb\nc\n")
    with pytest.raises(
        ImportSourceError, match="--classes: the source has no images of class c; remove"
    ):
        prepared(place, classes=content.read_classes(table))
    with pytest.raises(
        ImportSourceError, match=r"none\.txt: cannot be read: No such file or directory$"
    ):
        content.read_classes(tmp_path / "none.txt")
    table.write_text("b\n")
    with pytest.raises(ImportSourceError, match="--classes: the class a is missing"):
        prepared(place, classes=content.read_classes(table))


def test_numbers_of_classes_are_in_their_order(tmp_path):
    labels = np.repeat([10, 2, 1], 4)
    np.savez(tmp_path / "a.npz", images=GREY[:12], labels=labels)
    assert prepared(tmp_path / "a.npz").classes == ["1", "2", "10"]


# --- the split -----------------------------------------------------------------------------------


def split_of(images: np.ndarray, labels: np.ndarray, share: float, seed: int = 0) -> set[bytes]:
    names = [str(label) for label in range(labels.max() + 1)]
    _, test = content.stratified(images, labels, names, share, seed)
    return {images[row].tobytes() for row in test}


def test_a_split_is_stratified_and_follows_its_seed():
    labels = np.repeat([0, 1, 2], [100, 50, 10])
    images = drawn.stripes(labels)
    train, test = content.stratified(images, labels, ["a", "b", "c"], 0.2, 0)
    assert np.bincount(labels[test]).tolist() == [20, 10, 2]
    assert sorted([*train, *test]) == [*range(160)]
    assert split_of(images, labels, 0.2, 1) != split_of(images, labels, 0.2)


def test_a_split_does_not_depend_on_the_order_and_hardly_on_more_images():
    labels = np.repeat([0, 1], 100)
    images = drawn.stripes(labels)
    before = split_of(images, labels, 0.2)
    order = np.random.default_rng(0).permutation(200)
    assert split_of(images[order], labels[order], 0.2) == before
    more = np.concatenate([images, drawn.stripes([0] * 10, seed=9)])
    after = split_of(more, np.append(labels, [0] * 10), 0.2)
    assert len(after - before) <= 10


def test_equal_images_stay_on_one_side():
    labels = np.repeat([0, 1], 40)
    images = np.repeat(drawn.stripes(labels), 3, axis=0)
    train, test = content.stratified(images, np.repeat(labels, 3), ["a", "b"], 0.3, 0)
    in_train = {images[row].tobytes() for row in train}
    assert not [row for row in test if images[row].tobytes() in in_train]


# --- what is refused -----------------------------------------------------------------------------


def write(place: Path, **arrays) -> None:
    np.savez(place / "a.npz", **arrays)


def semicolons(place: Path) -> None:
    (place / "a.csv").write_text("0;1;2;3;4\n1;1;2;3;4\n")


def label_last(place: Path) -> None:
    (place / "a.csv").write_text("1,2,3,4,0\n5,6,7,8,0\n9,1,2,3,1\n4,5,6,7,1\n")


def dark_edge(place: Path) -> None:
    (place / "a.csv").write_text("0,2,3,4,0\n0,6,7,8,1\n")


def no_picture(place: Path) -> None:
    drawn.folder(place, {"a": 3, "b": 3})
    (place / "b/notes.txt").write_text("mine")


def outward(place: Path) -> None:
    drawn.folder(place, {"a": 3, "b": 3})
    (place / "b/link.png").symlink_to(__file__)


def bad_row(place: Path) -> None:
    (place / "a.csv").write_text("label,p0,p1,p2,p3\na,1,2,3,4\nb,1,2,300,4\n")


def short_row(place: Path) -> None:
    (place / "a.csv").write_text("a,1,2,9,4\nb,1,2,3\n")


def bad_parquet(place: Path) -> None:
    rows = [{"bytes": png(GREY[0]), "path": None}, {"bytes": b"\x89PNG\r\n\x1a\nxx", "path": None}]
    parquet.write_table(pa.table({"image": rows, "label": ["a", "b"]}), place / "a.parquet")


def low_bits(place: Path) -> None:
    drawn.folder(place, {"a": 3, "b": 3})
    (place / "b/004.png").write_bytes(drawn.deep_png(DEEP))


def low_bits_in_parquet(place: Path) -> None:
    rows = [{"bytes": png(GREY[0]), "path": None}, {"bytes": drawn.deep_png(DEEP), "path": None}]
    parquet.write_table(pa.table({"image": rows, "label": ["a", "b"]}), place / "a.parquet")


DEEP = np.full((9, 9, 3), 4095, np.uint16)
REFUSED = {
    "low bits": (low_bits, r"b/004\.png: 16 bits for each colour, .*: save it with 8 bits"),
    "low bits in a table": (low_bits_in_parquet, r"a\.parquet, row 1: 16 bits for each colour"),
    "a broken image": (drawn.broken, r"b/001\.png: broken image"),
    "another file": (no_picture, rf"b/notes\.txt: {wording.NO_PICTURE}"),
    "semicolons": (semicolons, "a.csv: has labels, but no pixels; commas must separate"),
    "label last": (
        label_last,
        "class 1 has only 1 distinct image; .* the labels are those of the column `label`, or of "
        "the first one if no header names it",
    ),
    "edge as label": (dark_edge, "there is one class, 0; .* the labels are those of the column"),
    "no test images": (drawn.no_test, "class b has no test images; .*--test-share"),
    "names that differ in case": (
        lambda place: drawn.folder(place, {"Oak": 3, "oak": 3}),
        "classes Oak and oak are equal except for case",
    ),
    "the name of an exclusion": (
        lambda place: drawn.folder(place, {"a": 3, "excluded": 3}),
        r"excluded/000\.png: class 'excluded': reviews use this name for images that are left out",
    ),
    "one class": (lambda place: drawn.folder(place, {"a": 3}), "there is one class, a"),
    "one image": (lambda place: drawn.folder(place, {"a": 3, "b": 1}), "b has only 1 distinct"),
    "an empty class": (
        lambda place: (drawn.folder(place, {"a": 3, "b": 3}) / "c").mkdir(),
        "c: the class has no image",
    ),
    "an image in no class": (
        lambda place: (drawn.folder(place, {"a": 3, "b": 3}) / "x.png").write_bytes(png(GREY[0])),
        r"x\.png: is in no class",
    ),
    "a link outward": (outward, r"link\.png: is a link out"),
    "a broken row": (bad_row, r'a\.csv, line 3: pixel 2 is "300", not a whole number'),
    "a short row": (short_row, r"a\.csv, line 2: has 3 pixels, but the lines above have 4"),
    "no square": (
        lambda place: (place / "a.csv").write_text("a,1,2,9,4,5\nb,1,2,3,4,5\n"),
        "5 pixels do not form a square image; .*--size",
    ),
    "a broken image of a table": (bad_parquet, r"a\.parquet, row 1: broken image"),
    "fewer labels": (
        lambda place: write(place, images=GREY, labels=np.zeros(3, int)),
        r"a\.npz: labels: has 3 labels for 24 images",
    ),
    "no labels": (lambda place: write(place, images=GREY), "there is no array of labels"),
    "negative pixels": (
        lambda place: write(place, images=GREY.astype(float) - 1, labels=np.array(LABELS)),
        "pixels of type float64 from -1",
    ),
    "pickled objects": (
        lambda place: write(place, images=np.array([{}, []], object), labels=np.zeros(2)),
        r"a\.npz: broken NPZ: Object arrays cannot be loaded",
    ),
    "half an archive": (
        lambda place: (place / "a.npz").write_bytes(b"PK\3\4 and nothing more"),
        r"a\.npz: broken NPZ",
    ),
    "nothing known": (
        lambda place: (place / "a.txt").write_text("x"),
        "is not a known source; known are a folder with",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_read_is_named_with_its_reason(what, tmp_path):
    make, words = REFUSED[what]
    make(tmp_path)
    with pytest.raises(ImportSourceError, match=words) as error:
        prepared(tmp_path)
    assert str(error.value).isprintable()


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_in_words(tmp_path_factory, content_):
    place = tmp_path_factory.mktemp("any")
    for start in (b"", b"PK\3\4", b"PAR1", b"\0\0\x08\x03", b"\x1f\x8b", b"1,2\n"):
        (place / "a.csv").write_bytes(start + content_)
        with pytest.raises(ImportSourceError):
            prepared(place / "a.csv")


# --- what has changed ----------------------------------------------------------------------------


def version(images: np.ndarray, labels: list[int], test: list[int]) -> difference.Version:
    return difference.version(images, np.array(labels), np.array(test, int), ["a", "b", "c"])


def test_added_removed_relabelled_and_moved_images_are_counted():
    images, labels = drawn.stripes([0, 1] * 5), [0, 1] * 5
    old = version(images, labels, [0, 1])
    assert not difference.between(old, version(images[::-1], labels[::-1], [8, 9]))
    more = np.concatenate([images[1:], drawn.stripes([2], seed=5)])
    new = version(more, [*labels[1:4], 2, *labels[5:], 2], [0, 1, 9])
    found = difference.between(old, new)
    assert (found.added, found.removed) == ({"c": 1}, {"a": 1})
    assert (found.relabelled, found.moved) == ({("a", "c"): 1}, 1)
    assert [*found.lines()] == [
        "added: 1 (c 1)", "  9", "removed: 1 (a 1)", "relabelled: 1 (a -> c 1)", "  3",
        "moved between training and test: 1",
    ]  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.booleans())))
def test_a_difference_accounts_for_every_image(rows):
    def of(rows):
        images = np.array([np.full((2, 2), value, np.uint8) for value, _, _ in rows])
        test = [number for number, row in enumerate(rows) if row[2]]
        images = images.reshape(-1, 2, 2)
        return version(images, [row[1] for row in rows], test)

    old, new = of(rows[: len(rows) // 2]), of(rows[len(rows) // 2 :])
    found = difference.between(old, new)
    assert len(new.digests) - len(old.digests) == found.added.total() - found.removed.total()
    assert not difference.between(new, new)

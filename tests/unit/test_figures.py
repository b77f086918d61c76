"""The figures: PNGs that decode, are small, are always the same, and show what they should."""

from __future__ import annotations

import io
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from support.odd_report import NAMES as ODD_NAMES

from kmnist_pipeline.figures import canvas
from kmnist_pipeline.figures import data as data_figures
from kmnist_pipeline.figures import models as model_figures
from kmnist_pipeline.stages import evaluate

DIGITS = load_digits()
IMAGES, LABELS = DIGITS.images.astype(np.uint8), DIGITS.target.astype(np.int64)
NAMES = [str(digit) for digit in range(10)]
ROWS = data_figures.sample_per_class(LABELS, 10, np.random.default_rng(0))
TEXT = {"Stage": "evaluate@digits", "Caption": "Größe → 8×8"}


# What a figure shows of the odd names: Tibetan is in no font of ours.
SHOWN = [name.replace("\u0f56", "U+0F56") for name in ODD_NAMES]
# A letter of each script, which DejaVu Sans lacks, and an emoji.
LETTERS = (
    "\u0e44\u0915\u0995\u0a95\u0a15\u0b95\u0c15\u0c95\u0d15\u0d9a\u0b15\u1780\u1000\u1200\U0001f600"
)


def counts(classes: int) -> np.ndarray:
    rng = np.random.default_rng(classes)
    return rng.integers(0, 60, (classes, classes)) + np.diag(rng.integers(900, 1600, classes))


def curve_rows(lengths: list[int]) -> list[dict]:
    """Rows of curves.csv, as text, for one fold of each length; fold f's accuracy is f / 10."""
    return [
        {"trial": "0", "seed": "1", "fold": str(fold), "epoch": str(epoch), "split": split}
        | {"loss": str(1 / epoch), "accuracy": str(fold / 10 + epoch / 100)}
        for fold, length in enumerate(lengths)
        for epoch in range(1, length + 1)
        for split in ("train", "validation")
    ]


def pca_scatter(names: Sequence[str] = NAMES) -> Figure:
    components, ratios = data_figures.pca(IMAGES, 16)
    return data_figures.pca_scatter(components, LABELS, names, ratios)


def measured(mean: float, sd: float | None = None) -> dict[str, float | None]:
    return {"mean": mean, "sd": sd}


FIGURES: dict[str, Callable[[], Figure]] = {
    "class_table": lambda: data_figures.class_table(list("abcdefghij"), range(10), range(10)),
    "class_table_numbers": lambda: data_figures.class_table(NAMES, range(10), range(10)),
    "class_table_two": lambda: data_figures.class_table(["o", "ma"], [6000] * 2, [1000] * 2),
    "one_per_class": lambda: data_figures.one_per_class(IMAGES[ROWS[:, 0]], NAMES, 16),
    "one_per_class_two": lambda: data_figures.one_per_class(IMAGES[:2], ["o", "ma"], 16),
    "ten_per_class": lambda: data_figures.ten_per_class(IMAGES[ROWS], NAMES, 16),
    "pca_scatter": pca_scatter,
    "grey_matrix": lambda: data_figures.grey_matrix(IMAGES[9], 16),
    "learning_curves": lambda: model_figures.learning_curves(curve_rows([20, 12, 17])),
    "learning_curves_one_epoch": lambda: model_figures.learning_curves(curve_rows([1])),
    "confusion_2": lambda: model_figures.confusion_matrix(counts(2), ["o", "ma"]),
    "confusion_10": lambda: model_figures.confusion_matrix(counts(10), NAMES),
    "confusion_20": lambda: model_figures.confusion_matrix(
        counts(20), [f"c{i}" for i in range(20)]
    ),
    "class_weights": lambda: model_figures.class_weights(IMAGES[ROWS[:, 0]] - 8.0, NAMES),
    "class_weights_binary": lambda: model_figures.class_weights(IMAGES[:1] - 8.0, ["o", "ma"]),
    "labelled_images": lambda: canvas.labelled_images(
        IMAGES[:7], ["Predicted: 4, Actual: 7", "True: 1\nPredicted: 2"] * 3 + [""], 5, 16, gap=18
    ),
    "trials": lambda: model_figures.trial_accuracies(
        ["lr 0.1", "lr 0.01"], [measured(0.9, 0.01), measured(0.8)], [measured(0.85, 0.02), None], 0
    ),
    "trials_untested": lambda: model_figures.trial_accuracies(
        ["a", "b"], [measured(0.9, 0.1), measured(0.8, 0.1)], [None, None], 1
    ),
    "class_scores": lambda: model_figures.class_scores(
        NAMES, np.linspace(0.8, 0.9, 10), np.linspace(0.9, 0.8, 10), np.full(10, 0.85)
    ),
}

ODD: dict[str, Callable[[], Figure]] = {
    "class_table": lambda: data_figures.class_table(ODD_NAMES, range(10), range(10)),
    "ten_per_class": lambda: data_figures.ten_per_class(IMAGES[ROWS], ODD_NAMES, 16),
    "pca_scatter": lambda: pca_scatter(ODD_NAMES),
    "confusion": lambda: model_figures.confusion_matrix(counts(10), ODD_NAMES),
    "class_weights": lambda: model_figures.class_weights(IMAGES[ROWS[:, 0]] - 8.0, ODD_NAMES),
    "labelled_images": lambda: canvas.labelled_images(IMAGES[:10], ODD_NAMES, 5, 16),
    "class_scores": lambda: model_figures.class_scores(ODD_NAMES, *[np.full(10, 0.85)] * 3),
}


# What many classes of coloured images look like at worst: noise, with long names of all kinds.
MANY_NAMES = [f"{ODD_NAMES[c % 10]} and <i>words</i> {c}" for c in range(300)]


def noise(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *shape), np.uint8)


def many(classes: int) -> dict[str, Callable[[], Figure]]:
    names = MANY_NAMES[:classes]
    shown = names[:100]
    sizes = np.arange(classes)
    return {
        "class_counts": lambda: data_figures.class_counts(names, sizes + 100, sizes),
        "one_per_class": lambda: data_figures.one_per_class(
            noise(len(shown), 64, 48, 3), shown, 255
        ),
        "ten_per_class": lambda: data_figures.ten_per_class(
            noise(100, 20, 12, 3).reshape(10, 10, 20, 12, 3), names[:10], 255
        ),
        "pca_scatter": lambda: data_figures.pca_scatter(
            np.random.default_rng(0).normal(size=(3000, 2)), np.arange(3000) % classes, names,
            np.array([0.5, 0.1]),
        ),
        "confusion": lambda: model_figures.confusion_matrix(counts(classes), names),
        "class_weights": lambda: model_figures.class_weights(
            noise(len(shown), 20, 12, 3) - 128.0, shown
        ),
        "class_scores": lambda: model_figures.class_scores(
            names, *[np.linspace(0, 1, classes)] * 3
        ),
    }  # fmt: skip


@pytest.mark.parametrize("classes", [49, 300])
@pytest.mark.parametrize("name", many(49))
def test_figures_of_many_classes_are_small_and_not_huge(name: str, classes: int) -> None:
    figure = many(classes)[name]()
    assert figure.bbox.width <= 2400 and figure.bbox.height <= 2400
    assert len(canvas.png_bytes(figure, TEXT)) < canvas.MAX_BYTES


@pytest.mark.parametrize("classes", [49, 300])
def test_a_large_confusion_matrix_lists_the_most_frequent_confusions(classes: int) -> None:
    matrix = np.diag(np.full(classes, 20))
    matrix[3, 5], matrix[7, 2] = 9, 4
    figure = model_figures.confusion_matrix(matrix, MANY_NAMES[:classes])
    written = [text.get_text() for text in figure.texts]
    left, right = (canvas.short(MANY_NAMES[c], 12) for c in (3, 5))
    assert written[:3] == ["most frequent confusions", f"{left} → {right}", "9"]
    assert len(written) == 5 and written[-1] == "4"
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert (labels == [canvas.short(name, 12) for name in MANY_NAMES[:49]]) == (classes == 49)


def test_without_confusions_the_list_says_none() -> None:
    figure = model_figures.confusion_matrix(np.eye(49, dtype=int), MANY_NAMES[:49])
    assert [text.get_text() for text in figure.texts] == ["most frequent confusions", "none"]


KANA = [chr(code) for code in range(0x3042, 0x3042 + 48)]


@pytest.mark.parametrize(
    "figure",
    [
        lambda names: model_figures.confusion_matrix(counts(49), names),
        lambda names: model_figures.class_scores(names, *[np.linspace(0, 1, 49)] * 3),
        lambda names: data_figures.class_counts(names, np.arange(49), np.arange(49)),
    ],
)
def test_of_many_names_each_is_upright_that_fits(figure: Callable[..., Figure]) -> None:
    names = [*KANA, "a long name"]
    drawn = figure(names)
    canvas.png_bytes(drawn, {})
    below = drawn.axes[0].get_xticklabels()
    assert [label.get_text() for label in below] == names
    assert [label.get_rotation() for label in below] == [0.0] * 48 + [90.0]
    boxes = [label.get_window_extent() for label in below]
    assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))


def test_captions_say_what_figures_of_many_classes_show() -> None:
    assert model_figures.cells(20) == "in counts; rows are true, columns predicted classes"
    assert "as shares of the true class" in model_figures.cells(21)
    assert model_figures.scored(50) == "each class"
    assert model_figures.scored(300) == "the 50 of 300 classes with the lowest F1"
    assert data_figures.colouring(20) == "coloured by class"
    assert "number of the class; " in data_figures.colouring(30)
    assert "in 30 colours that repeat; " in data_figures.colouring(31)


def test_coloured_images_keep_their_colours() -> None:
    image = np.zeros((1, 20, 12, 3), np.uint8)
    image[0, :10], image[0, 10:] = (250, 0, 0), (0, 0, 250)
    drawn = canvas.png_bytes(data_figures.one_per_class(image, ["a"], 250), {})
    found = Image.open(io.BytesIO(drawn)).convert("RGB").getcolors(1 << 20) or []
    assert {(255, 0, 0), (0, 0, 255)} <= {colour for _, colour in found}


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3)])
def test_reduced_pictures_have_the_means_of_squares(shape: tuple[int, ...]) -> None:
    images = noise(3, *shape)
    small = canvas.reduced(images, 2)
    assert small.shape == (3, 3, 2, *shape[2:])
    for row in range(3):
        for column in range(2):
            square = images[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            mean = square.mean(axis=(1, 2))
            np.testing.assert_array_equal(small[:, row, column], np.rint(mean))
    assert canvas.reduced(images, 1) is images


def test_the_components_of_large_images_are_those_of_reduced_ones() -> None:
    assert data_figures.reduction((28, 28)) == data_figures.reduction((20, 12, 3)) == 1
    assert data_figures.reduction((64, 64, 3)) == 4
    images = noise(50, 64, 64, 3)
    components, ratios = data_figures.pca(images, 255)
    again, same = data_figures.pca(canvas.reduced(images, 4), 255)
    np.testing.assert_array_equal(components, again)
    assert (ratios == same).all()


def test_a_small_class_gives_fewer_samples_of_each() -> None:
    rows = data_figures.sample_per_class(np.array([0] * 20 + [1] * 3), 10, np.random.default_rng(0))
    assert rows.shape == (2, 3) and len(np.unique(rows)) == 6


@cache
def png(name: str) -> bytes:
    return canvas.png_bytes(FIGURES[name](), TEXT)


@pytest.mark.parametrize("name", FIGURES)
def test_png_is_readable_and_small(name: str) -> None:
    content = png(name)
    assert len(content) < canvas.MAX_BYTES
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        assert image.format == "PNG"
        assert image.height >= 300
        assert len(np.unique(np.asarray(image.convert("L")))) > 10
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
        assert image.text == TEXT  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "name",
    ["ten_per_class", "pca_scatter", "learning_curves", "confusion_10", "class_weights", "trials"],
)
def test_the_same_call_gives_the_same_bytes(name: str) -> None:
    assert png(name) == canvas.png_bytes(FIGURES[name](), TEXT)


OTHER_PROCESS = """
import hashlib, sys
import numpy as np
from kmnist_pipeline.figures import canvas, data as data_figures, models as model_figures

rng = np.random.default_rng(0)
images, labels = rng.integers(0, 256, (600, 12, 12), np.uint8), np.arange(600) % 3
names = ["a", "b", "c"]
rows = [dict(trial=0, seed=0, fold=f, epoch=e, split="train", loss=1 / e, accuracy=f / e)
        for f in range(3) for e in range(1, 9)]
components, ratios = data_figures.pca(images, 255)
for figure in (
    data_figures.one_per_class(images[:3], names, 255),
    data_figures.pca_scatter(components, labels, names, ratios),
    model_figures.learning_curves(rows),
):
    print(hashlib.sha256(canvas.png_bytes(figure, {"Stage": "x"})).hexdigest())
print(sorted({"matplotlib.pyplot", "pandas", "seaborn", "sklearn", "scipy"} & set(sys.modules)))
"""


def test_other_processes_draw_the_same_bytes_without_heavy_imports(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text(
        "font.size: 20\naxes.facecolor: red\nlines.linewidth: 9\n"
    )
    printed = []
    for extra in ({}, {"MATPLOTLIBRC": str(tmp_path), "OMP_NUM_THREADS": "1"}):
        command = [sys.executable, "-c", OTHER_PROCESS]
        environment = {**os.environ, "PYTHONPATH": "src", **extra}
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        printed.append(run.stdout.splitlines())
    assert printed[0] == printed[1]
    assert len(set(printed[0])) == 4
    assert printed[0][-1] == "[]"


def test_pictures_are_enlarged_pixel_by_pixel() -> None:
    content = canvas.png_bytes(data_figures.one_per_class(IMAGES[:2], ["o", "ma"], 16), {})
    drawn = np.asarray(Image.open(io.BytesIO(content)).convert("L")).astype(int)
    zoom = canvas.LARGEST_TILE // 8
    left = canvas.MARGIN
    top = int(np.flatnonzero(drawn[:, left] < 255)[0])
    tile = drawn[top : top + 8 * zoom, left : left + 8 * zoom]
    squares = tile.reshape(8, zoom, 8, zoom)
    assert (squares == squares[:, :1, :, :1]).all()
    assert np.abs(squares[:, 0, :, 0] - IMAGES[0] * (255 / 16)).max() <= 1


@pytest.mark.parametrize("scale", [1, 15])
def test_pca_equals_scikit_learns(scale: int) -> None:
    components, ratios = data_figures.pca(IMAGES * np.uint8(scale), 16 * scale)
    reference = PCA(2, svd_solver="full")
    expected = reference.fit_transform(IMAGES.reshape(len(IMAGES), -1) / 16)
    expected *= np.sign((expected * components).sum(axis=0))
    np.testing.assert_allclose(components, expected, atol=1e-9)
    np.testing.assert_allclose(ratios, reference.explained_variance_ratio_, rtol=1e-9)


def test_pca_does_not_depend_on_the_order_of_images_and_fixes_signs() -> None:
    order = np.random.default_rng(0).permutation(len(IMAGES))
    components, ratios = data_figures.pca(IMAGES, 16)
    shuffled, same = data_figures.pca(IMAGES[order], 16)
    np.testing.assert_allclose(shuffled, components[order], atol=1e-12)
    assert (ratios == same).all()


def test_a_stopped_fold_keeps_its_last_value() -> None:
    carried = model_figures.by_fold(curve_rows([4, 2]), "validation", "accuracy")
    np.testing.assert_allclose(carried, [[0.01, 0.02, 0.03, 0.04], [0.11, 0.12, 0.12, 0.12]])


@pytest.mark.parametrize("name", ODD)
def test_class_names_of_any_script_are_drawn_as_they_are(
    name: str, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    figure = ODD[name]()
    first, second = canvas.png_bytes(figure, {}), canvas.png_bytes(ODD[name](), {})
    assert first == second and len(first) < canvas.MAX_BYTES
    texts = [text for text in figure.findobj(Text) if text.get_visible()]
    written = {text.get_text().split("  ")[-1] for text in texts}
    assert set(SHOWN) <= written
    assert not any(text.get_parse_math() for text in texts)
    assert not recwarn.list and not caplog.records  # such as of a glyph that no font has


@pytest.mark.parametrize("names", ["おゝ變한龘", LETTERS])
def test_letters_of_many_scripts_are_pictures_of_their_own(names: str) -> None:
    drawn = set()
    for name in names:
        assert canvas.drawable(name) == name
        figure = data_figures.one_per_class(IMAGES[:1], [name], 16)
        drawn.add(canvas.png_bytes(figure, {}))
    assert len(drawn) == len(names)


def test_the_fonts_are_those_of_the_packages() -> None:
    for weight in ("normal", "bold"):
        for font in canvas.FONTS[1:]:
            found = font_manager.findfont(FontProperties(family=font, weight=weight))
            assert "noto_cjk_sans_jp_regular" in found or "manimgx_fonts" in found
        own = font_manager.findfont(FontProperties(family=canvas.FONTS[0], weight=weight))
        assert str(matplotlib.get_data_path()) in own


def test_a_table_of_classes_makes_room_for_long_names() -> None:
    short, long = (
        data_figures.class_table([name, "b"], range(2), range(2)) for name in ("a", "long " * 20)
    )
    assert long.bbox.width > short.bbox.width
    canvas.png_bytes(long, {})
    boxes = [text.get_window_extent() for text in long.texts if text.get_text()]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


@pytest.mark.parametrize("classes", [2, 10])
def test_confusion_matrix_writes_every_count(classes: int) -> None:
    matrix = counts(classes)
    figure = model_figures.confusion_matrix(matrix, NAMES[:classes])
    written = [text.get_text() for text in figure.axes[0].texts]
    assert written == [str(count) for count in matrix.ravel()]


def test_samples_are_of_their_class_and_differ() -> None:
    assert (LABELS[ROWS] == np.arange(10)[:, None]).all()
    assert len(np.unique(ROWS)) == ROWS.size


@pytest.mark.parametrize(
    ("epochs", "trial", "words"),
    [
        ({}, "retrained", "which chose the winner; one seed."),
        ({}, "lr=2", "which chose the winner, and test accuracy, measured afterwards; one seed."),
        (
            {"epochs": 3},
            "retrained",
            "which chose the winner and ended the others early; one seed.",
        ),
    ],
)
def test_the_trials_of_a_study_are_drawn_whether_or_not_its_winner_was_trained_again(
    epochs: dict[str, int], trial: str, words: str, tmp_path: Path
) -> None:
    seeds = {"mean": 0.9, "sd": None, "n": 1, "values": [0.9]}
    tried = [{"name": name, "seeds": seeds, **epochs} for name in ("lr=1", "lr=2")]
    (tmp_path / "validation.json").write_text(
        json.dumps({"made_by": {}, "winner": "lr=2", "trials": tried})
    )
    (tmp_path / "curves.csv").write_text("trial,seed,fold,epoch,split,loss,accuracy\n")
    names = ["lr=1", "lr=2"] if trial != "retrained" else [trial]
    rows = [{"name": name, "seeds": {"accuracy": seeds}} for name in names]
    ((name, caption, figure),) = evaluate.training_figures(tmp_path, trial, rows)
    assert (name, caption) == ("trials", f"validation accuracy of each of 2 trials, {words}")
    assert len(figure.axes) == (1 if trial == "retrained" else 2)

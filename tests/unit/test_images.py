"""Opening images: Pillow reads dozens of formats, and runs Ghostscript for one of them."""

import ast
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import kmnist_pipeline
from kmnist_pipeline.repository.compare import Verdict, compare
from kmnist_pipeline.serving import inputs
from kmnist_pipeline.serving.character import Form, Prepared

SOURCES = sorted(Path(kmnist_pipeline.__file__).parent.rglob("*.py"))


SAFE = {"PNG", "JPEG", "WEBP"}  # Pillow decodes them with a library, never with another program


def opened(file: Path) -> list[tuple[int, list[str]]]:
    """The lines of a module that open an image, each with the formats that it allows."""
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    return [
        (call.lineno, [f for k in call.keywords if k.arg == "formats" for f in literal(k.value)])
        for call in calls
        if ast.unparse(call.func).endswith("Image.open")
    ]


def literal(node: ast.expr) -> list[str]:
    return list(ast.literal_eval(node))


def test_every_image_is_opened_with_the_formats_that_it_may_have():
    found = {(file.name, line): formats for file in SOURCES for line, formats in opened(file)}
    assert len(found) > 5
    assert {name: f for name, f in found.items() if not f or not {*f} <= SAFE} == {}


def test_a_postscript_file_runs_nothing(monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("runs Ghostscript"))
    Image.new("L", (4, 4)).save(script := io.BytesIO(), "EPS")
    Image.new("L", (4, 4)).save(picture := io.BytesIO(), "PNG")
    difference = compare("figures/a.png", picture.getvalue(), script.getvalue())
    assert difference.verdict is Verdict.DIFFERENT
    assert difference.line.endswith("the new file cannot be read")


RED = np.zeros((20, 12, 3), np.uint8) + np.array([200, 30, 10], np.uint8)
RED[:5] = (10, 240, 250)
COLOURED = Form((20, 12, 3), 255, None)
GREY = Form((20, 12), 255, {"dark_on_light": False})


def prepared(
    folder: Path, form: Form, array: np.ndarray, name: str = "a.png", as_is: bool = False
) -> Prepared:
    """The array as a model of this form gets it from a file."""
    path = folder / name
    if path.suffix == ".npz":
        np.savez(path, images=array[None])
    else:
        Image.fromarray(array).save(path)
    (picture,) = inputs.read([str(path)], form, lambda *fault: pytest.fail(str(fault)), as_is)
    return picture.prepared


@pytest.mark.parametrize("name", ["a.png", "a.npz"])
def test_a_coloured_image_stays_as_it_is_for_a_model_of_coloured_images(name: str, tmp_path: Path):
    picture = prepared(tmp_path, COLOURED, RED, name)
    assert (picture.pixels == RED).all() and str(picture) == ""


@pytest.mark.parametrize("name", ["a.png", "a.npz"])
def test_a_model_of_grey_images_gets_the_brightness_of_colours(name: str, tmp_path: Path):
    light = RED.copy()
    light[6:8] = (250, 250, 250)
    picture = prepared(tmp_path, GREY, light, name, as_is=True)
    assert picture.pixels.shape == (20, 12)
    expected = np.asarray(Image.fromarray(light).convert("L"))
    assert np.abs(picture.pixels.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("name", ["a.png", "a.npz"])
def test_a_model_of_coloured_images_gets_a_grey_one_three_times(name: str, tmp_path: Path):
    grey = RED[..., 0]
    picture = prepared(tmp_path, COLOURED, grey, name)
    assert (picture.pixels == grey[..., None]).all() and str(picture) == ""


def test_a_coloured_image_is_resized_and_filled_up_but_never_inverted(tmp_path: Path):
    light = np.full((40, 20, 3), 250, np.uint8)
    light[10:20, 5:15] = (20, 90, 200)
    picture = prepared(tmp_path, COLOURED, light)
    assert picture.pixels.shape == (20, 12, 3)
    assert str(picture) == "20x40 to 12x20"
    assert (picture.pixels[:, [0, -1]] == 250).all() and picture.pixels[8, 5].tolist() == [
        20,
        90,
        200,
    ]
    assert str(COLOURED) == "20x12, coloured, 0 to 255"


def test_an_array_of_another_form_is_refused_in_words(tmp_path: Path):
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 8, 8, 4), np.uint8))
    faults: list[tuple[str, str]] = []
    assert not list(inputs.read([str(tmp_path / "a.npz")], COLOURED, lambda *f: faults.append(f)))
    ((_, problem),) = faults
    assert problem.startswith("has an array of shape (2, 8, 8, 4), not images (N, height, width)")

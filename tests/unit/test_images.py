"""Opening images: Pillow reads dozens of formats, and runs Ghostscript for one of them."""

import ast
import io
from pathlib import Path

import pytest
from PIL import Image

import kmnist_pipeline
from kmnist_pipeline.repository.compare import Verdict, compare

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

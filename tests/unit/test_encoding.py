"""Texts are UTF-8 in every locale, also where Python was told to use that of the locale."""

import ast
from collections.abc import Iterator

from support.project import ROOT

ASCII = {"arithmetic.py"}  # it reads numbers only, and every stage depends on it


def without_encoding(source: str) -> Iterator[int]:
    """The lines that read or write a text without saying how."""
    for call in ast.walk(ast.parse(source)):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
            given, named = len(call.args), {keyword.arg for keyword in call.keywords}
            unsaid = {"read_text": given < 1, "write_text": given < 2, "run": "text" in named}
            if unsaid.get(call.func.attr) and "encoding" not in named:
                yield call.lineno


def test_every_text_has_an_encoding():
    assert list(without_encoding("a.read_text()\nb.read_text('utf-8')\nc.write_text(d)")) == [1, 3]
    found = [
        f"{file.relative_to(ROOT)}:{line}"
        for file in sorted((ROOT / "src").rglob("*.py"))
        if file.name not in ASCII
        for line in without_encoding(file.read_text("utf-8"))
    ]
    assert found == []

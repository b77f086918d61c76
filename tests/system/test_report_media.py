"""A report's page in a real browser: on a phone, in the dark and printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import odd_report

from kmnist_pipeline.reporting import page as pages

PHONE, PAPER = 360, 688  # CSS pixels: a phone's width, and A4's between the page's margins

# The contrast of text and background of each verdict, by the formula of WCAG 2.
CONTRASTS = """() => {
  const parts = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(part => part / 255);
  const light = colour => parts(colour)
    .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
  return [...document.querySelectorAll('.v')].map(element => {
    const {color, backgroundColor} = getComputedStyle(element);
    const [low, high] = [light(color), light(backgroundColor)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  });
}"""


@pytest.fixture(scope="module")
def opened(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("page")
    file = folder / "index.html"
    file.write_text(pages.html(odd_report.content(folder)))
    opened = browser.new_page()
    opened.goto(file.as_uri())
    opened.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    return opened


def style(opened: Any, selector: str, name: str) -> set[str]:
    """The computed values of a CSS property over all elements of a selector."""
    script = """([selector, name]) => [...document.querySelectorAll(selector)]
        .map(element => getComputedStyle(element)[name])"""
    return set(opened.evaluate(script, [selector, name]))


def widths(opened: Any, selector: str) -> list[tuple[int, int]]:
    """The width of each element's content, and the width that it is shown in."""
    script = """selector => [...document.querySelectorAll(selector)]
        .map(element => [element.scrollWidth, element.clientWidth])"""
    return opened.evaluate(script, selector)


def test_a_phone_scrolls_wide_tables_and_figures_but_not_the_page(opened: Any) -> None:
    opened.set_viewport_size({"width": PHONE, "height": 740})
    opened.emulate_media(media="screen", color_scheme="light")
    assert widths(opened, "html") == [[PHONE, PHONE]]
    for content, shown in (
        widths(opened, "section .wide")[0],
        widths(opened, "figure .wide")[0],
    ):
        assert content > shown <= PHONE
    assert style(opened, "body", "color") == {"rgb(27, 31, 36)"}


def test_a_dark_page_keeps_figures_and_verdicts_readable(opened: Any) -> None:
    opened.set_viewport_size({"width": 1280, "height": 900})
    for scheme in ("light", "dark"):
        opened.emulate_media(media="screen", color_scheme=scheme)
        assert min(opened.evaluate(CONTRASTS)) > 4.5
    assert style(opened, "body", "backgroundColor") == {"rgb(20, 24, 29)"}
    assert style(opened, "figure img", "backgroundColor") == {"rgb(255, 255, 255)"}


def test_print_is_black_on_white_and_cuts_nothing(opened: Any) -> None:
    opened.set_viewport_size({"width": PAPER, "height": 1000})
    opened.emulate_media(media="print", color_scheme="dark")
    everything = "body, section *, header *, footer *"
    assert style(opened, everything, "color") == {"rgb(0, 0, 0)"}
    white = {"rgb(255, 255, 255)", "rgba(0, 0, 0, 0)"}
    assert style(opened, everything, "backgroundColor") <= white
    assert style(opened, ".wide, pre", "overflowX") == {"visible"}
    assert all(content <= shown for content, shown in widths(opened, "html, .wide, pre"))
    assert style(opened, "figure, tr", "breakInside") == {"avoid"}
    assert style(opened, "thead", "display") == {"table-header-group"}

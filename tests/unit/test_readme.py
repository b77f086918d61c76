"""README.md and docs/ say what is so."""

import re
import subprocess
import sys

import pytest
from support import results
from support.project import ROOT

README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TARGETS = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The addresses of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_it_is_short():
    assert len(README.splitlines()) <= 150


def test_every_make_target_is_named_and_can_be_made():
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE)) == set(TARGETS)
    for target in TARGETS:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_the_table_has_every_command():
    help_ = subprocess.run(
        [sys.executable, "-m", "kmnist_pipeline.cli", "--help"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    listed = help_.partition("`kmnist COMMAND --help`")[0]
    commands = re.findall(r"^  ([a-z]+)\s", listed, re.MULTILINE)
    assert re.findall(r"^\| `kmnist ([a-z]+)` \|", README, re.MULTILINE) != []
    assert set(re.findall(r"^\| `kmnist ([a-z]+)` \|", README, re.MULTILINE)) == set(commands)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        if path.startswith(("http:", "https:")):
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


@pytest.mark.parametrize("page", results.PAGES)
def test_the_results_are_those_of_the_reports(page):
    text = (ROOT / page).read_text()
    hint = "`python tests/support/results.py` writes them again"
    assert text == results.filled(text, results.PAGES[page]()), hint


def test_every_page_of_the_map_is_there():
    block = README.partition("```text\n")[2].partition("```")[0]
    inside = ""
    for line in block.splitlines():
        for path in re.split(r"\s\s+", line.strip())[0].split():
            inside = path if path == "src/kmnist_pipeline/" else inside
            nested = f"{inside}{path}" if line.startswith("  ") else path
            assert (ROOT / nested).exists(), nested
    rooms = {path.parent.name for path in (ROOT / "src/kmnist_pipeline").glob("*/__init__.py")}
    assert rooms == set(re.findall(r"^  (\w+)/ ", block, re.MULTILINE))

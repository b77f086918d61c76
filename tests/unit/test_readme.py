"""The README says what is so."""

import json
import re

import pytest
from support.project import ROOT

README = (ROOT / "README.md").read_text()


def test_every_make_target_is_there():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))
    assert {"test-all", "repro", "ui", "server", "serve", "bench"} <= named <= targets


def test_every_link_leads_to_a_file():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


@pytest.mark.parametrize("report", ["kmnist_cnn", "kmnist_linear", "mnist_logistic"])
def test_the_results_are_those_of_the_reports(report):
    table = README.partition("<!-- results")[2].partition("<!-- end of results -->")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    shown = {row[0].strip("`"): row[1:] for row in rows if row and row[0].startswith("`")}
    for claim in json.loads((ROOT / f"reports/{report}/claims.json").read_text()):
        reported, obtained, verdict = shown[claim["id"]][-3:]
        assert verdict == claim["verdict"]
        if isinstance(claim["obtained"], float):
            assert float(reported) == pytest.approx(float(claim["reported"]), abs=5e-5)
            assert obtained == f"{claim['obtained']:.4f}"

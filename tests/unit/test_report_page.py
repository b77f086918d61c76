"""The page of a report: text of any kind is shown as it is, and the HTML says what is what."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from PIL import Image
from support import odd_report

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.reporting import page


class Elements(HTMLParser):
    """The elements of a page: tag, attributes, and the text inside."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.all: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append((tag, dict(attrs), []))
        if tag not in ("meta", "img", "br"):
            self.open.append(self.all[-1])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag, f"</{tag}> in line {self.getpos()[0]}"

    def handle_data(self, data: str) -> None:
        for _, _, texts in self.open:
            texts.append(data)

    def texts(self, tag: str) -> list[str]:
        return ["".join(texts) for name, _, texts in self.all if name == tag]

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes, _ in self.all if name == tag]


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return odd_report.content(tmp_path_factory.mktemp("odd"))


def test_html_shows_names_and_captions_of_any_script_as_they_are(content: dict) -> None:
    elements = Elements(page.html(content))
    assert not elements.open
    headers = elements.texts("th")
    assert all(headers.count(name) == len(odd_report.MODELS) for name in odd_report.NAMES)
    assert elements.texts("h1") == elements.texts("title") == [odd_report.ABOUT["title"]]
    assert all(odd_report.CAPTION in caption for caption in elements.texts("figcaption"))
    assert odd_report.DATASET["title"] in "".join(elements.texts("p"))
    assert 'name: "<i>お"' in elements.texts("pre")
    assert not {"b", "i"} & {tag for tag, _, texts in elements.all if "amp" in "".join(texts)}


def test_html_has_headings_in_order_and_names_its_tables_and_figures(content: dict) -> None:
    text = page.html(content)
    elements = Elements(text)
    assert text.startswith('<!doctype html>\n<html lang="en">')
    levels = [int(tag[1]) for tag, _, _ in elements.all if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert {th["scope"] for th in elements.attributes("th")} == {"col", "row"}
    alts = [image["alt"] for image in elements.attributes("img")]
    assert alts[0] == "model: confusion" and len(set(alts)) == 2
    ids = [attributes["id"] for _, attributes, _ in elements.all if "id" in attributes]
    links = [link["href"] or "" for link in elements.attributes("a")]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert not elements.attributes("script") and not elements.attributes("link")


def test_a_page_tells_what_people_have_reviewed_and_what_it_brings(content: dict) -> None:
    html = " ".join("".join(Elements(page.html(content)).texts("body")).split())
    text = " ".join(page.markdown(content).split())
    for shown in (html, text):
        assert "People have reviewed 9 images" in shown
        assert "Decisions about test images: 1;" in shown and "1 excluded. Decisions" in shown
        assert "published test labels its test accuracy is 0.5000 (10 / 20)" in shown
        assert "with the corrected ones 0.5789 (11 / 19)" in shown
        assert "contradict the labels of 7 of 80 images" in shown and "3 / 4" in shown
        assert "reaches its best mean accuracy with 20 labels" in shown
        assert "Choosing the least confident images reaches it with 4 fewer." in shown
        assert "0.7000 ± 0.0100" in shown
    assert "| 20 | 0.7000 ± 0.0100 | 0.6000 ± – |" in text


def test_a_loop_that_saves_nothing_says_so(content: dict) -> None:
    nothing = {**content, "simulated": {**content["simulated"], "saved": None}}
    for text in (page.html(nothing), page.markdown(nothing)):
        assert "it saves no labels" in text and "fewer" not in text


def test_a_page_without_reviews_does_not_mention_them(content: dict) -> None:
    tests = [{**model["test"]} for model in content["models"]]
    for test in tests:
        del test["corrected"]
    models = [{**m, "test": test} for m, test in zip(content["models"], tests, strict=True)]
    data = {name: value for name, value in content["data"].items() if name != "reviews"}
    bare = {**content, "models": models, "data": data, "suspects": None, "simulated": None}
    for text in (page.html(bare), page.markdown(bare)):
        for words in ("have reviewed", "Suspect labels", "Simulated active", "corrected ones"):
            assert words not in text


@pytest.mark.parametrize("render", [page.html, page.markdown])
def test_a_value_that_a_file_of_numbers_lacks_is_named(render: Callable, content: dict) -> None:
    """Such as a metric that was added since, or a key of a newer form."""
    model, *others = content["models"]
    wanted = {**content, "own": {"top_3": "#Top 3"}}
    words = r"metrics/odd/model/test.json lacks top_3: `dvc repro evaluate@model` makes it again"
    with pytest.raises(UserError, match=words):
        render(wanted)
    seeds = {**content, "models": [{**model, "test": {**model["test"], "seeds": {}}}, *others]}
    with pytest.raises(UserError, match=r"metrics/odd/ .* no attribute 'accuracy'.*; `dvc repro"):
        render(seeds)


def test_markdown_shows_text_as_it_is(content: dict) -> None:
    text = page.markdown(content)
    assert r"the weights of \<b\>\&amp;, \$x_1\$, \*a_b\* and \[お\]." in text
    assert "# Names in \\<any\\> script\n\nA report of \\*odd\\* names." in text
    assert r"“accuracy \< 0.5 \| \*for\* 한글”" in text
    rows = [line for line in text.splitlines() if line.startswith("| Section")]
    assert {line.replace(r"\|", "").count("|") for line in rows} == {10}


def test_a_figure_on_the_page_has_the_same_pixels_in_fewer_bytes(content: dict) -> None:
    (first, *_) = content["pictures"]
    embedded = base64.b64decode(page.data_uri(first["path"]).partition(",")[2])
    assert len(embedded) < first["path"].stat().st_size
    with Image.open(io.BytesIO(embedded)) as shown, Image.open(first["path"]) as drawn:
        assert shown.convert("RGB").tobytes() == drawn.convert("RGB").tobytes()
        assert first["width"] == drawn.width


def test_a_page_links_to_the_figures_of_models_without_claims(content: dict) -> None:
    (first, *_) = content["pictures"]
    linked = {**content, "linked": [first]}
    file = f"../../{first['path'].as_posix()}"
    links = {link["href"] for link in Elements(page.html(linked)).attributes("a")}
    assert file in links and f"- `model`: [confusion]({file})" in page.markdown(linked)
    assert not content["linked"] and "No claim is about" not in page.html(content)


def test_other_conditions_are_shown_against_the_clean_images(content: dict) -> None:
    """Each count, rate, interval and verdict; only of the model that was measured."""
    rows = {
        "clean": ["190 / 200", "0.9500", "+0.0 points", "100 / 200", "1.0000", "met"],
        "a <dark> sheet": ["150 / 200", "0.7500", "-20.0 points", "80 / 200", "0.7500", "not met"],
        "torn": ["20 / 200", "0.1000", "-85.0 points", "0 / 200", "–", "none accepted"],
        "two | three": ["7 / 200", "several: 193"],
    }
    shown = Elements(page.html(content)).texts("tr")
    text = page.markdown(content)
    for name, values in rows.items():
        (row,) = (row for row in shown if row.strip().startswith(name))
        assert all(value in row for value in values), row
        (line,) = (line for line in text.splitlines() if line.startswith(f"| {plain(name)} |"))
        assert all(value in line for value in values), line
    assert text.count("## Under other conditions: `model`") == 1
    assert text.count("## Under other conditions") == 1


def plain(name: str) -> str:
    return name.replace("<", "\\<").replace(">", "\\>").replace("|", "\\|")


def test_a_study_states_what_all_its_trials_change(content: dict) -> None:
    (first, *others) = content["models"]
    trial = {"name": "lr=1", "seeds": {"mean": 0.5, "sd": None, "n": 1}, "won": True}
    parameters = {"studies.s": {"trial": {"subset": 4000, "a.b": "x"}}}
    study = {
        **first, "budget": page._budget(parameters, "s"),
        "trials": [{**trial, "test": None, "wins": None, "chance": None, "published": False}],
        "validation": {**first["validation"], "winner": "lr=1", "folds": [{"n_train": 3200}]},
    }  # fmt: skip
    shown = {**content, "models": [study, *others]}
    html = " ".join("".join(Elements(page.html(shown)).texts("body")).split())
    for text, mark in ((html, ""), (page.markdown(shown), "`")):
        assert f"{mark}subset=4000, a.b=x{mark} instead of the values of the base" in text
        assert "the first fit has 3200 training images" in text
    assert page._budget({"studies.s": {"trial": {}}}, "s") == page._budget({}, "s") == ""


def test_faults_that_apply_to_no_model_and_noise_are_mentioned(content: dict) -> None:
    faults = {"path": "faults.json", "budget": "one fold", "found": 0, "columns": [], "rows": [],
              "left_out": ["rate_divided_by_10", "keep"]}  # fmt: skip
    shown = {**content, "faults": faults}
    for text in (page.html(shown), page.markdown(shown)):
        assert "they apply to no model with a claim: rate divided by 10, keep." in text
        assert "trained with one seed, without and with each fault, on this budget" in text
        assert "no threshold for noise" in text and "would look the same" not in text

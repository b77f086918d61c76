"""`kmnist review` in a real browser, by keyboard and by mouse."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import wording
from support.fit_program import wait_until
from support.project import Project, stripped
from support.threads import serving

from kmnist_pipeline.data import reviews
from kmnist_pipeline.evidence import outs
from kmnist_pipeline.serving import review_page
from kmnist_pipeline.serving.queues import Item, Queue
from kmnist_pipeline.serving.reviewing import Decisions

SECONDS = 60
PHONE = 360  # CSS pixels
FILE = "reviews/digits.csv"


class Review:
    """`kmnist review` in a project."""

    def __init__(self, project: Project, *arguments: str) -> None:
        self.project = project
        command = ["kmnist", "review", "--dataset", "digits", "--port", "0", *arguments]
        self.process = subprocess.Popen(
            command, cwd=project.folder, env=project.environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.said = ""
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", self.said)):
            line = self.process.stdout.readline()
            assert line, self.said
            self.said += line
        self.address = found[0]

    def decided(self) -> dict[str, tuple[str, str]]:
        """Old and new label of each decision in the file, by origin."""
        file = self.project.folder / FILE
        classes = tuple(map(str, range(10)))
        found, _ = reviews.parse(file.read_bytes(), FILE, classes) if file.exists() else ({}, [])
        return {review.origin: (review.old, review.new) for review in found.values()}

    def end(self, by: signal.Signals = signal.SIGINT) -> str:
        """Stop it, as Ctrl-C does by default; what it printed."""
        self.process.send_signal(by)
        out, _ = self.process.communicate(timeout=SECONDS)
        assert self.process.returncode == 0, self.said + out
        return self.said + out


@pytest.fixture
def started(digits_run: Project, tmp_path: Path) -> Iterator[Callable[..., Review]]:
    running: list[Review] = []

    def start(*arguments: str, project: Project | None = None) -> Review:
        own = project or stripped(digits_run, tmp_path / "project")
        running.append(Review(own, *arguments))
        return running[-1]

    yield start
    for review in running:
        if review.process.poll() is None:
            review.process.kill()
            review.process.communicate()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[[str], Any]]:
    contexts = []

    def opened(address: str) -> Any:
        contexts.append(browser.new_context(viewport={"width": 1100, "height": 800}))
        contexts[-1].set_default_timeout(SECONDS * 1000)
        page = contexts[-1].new_page()
        page.goto(address)
        page.locator("#answers li").first.wait_for()
        return page

    yield opened
    for context in contexts:
        context.close()


def shows(page: Any, selector: str, text: str) -> None:
    """Wait until an element shows this text and the page takes keys again."""
    page.locator(selector, has_text=re.compile(f"^{re.escape(text)}$")).wait_for()
    wait_until(lambda: page.evaluate("!busy"), "the end of its work")


def origin(page: Any) -> str:
    return page.locator("#origin").inner_text().partition(": ")[2]


def at(page: Any, place: int) -> str:
    """Wait until the page shows the image at a place and takes keys again; its origin."""
    page.locator(f"body[data-place='{place}']").wait_for()
    wait_until(lambda: page.evaluate("!busy"), "the end of its work")
    return origin(page)


def test_a_person_decides_by_keyboard(started, open_page):
    review = started()
    page = open_page(review.address)
    total = int(page.locator("#origin").inner_text().split()[2].rstrip(":"))
    shows(page, "#left", f"{total} left")
    first = at(page, 0)
    answer, label = page.locator("#best").inner_text(), page.locator("#label").inner_text()
    assert answer != label and page.locator("#answers li").count() == 3
    page.keyboard.press("Enter")  # accept
    second = at(page, 1)
    assert review.decided() == {first: (label, answer)}
    page.keyboard.press("7")  # correct
    third = at(page, 2)
    assert review.decided()[second][1] == "7"
    page.keyboard.press("x")  # exclude
    at(page, 3)
    assert review.decided()[third][1] == "excluded"
    shows(page, "#left", f"{total - 3} left")
    assert page.locator("#bar").get_attribute("value") == "3"
    page.keyboard.press("z")  # undo
    assert at(page, 2) == third
    shows(page, "#decision", "none yet")
    assert third not in review.decided() and len(review.decided()) == 2
    page.keyboard.press("ArrowRight")
    at(page, 3)
    for place in (2, 1, 0):
        page.keyboard.press("ArrowLeft")
        at(page, place)
    assert origin(page) == first
    shows(page, "#decision", answer)
    said = review.end()
    assert f"{total} of {total} left" in said and f"{total - 2} left; the decisions are" in said


def test_a_phone_does_not_scroll_sideways(started, open_page):
    page = open_page(started().address)
    page.set_viewport_size({"width": PHONE, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE


def test_a_person_decides_by_mouse(started, open_page):
    review = started()
    page = open_page(review.address)
    first = at(page, 0)
    answer = page.locator("#best").inner_text()
    page.locator("#accept").click()
    second = at(page, 1)
    page.locator("#classes button", has_text="5").click()
    third = at(page, 2)
    page.locator("#exclude").click()
    at(page, 3)
    found = {place: new for place, (_, new) in review.decided().items()}
    assert found == {first: answer, second: "5", third: "excluded"}
    page.locator("#back").click()
    at(page, 2)
    shows(page, "#decision", "none yet")
    page.locator("#following").click()
    at(page, 3)
    page.locator("#previous").click()
    at(page, 2)
    assert third not in review.decided()


def test_closing_the_page_or_killing_the_server_loses_nothing(started, open_page):
    review = started()
    page = open_page(review.address)
    first = at(page, 0)
    page.keyboard.press("3")
    second = at(page, 1)
    page.close()
    review.process.kill()
    review.process.communicate()
    again = started(project=review.project)
    page = open_page(again.address)
    assert at(page, 1) == second and again.decided()[first][1] == "3"


def two_pages(review: Review, open_page: Callable[[str], Any]) -> tuple[Any, Any, str]:
    """Two pages that show the first image, which the first page then decides; and its origin."""
    one, two = open_page(review.address), open_page(review.address)
    first = at(one, 0)
    assert at(two, 0) == first
    one.keyboard.press("3")
    at(one, 1)
    return one, two, first


def test_two_pages_cannot_overwrite_each_other(started, open_page):
    review = started()
    _, two, first = two_pages(review, open_page)
    two.keyboard.press("4")
    shows(two, "#message", "somebody else has decided meanwhile: 3")
    shows(two, "#decision", "3")
    assert at(two, 0) == first and review.decided()[first][1] == "3"
    two.keyboard.press("4")  # now that it has seen the other answer
    at(two, 1)
    assert review.decided()[first][1] == "4"


def test_a_page_takes_back_no_decision_of_another_page_that_it_has_not_shown(started, open_page):
    review = started()
    one, two, first = two_pages(review, open_page)
    two.keyboard.press("5")
    shows(two, "#decision", "3")
    two.keyboard.press("5")
    at(two, 1)
    one.keyboard.press("z")
    shows(one, "#message", "somebody else has decided meanwhile: 5")
    shows(one, "#decision", "5")
    assert at(one, 0) == first and review.decided()[first][1] == "5"
    one.keyboard.press("z")  # now that it has seen the other answer
    shows(one, "#decision", "none yet")
    assert review.decided() == {}


def test_a_page_without_its_server_says_so_and_decides_nothing(started, open_page):
    review = started()
    page = open_page(review.address)
    review.end()
    page.keyboard.press("Enter")
    shows(page, "#message", "the server has ended: nothing was decided")
    assert at(page, 0) and review.decided() == {}


def asked(address: str, body: Any = None, **headers: str) -> tuple[int, str]:
    """The status and the text of an answer."""
    content = None if body is None else json.dumps(body).encode()
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(
        address, content, {"Content-Type": "application/json", **headers}
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_requests_from_elsewhere_and_wrong_ones_are_refused(started):
    review = started()
    item = f"{review.address}/items/0"
    good = {"before": None, "after": "3"}
    assert asked(item, good, Origin="http://evil.example")[0] == 403
    assert asked(item, good, Host="evil.example")[0] == 403
    assert asked(f"{review.address}/queue", Host="evil.example")[0] == 403
    wrong: list[Any] = [{"after": "3"}, {**good, "more": 1}, {**good, "after": 3}, [], "x"]
    for body in wrong:
        assert asked(item, body)[0] == 422
    surrogate = {"before": None, "after": "\ud800"}
    assert asked(item, surrogate) == (400, rf"\ud800: {wording.NO_CLASS}")
    odd: list[Any] = [{**good, "\ud800": 1}, {**good, "after": nan}, {**good, "before": inf}, nan]
    for body in odd:
        status, said = asked(item, body)
        assert status == 422 and said.startswith("body") and said.isprintable()
    assert asked(item, {"before": None, "after": "33"}) == (400, f"33: {wording.NO_CLASS}")
    assert asked(item, {"before": None, "after": "3" * 5000})[0] == 413
    assert asked(f"{review.address}/items/99999")[0] == 422
    assert asked(f"{review.address}/openapi.json")[0] == 404
    assert review.decided() == {}
    assert asked(item, good, Origin=review.address)[0] == 200
    assert asked(item, good)[0] == 409
    assert len(review.decided()) == 1
    with urllib.request.urlopen(review.address, timeout=SECONDS) as answer:
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert not re.search(r"(src|href)=.?(https?:)?//", answer.read().decode())


def test_new_images_are_reviewed_and_kept_by_dvc(started, open_page, digits_run, tmp_path):
    project = digits_run.copy(tmp_path / "own", without=("mlruns",))
    drawn = np.random.default_rng(0).integers(0, 17, (2, 8, 8)).astype(np.uint8)
    drawn[:, [0, -1]], drawn[:, :, [0, -1]] = 0, 0
    np.savez(project.folder / "scans.npz", images=drawn)
    done = project.run("kmnist", "predict", "scans.npz", "--model", "digits_cnn", "--review")
    assert done.returncode == 0, done.stderr
    review = started("--new", project=project)
    page = open_page(review.address)
    shows(page, "#label", "none: a new image")
    page.keyboard.press("7")
    at(page, 1)
    review.process.kill()
    review.process.communicate()
    pointer = project.folder / "data/reviewed/digits.npz.dvc"
    assert not pointer.exists()
    review = started("--new", project=project)  # makes up for it
    assert "data/reviewed/digits.npz is in DVC's cache" in review.said
    before = pointer.read_bytes()
    page = open_page(review.address)
    at(page, 1)
    page.keyboard.press("x")
    shows(page, "#left", "all images are decided")
    assert sorted(review.decided().values()) == [("", "7"), ("", "excluded")]
    assert "data/reviewed/digits.npz is in DVC's cache" in review.end(signal.SIGTERM)
    assert pointer.read_bytes() != before
    assert project.git("check-ignore", "data/reviewed/digits.npz")


# A page in this process, of a dataset with twelve classes

NAMES = tuple(f"{first}{second}" for first in "abx" for second in "aeio")


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Decisions]]:
    """The page of a dataset with twelve classes, and its decisions."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 255, (3, 5, 5)).astype(np.uint8)
    even = np.full(len(NAMES), 1 / len(NAMES))
    items = [Item(reviews.digest(p), f"scan {n}", p, None, even, "") for n, p in enumerate(pixels)]
    averages = np.zeros((len(NAMES), 5, 5))
    decisions = Decisions(Queue("many classes", "many", NAMES, 255, averages, items), (5, 5))
    with serving(review_page.app(decisions), ws="none") as port:
        yield f"http://127.0.0.1:{port}", decisions


def test_with_more_than_ten_classes_the_first_letters_filter(many, open_page):
    address, decisions = many
    page = open_page(address)
    first, second, third = decisions.queue.items
    buttons = page.locator("#classes button")
    assert buttons.count() == 12 and page.locator("#filter").is_visible()
    page.keyboard.type("b")
    wait_until(lambda: buttons.all_inner_texts() == ["ba", "be", "bi", "bo"], "the filter")
    page.keyboard.type("o")
    page.keyboard.press("Enter")
    at(page, 1)
    assert decisions.of(first) == "bo" and page.locator("#filter").input_value() == ""
    page.keyboard.type("aq")
    page.keyboard.press("Enter")
    shows(page, "#message", "no class begins with this")
    page.keyboard.press("Escape")
    assert buttons.count() == 12
    page.locator("#filter").click()  # in the field, x and z are letters
    page.keyboard.type("xe")
    wait_until(lambda: buttons.all_inner_texts() == ["xe"], "the filter")
    page.keyboard.press("ArrowLeft")  # within the text
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    at(page, 2)
    assert decisions.of(second) == "xe"
    assert not page.locator("#filter").evaluate("field => field === document.activeElement")
    page.keyboard.press("x")
    shows(page, "#left", "all images are decided")
    assert decisions.of(third) == "excluded"
    page.keyboard.press("z")
    shows(page, "#decision", "none yet")
    page.locator("#filter").click()
    page.keyboard.press("Enter")  # an empty field: accept
    shows(page, "#left", "all images are decided")
    assert decisions.of(third) == NAMES[0]


def test_a_disk_error_is_said_and_the_decision_can_be_made_again(many, open_page, monkeypatch):
    address, decisions = many
    page = open_page(address)
    first, second, _ = decisions.queue.items
    for place, name in enumerate(("ba", "be"), 1):
        page.keyboard.type(name)
        page.keyboard.press("Enter")
        at(page, place)
    write, said = outs.write_bytes, "x: No space left on device: nothing was decided"

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x")

    monkeypatch.setattr(outs, "write_bytes", full)
    page.keyboard.press("z")
    shows(page, "#message", f"{said}; earlier decisions stay")
    at(page, 1)
    page.keyboard.press("x")
    shows(page, "#message", f"{said}; earlier decisions stay")
    assert (decisions.of(first), decisions.of(second)) == ("ba", "be")
    monkeypatch.setattr(outs, "write_bytes", write)
    page.keyboard.press("z")  # not the earlier one
    shows(page, "#decision", "none yet")
    assert (decisions.of(first), decisions.of(second)) == ("ba", None)

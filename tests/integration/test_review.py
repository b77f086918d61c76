"""What people decide about images: taken one by one, and trained on."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support import wording
from support.project import ROOT, Project

from kmnist_pipeline import cli
from kmnist_pipeline.commands import diff, impact
from kmnist_pipeline.data import dataset, reviews
from kmnist_pipeline.data.reviews import EXCLUDED, Review
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.serving import queues
from kmnist_pipeline.serving.queues import Item, Queue
from kmnist_pipeline.serving.reviewing import ChangedError, Decisions

FILE = "reviews/digits.csv"
PROCESSED = "data/processed/digits.npz"
ASKED_BY = "e" * 64


@pytest.fixture
def suspects(params: dict[str, Any]) -> Queue:
    return queues.of_suspects("digits", params, None)


def images(split: str) -> dataset.Images:
    return dataset.load(Path(PROCESSED), split)


def decision(pixels: np.ndarray, old: str, new: str) -> Review:
    return Review(reviews.digest(pixels), "a scan", old, new, ASKED_BY)


def write(*decided: Review) -> None:
    Path(FILE).write_bytes(reviews.encode(decided))


# Taking decisions


def test_suspects_are_contradicted_images_of_the_training_set_most_first(
    suspects: Queue, here: Project
):
    known = {reviews.digest(pixels) for pixels in images("train").pixels}
    assert suspects.items and {item.sha256 for item in suspects.items} <= known
    for item in suspects.items:
        assert item.label != item.probabilities.argmax()
    gaps = [item.probabilities.max() - item.probabilities[item.label] for item in suspects.items]
    assert gaps == sorted(gaps, reverse=True)
    validation = here.json("metrics/digits/digits_softmax/validation.json")
    assert {item.asked_by for item in suspects.items} == {validation["made_by"]["lineage"]}
    assert len(suspects.items) == here.json("metrics/digits/suspects.json")["contradicted"]


def test_a_decision_is_in_the_file_at_once_and_can_be_taken_back(suspects: Queue):
    first, second = suspects.items[:2]
    decisions = Decisions(suspects, (8, 8))
    assert len(decisions.left()) == len(suspects.items) and not Path(FILE).exists()
    decisions.decide(first, None, "3")
    decisions.decide(second, None, EXCLUDED)
    found, _ = reviews.parse(Path(FILE).read_bytes(), FILE, suspects.classes)
    row = found[first.sha256]
    assert (row.old, row.new) == (suspects.classes[first.label or 0], "3")
    assert (row.origin, row.asked_by) == (first.origin, first.asked_by)
    again = Decisions(suspects, (8, 8))
    assert (again.of(first), again.of(second)) == ("3", EXCLUDED)
    assert again.left() == list(range(2, len(suspects.items)))
    again.decide(first, "3", "5")
    again.decide(second, EXCLUDED, None)
    found, _ = reviews.parse(Path(FILE).read_bytes(), FILE, suspects.classes)
    assert {key: review.new for key, review in found.items()} == {first.sha256: "5"}


def test_a_new_answer_after_a_retraining_names_the_published_label(
    suspects: Queue, params: dict[str, Any]
):
    item = suspects.items[0]
    row, published = int(item.origin.split()[1]), item.label
    other = next(n for n in range(10) if n not in (published, item.probabilities.argmax()))
    for file in (Path(PROCESSED), Path("predictions/out_of_fold/digits_softmax.npz")):
        with np.load(file) as arrays:
            stored = dict(arrays)
        rows = stored["index"] if "index" in stored else np.arange(len(stored["labels"]))
        stored["labels"][rows == row] = other
        file.unlink()
        np.savez(file, **stored)
    queue = queues.of_suspects("digits", params, None)  # as after training with a correction
    again = next(each for each in queue.items if each.sha256 == item.sha256)
    assert again.label == other
    decisions = Decisions(queue, (8, 8))
    for before, after in ((None, "1"), ("1", None), (None, "2")):
        decisions.decide(again, before, after)
    found, _ = reviews.parse(Path(FILE).read_bytes(), FILE, queue.classes)
    assert found[item.sha256].old == queue.classes[published or 0]


def test_nobody_overwrites_a_decision_that_they_have_not_seen(suspects: Queue):
    item, other = suspects.items[:2]
    one, two = Decisions(suspects, (8, 8)), Decisions(suspects, (8, 8))
    one.decide(item, None, "3")
    with pytest.raises(ChangedError, match="somebody else has decided meanwhile: 3"):
        two.decide(item, None, "4")
    with pytest.raises(ChangedError, match="somebody else has undone the decision meanwhile"):
        two.decide(other, "5", "4")
    two.decide(other, None, "4")  # and what the other one has decided stays
    found, _ = reviews.parse(Path(FILE).read_bytes(), FILE, suspects.classes)
    assert sorted(review.new for review in found.values()) == ["3", "4"]


def test_a_file_that_an_editor_breaks_is_not_overwritten(suspects: Queue):
    decisions = Decisions(suspects, (8, 8))
    decisions.decide(suspects.items[0], None, "3")
    whole = Path(FILE).read_text()
    broken = whole + "half of a li"
    Path(FILE).write_text(broken)
    with pytest.raises(reviews.ReviewError, match=f"{FILE}:3: the last line does not end"):
        decisions.decide(suspects.items[1], None, "4")
    assert Path(FILE).read_text() == broken
    with pytest.raises(reviews.ReviewError):
        Decisions(suspects, (8, 8))
    Path(FILE).write_text(whole)  # restored: the earlier decision is still known
    decisions.decide(suspects.items[1], None, "4")
    found, _ = reviews.parse(Path(FILE).read_bytes(), FILE, suspects.classes)
    assert sorted(review.new for review in found.values()) == ["3", "4"]


def test_double_answers_that_arrive_while_the_page_is_open_are_said(suspects: Queue, capsys):
    item, other = suspects.items[:2]
    decisions = Decisions(suspects, (8, 8))
    decisions.decide(item, None, "3")
    row = Path(FILE).read_text().splitlines()[1]
    Path(FILE).write_text(f"{Path(FILE).read_text()}{row.replace(',3,', ',4,')}\n")  # as of a merge
    decisions.decide(other, None, "5")
    note = f"{FILE}:3: 4 replaces 3 in line 2, for the same image\n"
    assert capsys.readouterr().err == note and decisions.of(item) == "4"


def test_a_label_that_is_no_class_is_refused(suspects: Queue):
    with pytest.raises(UserError, match=f"ten: {wording.NO_CLASS}"):
        Decisions(suspects, (8, 8)).decide(suspects.items[0], None, "ten")
    assert not Path(FILE).exists()


@pytest.mark.parametrize(
    ("name", "experiment", "problem"),
    [
        ("mnist", None, f"{wording.NO_SUSPECTS}mnist"),
        ("digits", "digits_sofmax", "there is no experiment digits_sofmax; did you mean"),
        ("digits", "kmnist_softmax", "kmnist_softmax is an experiment of kmnist, not of digits"),
    ],
)
def test_a_queue_without_predictions_is_refused(name, experiment, problem):
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    with pytest.raises(UserError, match=problem):
        queues.of_suspects(name, params, experiment)


def test_predictions_of_other_data_are_refused(params: dict[str, Any]):
    file = Path("predictions/out_of_fold/digits_softmax.npz")
    with np.load(file) as stored:
        changed = dict(stored) | {"labels": (stored["labels"] + 1) % 10}
    file.unlink()
    np.savez(file, **changed)
    with pytest.raises(UserError, match="has predictions for other data than digits is now"):
        queues.of_suspects("digits", params, None)
    file.unlink()
    with pytest.raises(UserError, match="`dvc repro kfold-train@digits_softmax` makes it"):
        queues.of_suspects("digits", params, None)


# New images


@pytest.mark.system
def test_new_images_are_kept_and_join_the_training_images(
    suspects: Queue, params, here: Project, capsys
):
    pixels = [*np.random.default_rng(0).integers(0, 17, (2, 8, 8)), images("test").pixels[0]]
    even, drawn = np.full(10, 0.1), np.array(pixels, np.uint8)
    queue = replace(
        suspects, items=[Item(reviews.digest(p), "a scan", p, None, even, ASKED_BY) for p in drawn]
    )
    decisions = Decisions(queue, (8, 8))
    for item in queue.items:
        decisions.decide(item, None, "7")
    stored = reviews.images_of(Path("data/reviewed/digits.npz").read_bytes(), "x", (8, 8))
    assert {reviews.digest(p) for p in stored} == {item.sha256 for item in queue.items}
    named = {"decisions": FILE, "images": "reviews/none.npz"}  # as before the first new image
    replace_in_params(here, named)
    done = here.stage("preprocess", "name=digits")
    assert done.returncode == 1 and "does not name data/reviewed/digits.npz: run `k" in done.stderr
    # A killed server leaves it so; the next start makes up for it, although no image waits.
    assert cli.main(["review", "--dataset", "digits", "--new"]) == 1
    said = capsys.readouterr()
    assert "params.yaml was written\ndata/reviewed/digits.npz is in DVC's cache" in said.out
    assert "error: no new image of digits waits: " in said.err
    assert Path("data/reviewed/digits.npz.dvc").exists()
    named["images"] = "data/reviewed/digits.npz"
    assert yaml.safe_load(Path("params.yaml").read_text())["reviews"]["digits"] == named
    before, test = images("train"), images("test")
    after = by_hand(here)
    train = dataset.load(after, "train")
    assert len(train) == len(before) + 2  # the third is an image of the test set
    assert train.labels[-2:].tolist() == [7, 7] and train.index[-2:].tolist() == [1797, 1798]
    assert (train.pixels[:-2] == before.pixels).all()
    unchanged = dataset.load(after, "test")
    assert (unchanged.pixels == test.pixels).all() and (unchanged.labels == test.labels).all()
    corrected = reviews.labels_of_test(after, test.index, test.labels, None)
    assert corrected is not None and corrected[0] == 7
    assert (corrected[1:] == test.labels[1:]).all()


def replace_in_params(project: Project, named: dict[str, str]) -> None:
    """Let params.yaml name these files of the digits' decisions and images."""
    file = project.folder / "params.yaml"
    content = yaml.safe_load(file.read_text())
    content["reviews"]["digits"] = named
    file.write_text(yaml.safe_dump(content))


# The pipeline


def by_hand(project: Project) -> Path:
    """Preprocess digits by hand; the path of the result."""
    done = project.stage("preprocess", "name=digits")
    assert done.returncode == 0, done.stderr
    return project.folder / "multirun/preprocess/digits/unchanged" / PROCESSED


@pytest.mark.system
def test_without_decisions_the_data_are_the_same_bytes(here: Project):
    write()
    assert cli.main(["compose"]) == 0
    assert by_hand(here).read_bytes() == Path(PROCESSED).read_bytes()


@pytest.fixture
def reviewed(without_mlflow: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A committed project whose digits people have reviewed since: training and test images."""
    monkeypatch.chdir(without_mlflow.folder)
    train, test = images("train"), images("test")
    name = train.classes
    write(
        decision(train.pixels[0], name[train.labels[0]], name[(train.labels[0] + 1) % 10]),
        decision(train.pixels[1], name[train.labels[1]], EXCLUDED),
        decision(test.pixels[0], name[test.labels[0]], name[(test.labels[0] + 1) % 10]),
        decision(test.pixels[1], name[test.labels[1]], EXCLUDED),
    )
    with contextlib.redirect_stdout(io.StringIO()):
        assert cli.main(["compose"]) == 0
    yield without_mlflow


def test_impact_shows_what_a_review_makes_again(reviewed: Project):
    stages = {stage.address: stage for stage in impact.of_change([]).stages}
    ours = {address: stage.state for address, stage in stages.items() if "digits" in address}
    assert ours["preprocess@digits"] == "changed" and "download@digits" not in ours
    assert ours["kfold-train@digits_softmax"] == ours["report@digits"] == "downstream"
    assert any(FILE in reason for reason in stages["preprocess@digits"].reasons)


@pytest.mark.system
def test_what_people_decide_is_trained_on_and_told(reviewed: Project):
    targets = ("evaluate@digits_softmax", "report@digits")
    done = reviewed.run("dvc", "repro", *targets)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = reviewed.json("metrics/data/digits.json")["reviews"]
    assert counts == {
        "reviewed": 4, "corrected": 1, "confirmed": 0, "excluded": 1, "added": 0,
        "new_excluded": 0, "test": 2,
    }  # fmt: skip
    test = reviewed.json("metrics/digits/digits_softmax/test.json")
    assert test["n"] == 360 and test["corrected"]["n"] == 359
    assert (test["corrected"]["changed"], test["corrected"]["excluded"]) == (1, 1)
    assert test["corrected"]["accuracy"] == pytest.approx(test["corrected"]["correct"] / 359)
    for page in ("index.html", "README.md"):
        text = (reviewed.folder / "reports/digits" / page).read_text()
        assert "People have reviewed" in text and "with the corrected ones" in text

    found = diff.between("HEAD")
    told = {m.file: m.what for m in found.metrics if m.name == "right"}
    before = json.loads(
        reviewed.git("show", "HEAD:metrics/digits/digits_softmax/test_details.json")
    )
    file = "metrics/digits/digits_softmax/test_details.json"
    if before["right"] == test["right"]:
        assert file not in told
    else:
        assert "McNemar's test: p" in told[file] and "correct only before: " in told[file]
    assert any(m.name == "corrected.accuracy" or "corrected" in m.name for m in found.metrics)


def test_a_row_that_cannot_be_used_stops_preprocess_with_its_line(reviewed: Project):
    write(decision(np.full((8, 8), 3, np.uint8), "1", "2"))
    done = reviewed.run("dvc", "repro", "--single-item", "preprocess@digits")
    assert done.returncode != 0
    assert f"error in preprocess: {FILE}:2: the image " in done.stderr
    assert "(a scan) is neither in the dataset nor among the new images" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.system
def test_of_two_answers_the_later_counts_and_is_said(reviewed: Project):
    text = Path(FILE).read_text().splitlines(keepends=True)
    row = next(line for line in text[1:] if f",{EXCLUDED}," not in line)
    *rest, _, asked_by = row.rstrip("\n").split(",")
    Path(FILE).write_text("".join([*text, ",".join([*rest, EXCLUDED, asked_by]), "\n"]))
    done = reviewed.stage("preprocess", "name=digits")
    assert done.returncode == 0, done.stderr
    assert f"{FILE}:6: {EXCLUDED} replaces " in done.stderr


def test_git_keeps_the_rows_of_two_people_and_the_later_counts(tmp_path: Path):
    def git(*arguments: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main")
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    def decide(branch: str, *decided: Review) -> None:
        git("checkout", "-b", branch, "main")
        (tmp_path / "reviews").mkdir(exist_ok=True)
        (tmp_path / FILE).write_bytes(reviews.encode(decided))
        git("add", ".")
        git("commit", "-m", branch)

    pixels = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    first, second, third = (decision(each, "0", "1") for each in pixels)
    git("init")
    shutil.copy(ROOT / ".gitattributes", tmp_path)
    git("add", ".")
    git("commit", "-m", "attributes")
    decide("ours", first, second)
    decide("theirs", third, replace(second, new="2"))
    git("checkout", "ours")
    git("merge", "theirs", "-m", "both")
    found, notes = reviews.parse((tmp_path / FILE).read_bytes(), FILE, ["0", "1", "2"])
    assert found.keys() == {first.sha256, second.sha256, third.sha256}
    assert found[second.sha256].new == "2" and len(notes) == 1 and "2 replaces 1" in notes[0]


# The command


def test_what_cannot_be_shown_is_refused_before_the_server_starts(here: Project, capsys):
    for arguments, problem in (
        (["--dataset", "digits", "--new"], "no new image of digits waits"),
        (["--dataset", "digit"], "there is no dataset digit; did you mean digits?"),
        (["--dataset", "../../x", "--new"], "there is no dataset ../../x; known: "),
    ):
        assert cli.main(["review", *arguments]) == 1
        said = capsys.readouterr()
        assert said.err.startswith("error: ") and problem in said.err

"""The queue of new images: what `kmnist predict --review` puts there, and what it keeps."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.project import Project

from kmnist_pipeline import cli
from kmnist_pipeline.data import dataset, reviews
from kmnist_pipeline.data.reviews import Review
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.serving import queues
from kmnist_pipeline.serving.character import Form, Prepared
from kmnist_pipeline.serving.queues import Collected, Item, Picture

ABOUT = {"classes": ["o", "ki", "su"], "shape": [2, 2], "pixel_max": 16}
PROCESSED = Path("data/processed/digits.npz")
QUEUE = Path(".kmnist/review/x.npz")
PIXELS = np.random.default_rng(0).integers(0, 17, (80, 2, 2)).astype(np.uint8)


@pytest.fixture
def scans(here: Project) -> Path:
    """Four files: two drawings that no dataset has, an image of the test set, and no image."""
    folder = here.folder / "scans"
    folder.mkdir()
    drawn = np.random.default_rng(0).integers(0, 17, (2, 8, 8)).astype(np.uint8)
    drawn[:, [0, -1]], drawn[:, :, [0, -1]] = 0, 0
    drawn[:, 2, 2] = 16
    np.savez(folder / "drawn.npz", images=drawn)
    np.savez(folder / "tested.npz", images=dataset.load(PROCESSED, "test").pixels[:1])
    (folder / "note.txt").write_text("not an image")
    return folder


def predict(*arguments: str) -> int:
    return cli.main(["predict", "--model", "digits_cnn", "scans", *arguments])


def test_predict_queues_new_images_those_to_review_first(scans: Path, params, capsys):
    assert predict("--review") == 1  # because of note.txt
    said = capsys.readouterr()
    command = "kmnist review --dataset digits --new"
    assert f"3 new images of digits wait for review: `{command}` shows them" in said.err
    queue = queues.of_new("digits", params)
    assert len(queue.items) == 3 and {item.label for item in queue.items} == {None}
    decided = dict(line.split(",")[::5] for line in said.out.splitlines()[1:])
    routed = [decided[item.origin] for item in queue.items]
    assert routed == sorted(routed, reverse=True) and "review" in routed
    sure = [item.probabilities.max() for item in queue.items if decided[item.origin] == "review"]
    assert sure == sorted(sure)
    assert all(item.probabilities.sum() == pytest.approx(1) for item in queue.items)
    made_by = json.loads(Path("metrics/digits/digits_cnn/test_details.json").read_text())["made_by"]
    assert {item.asked_by for item in queue.items} == {made_by["lineage"]}
    assert predict("--review") == 1
    assert len(queues.of_new("digits", params).items) == 3  # each once


def test_without_the_option_nothing_is_queued(scans: Path, params):
    predict()
    assert not Path(".kmnist/review").exists()
    with pytest.raises(UserError, match="`kmnist predict scans/ --dataset digits --review`"):
        queues.of_new("digits", params)


def test_a_damaged_queue_is_named(scans: Path, params):
    predict("--review")
    Path(".kmnist/review/digits.npz").write_bytes(b"PK no")
    with pytest.raises(UserError, match=r"digits\.npz: is damaged: delete it"):
        queues.of_new("digits", params)


# Without a model


class Fake:
    """A model that finds these probabilities for each image."""

    name, dataset, lineage = "x_softmax", "x", None

    def __init__(self, **found: float) -> None:
        self._found, self.classes, self.form = [*found.values()], [*found], Form((2, 2), 16, None)

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        return np.tile(self._found, (len(pixels), 1))


def collected(pixels: np.ndarray, about: dict[str, Any] = ABOUT, **found: float) -> Collected:
    model: Any = Fake(**(found or {"o": 0.5, "ki": 0.3, "su": 0.2}))
    made = Collected(model, about, ["scans"])
    pictures = [Picture("scans/a", np.zeros((1, 1, 3)), Prepared(each)) for each in pixels]
    made(pictures, [{"decision": None}] * len(pixels))
    return made


def waiting(about: dict[str, Any] = ABOUT) -> list[Item]:
    return [item for item, _ in queues._read(QUEUE, about)]


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_images_of_a_model_of_some_classes_have_all_probabilities(empty):
    assert collected(PIXELS[:1], ki=0.25, su=0.75).add() == "1 new images of x wait for review"
    assert waiting()[0].probabilities.tolist() == [0, 0.25, 0.75]


def test_several_commands_at_the_same_time_queue_all_images(empty, monkeypatch):
    write = queues._write

    def slow(*arguments: Any) -> None:
        time.sleep(0.1)  # in which the others would read what is replaced then
        write(*arguments)

    monkeypatch.setattr(queues, "_write", slow)
    commands = [collected(PIXELS[n : n + 20]) for n in range(0, 80, 20)]
    threads = [threading.Thread(target=command.add) for command in commands]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {item.sha256 for item in waiting()} == {reviews.digest(each) for each in PIXELS}


def test_after_a_new_import_an_answer_is_still_of_the_class_with_its_name(empty):
    collected(PIXELS[:1]).add()
    now = {**ABOUT, "classes": ["tsu", "su", "o", "ki"]}
    assert waiting(now)[0].probabilities.tolist() == [0, 0.2, 0.5, 0.3]
    assert collected(PIXELS[1:2], now, tsu=1).add().startswith("2 new images")
    assert {tuple(each.probabilities) for each in waiting(now)} == {
        (0, 0.2, 0.5, 0.3),
        (1, 0, 0, 0),
    }


@pytest.mark.parametrize(
    ("changed", "was"),
    [
        ({"classes": ["o", "ki", "tsu"]}, "the class su"),
        ({"shape": [2, 3]}, "images of 2x2 with pixels of 0 to 16"),
        ({"pixel_max": 255}, "images of 2x2 with pixels of 0 to 16"),
    ],
)
def test_images_of_an_earlier_dataset_are_to_be_predicted_again_and_kept(
    changed, was, empty, capsys
):
    collected(PIXELS[:3]).add()
    before, now = QUEUE.read_bytes(), {**ABOUT, **changed}
    said = f"{QUEUE}: its 3 images were predicted when x had {was}: predict them again with"
    with pytest.raises(UserError, match=said):
        waiting(now)
    with pytest.raises(UserError, match=f"--review: x_softmax was trained when x had {was}"):
        collected(PIXELS[3:4], now)
    model: Any = Fake(o=1)
    model.form = Form(tuple(now["shape"]), now["pixel_max"], None)
    made = Collected(model, now, [])
    picture = Picture("a", np.zeros((1, 1, 3)), Prepared(np.zeros(now["shape"], np.uint8)))
    made([picture], [{"decision": None}])
    assert made.add() == "1 new images of x wait for review"
    (aside,) = QUEUE.parent.glob("x-*.npz")
    assert aside.read_bytes() == before
    said = capsys.readouterr().err
    assert was in said and said.endswith(f"; this file is now {aside}\n")
    assert len(waiting(now)) == 1


def test_decided_images_leave_the_queue_and_take_no_place_in_it(empty, monkeypatch):
    collected(PIXELS[:4]).add()
    decided = [Review(reviews.digest(each), "a", "", "o", "") for each in PIXELS[:2]]
    Path("reviews").mkdir()
    Path("reviews/x.csv").write_bytes(reviews.encode(decided))
    monkeypatch.setattr(queues, "MOST", 3)
    assert collected(PIXELS[:5]).add() == (
        "3 new images of x wait for review (at most 3; most confident left out)"
    )
    assert {item.sha256 for item in waiting()} == {reviews.digest(each) for each in PIXELS[2:5]}
    decided = [Review(reviews.digest(each), "a", "", "o", "") for each in PIXELS]
    Path("reviews/x.csv").write_bytes(reviews.encode(decided))
    assert collected(PIXELS).add() == "0 new images of x wait for review"
    assert not QUEUE.exists()


@pytest.mark.parametrize(
    ("name", "place", "origin"),
    [
        ("scans/a.png", "scans", "sub/scans/a.png"),
        ("../scans/a.npz[3]", "../scans/a.npz", "scans/a.npz[3]"),
        ("../../out/b/a.png", "../../out", "out/b/a.png"),
        ("{}/out/b/a.npz[3]", "{}/out/b/a.npz", "a.npz[3]"),
        ("{}/out/b/a.png", "{}/out/", "out/b/a.png"),
        ("{}/project/=1.png", "{}/project", "=1.png"),
        ("stdin[1]", "-", "stdin[1]"),
    ],
)
def test_an_origin_names_no_folder_of_this_machine(name, place, origin, tmp_path, monkeypatch):
    (tmp_path / "project/sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project/sub")
    above = str(tmp_path)
    found = queues._origin(name.format(above), [place.format(above)], tmp_path / "project")
    assert found == origin

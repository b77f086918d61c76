"""`kmnist predict`: answers in every format, those of a real model, and what it refuses."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import stat
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support import wording
from support.pictures import DIGITS, GOOD, KMNIST, grid, npz, png
from support.project import Project, stripped

from kmnist_pipeline import cli
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evaluation import conditions
from kmnist_pipeline.evidence import output
from kmnist_pipeline.repository import locks
from kmnist_pipeline.serving import candidates, inputs, predict
from kmnist_pipeline.serving.classifier import Answer, Classifier

# --- answers and how they are written ------------------------------------------------------------


class Sure(Classifier):
    """Answers with what it is told to."""

    def __init__(self, answers: list[Answer]) -> None:
        self.name, self.dataset, self.form = "sure", "kmnist", KMNIST
        self.routing: dict[str, Any] | None = None
        self._answers = answers

    def answers(self, pixels: np.ndarray, doubts: Sequence[str | None] = ()) -> list[Answer]:
        return [self._answers[number % len(self._answers)] for number in range(len(pixels))]


ANSWER = Answer(3, "tsu", "つ", 1 / 3, "accept")


def written(tmp_path: Path, output: str, answers: list[Answer], places: list[str]) -> bytes:
    to = tmp_path / "out"
    predict.predict(Sure(answers), places, output, to, None, as_is=True)
    return to.read_bytes()


def test_all_formats_say_the_same(tmp_path, monkeypatch):
    from pyarrow import parquet

    monkeypatch.setattr(predict, "BATCH", 2)
    source = tmp_path / "images.npz"
    source.write_bytes(npz(images=grid(KMNIST)))
    answers = [ANSWER, replace(ANSWER, decision=None)]
    rows = json.loads(written(tmp_path, "json", answers, [str(source)]))
    assert rows[0] == {
        "image": f"{source}[0]",
        "label": 3,
        "name": "tsu",
        "character": "つ",
        "probability": 0.333333,
        "decision": "accept",
        "prepared": "",
    }
    assert [row["decision"] for row in rows] == ["accept", None, "accept"]
    table = io.BytesIO(written(tmp_path, "parquet", answers, [str(source)]))
    assert parquet.read_table(table).to_pylist() == rows
    text = written(tmp_path, "csv", answers, [str(source)]).decode()
    assert list(csv.DictReader(io.StringIO(text))) == [
        {name: "–" if value is None else str(value) for name, value in row.items()} for row in rows
    ]


@pytest.mark.parametrize("output", ["csv", "json", "parquet"])
def test_no_image_gives_an_empty_table(tmp_path, output):
    (tmp_path / "empty").mkdir()
    content = written(tmp_path, output, [ANSWER], [str(tmp_path / "empty")])
    assert content[:4] in (b"imag", b"[]\n", b"PAR1")
    if output == "json":
        assert json.loads(content) == []


@given(st.text(st.sampled_from("=+-@\t\r\n'a")))
def test_no_cell_is_a_formula(text):
    cell = predict._cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert cell in (text, f"'{text}")


def test_a_hostile_name_harms_no_table_and_no_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('=HYPERLINK("x")', "a,b\nc.png", "$x^2$\x1b[31m.png", "つ.png"):
        Path(name).write_bytes(GOOD)
    names = sorted(os.listdir())
    assert predict.predict(Sure([ANSWER]), names, "csv", Path("out.csv"), Path("sheet.png"))
    rows = list(csv.DictReader(io.StringIO(Path("out.csv").read_text())))
    assert [row["image"] for row in rows] == [
        "$x^2$\\x1b[31m.png",
        '\'=HYPERLINK("x")',
        "a,b\\nc.png",
        "つ.png",
    ]
    with Image.open("sheet.png") as sheet:
        assert sheet.width > 300
        assert np.asarray(sheet.convert("L")).min() < 100


def test_the_sheet_shows_the_letters_of_file_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sheets = set()
    for name in ("つつ.png", "ああ.png", "??.png"):
        Path(name).write_bytes(GOOD)
        predict.predict(Sure([ANSWER]), [name], "csv", Path("out.csv"), Path("sheet.png"))
        sheets.add(Path("sheet.png").read_bytes())
    assert len(sheets) == 3


def test_an_interrupted_run_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(GOOD)
    (tmp_path / "out").write_text("old")
    monkeypatch.setattr(Sure, "answers", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path, "csv", [], [str(tmp_path / "a.png")])
    assert sorted(os.listdir(tmp_path)) == ["a.png", "out"]
    assert (tmp_path / "out").read_text() == "old"


# --- with a real model ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answering(digits_run: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project after `make demo`, without a store; tests add files to it."""
    return stripped(digits_run, tmp_path_factory.mktemp("predict") / "project")


@pytest.mark.parametrize("option", ["--to", "--sheet"])
@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "folder"])
def test_only_regular_files_are_written(option, kind, answering, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(answering.folder)
    other, place = tmp_path / "other", tmp_path / "place"
    other.write_text("mine")
    match kind:
        case "link":
            place.symlink_to(other)
        case "dangling":
            place.symlink_to(tmp_path / "none")
        case "pipe":
            os.mkfifo(place)
        case "folder":
            place.mkdir()
    before = place.lstat()
    assert cli.main(["predict", "README.md", "--model", "digits_softmax", option, str(place)]) == 1
    assert capsys.readouterr().err == (
        f"error: {place}: is not a regular file; name a new file or a regular one\n"
    )
    assert place.lstat() == before and other.read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"other", "place"}


def test_outputs_keep_their_permissions_and_new_ones_follow_the_umask(tmp_path):
    kept, new = tmp_path / "kept", tmp_path / "new"
    kept.touch(mode=0o600)
    mask = os.umask(0o077)
    try:
        for path in (kept, new):
            with output.replacing(path) as file:
                file.write(b"mine")
        assert os.umask(0o022) == 0o077
        with output.replacing(tmp_path / "open") as file:
            file.write(b"all")
    finally:
        os.umask(mask)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"kept": 0o600, "new": 0o600, "open": 0o644}
    assert kept.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.png", "--to", "new", "--sheet", "./new"], "new: is named twice"),
        (["a.png", "--to", "a.png"], "a.png: is among the files to classify"),
        (["a.png", "--sheet", "in/../a.png"], "is among the files to classify"),
        (["link.png", "--to", "a.png"], "a.png: is among the files to classify"),
        (["in", "--to", "in/below/b.png"], "in/below/b.png: is among the files to classify"),
        ([".", "--sheet", "a.png"], "a.png: is among the files to classify"),
    ],
)
def test_no_output_replaces_an_input_or_the_other(arguments, words, tmp_path, monkeypatch):
    (tmp_path / "in/below").mkdir(parents=True)
    for name in ("a.png", "in/below/b.png"):
        (tmp_path / name).write_bytes(GOOD)
    (tmp_path / "link.png").symlink_to("a.png")
    monkeypatch.chdir(tmp_path)
    place, *options = arguments
    with pytest.raises(UserError, match=re.escape(words)):
        inputs.require_apart([place], [Path(name) for name in options[1::2]])
    inputs.require_apart([".", "a.png"], [Path("new.csv"), Path("in/new.png")])


def test_a_folder_that_is_not_there_is_said_before_anything_is_computed(capsys, tmp_path):
    place = tmp_path / "none/sheet.png"
    assert cli.main(["predict", "README.md", "--model", "no_model", "--sheet", str(place)]) == 1
    assert capsys.readouterr().err == f"error: {place}: there is no folder {place.parent}\n"


@pytest.fixture(scope="module")
def tested(answering: Project) -> np.ndarray:
    """Forty images of the digits' test split, (40, 8, 8)."""
    with np.load(answering.folder / "data/processed/digits.npz") as arrays:
        return arrays["images"][arrays["test"][:40]]


def classifier(answering: Project, name: str, routing: dict[str, Any] | None = None) -> Classifier:
    dataset = {"shape": [8, 8], "pixel_max": 16, "name": "digits", "placement": DIGITS.placement}
    return Classifier(answering.folder / f"models/{name}.safetensors", name, dataset, routing)


@pytest.mark.parametrize("name", ["digits_softmax", "digits_softmax_grid"])
def test_the_answers_are_those_of_the_evidence(answering, name):
    with np.load(answering.folder / "data/processed/digits.npz") as arrays:
        pixels = arrays["images"][arrays["test"]]
    with np.load(answering.folder / f"predictions/{name}.npz") as arrays:
        expected = arrays["test_probabilities"]
    found = classifier(answering, name).probabilities(pixels)
    assert np.array_equal(found.astype(np.float32), expected)


def test_the_threshold_of_the_report_decides(answering, tested):
    plain = classifier(answering, "digits_softmax")
    sure = plain.probabilities(tested).max(axis=1)
    assert {answer.decision for answer in plain.answers(tested)} == {None}

    routed = classifier(
        answering, "digits_softmax", {"temperature": 1.0, "threshold": float(sure[0])}
    )
    decisions = [answer.decision for answer in routed.answers(tested)]
    assert decisions == ["accept" if value >= sure[0] else "review" for value in sure]
    warm = classifier(answering, "digits_softmax", {"temperature": 5.0, "threshold": 0.5})
    assert warm.probabilities(tested).max() < sure.max()
    never = classifier(answering, "digits_softmax", {"temperature": 1.0, "threshold": None})
    assert {answer.decision for answer in never.answers(tested)} == {"review"}


def test_scans_are_answered_as_the_images_they_were_made_from(answering, tested):
    folder = answering.folder / "scans"
    folder.mkdir()
    for number, image in enumerate(tested):
        scan = Image.fromarray(255 - np.rint(image * (255 / 16)).astype(np.uint8))
        scan.resize((64 + number, 64 + number), Image.Resampling.BICUBIC).save(
            folder / f"{number:02d}.png"
        )
    (folder / "broken.png").write_bytes(GOOD[:40])
    np.savez(answering.folder / "native.npz", images=tested)

    command = ["kmnist", "predict", "--dataset", "digits", "--output", "json"]
    native = answering.run(*command, "native.npz", "--as-is")
    assert native.returncode == 0
    assert "digits_softmax (no champion of digits is registered; best validation" in native.stderr
    scans = Project(folder).run(  # from a folder below, with paths as seen from there
        *command, ".", "--to", "answers.json", "--sheet", "../sheet.png",
        PYTHONPATH=str(answering.folder / "src"),
    )  # fmt: skip
    assert scans.returncode == 1
    assert "error: ./broken.png: broken image" in scans.stderr
    assert "40 of them were converted to 8x8, white on black, 0 to 16" in scans.stderr
    rows = json.loads((folder / "answers.json").read_text())
    labels = [[row["label"] for row in found] for found in (json.loads(native.stdout), rows)]
    assert np.mean(np.equal(labels[0], labels[1])) >= 0.92
    assert re.fullmatch(r"inverted, ink of \d\dx6\d placed in 8x8(, .*)?", rows[3]["prepared"])
    with Image.open(answering.folder / "sheet.png") as sheet:
        assert sheet.info["Caption"] == "Predicted by digits_softmax"
    assert not list(answering.folder.rglob("*.db"))  # no store is made to be asked


def test_real_pictures_are_answered_and_doubted_ones_never_accepted(answering, tested):
    folder = answering.folder / "pictures"
    folder.mkdir()
    names = ["dark paper", "coloured ink", "uneven light", *conditions.UNANSWERABLE]
    for name in names:
        for number, picture in enumerate(conditions.rendered(name, tested / np.float32(16), 5)):
            image = Image.fromarray(np.uint8(np.rint(picture * 255)))
            image.save(folder / f"{name}-{number:02d}.png")
    done = answering.run(
        "kmnist", "predict", "pictures", "--model", "digits_cnn", "--output", "json",
        "--sheet", "before-after.png",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert len(rows) == 40 * len(names)
    with np.load(answering.folder / "data/processed/digits.npz") as arrays:
        labels = arrays["labels"][arrays["test"][:40]]
    for name in names:
        of = [row for row in rows if row["image"].startswith(f"pictures/{name}-")]
        accepted = [row for row in of if row["decision"] == "accept"]
        if name in conditions.UNANSWERABLE:
            assert len(accepted) <= (8 if name == "a scribble" else 0), name
            doubted = ["review: " in row["prepared"] for row in of]
            assert all(doubted) or name == "a scribble", name
        else:
            assert np.mean([row["label"] for row in of] == labels) > 0.85, name
            assert len(accepted) > 10, name
    with Image.open(answering.folder / "before-after.png") as sheet:
        assert sheet.width > 800


def test_standard_input_and_a_reader_that_has_seen_enough(answering, tested):
    arguments = ["kmnist", "predict", "-", "--model", "digits_softmax"]
    options: dict[str, Any] = {"cwd": answering.folder, "env": answering.environment()}
    scan = png(Image.fromarray(tested[0] * 15))
    done = subprocess.run(arguments, input=scan, capture_output=True, check=True, **options)
    header, row = done.stdout.decode().splitlines()
    assert header == ",".join(predict.COLUMNS)
    assert row.startswith("stdin,")

    (answering.folder / "many.npz").write_bytes(npz(images=np.tile(tested, (300, 1, 1))))
    command = "kmnist predict many.npz --model digits_softmax | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, check=True, **options)
    assert b"Traceback" not in done.stderr and b"Broken pipe" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "digits_sofmax"], "did you mean digits_softmax?"),
        (["--dataset", "letters"], "there is no dataset letters; known: digits"),
        (["--model", "digits_softmax", "--to", "no/such/folder/x"], "no/such/folder/x"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_way_out(
    evidence, monkeypatch, capsys, arguments, words
):
    monkeypatch.chdir(evidence.folder)
    assert cli.main(["predict", "README.md", *arguments]) == 1
    assert words in capsys.readouterr().err


def test_a_path_that_does_not_exist_is_said_before_a_model_is_needed(clone, monkeypatch, capsys):
    monkeypatch.chdir(clone.folder)
    assert cli.main(["predict", "a\n.png", "b.png"]) == 1
    missing = "No such file or directory"
    assert capsys.readouterr().err == f"error: a\\n.png: {missing}\nb.png: {missing}\n"


def test_only_remedies_that_are_possible_are_named_for_a_missing_model(full_project, monkeypatch):
    monkeypatch.chdir(full_project.folder)
    name = "kmnist_softmax"
    weights = Path(f"models/{name}.safetensors")

    def said() -> str:
        with pytest.raises(UserError) as caught:
            candidates.require(weights, name)
        return str(caught.value)

    absent, made = f"{weights} does not exist: ", f"`dvc repro evaluate@{name}` trains it"
    made += " in about 35 minutes on one core"
    assert said() == absent + made

    Path(".dvc/config.local").write_text("['remote \"store\"']\n    url = elsewhere\n")
    assert said() == f"{absent}`dvc pull {weights}` takes it from a remote, {made}"

    cached = Path(".dvc/cache/files/md5", *md5_of(full_project, weights))
    cached.parent.mkdir(parents=True)
    cached.touch()
    damaged = f"{weights} {wording.DAMAGED}{cached.absolute()}; then `dvc repro` "
    assert said() == f"{damaged}makes it, or `dvc pull {weights}` takes it from a remote"


def test_a_missing_or_damaged_file_of_git_comes_back_from_git(project, monkeypatch):
    """Hours of training are no remedy for a file that one checkout brings back."""
    monkeypatch.chdir(project.folder)
    numbers = Path("metrics/digits/digits_softmax/test.json")
    numbers.unlink()
    with pytest.raises(UserError, match=f"`git checkout HEAD -- {numbers}` restores it"):
        candidates.read("digits_softmax")
    project.run("git", "rm", "--quiet", "-r", "--cached", "metrics")
    project.run("git", "commit", "--quiet", "--message", "without numbers")
    with pytest.raises(UserError, match="`dvc repro evaluate@digits_softmax` makes it"):
        candidates.read("digits_softmax")


def md5_of(project: Project, out: Path) -> tuple[str, str]:
    """The md5 of an out in dvc.lock, as DVC's cache divides it into folder and file."""
    graph = locks.parse((project.folder / locks.LOCK).read_bytes())
    [stage] = graph.makers(out.as_posix())
    md5 = stage.outs[out.as_posix()]
    return md5[:2], md5[2:]


def test_altered_weights_are_refused_until_they_are_restored(unlogged, monkeypatch, capsys):
    monkeypatch.chdir(unlogged.folder)
    weights = Path("models/digits_softmax.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1  # of the last number
    weights.unlink()
    weights.write_bytes(content)
    command = ["predict", "a.png", "--model", "digits_softmax"]
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save("a.png")
    assert cli.main(command) == 1
    said = capsys.readouterr()
    assert said.out == "" and f"{weights} is not as dvc.lock says: " in said.err
    remedy = said.err.split("`")[1]
    assert remedy == f"dvc checkout --force {weights}"
    done = unlogged.run(*remedy.split())
    assert done.returncode == 0, done.stderr
    assert cli.main(command) == 0

"""`kmnist trace` of files that no stage made as they are, of shallow clones and broken locks."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin
from support import wording
from support.project import Project, flipped, replaced
from support.tracing import (
    EVALUATE,
    FIGURE,
    METRIC,
    MODEL,
    PAGE,
    PREDICTIONS,
    PROCESSED,
    RAW,
    TABLE,
    TRAIN,
    UNKNOWN,
    digests,
    of,
    published,
)

from kmnist_pipeline.commands.trace import text as texts
from kmnist_pipeline.repository import locks


@pytest.mark.parametrize("file", [FIGURE, METRIC, PAGE])
def test_a_flipped_byte_where_the_file_names_its_lineage(file, archive, tmp_path):
    copy = tmp_path / f"copy{Path(file).suffix}"
    copy.write_bytes(flipped(archive.folder / file, 60 if file == METRIC else None))
    found = of(copy)
    (traced,) = found.files
    match = traced.matches[0]
    assert traced.status == "altered"
    assert found.exit_status == 3
    assert match.stage.key == of(file).files[0].matches[0].stage.key
    assert digests(found, match.stage.key) <= published(archive.folder)


@pytest.mark.parametrize("file", [FIGURE, METRIC, TABLE, MODEL, PREDICTIONS, PROCESSED, RAW])
def test_a_flipped_byte_in_the_checkout(file, archive):
    path = archive.folder / file
    with replaced(path, flipped(path)):
        found = of(path)
        (traced,) = found.files
        remedy = f"{wording.OTHER_VERSION} this file; `git checkout HEAD -- {file}` restores it"
        assert (remedy in texts.verdict(traced)) == file.startswith(("figures", "metrics"))
    assert (traced.status, traced.matches[0].path) == ("altered", file)
    assert found.exit_status == 3


@pytest.mark.parametrize("file", [TABLE, MODEL, PREDICTIONS, RAW])
def test_a_flipped_byte_in_a_file_that_names_no_lineage(file, archive, tmp_path):
    copy = tmp_path / Path(file).name
    copy.write_bytes(flipped(archive.folder / file))
    found = of(copy)
    assert found.files[0].status == "unknown"
    assert found.exit_status == 1


def text_of(image: Image.Image) -> PngImagePlugin.PngInfo:
    text = PngImagePlugin.PngInfo()
    for key, value in image.info.items():
        if isinstance(key, str) and isinstance(value, str):
            text.add_text(key, value, zip=key == "Lineage")
    return text


@pytest.mark.parametrize("change", ["re-encoded", "cropped", "without its text"])
def test_a_png_that_was_saved_again(change, archive, trace, tmp_path):
    with Image.open(archive.folder / FIGURE) as image:
        kept = None if change == "without its text" else text_of(image)
        shown = image.crop((0, 0, 50, 50)) if change == "cropped" else image
        shown.save(tmp_path / "again.png", pnginfo=kept, compress_level=1)
    found = of(tmp_path / "again.png")
    (traced,) = found.files
    if kept is None:
        assert (traced.status, traced.remark, found.exit_status) == ("unknown", "", 1)
    else:
        assert (traced.status, found.exit_status) == ("altered", 3)
        assert traced.matches[0].stage.address == EVALUATE
        assert EVALUATE in traced.remark
        assert trace(tmp_path / "again.png")[1].startswith(
            f"{tmp_path}/again.png is ALTERED: {EVALUATE} made a different "
            "version of figures/digits/digits_softmax (md5 "
        )


def test_a_copy_with_an_older_figures_text_leads_to_the_older_stage(history, archive, tmp_path):
    with Image.open(history[2] / FIGURE) as image:
        image.save(tmp_path / "correct.png", pnginfo=text_of(image), compress_level=1)
    match = of(tmp_path / "correct.png").files[0].matches[0]
    assert match.stage.params["evaluation"]["samples"] == 10
    assert (match.path, match.versions[0].here) == (FIGURE, False)


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        ({}, ""),
        ({"Stage": EVALUATE, "Lineage": "by hand"}, f"it says that {EVALUATE} made it, run by"),
        ({"Stage": EVALUATE, "Lineage": "1" * 64}, "lineage key 111111111111, which no lock has"),
        ({"Stage": "evaluate@other", "Lineage": "1" * 64}, "evaluate@other"),
    ],
)
def test_a_picture_that_no_stage_made(text, remark, archive, tmp_path):
    kept = PngImagePlugin.PngInfo()
    for key, value in text.items():
        kept.add_text(key, value)
    Image.new("L", (3, 3)).save(tmp_path / "new.png", pnginfo=kept)
    found = of(tmp_path / "new.png")
    assert found.files[0].status == "unknown"
    assert remark in found.files[0].remark
    assert found.exit_status == 1


@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG\r\n\x1a\n", b"{", b"\x89PNG\r\n\x1a\n" + b"x" * 99]
)
def test_broken_files_are_unknown(content, archive, tmp_path):
    (tmp_path / "x.png").write_bytes(content)
    assert of(tmp_path / "x.png").files[0].status == "unknown"


def test_code_is_in_git_but_no_stage_made_it(trace):
    status, output, _ = trace("src/kmnist_pipeline/cli/compose.py")
    assert status == 1
    assert f"cli/compose.py {UNKNOWN}: Git has it as src/kmnist_pipeline" in output


def test_a_figure_that_was_edited_and_committed_is_no_evidence(archive, tmp_path, monkeypatch):
    clone = tmp_path / "project"
    Project(tmp_path).git("clone", "--quiet", str(archive.folder), str(clone))
    content = flipped(clone / FIGURE)
    (clone / FIGURE).write_bytes(content)
    Project(clone).commit()
    monkeypatch.chdir(clone)
    assert of(FIGURE).files[0].status == "altered"


def test_a_shallow_clone_says_what_it_lacks(history, archive, tmp_path, monkeypatch):
    clone = tmp_path / "project"
    Project(tmp_path).git("clone", "--quiet", "--depth=1", f"file://{archive.folder}", str(clone))
    monkeypatch.chdir(clone)
    assert of(FIGURE).exit_status == 0
    (traced,) = of(history[2] / FIGURE).files
    assert (traced.status, "git fetch --unshallow" in traced.remark) == ("unknown", True)


def test_a_flipped_byte_in_the_lock(archive, trace):
    """The file is what the committed lock says, and the chain behind it has a gap in this one."""
    lock = archive.folder / "dvc.lock"
    text = lock.read_text()
    md5 = locks.parse(text).stages[TRAIN].outs[MODEL]
    other = md5[:-1] + ("0" if md5[-1] != "0" else "1")
    with replaced(lock, text.replace(md5, other).encode()):
        (traced,) = of(MODEL).files
        assert traced.status == "exact"
        assert not traced.matches[0].versions[0].here
    head, entry = text.split(f"\n  {EVALUATE}:\n")
    with replaced(lock, f"{head}\n  {EVALUATE}:\n{entry.replace(md5, other, 1)}".encode()):
        found = of(PREDICTIONS)
        (traced,) = found.files
        assert (traced.status, found.is_whole(traced), found.exit_status) == ("exact", False, 1)
        read = found.steps[traced.matches[0].stage.key].inputs
        assert [source.path for source in read if not source.exact] == [MODEL]
        status, output, _ = trace(PREDICTIONS)
        assert status == 1
        assert f"{MODEL}  md5 {other}  (NO VERSION OF dvc.lock SAYS WHAT MADE THIS" in output

        # A metric names its key itself.
        (traced,) = of(METRIC).files
        assert traced.matches[0].stage.key in (archive.folder / METRIC).read_text()
        assert not traced.matches[0].versions[0].here


def test_a_broken_lock_is_named(archive, trace):
    for content in (b"<<<<<<< HEAD\nstages: {", b"schema: '2.0'\nstages: {a: {deps: []}}\n"):
        with replaced(archive.folder / "dvc.lock", content):
            status, _, message = trace("--json")
            assert status == 1
            assert message.startswith("error: dvc.lock: ")
    assert trace(FIGURE)[0] == 0


def test_a_broken_lock_in_an_old_commit_is_ignored(archive, tmp_path, monkeypatch):
    clone = tmp_path / "project"
    Project(tmp_path).git("clone", "--quiet", str(archive.folder), str(clone))
    good = (clone / "dvc.lock").read_text()
    for text in (good.replace("stages:\n", "stages:\n<<<<<<< HEAD\n"), good):
        (clone / "dvc.lock").write_text(text)
        Project(clone).commit("a merge")
    monkeypatch.chdir(clone)
    assert of(FIGURE).exit_status == 0

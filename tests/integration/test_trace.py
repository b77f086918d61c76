"""`kmnist trace`: any file leads to the stage that made it, and from there to published data."""

from __future__ import annotations

import cProfile
import json
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pydot
import pytest
import yaml
from PIL import Image, PngImagePlugin
from support.project import ROOT, Project, replaced
from support.stores import Server
from voluptuous import All, Any, Datetime, Length, Match, Optional, Schema

from kmnist_pipeline import cli
from kmnist_pipeline.commands import receipts
from kmnist_pipeline.commands.trace import text as texts
from kmnist_pipeline.commands.trace.ancestry import Trace, trace
from kmnist_pipeline.commands.trace.runs import SECONDS
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import lineage
from kmnist_pipeline.repository import git as repository_git
from kmnist_pipeline.repository import locks
from kmnist_pipeline.repository.compare import Difference, Verdict

FIGURE = "figures/digits/digits_softmax/correct.png"
METRIC = "metrics/digits/digits_softmax/test_details.json"
TABLE = "metrics/digits/digits_softmax/curves.csv"
MODEL = "models/digits_softmax.safetensors"
PREDICTIONS = "predictions/digits_softmax.npz"
PROCESSED = "data/processed/digits.npz"
RAW = "data/raw/digits/all-images-idx3-ubyte"
PAGE = "reports/digits/index.html"
EVALUATE, TRAIN = "evaluate@digits_softmax", "kfold-train@digits_softmax"
UNKNOWN = "was not made by any commit of this repository"


@pytest.fixture(scope="module")
def history(
    digits_run: tuple[Project, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Project, list[str], Path]:
    """The digits evidence with three commits of history, their ids, and the first one's files.

    In the second a parameter is different, and one stage ran again but not the report; in the
    third the report did too.
    """
    folder = tmp_path_factory.mktemp("made") / "project"
    archive = digits_run[0].copy(folder)
    old = folder.parent / "old"
    commits = [archive.commit("Show ten samples")]
    for name in ("figures", "metrics", "reports", "models", "predictions"):
        shutil.copytree(folder / name, old / name)
    for file in ("conf/config.yaml", "params.yaml"):
        archive.replace(file, " samples: 10", " samples: 9")
    for stage, message in ((EVALUATE, "Show nine samples"), ("report@digits", "Report it")):
        done = archive.run("dvc", "repro", "--single-item", stage)
        assert done.returncode == 0, done.stdout + done.stderr
        commits.append(archive.commit(message))
    return archive, commits, old


@pytest.fixture
def archive(history, monkeypatch) -> Project:
    """The project with a history, as the working directory; not to be changed by a test."""
    monkeypatch.chdir(history[0].folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return history[0]


@pytest.fixture
def run(archive, capsys) -> Callable[..., tuple[int, str, str]]:
    """`kmnist trace ...` in this process: exit status, output, messages."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        status = cli.main(["trace", *map(str, arguments)])
        return status, *capsys.readouterr()

    return call


def of(*files: str | Path) -> Trace:
    return trace([Path(file).absolute() for file in files])


def published(folder: Path) -> set[str]:
    """Every sha256 in conf/dataset."""
    texts = [file.read_text() for file in (folder / "conf/dataset").glob("*.yaml")]
    return {digest for text in texts for digest in re.findall(r"\b[0-9a-f]{64}\b", text)}


def digests(found: Trace, key: str) -> set[str]:
    """Every sha256 that a lineage ends in."""
    originals = [original for step in found.behind(key) for original in step.originals]
    return {digest for original in originals for digest in original.files.values()}


def flipped(path: Path, position: int = -100) -> bytes:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    return bytes(content)


# --- what is exact -------------------------------------------------------------------------------


def test_every_file_of_the_evidence_leads_to_a_published_data_set(clone, monkeypatch):
    """The measure: all that Git tracks there, so all that a report shows."""
    monkeypatch.chdir(clone.folder)
    files = clone.git("ls-files", "figures", "metrics", "reports").splitlines()
    found = of(*files)
    known = published(clone.folder)
    assert len(files) > 100
    assert found.exit_status == 0
    for traced in found.files:
        match = traced.matches[0]
        ends = digests(found, match.stage.key)
        assert (traced.status, traced.remark) == ("exact", ""), traced.file
        assert match.path == traced.file
        assert ends and ends <= known, traced.file


def test_a_page_names_the_keys_of_its_figures(archive):
    """The key under a figure in a report is the one that trace finds for that figure."""
    page = (archive.folder / PAGE).read_text()
    said = r"lineage key <code>(\w+)</code>, data .*<code>kmnist trace (figures/[^<]+)<"
    told = re.findall(said, page)
    assert len(told) == page.count("<figure") > 20
    found = of(*(path for _, path in told))
    assert [(f.matches[0].stage.key[:12], f.file) for f in found.files] == told


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        (FIGURE, EVALUATE),
        (METRIC, EVALUATE),
        (PREDICTIONS, EVALUATE),
        (MODEL, TRAIN),
        (TABLE, TRAIN),
        (PROCESSED, "preprocess@digits"),
        ("figures/data/digits/pca.png", "preprocess@digits"),
        (RAW, "download@digits"),
        (PAGE, "report@digits"),
        ("reports/digits/README.md", "report@digits"),
    ],
)
@pytest.mark.parametrize("place", ["in the checkout", "elsewhere under another name"])
def test_a_file_is_known_by_its_bytes(file, stage, place, archive, tmp_path):
    path = archive.folder / file
    if place != "in the checkout":
        path = Path(shutil.copyfile(path, tmp_path / "x"))
    found = of(path)
    (traced,) = found.files
    # The winner of a study is the same model as an experiment: equal bytes, two stages.
    match = next(match for match in traced.matches if match.path == file)
    assert (traced.status, match.stage.address) == ("exact", stage)
    assert place == "elsewhere under another name" or match is traced.matches[0]
    assert found.exit_status == 0
    assert digests(found, traced.matches[0].stage.key) <= published(archive.folder)

    entry = yaml.safe_load((archive.folder / "dvc.lock").read_text())["stages"][stage]
    step = next(s for s in of(archive.folder / file).steps.values() if s.stage.address == stage)
    assert step.stage.cmd == entry["cmd"]
    assert step.stage.params == entry["params"]["params.yaml"]
    deps = {dep["path"]: dep["md5"] for dep in entry["deps"]}
    assert {**step.code, **{source.path: source.md5 for source in step.inputs}} == deps
    assert all(path.startswith(("src/", "conf/claims/")) for path in step.code)


def test_a_figure_from_two_commits_ago(history, archive):
    _, commits, old = history
    found = of(old / FIGURE, archive.folder / FIGURE)
    then, now = (traced.matches[0] for traced in found.files)
    assert found.exit_status == 0
    assert then.path == now.path == FIGURE
    assert then.stage.params["evaluation"]["samples"] == 10
    assert now.stage.params["evaluation"]["samples"] == 9
    assert (then.versions[0].here, now.versions[0].here) == (False, True)
    assert [commit.id for commit in now.commits] == [commits[2], commits[1]]
    holding = [
        commit
        for commit in archive.git("rev-list", "--all").splitlines()
        if locks.parse(archive.git("show", f"{commit}:dvc.lock")).stages[EVALUATE].key
        == then.stage.key
    ]
    assert [commit.id for commit in then.commits] == holding
    assert commits[0] in holding


def test_a_file_that_later_commits_keep(history, archive):
    """A model that no later commit made again is in the lock of each."""
    match = of(history[2] / MODEL).files[0].matches[0]
    assert match.versions[0].here
    assert set(history[1]) <= {commit.id for commit in match.commits}


@pytest.mark.parametrize(("page", "samples"), [("old", 10), ("new", 9)])
def test_a_page_leads_to_the_figures_it_was_made_from(page, samples, history, archive):
    """The second commit has the old page and an evaluation that is newer than it."""
    found = of(history[2] / PAGE if page == "old" else PAGE)
    match = found.files[0].matches[0]
    assert found.exit_status == 0
    assert (history[1][1] in {commit.id for commit in match.commits}) == (page == "old")
    (evaluation,) = (s for s in found.behind(match.stage.key) if s.stage.address == EVALUATE)
    assert evaluation.stage.params["evaluation"]["samples"] == samples


def test_evidence_that_is_not_committed_yet(archive, tmp_path, monkeypatch):
    folder = tmp_path / "project"
    shutil.copytree(archive.folder, folder, symlinks=True)
    Project(folder).git("reset", "--quiet", "HEAD~2")
    monkeypatch.chdir(folder)
    copy = Path(shutil.copyfile(folder / FIGURE, tmp_path / "copy.png"))
    found = of(FIGURE, copy, METRIC)
    for traced in found.files:
        match = traced.matches[0]
        assert (traced.status, match.versions[0].here, match.commits) == ("exact", True, [])
    assert found.files[1].matches[0].path == FIGURE
    assert found.exit_status == 0


def test_a_figure_of_an_experiment_that_only_a_ref_of_dvc_keeps(archive, tmp_path, monkeypatch):
    folder = tmp_path / "project"
    shutil.copytree(archive.folder, folder, symlinks=True)
    shutil.copyfile(folder / FIGURE, tmp_path / "copy.png")
    Project(folder).git("update-ref", "refs/exps/12/34/warm-sun", "HEAD")
    Project(folder).git("reset", "--quiet", "--hard", "HEAD~2")
    monkeypatch.chdir(folder)
    (traced,) = of(tmp_path / "copy.png").files
    subjects = [commit.subject for commit in traced.matches[0].commits]
    assert subjects == ["Report it", "Show nine samples"]


def test_a_project_in_a_subfolder_of_a_repository(archive, tmp_path, monkeypatch):
    top, folder = tmp_path / "top", tmp_path / "top/work/project"
    git_alone = shutil.ignore_patterns(".git")
    shutil.copytree(archive.folder, folder, symlinks=True, ignore=git_alone)
    copy = Path(shutil.copyfile(folder / FIGURE, tmp_path / "copy.png"))
    Project(top).git("init", "--quiet")
    made = Project(top).commit("Make it")
    (folder / FIGURE).write_bytes(flipped(copy))
    Project(top).commit("Edit it")
    monkeypatch.chdir(folder)
    found = of(copy, FIGURE, METRIC, "src/kmnist_pipeline/cli/compose.py")
    statuses = [traced.status for traced in found.files]
    assert statuses == ["exact", "altered", "exact", "unknown"]
    match = found.files[0].matches[0]
    assert (match.stage.address, match.path) == (EVALUATE, FIGURE)
    assert made in {commit.id for commit in match.commits}
    assert "Git has it as src/kmnist_pipeline/cli/compose.py" in found.files[3].remark


def test_other_lineage_keys_of_equal_bytes_are_named(history, archive):
    """Fewer samples in a figure change neither the predictions nor what they depend on."""
    match, *others = of(PREDICTIONS).files[0].matches
    assert match.versions[0].here
    keys = {match.stage.params["evaluation"]["samples"] for match in others}
    assert 10 in keys


# --- what is not ---------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [FIGURE, METRIC, PAGE])
def test_a_flipped_byte_where_the_file_names_its_lineage(file, archive, tmp_path):
    copy = tmp_path / f"copy{Path(file).suffix}"
    copy.write_bytes(flipped(archive.folder / file, 60 if file == METRIC else -100))
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
        remedy = f"made a different version of this file; `git checkout HEAD -- {file}` restores it"
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
def test_a_png_that_was_saved_again(change, archive, run, tmp_path):
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
        assert run(tmp_path / "again.png")[1].startswith(
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


def test_code_is_in_git_but_no_stage_made_it(run):
    status, output, _ = run("src/kmnist_pipeline/cli/compose.py")
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


def test_a_flipped_byte_in_the_lock(archive, run):
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
        assert [source.path for source in read if not source.fits] == [MODEL]
        status, output, _ = run(PREDICTIONS)
        assert status == 1
        assert f"{MODEL}  md5 {other}  (NO VERSION OF dvc.lock SAYS WHAT MADE THIS" in output

        # A metric names its key itself.
        (traced,) = of(METRIC).files
        assert traced.matches[0].stage.key in (archive.folder / METRIC).read_text()
        assert not traced.matches[0].versions[0].here


def test_a_broken_lock_is_named(archive, run):
    for content in (b"<<<<<<< HEAD\nstages: {", b"schema: '2.0'\nstages: {a: {deps: []}}\n"):
        with replaced(archive.folder / "dvc.lock", content):
            status, _, message = run("--json")
            assert status == 1
            assert message.startswith("error: dvc.lock: ")
    assert run(FIGURE)[0] == 0


def test_a_broken_lock_in_an_old_commit_is_ignored(archive, tmp_path, monkeypatch):
    clone = tmp_path / "project"
    Project(tmp_path).git("clone", "--quiet", str(archive.folder), str(clone))
    good = (clone / "dvc.lock").read_text()
    for text in (good.replace("stages:\n", "stages:\n<<<<<<< HEAD\n"), good):
        (clone / "dvc.lock").write_text(text)
        Project(clone).commit("a merge")
    monkeypatch.chdir(clone)
    assert of(FIGURE).exit_status == 0


# --- what is asked -------------------------------------------------------------------------------


def test_a_path_that_is_not_there(run, archive, tmp_path):
    for path in ("figures/none.png", tmp_path / "none.png"):
        status, output, message = run(FIGURE, path)
        assert (status, output) == (1, "")
        assert message == f"error: {path}: there is no such file\n"


def test_a_folder_stands_for_its_files(run, tmp_path):
    status, output, _ = run("--json", "figures/digits")
    files = json.loads(output)["files"]
    assert status == 0
    assert {file["file"] for file in files} == set(
        map(str, (path for path in Path("figures/digits").rglob("*.png")))
    )
    (tmp_path / "empty").mkdir()
    assert "there is no file in this folder" in run(tmp_path / "empty")[2]


def test_no_file_is_named(archive, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["trace"])
    assert caught.value.code == 2
    assert "name a FILE" in capsys.readouterr().err


def test_paths_count_from_where_the_user_stands(archive, monkeypatch, capsys):
    for path in ("digits_softmax/correct.png", "../digits/./digits_softmax/correct.png"):
        monkeypatch.chdir(archive.folder / "figures/digits")
        assert cli.main(["trace", path]) == 0
        output = capsys.readouterr().out
        assert output.startswith(f"{FIGURE} is, byte for byte, recorded in dvc.lock as what ")


def test_the_worst_of_several_files_counts(run, archive, tmp_path):
    (tmp_path / "unknown").write_bytes(b"x")
    (tmp_path / "altered.png").write_bytes(flipped(archive.folder / FIGURE))
    assert run(FIGURE, METRIC)[0] == 0
    assert run(FIGURE, tmp_path / "altered.png")[0] == 3
    assert run(FIGURE, tmp_path / "altered.png", tmp_path / "unknown")[0] == 1


# --- what is shown -------------------------------------------------------------------------------


def test_the_tree_shows_all(run, history, archive):
    status, output, _ = run(history[2] / FIGURE)
    found = of(history[2] / FIGURE)
    match = found.files[0].matches[0]
    assert status == 0
    assert f"recorded in dvc.lock as what {EVALUATE} made as {FIGURE} (md5 " in output
    assert "no longer in dvc.lock of this folder" in output
    assert history[1][0][:12] in output
    for step in found.behind(match.stage.key):
        assert output.count(f"{step.stage.address}  lineage key {step.stage.key}") == 1
        assert step.stage.cmd in output
        for path, md5 in step.code.items():
            assert output.count(f"{path}  md5 {md5}") == 1  # a file of two stages once
        for original in step.originals:
            assert f"licence: {original.licence}" in output
            assert f"from: {', '.join(original.sources)}" in output
            for name, sha256 in original.files.items():
                assert f"{name}  sha256 {sha256}" in output
    assert "evaluation.samples: 10" in output
    assert "experiments.digits_softmax.optimizer.lr: 0.5" in output


@pytest.fixture
def receipt(archive) -> Iterator[Path]:
    """Of a verification of the first commit's stage; that of the later commits has another key."""
    lock = locks.parse(archive.git("show", "HEAD~2:dvc.lock"))
    stage = lock.stages[EVALUATE]
    found = [Difference(out, Verdict.IDENTICAL, "") for out in stage.outs]
    made = receipts.statement("c" * 40, EVALUATE, None, [(stage, found)])
    path = receipts.leave(made, None)
    yield path
    path.unlink()


def test_a_verification_that_ran_the_stage_is_shown(receipt, run, history):
    told = f"run again by `kmnist verify {EVALUATE}` on "
    _, output, _ = run(history[2] / FIGURE)
    assert re.search(f"{told}.*: identical \\(not signed\\)", output)
    _, output, _ = run(FIGURE)  # of a later commit
    assert told not in output
    assert "no receipt of `kmnist verify` says that this stage was run again" in output
    _, output, _ = run("--json", history[2] / FIGURE)
    content = json.loads(output)
    SCHEMA(content)
    key = content["files"][0]["made"][0]["lineage"]
    verified = {each["receipt"]: each for each in content["stages"][key]["verified"]}
    told = verified[receipt.as_posix()]
    assert (told["verdict"], told["signature"]) == ("identical", "not signed")


KEY, ID, MD5 = All(str, Match("^[0-9a-f]{64}$")), Match("^[0-9a-f]{40}$"), Match("^[0-9a-f]{32}$")
TEXT = All(str, Length(min=1))
DATE = Datetime("%Y-%m-%dT%H:%M:%S%z")
ORIGINAL = {
    "dataset": TEXT,
    "title": TEXT,
    "licence": TEXT,
    "sources": [TEXT],
    "files": All({TEXT: KEY}, Length(min=2)),
}
FILE = {
    "file": TEXT,
    "md5": MD5,
    "status": Any("exact", "altered", "unknown"),
    "remark": str,
    "whole": bool,
    "made": [
        {
            "stage": TEXT,
            "lineage": KEY,
            "path": TEXT,
            "here": bool,
            "commits": [{"id": ID, "date": DATE, "subject": TEXT}],
        }
    ],
    "behind": [KEY],
    "originals": [ORIGINAL],
}
STAGE = {
    "stage": TEXT,
    "cmd": TEXT,
    "params": All({TEXT: object}, Length(min=1)),
    "code": All({TEXT: TEXT}, Length(min=1)),
    "inputs": [{"path": TEXT, "md5": TEXT, "makers": [KEY], "fits": bool}],
    "outs": All({TEXT: TEXT}, Length(min=1)),
    "files": [TEXT],
    "originals": [ORIGINAL],
    "run": Any(None, {"id": TEXT, "name": TEXT, "experiment": TEXT, "experiment_id": TEXT}),
    "verified": [
        {"command": TEXT, "commit": ID, "machine": TEXT, "receipt": TEXT}
        | {"signature": TEXT, "verdict": Any("identical", "equal", "different")}
    ],
}
SCHEMA = Schema({"files": [FILE], "stages": {Optional(KEY): STAGE}, "mlflow": TEXT}, required=True)


def test_json_has_a_schema(run, history, tmp_path):
    (tmp_path / "unknown").write_bytes(b"x")
    for asked in ([FIGURE, history[2] / PAGE, RAW], [tmp_path / "unknown"], []):
        status, output, _ = run("--json", *asked)
        content = json.loads(output)
        SCHEMA(content)
        assert status == (1 if tmp_path / "unknown" in asked else 0)
        assert len(content["files"]) == len(asked)
        for file in content["files"]:
            assert set(file["behind"]) <= content["stages"].keys()
            assert file["whole"] == bool(file["originals"])
    files = content["stages"][of(FIGURE).files[0].matches[0].stage.key]["files"]
    assert FIGURE in files


@pytest.mark.parametrize("asked", ["a page", "a file", "two versions", "all"])
def test_pictures_hold_every_stage(asked, run, history, archive):
    files = {
        "a page": [history[2] / PAGE],
        "a file": [FIGURE],
        "two versions": [history[2] / FIGURE, FIGURE],
        "all": [],
    }[asked]
    found = of(*files)
    versions = Counter(step.stage.address for step in found.steps.values())
    stages = {
        (f"{s.kind} {s.key[:7]}" if versions[s.address] > 1 else s.kind, s.item)
        for s in (step.stage for step in found.steps.values())
    }
    assert versions[EVALUATE] == (2 if asked == "two versions" else 1)
    arrows = {
        (maker, key)
        for key, step in found.steps.items()
        for source in step.inputs
        for maker in source.makers
    }
    count = len(arrows) + sum(len(step.originals) for step in found.steps.values()) + len(files)
    assert len(stages) >= 4

    status, output, _ = run("--dot", *files)
    (graphviz,) = pydot.graph_from_dot_data(output) or []
    labels = {tuple(node.get("label").strip('"').split("\\n")) for node in graphviz.get_nodes()}
    assert status == 0
    assert stages <= labels
    assert len(graphviz.get_edges()) == count
    known = {node.get_name() for node in graphviz.get_nodes()}
    ends = {(edge.get_source(), edge.get_destination()) for edge in graphviz.get_edges()}
    assert {end for pair in ends for end in pair} <= known

    status, output, _ = run("--svg", *files)
    svg = "{http://www.w3.org/2000/svg}"
    picture = ElementTree.fromstring(output)
    drawn = {tuple(box.itertext())[1:] for box in picture.iter(f"{svg}a")}
    assert status == 0
    assert stages <= drawn
    assert ("original data", "scikit-learn's bundled digits") in drawn
    assert len([part for part in picture.iter(f"{svg}g")]) == count
    width, height = float(picture.get("width", 0)), float(picture.get("height", 0))
    rows = [tuple(map(float, (r.get("x", 0), r.get("y", 0)))) for r in picture.iter(f"{svg}rect")]
    assert all(0 <= x < width and 0 <= y < height for x, y in rows)
    assert len(set(rows)) == len(rows)  # no box on another
    assert run("--svg", *files)[1] == output

    status, output, _ = run("--html", *files)
    assert status == 0
    for step in found.steps.values():
        title = f'id="stage-{step.stage.key[:12]}">\n<summary><b>{step.stage.address}</b>'
        assert output.count(title) == 1
        assert set(step.code.values()) <= set(re.findall(r"[0-9a-f]{32}(?:\.dir)?", output))
    assert FIGURE.removeprefix("figures/digits/digits_softmax/") in output
    assert not re.search(r'(?:src|href)="(?!#)|url\(|@import', output)  # stands alone
    targets = set(re.findall(r'href="#([^"]+)"', output))
    sections = set(re.findall(r' id="([^"]+)"', output))
    assert {target for target in targets if not target.startswith("data-")} <= sections


def test_a_picture_of_an_unknown_file(run, tmp_path):
    (tmp_path / "un<known>.txt").write_bytes(b"x")
    for form in ("--dot", "--svg", "--html"):
        status, output, message = run(form, tmp_path / "un<known>.txt")
        assert status == 1
        assert UNKNOWN in message
        assert "known" in output


# --- MLflow --------------------------------------------------------------------------------------


def test_the_run_that_shows_a_stage(run, archive):
    """The stages of the fixture logged themselves to mlflow.db."""
    from mlflow import MlflowClient

    found = of(FIGURE)
    client = MlflowClient(f"sqlite:///{archive.folder / 'mlflow.db'}")
    for key, step in found.steps.items():
        logged = client.get_run(found.runs.by_key[key].id)
        assert logged.data.tags["kmnist.lineage"] == key
        assert logged.data.tags["kmnist.stage"] == step.stage.address
        experiment = client.get_experiment(logged.info.experiment_id).name
        assert found.runs.by_key[key].experiment == experiment
    assert f"run {found.runs.by_key[key].id} of experiment {experiment}" in run(FIGURE)[1]


@pytest.mark.system
def test_a_server_is_asked_as_a_file_is(run, archive, tmp_path, monkeypatch):
    in_file = of(FIGURE).runs
    server = Server(tmp_path, archive.folder / "mlflow.db")
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri.replace("//", "//name:word@"))
        of_server = of(FIGURE).runs
        assert in_file.by_key
        assert (of_server.by_key, str(of_server)) == (in_file.by_key, server.uri)

        server.send(signal.SIGSTOP)
        status, output, message = run(FIGURE)
        assert (status, message) == (0, "")
        problem = f"no complete answer within {SECONDS} s"
        assert output.endswith(f"\nMLflow store: {server.uri} ({problem})\n")
    finally:
        server.send(signal.SIGKILL)
        server.process.wait()


@pytest.mark.parametrize(
    ("uri", "store"),
    [
        (
            "http://name:word@127.0.0.1:9",
            "http://127.0.0.1:9 (ConnectionRefusedError: [Errno 111] Connection refused)",
        ),
        (
            "postgresql+psycopg://name:word@127.0.0.1:9/runs",
            "postgresql+psycopg://127.0.0.1:9/runs ",
        ),
        ("postgresql://name:word@127.0.0.1:9/runs?a=word", "postgresql://127.0.0.1:9/runs (Prog"),
        ("file:///runs", "file:///runs (not asked: neither a server nor SQLite nor PostgreSQL)"),
        ("sqlite:///none.db", "none.db (does not exist)"),
        ("sqlite:///params.yaml", "params.yaml (DatabaseError: file is not a database; "),
    ],
)
def test_a_store_that_cannot_answer_costs_nothing(uri, store, run, archive, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    status, output, message = run("--json", FIGURE)
    assert (status, message) == (0, "")
    told = json.loads(output)["mlflow"]
    assert told.startswith(store)
    assert "word" not in told


# --- time ----------------------------------------------------------------------------------------


def test_nothing_heavy_is_imported(archive):
    """Importing DVC, numpy or MLflow takes longer than all of a trace."""
    code = (
        "import sys; from kmnist_pipeline import cli; cli.main(sys.argv[1:]); "
        "heavy = {'dvc', 'numpy', 'mlflow', 'hydra', 'matplotlib', 'pandas', 'requests'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    source = Path(cli.__file__).parents[2]
    for asked in ([FIGURE], ["--json", FIGURE], [PAGE]):
        done = archive.run(sys.executable, "-c", code, "trace", *asked, PYTHONPATH=str(source))
        assert (done.returncode, done.stderr) == (0, "")


def long_history(folder: Path, count: int) -> Path:
    """A repository of so many commits; each made all figures of a stage again. The first figure."""
    folder.mkdir()
    Project(folder).git("init", "--quiet", "--initial-branch=main")
    template = (ROOT / "dvc.lock").read_text().split("\n  tune@digits")[0] + "\n"
    commands = []
    for number in range(count):
        content = f"figure {number}"
        md5 = lineage.digest_of_listing({"a.png": lineage.digest_of_bytes(content.encode())})
        entry = (
            f"  evaluate@x:\n    cmd: evaluate\n    params:\n      params.yaml:\n"
            f"        number: {number}\n    deps:\n    - path: data/processed/digits.npz\n"
            f"      md5: {locks.parse(template).stages['preprocess@digits'].outs[PROCESSED]}\n"
            f"    outs:\n    - path: figures/x\n      md5: {md5}\n"
        )
        commands.append(f"commit refs/heads/main\ncommitter t <t@localhost> {number} +0000\n")
        for path, text in {"dvc.lock": template + entry, "figures/x/a.png": content}.items():
            commands[-1] += f"M 644 inline {path}\ndata {len(text.encode())}\n{text}\n"
        commands[-1] += ""
    lines = [command.replace("\nM 644", "\ndata 0\nM 644", 1) for command in commands]
    stream = "".join(lines).encode()
    subprocess.run(["git", "fast-import", "--quiet"], cwd=folder, input=stream, check=True)
    Project(folder).git("reset", "--quiet", "--hard")
    first = folder.parent / f"first-of-{count}"
    first.write_text("figure 0")
    return first


def test_the_cost_grows_linearly_with_the_history(tmp_path, monkeypatch):
    """Processes and parsed entries do not grow at all, function calls at most as the history."""
    calls: list[str] = []
    parsed: list[str] = []
    git_of_history, yaml_of_graph = repository_git.run, locks._yaml

    def counted_git(*arguments: str, stdin: bytes | None = None) -> bytes:
        calls.append(arguments[0])
        return git_of_history(*arguments, stdin=stdin)

    def counted_yaml(text: str) -> dict:
        parsed.append(text)
        return yaml_of_graph(text)

    monkeypatch.setattr(repository_git, "run", counted_git)
    monkeypatch.setattr(locks, "_yaml", counted_yaml)
    called, processes, entries = [], [], []
    for count in (250, 1000):
        first = long_history(tmp_path / f"of{count}", count)
        monkeypatch.chdir(tmp_path / f"of{count}")
        calls.clear()
        parsed.clear()
        locks._parsed.cache_clear()
        locks._entries.cache_clear()
        profile = cProfile.Profile()
        found = profile.runcall(of, first)
        assert found.exit_status == 0
        assert len(found.files[0].matches[0].commits) == 1
        called.append(sum(entry.callcount for entry in profile.getstats()))
        processes.append(len(calls))
        entries.append(len(parsed))
    assert processes[0] == processes[1]
    assert entries[0] == entries[1]
    assert called[1] / called[0] < 4 * 1.1


def test_graph_reads_a_lock_as_yaml_does():
    """By entries or as a whole, the same stages; and what is no lock is refused."""
    text = (ROOT / "dvc.lock").read_text()
    whole = yaml.dump(yaml.load(text, Loader=yaml.CSafeLoader), default_flow_style=True)
    assert locks._entries(whole) is None
    assert locks.parse(whole).stages == locks.parse(text).stages
    assert list(locks.parse(text).stages) == list(
        yaml.load(text, Loader=yaml.CSafeLoader)["stages"]
    )
    assert locks.parse("").stages == {}
    for broken, words in {
        "[]": "must be a map",
        "schema: '2.0'\nstages: 5\n": "stages: must be a map",
        "schema: '2.0'\nstages:\n  a:\n    deps: []\n": "a: 'cmd' is missing",
        "schema: '2.0'\nstages:\n  a: 5\n": "a: is not as DVC writes it",
        "schema: '2.0'\nstages:\n<<<<<<< HEAD\n  a: {": "line 3",
    }.items():
        with pytest.raises(UserError, match=re.escape(words)) as caught:
            locks.parse(broken, "x/dvc.lock")
        assert str(caught.value).startswith("x/dvc.lock: ")

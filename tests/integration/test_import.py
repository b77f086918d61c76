"""`kmnist import`: what it writes, all or nothing, and a second version of a dataset."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from dvc.repo import Repo
from support import drawn, wording
from support.checking import commands, findings
from support.project import Project

from kmnist_pipeline import cli
from kmnist_pipeline.commands import additions
from kmnist_pipeline.data import dataset
from kmnist_pipeline.evidence import outs
from kmnist_pipeline.importing import versions
from kmnist_pipeline.repository import locks

COUNTS = {"rows, wide": 12, "や": 8, "<b>": 10}
FILE = "data/imported/leaves.npz"
SHAPES = "drawn"


@pytest.fixture
def leaves(project_here: Project, tmp_path: Path) -> Project:
    """A clone in the working directory, next to a folder of images."""
    drawn.folder(tmp_path / SHAPES, COUNTS, (12, 10, 3))
    return project_here


def conf(name: str = "leaves") -> dict:
    return yaml.safe_load(Path(f"conf/dataset/{name}.yaml").read_text())


def test_a_folder_becomes_a_dataset(leaves, kmnist):
    menu = Path("conf/config.yaml").read_text()
    status, out, err = kmnist("import", "leaves", f"../{SHAPES}", "--test-share", "0.25")
    assert (status, err) == (0, "")
    assert "30 images of 12x10 pixels (height x width), colour, in 3 classes" in out
    about = conf()
    assert about["classes"] == sorted(COUNTS)
    assert (about["shape"], about["pixel_max"]) == ([12, 10, 3], 255)
    assert (about["imported"]["train"], about["imported"]["test"]) == (23, 7)
    line = "  - dataset@datasets.leaves: leaves\n"
    kept = "  - dataset@datasets.digits: digits\n"
    assert Path("conf/config.yaml").read_text() == menu.replace(kept, kept + line)
    changed = leaves.changed().splitlines()
    written = [line.removeprefix("written: ") for line in out.splitlines() if "written:" in line]
    assert {line[3:] for line in changed} == {
        *("conf/config.yaml", "params.yaml", "conf/dataset/leaves.yaml", "data/"),
    }
    assert {*written} == {
        *("conf/config.yaml", "params.yaml", "conf/dataset/leaves.yaml", FILE, f"{FILE}.dvc"),
    }
    assert kmnist("compose", "--check")[0] == 0
    test = dataset.load(Path(FILE), "test")
    assert len(test) == 7 and test.classes == tuple(about["classes"])
    with Repo() as repo:
        assert FILE not in repo.data_status()["not_in_cache"]


def test_a_second_version_is_shown_before_it_replaces_the_first(leaves, kmnist, tmp_path):
    assert kmnist("import", "leaves", f"../{SHAPES}", "--size", "14x14", "--grey")[0] == 0
    leaves.replace("conf/dataset/leaves.yaml", "title: leaves", "title: Leaves # mine")
    assert kmnist("compose")[0] == 0
    first = leaves.commit()
    assert kmnist("import", "leaves", f"../{SHAPES}")[1].endswith(
        "nothing has changed, and nothing was written\n"
    )
    assert leaves.changed() == ""

    shapes = tmp_path / SHAPES
    (shapes / "や/003.png").unlink()
    (shapes / "や/002.png").rename(shapes / "<b>/x.png")
    drawn.folder(shapes / "more", {"a": 2}, (12, 10, 3), seed=7)
    for file in (shapes / "more/a").iterdir():
        file.rename(shapes / f"rows, wide/more{file.name}")
    shutil.rmtree(shapes / "more")

    sys.stdin = io.StringIO("n\n")
    status, out, err = kmnist("import", "leaves", f"../{SHAPES}")
    for line in ("added: 2 (rows, wide 2)", "removed: 1 (や 1)", "relabelled: 1 (や -> <b> 1)"):
        assert line in out.splitlines()
    assert "../drawn/<b>/x.png" in out
    assert status == 1 and "nothing was written" in err
    assert leaves.changed() == ""

    status, out, err = kmnist("import", "leaves", f"../{SHAPES}", "--yes")
    assert (status, err) == (0, "")
    assert "`kmnist impact`" in out
    assert {line[3:] for line in leaves.changed().splitlines()} == {
        *("params.yaml", "conf/dataset/leaves.yaml", f"{FILE}.dvc"),
    }
    about = conf()
    assert about["shape"] == [14, 14]  # as before
    assert "title: Leaves # mine" in Path("conf/dataset/leaves.yaml").read_text()
    assert sum(about["imported"][split] for split in ("train", "test")) == 31
    leaves.commit()

    leaves.git("checkout", "--quiet", first)  # the first version is not lost
    with Repo() as repo:
        repo.checkout([f"{FILE}.dvc"], force=True)
    assert len(dataset.load(Path(FILE), "train")) == conf()["imported"]["train"]


@pytest.mark.system
def test_impact_lists_what_a_second_version_makes_again(leaves, kmnist, tmp_path):
    """As if the first one had been run: its stages are in the lock."""
    assert kmnist("import", "leaves", f"../{SHAPES}")[0] == 0
    done = leaves.run("dvc", "repro", "preprocess@leaves")
    assert done.returncode == 0, done.stdout + done.stderr
    leaves.commit()
    (tmp_path / SHAPES / "や/000.png").unlink()
    assert kmnist("import", "leaves", f"../{SHAPES}", "--yes")[0] == 0
    out = kmnist("impact")[1]
    old, new = (text[:55] for text in sha256s(leaves))
    assert (
        f'parameter datasets.leaves.imported.sha256 changed: "{old[:55]} ... -> "{new[:55]}' in out
    )
    assert "parameter datasets.leaves.imported.test changed: 6 -> 5" in out


@pytest.mark.system
def test_what_check_says_to_undo_gives_the_first_version_back(leaves, kmnist, tmp_path):
    """Its image file too, which DVC tracks; half of it is no version, and check says so."""
    assert kmnist("import", "leaves", f"../{SHAPES}")[0] == 0
    done = leaves.run("dvc", "repro", "download@leaves")
    assert done.returncode == 0, done.stdout + done.stderr
    leaves.commit()
    first, before = Path(FILE).read_bytes(), places(leaves)
    (tmp_path / SHAPES / "や/000.png").unlink()
    assert kmnist("import", "leaves", f"../{SHAPES}", "--yes")[0] == 0
    second = Path(FILE).read_bytes()
    assert not [place for place in places(leaves) if place.startswith("data/")]
    undo = commands(leaves, "download@leaves")[1:]
    both = ("conf/dataset/leaves.yaml", f"{FILE}.dvc", "params.yaml")
    assert undo == [
        f"git checkout HEAD -- {both[0]} {both[1]} {both[2]}",
        f"dvc checkout --force {FILE}.dvc",
    ]

    leaves.git("checkout", "HEAD", "--", both[0], both[2])  # as check once said
    for content in (second, first, None):  # DVC's cache tells, if the file does not
        Path(FILE).unlink(missing_ok=True)
        if content is not None:
            Path(FILE).write_bytes(content)
        assert [place for place in places(leaves) if place not in before] == [f"{FILE}.dvc"]
    assert sorted(commands(leaves, f"{FILE}.dvc")[0].split()[4:]) == sorted(both)
    for command in commands(leaves, f"{FILE}.dvc")[:2]:
        done = leaves.run(*command.split())
        assert done.returncode == 0, done.stdout + done.stderr
    assert places(leaves) == before and leaves.changed() == ""
    assert Path(FILE).read_bytes() == first

    Path(FILE).write_bytes(second)
    assert commands(leaves, FILE) == [f"dvc checkout --force {FILE}.dvc"]
    shutil.rmtree(".dvc/cache")  # then the file is all that there is
    assert {*places(leaves)} == {FILE, *before}
    Path(FILE).unlink()
    assert places(leaves) == before


def places(project: Project) -> list[str]:
    return [finding.where for finding in findings(project)]


def sha256s(project: Project) -> tuple[str, str]:
    old = yaml.safe_load(project.git("show", "HEAD:conf/dataset/leaves.yaml"))
    return old["imported"]["sha256"], conf()["imported"]["sha256"]


def test_the_same_source_gives_a_lost_file_again(leaves, kmnist):
    assert kmnist("import", "leaves", f"../{SHAPES}")[0] == 0
    leaves.commit()
    content = Path(FILE).read_bytes()
    shutil.rmtree(".dvc/cache")
    Path(FILE).unlink()
    assert kmnist("import", "leaves", f"../{SHAPES}")[0] == 0
    assert Path(FILE).read_bytes() == content
    assert leaves.changed() == ""
    shutil.rmtree(".dvc/cache")
    Path(FILE).unlink()
    status, out, _ = kmnist("import", "leaves", f"../{SHAPES}", "--seed", "1", "--yes")
    assert status == 0 and "the difference is not known: DVC's cache lacks the earlier" in out


def test_a_version_that_is_damaged_in_the_cache_is_named(leaves, kmnist):
    assert kmnist("import", "leaves", f"../{SHAPES}")[0] == 0
    md5 = locks.pointed(Path(f"{FILE}.dvc"))
    cached = Path(".dvc/cache/files/md5", md5[:2], md5[2:])
    cached.unlink()
    cached.write_bytes(b"damaged")
    damaged = f"error: {FILE} {wording.DAMAGED}{cached.absolute()}; then "
    for command in (("import", "leaves", f"../{SHAPES}", "--seed", "1", "--yes"), ("check",)):
        status, _, messages = kmnist(*command)
        assert status == 1
        assert messages == f"{damaged}`dvc add {FILE}` takes it from the workspace\n"
    cached.unlink()
    assert leaves.run("dvc", "add", FILE).returncode == 0
    assert kmnist("import", "leaves", f"../{SHAPES}", "--seed", "1", "--yes")[0] == 0


def row(place: Path) -> None:
    place.mkdir()
    (place / "all.csv").write_text("label,p0,p1,p2,p3\na,1,2,3,4\nb,1,2,?,4\n")


REFUSED = {
    "a broken row": (row, 'all.csv, line 3: pixel 2 is "?", not a whole number from 0 to 255'),
    "a broken image": (drawn.broken, "b/001.png: broken image"),
    "no test images": (drawn.no_test, "class b has no test images"),
    "names that differ in case": (
        lambda place: drawn.folder(place, {"Oak": 3, "oak": 3}),
        "Oak and oak are equal except",
    ),
    "no source": (lambda place: None, "there is no such file or folder"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_source_that_is_refused_leaves_a_clean_tree(what, leaves, kmnist, tmp_path):
    make, words = REFUSED[what]
    make(tmp_path / "source")
    status, out, err = kmnist("import", "leaves", "../source")
    assert (status, out) == (1, "")
    assert words in err and "../source" in err + "../source"
    assert leaves.changed() == ""
    assert not Path("data/imported").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("digits", "conf/dataset/digits.yaml: this dataset was not imported"),
        ("Leaves", f"the name of a dataset {wording.NOT_WORDS} that begin"),
        ("007", f"the name of a dataset {wording.NOT_WORDS} that begin with a"),
        ("null", f"the name of a dataset {wording.NAME_TAKEN}base, "),
        ("base", f"the name of a dataset {wording.NAME_TAKEN}base, "),
        ("none", f"the name of a dataset {wording.NAME_TAKEN}base, "),
        ("../leaves", f"the name of a dataset {wording.NOT_WORDS}"),
    ],
)
def test_a_name_that_cannot_be_taken_is_refused(name, words, leaves, kmnist):
    status, _, err = kmnist("import", name, f"../{SHAPES}")
    assert status == 1 and words in err
    assert leaves.changed() == ""


@pytest.mark.parametrize(
    "option",
    [("--size", "0x3"), ("--size", "28"), ("--test-share", "1"), ("--seed", "-1")],
)
def test_an_impossible_option_is_refused(option, leaves, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["import", "leaves", f"../{SHAPES}", *option])
    assert ended.value.code == 2
    assert f"argument {option[0]}: {option[1]}" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["leaves.yaml", "config.yaml", "params.yaml"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.parametrize("again", [False, True])
def test_what_fails_half_way_changes_nothing(
    file, error, again, leaves, kmnist, tmp_path, monkeypatch
):
    if again:
        assert kmnist("import", "leaves", f"../{SHAPES}")[0] == 0
        leaves.commit()
        (tmp_path / SHAPES / "や/000.png").unlink()
        if file == "config.yaml":
            return  # it does not change
    before = Path(FILE).read_bytes() if again else None
    write = outs.write_bytes

    def fail(path: Path, content: bytes) -> None:
        if path.name == file and b"leaves" in content and not failed:
            failed.append(path)
            raise error
        write(path, content)

    failed: list[Path] = []
    with monkeypatch.context() as patch:
        patch.setattr(outs, "write_bytes", fail)
        assert kmnist("import", "leaves", f"../{SHAPES}", "--yes")[0] != 0
    assert failed
    assert leaves.changed() == ""
    assert (Path(FILE).read_bytes() if Path(FILE).exists() else None) == before
    assert kmnist("import", "leaves", f"../{SHAPES}", "--yes")[0] == 0


def test_while_a_stage_runs_nothing_is_written(leaves, kmnist):
    with Repo() as repo, repo.lock:
        status, _, err = kmnist("import", "leaves", f"../{SHAPES}")
    assert status == 1 and "DVC: Unable to acquire lock" in err
    assert leaves.changed() == ""


def test_names_that_yaml_would_read_as_something_else(leaves, kmnist, tmp_path):
    names = ["no", "010", "1e3", "null", "~", "a: b", "'x", '"y', "\\n", "0x1F", "12:30"]
    labels = np.repeat(names, 2)
    images = drawn.stripes(range(len(labels)))
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    status, _, err = kmnist("import", "leaves", "../a.npz", "--test-share", "0.5")
    assert (status, err) == (0, "")
    assert set(conf()["classes"]) == {*names}
    params = yaml.safe_load(Path("params.yaml").read_text())
    assert params["datasets"]["leaves"]["classes"] == conf()["classes"]


def test_pruning_a_dataset_takes_its_file_and_keeps_that_of_a_namesake(leaves, kmnist):
    assert kmnist("import", "leaves", f"../{SHAPES}")[0] == 0
    assert kmnist("new", "report", "leaves", "--dataset", "leaves")[0] == 0
    models = ("leaves_softmax", "leaves_simple_cnn", "leaves_softmax_rates")
    assert kmnist("prune", "--yes", "reports.leaves", *models)[0] == 0
    assert Path(FILE).exists() and Path(f"{FILE}.dvc").exists()
    assert kmnist("prune", "--yes", "leaves")[0] == 0
    assert not Path(FILE).exists() and not Path(f"{FILE}.dvc").exists()


def test_after_pruning_a_dataset_is_imported_as_a_new_one(leaves, kmnist):
    assert kmnist("import", "leaves", f"../{SHAPES}")[0] == 0
    assert kmnist("prune", "--yes", "leaves")[0] == 0
    status, out, err = kmnist("import", "leaves", f"../{SHAPES}")
    assert (status, err) == (0, "")
    assert "earlier version" not in out and "next: `kmnist new report" in out


def test_of_two_imports_at_once_one_is_refused(leaves, kmnist, monkeypatch):
    describe = versions.describe

    def meanwhile(*given):
        monkeypatch.setattr(versions, "describe", describe)
        command = ("-m", "kmnist_pipeline.cli", "import", "leaves", f"../{SHAPES}", "--seed", "1")
        assert leaves.run(sys.executable, *command).returncode == 0
        return describe(*given)

    monkeypatch.setattr(versions, "describe", meanwhile)
    status, _, err = kmnist("import", "leaves", f"../{SHAPES}", "--yes")
    assert status == 1 and "another command has changed the dataset leaves meanwhile" in err
    assert locks.load(Path(f"{FILE}.dvc").read_text(), "")["meta"]["import"] == {"seed": 1}
    with Path(FILE).open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == conf()["imported"]["sha256"]


@pytest.mark.parametrize(
    "lost", [("conf/config.yaml", "params.yaml"), ("params.yaml",), (FILE,), ("second version",)]
)
def test_importing_again_finishes_what_was_interrupted(lost, leaves, kmnist, tmp_path):
    """As if the earlier import had been killed before it could write these files."""
    first = leaves.git("rev-parse", "HEAD").strip()
    assert kmnist("import", "leaves", f"../{SHAPES}")[0] == 0
    if lost == ("second version",):  # its pointer is here, but the description of the first one
        lost, first = ("conf/dataset/leaves.yaml", "params.yaml"), leaves.commit()
        (tmp_path / SHAPES / "や/000.png").unlink()
        assert kmnist("import", "leaves", f"../{SHAPES}", "--yes")[0] == 0
    leaves.commit()
    for file in lost:
        Path(file).unlink()
        if file != FILE:
            Path(file).write_text(leaves.git("show", f"{first}:{file}") + "\n")
    status, out, err = kmnist("import", "leaves", f"../{SHAPES}")
    assert (status, err) == (0, "")
    assert f"the images are the same, but these files are not: {lost[0]}" in out
    assert leaves.changed() == "" and Path(FILE).exists()


def test_a_terminated_import_leaves_all_as_before(leaves, kmnist, monkeypatch):
    def end(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    try:
        monkeypatch.setattr(additions.Addition, "write", end)
        assert kmnist("import", "leaves", f"../{SHAPES}")[0] == cli.INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert leaves.changed() == "" and not Path(FILE).exists()


def test_a_list_of_files_in_use_that_dvc_has_cut_is_named(leaves, kmnist):
    rwlock = Path(".dvc/tmp/rwlock")
    rwlock.parent.mkdir(exist_ok=True)
    rwlock.write_text("")
    status, _, err = kmnist("import", "leaves", f"../{SHAPES}")
    assert status == 1 and ".dvc/tmp/rwlock is broken" in err and "delete it" in err
    assert leaves.changed() == ""
    assert ".dvc/tmp/rwlock is broken" in leaves.run("dvc", "repro", "download@digits").stderr


def test_a_full_disk_is_named_with_the_file(leaves, kmnist, monkeypatch):
    def full(file: object, *content: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset, "save", full)
    status, _, err = kmnist("import", "leaves", f"../{SHAPES}")
    assert status == 1 and f"No space left on device: '{FILE}'" in err

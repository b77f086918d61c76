"""What `kmnist diff` takes for a difference, and what it says to revisions that are not there."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from support import wording
from support.differences import CURVES, MODEL, TEST, between, run
from support.project import Project

from kmnist_pipeline import cli
from kmnist_pipeline.commands import diff, diff_views
from kmnist_pipeline.commands.diff import Figure


@pytest.fixture
def changed(full_project: Project) -> Project:
    """A clone whose last commit is named `before`, for a test to change."""
    full_project.git("tag", "before")
    return full_project


def relabel(path: Path) -> None:
    """The same pixels under another lineage key."""
    with Image.open(path) as image:
        text = PngInfo()
        for key, value in image.info.items():
            text.add_text(str(key), "0" * 64 if key == "Lineage" else str(value))
        image.load()
        image.save(path, pnginfo=text)


def test_another_lineage_key_alone_is_no_difference(changed):
    for name in ("curves", "weights"):
        relabel(changed.folder / f"figures/{MODEL}/{name}.png")
    details = changed.folder / f"metrics/{MODEL}/test_details.json"
    content = json.loads(details.read_text())
    content["made_by"]["lineage"] = "0" * 64
    details.write_text(json.dumps(content))
    assert len(changed.changed().splitlines()) == 3
    for found in (between(changed, "before"), between(changed, "before", changed.commit())):
        assert not found
        assert found.equal == 3
        assert diff_views.summary(found) == diff_views.NOTHING


def test_the_last_digit_is_no_difference_and_the_one_before_it_is(changed):
    accuracy = changed.json(TEST)["accuracy"]
    changed.replace(TEST, f'"accuracy": {accuracy}', f'"accuracy": {accuracy + 1e-6:.6f}')
    assert between(changed, "before").metrics == []
    changed.replace(TEST, f'"accuracy": {accuracy + 1e-6:.6f}', f'"accuracy": {accuracy - 2e-5}')
    (found,) = between(changed, "before").metrics
    assert (found.file, found.name, found.delta) == (TEST, "accuracy", -2e-5)


def test_one_pixel_is_a_difference(changed):
    path = changed.folder / CURVES
    with Image.open(path) as image:
        pixels = image.convert("RGB")
    pixels.putpixel((5, 5), (255, 0, 0))
    pixels.save(path)
    (figure,) = between(changed, "before").figures
    assert figure.file == CURVES and "differ in 1 of" in figure.what


def test_new_and_gone_files(changed):
    new = changed.folder / "figures/digits/new"
    new.mkdir()
    shutil.copy(changed.folder / CURVES, new / "curves.png")
    (changed.folder / CURVES).unlink()
    (changed.folder / "metrics/digits/new.json").write_text('{"accuracy": 0.5, "by": {"a": 1}}')
    (changed.folder / f"metrics/{MODEL}/curves.csv").unlink()
    for found in (between(changed, "before"), between(changed, "before", changed.commit())):
        assert found.figures == [
            Figure(CURVES, "is missing"), Figure("figures/digits/new/curves.png", "is new")
        ]  # fmt: skip
        assert [(m.file, m.name, m.new, m.what) for m in found.metrics] == [
            (f"metrics/{MODEL}/curves.csv", "", None, "is missing"),
            ("metrics/digits/new.json", "", None, "is new"),
            ("metrics/digits/new.json", "accuracy", 0.5, "is new: 0.5"),
        ]


def test_code_is_a_cause_and_an_out_of_another_stage_is_not(changed):
    lock = changed.folder / "dvc.lock"
    stages = yaml.safe_load(lock.read_text())
    for stage in stages["stages"].values():
        for dep in stage["deps"]:
            if dep["path"].endswith("evidence/outs.py") or dep["path"].startswith("data/"):
                dep["md5"] = "0" * 32
    del stages["stages"]["report@digits"]
    lock.write_text(yaml.safe_dump(stages))
    found = between(changed, "before").stages
    code = "dependency src/kmnist_pipeline/evidence/outs.py changed"
    assert {stage.what.partition(": md5 ")[0] for stage in found} == {code, "is gone"}
    rows = dict(diff_views.sections(between(changed, "before"))[0].rows)
    assert rows["the stage is gone"] == "report@digits"
    (stages,) = [rows[cause] for cause in rows if cause.startswith(code)]
    assert re.match(r"3 download, 3 preprocess, \d+ kfold", stages)


def test_no_difference_is_reported_as_such(changed, capsys):
    for form in ([], ["--markdown"]):
        assert diff_views.NOTHING in run(changed, capsys, "before", "HEAD", *form)
    assert json.loads(run(changed, capsys, "before", "--json"))["metrics"] == []


# --- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], f"nowhere {wording.NO_COMMIT}"),
        (["HEAD", "nowhere"], f"nowhere {wording.NO_COMMIT}"),
        (["nowhere..."], f"nowhere {wording.NO_COMMIT}"),
        (["before...HEAD", "HEAD"], "names three commits"),
        (["lonely...HEAD"], wording.UNRELATED),
        (["before", "--markdown", "--images", "http://x"], "name the second one too"),
    ],
)
def test_a_wrong_revision_is_named(arguments, words, changed, monkeypatch, capsys):
    tree = changed.git("write-tree")
    changed.git("tag", "lonely", changed.git("commit-tree", tree, "-m", "alone"))
    monkeypatch.chdir(changed.folder)
    assert cli.main(["diff", *arguments]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ") and words in message
    assert message.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["HEAD", "--json", "--markdown"]])
def test_misuse(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["diff", *arguments])
    assert caught.value.code == 2


PAGE_ONLY = ["reports/digits/index.html", "reports/digits/README.md"]


def not_compared(project: Project) -> list[tuple[str, str]]:
    return [(each.file, each.why) for each in between(project, "before").not_compared]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        *((path, diff.PAGE) for path in PAGE_ONLY),
        ("reports/kmnist_linear/claims.json", diff.TEXTS),
    ],
)
def test_a_text_of_a_report_that_changes_alone_is_named(path, why, changed, capsys):
    text = (changed.folder / path).read_text()
    changed.replace(path, "accuracy", "<script>evil</script>")
    assert not_compared(changed) == [(path, why)]
    changed.commit()
    said = run(changed, capsys, "before...HEAD", "--markdown")
    assert f"{diff_views.NOTHING} Not compared: 1 file." in said
    assert "#### Not compared" in said
    (changed.folder / path).write_text(text)
    assert not_compared(changed) == []


@pytest.mark.parametrize("path", PAGE_ONLY)
def test_a_page_that_is_new_or_gone_is_named(path, changed):
    (changed.folder / path).unlink()
    assert not_compared(changed) == [(path, diff.PAGE)]


def test_a_page_under_another_lineage_key_is_no_difference(changed):
    for path in PAGE_ONLY:
        page = changed.folder / path
        page.write_text(re.sub(r"\b[0-9a-f]{12}\b", "0" * 12, page.read_text()))
    assert len(changed.changed().splitlines()) == 2
    assert not_compared(changed) == []


def change_claims(project: Project) -> None:
    content = json.loads((project.folder / "reports/kmnist_linear/claims.json").read_text())
    content["claims"][0]["verdict"] = "another"
    (project.folder / "reports/kmnist_linear/claims.json").write_text(json.dumps(content))


def change_stage(project: Project) -> None:
    lock = project.folder / "dvc.lock"
    stages = yaml.safe_load(lock.read_text())
    stages["stages"]["report@kmnist_linear"]["cmd"] = "another"
    lock.write_text(yaml.safe_dump(stages))


def change_figure(project: Project) -> None:
    shutil.copy(
        project.folder / CURVES,
        project.folder / "figures/kmnist_linear/kmnist_softmax/curves.png",
    )


@pytest.mark.parametrize("change", [change_claims, change_stage, change_figure])
def test_a_page_that_follows_from_what_is_shown_is_not_named(change, changed):
    for path in ("reports/kmnist_linear/README.md", "reports/digits/README.md"):
        changed.replace(path, "accuracy", "precision")
    change(changed)
    assert not_compared(changed) == [("reports/digits/README.md", diff.PAGE)]

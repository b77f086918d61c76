"""`kmnist diff`: how a branch changes the evidence, on a repository with two branches."""

import contextlib
import dataclasses
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image, ImageChops
from support.differences import CURVES, MODEL, TEST, between, run
from support.project import ROOT, STORE, Project

from kmnist_pipeline import cli
from kmnist_pipeline.commands import diff, diff_views
from kmnist_pipeline.commands.diff import ChangedClaim, Diff, Figure, Metric
from kmnist_pipeline.repository.revision import Revision

JUDGED = "reports/digits/claims.json"
DETAILS = f"metrics/{MODEL}/test_details.json"
EPOCHS = "parameter experiments.digits_softmax.trainer.epochs changed: 60 -> 2"
CLAIMS = """\
id,where,quote,configuration,metric,reported,file,trial,value,unknown,spread,same_as
right,1,.97,softmax,test accuracy,0.97,digits_softmax/test.json,,accuracy,nothing,,
fixed,1,.9,another model,test accuracy,0.9,digits_softmax_grid/test.json,,accuracy,nothing,,
"""


@pytest.fixture(scope="module")
def branches(digits_run: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A report with two claims on main, and a branch `short` that trains for two epochs."""
    folder = tmp_path_factory.mktemp("branches") / "project"
    project = digits_run.copy(folder, without=(".kmnist", *STORE))
    (folder / "src/mlflow.py").write_text('raise ImportError("not wanted here")\n')
    (folder / ".git/info/exclude").write_text("/src/mlflow.py\n")
    (folder / "conf/claims/digits.csv").write_text(CLAIMS)
    project.replace("conf/report/digits.yaml", "dataset:", "claims: digits\ndataset:")
    make(project, "report@digits")
    project.commit()
    project.git("checkout", "--quiet", "-b", "short")
    project.replace("conf/experiment/digits_softmax.yaml", "epochs: 60", "epochs: 2")
    make(project, "kfold-train@digits_softmax", "evaluate@digits_softmax", "report@digits")
    project.commit()
    project.git("checkout", "--quiet", "main")
    (folder / "metrics/data/late.json").write_text('{"n": 1}')  # after the branch left
    project.commit()
    project.git("checkout", "--quiet", "short")
    return project


def make(project: Project, *stages: str) -> None:
    assert project.run("kmnist", "compose").returncode == 0
    done = project.run("dvc", "repro", "--single-item", *stages)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def short(branches: Project) -> Diff:
    return between(branches, "main...short")


# --- a branch that trains for two epochs ----------------------------------------------------------


def test_claims_with_another_verdict_or_value(short, branches):
    def judged(revision: str) -> dict[str, Any]:
        return {
            c["id"]: c for c in json.loads(branches.git("show", f"{revision}:{JUDGED}"))["claims"]
        }

    old, new = judged("short~")["right"], judged("short")["right"]
    assert (old["verdict"], new["verdict"]) == ("exact", "differs")
    expected = "digits", "right", "exact", "differs", old["obtained"], new["obtained"]
    assert short.claims == [ChangedClaim(*expected)]


def test_metrics_with_their_delta(short, branches):
    old, new = (json.loads(branches.git("show", f"{r}:{TEST}")) for r in ("short~", "short"))
    found = {metric.name: metric for metric in short.metrics if metric.file == TEST}
    accuracy = found["accuracy"]
    assert (accuracy.old, accuracy.new) == (old["accuracy"], new["accuracy"])
    assert accuracy.delta == pytest.approx(new["accuracy"] - old["accuracy"], abs=1e-6)
    old, new = (json.loads(branches.git("show", f"{r}:{DETAILS}")) for r in ("short~", "short"))
    found = {metric.name: metric for metric in short.metrics if metric.file == DETAILS}
    cells = [a != b for x, y in zip(old["confusion"], new["confusion"], strict=True)
             for a, b in zip(x, y, strict=True)]  # fmt: skip
    assert found["confusion"].what == f"{sum(cells)} values differ"
    assert {metric.file.split("/")[2] for metric in short.metrics} == {"digits_softmax"}
    assert short.metrics[0].depth == 1


def test_figures_by_their_pixels(short, branches):
    different = set()
    for path in (branches.folder / "figures" / MODEL).iterdir():
        name = path.relative_to(branches.folder).as_posix()
        old = subprocess.run(
            ["git", "show", f"short~:{name}"], cwd=branches.folder, capture_output=True, check=True
        ).stdout
        (branches.folder / ".kmnist").mkdir(exist_ok=True)
        (branches.folder / ".kmnist/old.png").write_bytes(old)
        with Image.open(branches.folder / ".kmnist/old.png") as before, Image.open(path) as after:
            if (
                before.size != after.size
                or ImageChops.difference(before.convert("RGB"), after.convert("RGB")).getbbox()
            ):
                different.add(name)
    assert {figure.file for figure in short.figures} == different
    assert CURVES in different


def test_the_stage_whose_parameter_changed(short):
    (stage,) = short.stages
    assert (stage.address, stage.what) == ("kfold-train@digits_softmax", EPOCHS)


def test_later_changes_of_main_are_not_the_branchs(branches, short):
    late = Metric("metrics/data/late.json", "", None, None, None, "is missing")
    assert late not in short.metrics
    assert late in between(branches, "main", "short").metrics


def test_the_second_side_is_the_workspace_by_default(branches, short):
    found = between(branches, "main...")
    assert found.new.name == "the workspace"
    for part in ("claims", "metrics", "figures", "stages", "equal"):
        assert getattr(found, part) == getattr(short, part)


# --- how it is shown -----------------------------------------------------------------------------


def test_the_table_and_the_json_say_the_same(branches, short, capsys):
    shown = run(branches, capsys, "main...short")
    found = json.loads(run(branches, capsys, "main...short", "--json"))
    assert found["claims"] == [dataclasses.asdict(claim) for claim in short.claims]
    assert len(found["metrics"]) == len(short.metrics)
    assert found["new"]["commit"] == branches.git("rev-parse", "short")
    for figure in found["figures"]:
        assert figure["file"] in shown
    assert "exact → differs" in shown
    assert EPOCHS in shown


def test_the_page_shows_old_and_new_side_by_side(branches, short, tmp_path, capsys):
    run(branches, capsys, "main...short", "--output", str(tmp_path / "page"))
    page = (tmp_path / "page/index.html").read_text()
    assert page.count('<img src="data:image/png;base64,') == 2 * len(short.figures)
    assert page.count("<img") == page.count("data:image/png")
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "exact → differs" in page


def test_no_page_replaces_evidence_and_another_keeps_its_permissions(branches, tmp_path, capsys):
    report = branches.folder / "reports/digits/index.html"
    before = report.read_bytes()
    with contextlib.chdir(branches.folder):
        assert cli.main(["diff", "main...short", "--output", str(report.parent)]) == 1
    assert "reports/digits: has the evidence itself; name another" in capsys.readouterr().err
    assert report.read_bytes() == before
    page = tmp_path / "index.html"
    page.touch(mode=0o600)
    run(branches, capsys, "main...short", "--output", str(tmp_path))
    assert page.read_bytes() and stat.S_IMODE(page.stat().st_mode) == 0o600


def test_the_comment_shows_figures_from_both_commits(branches, short):
    address = "https://github.com/o/r/raw"
    comment = diff_views.markdown(short, address)
    assert comment.splitlines()[0] == diff_views.MARKER
    assert short.old.commit and short.new.commit
    for figure in short.figures:
        for side in (short.old.commit, short.new.commit):
            assert f'<img src="{address}/{side}/{figure.file}"' in comment
    assert "<code>exact → differs</code>" in comment
    assert "<img" not in diff_views.markdown(short, None)


def a_diff(**parts: Any) -> Diff:
    side = Revision("a", "a" * 40)
    empty: dict[str, Any] = {name: [] for name in ("claims", "metrics", "figures", "stages")}
    return Diff(old=side, new=side, equal=0, **{**empty, **parts})


@pytest.mark.parametrize(
    "hostile",
    [
        "</code><img src=x onerror=alert(1)>",
        "a | b `c` **d** _e_ [f](http://g) #1 @team ![h](i)",
        "line\n\n# heading\r- item",
        "<!-- <details> &amp;",
    ],
)
def test_names_from_a_branch_are_not_read_as_markdown(hostile):
    comment = diff_views.markdown(
        a_diff(
            claims=[ChangedClaim(hostile, hostile, hostile, None, hostile, 1.0)],
            metrics=[Metric(hostile, hostile, hostile, hostile, None, hostile)],
            figures=[Figure(hostile, hostile)],
            stages=[diff.ChangedStage(hostile, hostile, [])],
        ),
        "https://github.com/o/r/raw",
    )
    ours = (
        r"</?(?:code|details|summary|table|tr|td|th)>|<!-- kmnist diff -->"
        r'|<img src="https://github.com/o/r/raw/a{40}/[\w%/.~-]*" width="420">'
    )
    rest = re.sub(ours, "", comment)
    assert not re.search(r"[<>`*@\[\]]", rest)
    for line in comment.splitlines():
        if line.startswith("|"):
            assert line.count("|") in (3, 5, 6)
    assert len(re.findall(r"^#", comment, re.MULTILINE)) == 5


def test_the_comment_is_bounded(short):
    many = [Metric(f"metrics/r/m{i}/test.json", "accuracy", 0.1, 0.2, 0.1, "") for i in range(2000)]
    figures = [Figure(f"figures/r/m{i}/curves.png", "is new") for i in range(2000)]
    full = dataclasses.replace(short, metrics=many, figures=figures)
    for images in (None, "https://github.com/o/r/raw"):
        comment = diff_views.markdown(full, images)
        assert 30_000 < len(comment) <= diff_views.LIMIT
        assert comment.count("`kmnist diff` shows them all") == 2
        for section in ("Claims", "Metrics", "Figures", "Causes"):
            assert f"#### {section}\n" in comment


# --- the workflow --------------------------------------------------------------------------------

WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/difference.yml").read_text())
# In place of GitHub's client: keeps its arguments, and answers from files.
GH = """#!{python}
import json, os, pathlib, sys
folder = pathlib.Path(os.environ["GH_FOLDER"])
with (folder / "asked").open("a") as asked:
    asked.write(json.dumps(sys.argv[1:]) + "\\n")
if "--paginate" in sys.argv:
    print((folder / "ids").read_text(), end="")
"""


@pytest.fixture
def github(tmp_path: Path) -> dict[str, str]:
    """The environment of a step, with a client that needs no network."""
    (tmp_path / "bin").mkdir()
    client = tmp_path / "bin/gh"
    client.write_text(GH.format(python=sys.executable))
    client.chmod(client.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "ids").write_text("")
    return {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}"
        + os.environ["PATH"],
        "GH_FOLDER": str(tmp_path),
        "GITHUB_SERVER_URL": "https://github.com",
        "GITHUB_REPOSITORY": "o/r",
        "GITHUB_RUN_ID": "7",
        "NUMBER": "12",
    }


def step(job: str, name: str) -> str:
    (found,) = [s["run"] for s in WORKFLOW["jobs"][job]["steps"] if s.get("name") == name]
    return found


def test_a_pull_request_from_a_fork_is_compared_without_being_checked_out(
    branches, short, github, tmp_path
):
    origin = tmp_path / "origin.git"
    subprocess.run(
        ["git", "clone", "--quiet", "--bare", branches.folder, origin], check=True
    )  # fmt: skip
    head = branches.git("rev-parse", "short")
    for change in (["update-ref", "refs/pull/12/head", head], ["branch", "-D", "short"]):
        subprocess.run(["git", "-C", origin, *change], check=True, capture_output=True)
    base = Project(tmp_path / "base")
    subprocess.run(
        ["git", "clone", "--quiet", "--branch", "main", f"file://{origin}", base.folder], check=True
    )
    assert base.run("git", "cat-file", "-e", head).returncode != 0
    (base.folder / ".venv").symlink_to(sys.prefix)
    environment = {**github, "BASE": base.git("rev-parse", "HEAD"), "HEAD": head}
    for name in ("Fetch the pull request's objects", "Compare"):
        done = base.run("bash", "-eo", "pipefail", "-c", step("compare", name), **environment)
        assert done.returncode == 0, done.stderr
    comment = (base.folder / "difference/comment.md").read_text()
    assert comment.startswith(diff_views.MARKER)
    assert f"https://github.com/o/r/raw/{head}/{CURVES}" in comment
    assert "exact → differs" in comment and "late.json" not in comment
    assert (base.folder / "difference/index.html").exists()
    assert base.git("rev-parse", "HEAD") == environment["BASE"]


@pytest.mark.parametrize(
    ("there", "asked"),
    [
        ("", ["--method", "POST", "repos/o/r/issues/12/comments"]),
        ("31\n44\n", ["--method", "PATCH", "repos/o/r/issues/comments/31"]),
    ],
)
def test_the_comment_is_made_once_and_then_updated(there, asked, github, tmp_path):
    (tmp_path / "ids").write_text(there)
    script = step("comment", "Comment, or update the comment")
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script], cwd=tmp_path, env=github, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    calls = [json.loads(line) for line in (tmp_path / "asked").read_text().splitlines()]
    assert calls[0] == ["run", "download", "7", "--repo", "o/r", "--name", "difference"]
    assert diff_views.MARKER in calls[1][calls[1].index("--jq") + 1]
    assert calls[2] == ["api", *asked, "--field", "body=@comment.md"]


def test_nothing_of_the_pull_request_is_run_and_only_the_comment_is_written():
    compare, comment = WORKFLOW["jobs"]["compare"], WORKFLOW["jobs"]["comment"]
    assert WORKFLOW["permissions"] == {}
    assert compare["permissions"] == {"contents": "read"}
    assert comment["permissions"] == {"actions": "read", "pull-requests": "write"}
    for job in (compare, comment):
        for entry in job["steps"]:
            assert "ref" not in entry.get("with", {})
            assert "${{" not in entry.get("run", "")
    assert not [entry for entry in comment["steps"] if "uses" in entry]

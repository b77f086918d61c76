"""`kmnist trace`: any file leads to the stage that made it, and from there to published data."""

from __future__ import annotations

import cProfile
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support import wording
from support.project import ROOT, Project, flipped
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
    digests,
    of,
    published,
)

from kmnist_pipeline import cli
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import lineage
from kmnist_pipeline.repository import git as repository_git
from kmnist_pipeline.repository import locks

# --- what is exact -------------------------------------------------------------------------------


def test_every_file_of_the_evidence_leads_to_a_published_data_set(full_clone, monkeypatch):
    """The measure: all that Git tracks there, so all that a report shows."""
    monkeypatch.chdir(full_clone.folder)
    files = full_clone.git("ls-files", "figures", "metrics", "reports").splitlines()
    found = of(*files)
    known = published(full_clone.folder)
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
    assert all(path.startswith(("src/", "conf/claims/", "reviews/")) for path in step.code)


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


# --- what is asked -------------------------------------------------------------------------------


def test_a_path_that_is_not_there(trace, archive, tmp_path):
    for path in ("figures/none.png", tmp_path / "none.png"):
        status, output, message = trace(FIGURE, path)
        assert (status, output) == (1, "")
        assert message == f"error: {path}: there is no such file\n"


def test_a_folder_stands_for_its_files(trace, tmp_path):
    status, output, _ = trace("--json", "figures/digits")
    files = json.loads(output)["files"]
    assert status == 0
    assert {file["file"] for file in files} == set(
        map(str, (path for path in Path("figures/digits").rglob("*.png")))
    )
    (tmp_path / "empty").mkdir()
    assert wording.EMPTY in trace(tmp_path / "empty")[2]


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


def test_the_worst_of_several_files_counts(trace, archive, tmp_path):
    (tmp_path / "unknown").write_bytes(b"x")
    (tmp_path / "altered.png").write_bytes(flipped(archive.folder / FIGURE))
    assert trace(FIGURE, METRIC)[0] == 0
    assert trace(FIGURE, tmp_path / "altered.png")[0] == 3
    assert trace(FIGURE, tmp_path / "altered.png", tmp_path / "unknown")[0] == 1


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

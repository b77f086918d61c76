"""`kmnist diff` on a stranger's branch: whatever it holds, the rest is compared and shown."""

from __future__ import annotations

import contextlib
import html
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from PIL import Image
from support import wording
from support.project import ROOT, Project

from kmnist_pipeline import cli
from kmnist_pipeline.commands import diff, diff_views
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.repository import locks

TEST = "metrics/digits/digits_softmax/test.json"
CURVES = "metrics/digits/digits_softmax/curves.csv"
FIGURE = "figures/digits/digits_softmax/curves.png"
CLAIMS = "reports/digits/claims.json"


def png(width: int, height: int) -> bytes:
    """A PNG with one row of this size; only its header tells the height."""
    Image.new("1", (width, 1)).save(content := io.BytesIO(), "PNG")
    start = content.getvalue()
    return start[:20] + height.to_bytes(4, "big") + start[24:]


def nested(depth: int, opening: str = "[", closing: str = "]") -> bytes:
    return (opening * depth + closing * depth).encode()


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
LOCK = "schema: '2.0'\nstages:\n  evaluate@digits_softmax:\n    cmd: {cmd}\n"
HOSTILE: dict[str, tuple[str, bytes]] = {
    "deep JSON": (TEST, b'{"a": ' + nested(100_000) + b"}"),
    "a number of many digits": (TEST, b'{"n": ' + b"9" * 5000 + b"}"),
    "a number of some digits": (TEST, b'{"n": ' + b"9" * 400 + b"}"),
    "long names": (TEST, json.dumps({"k" * 100_000: list(range(100_000))}).encode()),
    "names of brackets": (TEST, json.dumps({"[" * 1_000_000: 1}).encode()),
    "no Unicode": (TEST, b"\xff\xfe\x00"),
    "half a character": (TEST, b'{"a": "\\ud800"}'),
    "no object": (TEST, b"[1, 2]"),
    "a large file": (TEST, b"[" + b"0," * (diff.LARGEST // 2) + b"0]"),
    "long columns": (CURVES, b"k" * 100_000 + b"\n" + b"1\n" * 100_000),
    "digits in a table": (CURVES, b"loss\n" + b"9" * 5000 + b"\n"),
    "another table": (CURVES, b"a,b\n1\n"),
    "a large picture": (FIGURE, png(30_000, 30_000)),
    "no picture": (FIGURE, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    "PostScript as a figure": ("figures/digits/a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n"),
    "an archive as a metric": ("metrics/digits/a.npz", b"PK\3\4"),
    "a page as a metric": ("metrics/digits/a.html", b"<p>\n" * 100_000),
    "deep claims": (CLAIMS, b'{"claims": ' + nested(100_000) + b"}"),
    "claims that are no list": (CLAIMS, b"{}x"),
    "claims that are texts": (CLAIMS, b'{"claims": ["a"]}'),
    "nested verdicts": (CLAIMS, b'{"claims": [{"id": 1, "verdict": [[1]], "obtained": {}}]}'),
    "a deep lock": (locks.LOCK, nested(100_000)),
    "a lock of dashes": (locks.LOCK, b"- " * 100_000),
    "aliases of aliases": (locks.LOCK, LAUGHS.encode()),
    "an alias of itself": (locks.LOCK, b"stages: &a\n  x: *a\n"),
    "a lock of other types": (locks.LOCK, LOCK.format(cmd="[1, 2]").encode()),
    "a number in a lock": (locks.LOCK, LOCK.format(cmd="1" * 5000).encode()),
    "a number of a program": (
        locks.LOCK,
        LOCK.format(cmd="x").encode() + b"    params:\n      params.yaml:\n        a: 0x"
        + b"f" * 9000 + b"\n",
    ),
    "a lock that is no Unicode": (locks.LOCK, b"\xff"),
    "a lock of places outside": (
        locks.LOCK, LOCK.format(cmd="x").encode() + b"    outs:\n    - path: ../x\n      md5: "
        + b"f" * 32 + b"\n",
    ),
    "a report that is no page": ("reports/digits/a.js", b"alert(1)"),
}  # fmt: skip


def tree(project: Project, rows: list[bytes]) -> str:
    """The id of a new tree."""
    done = subprocess.run(
        ["git", "mktree", "-z", "--missing"], cwd=project.folder, input=b"\0".join([*rows, b""]),
        capture_output=True, check=True,
    )  # fmt: skip
    return done.stdout.decode().strip()


def commit_of(project: Project, name: str, parents: tuple[str, ...] = ("-p", "HEAD")) -> str:
    """A commit of a tree, on top of the current one."""
    who = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    return project.git(*who, "commit-tree", name, *parents, "-m", "a stranger's")


def comment(project: Project, capsys: pytest.CaptureFixture[str], *revisions: str) -> str:
    """The comment; also the other forms must appear."""
    for form in (["--markdown", "--images", "https://x/raw"], ["--json"], []):
        with contextlib.chdir(project.folder):
            page = ["--output", "page"] if not form else []
            assert cli.main(["diff", *revisions, *form, *page]) == 0
        found = capsys.readouterr()
        assert found.err == ""
        assert all(line.isprintable() for line in found.out.splitlines())
        if "--markdown" in form:
            printed = found.out
        if "--json" in form:
            json.loads(found.out)
    assert (project.folder / "page/index.html").stat().st_size < 8 << 20
    assert printed.startswith(diff_views.MARKER)
    return printed


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_named_and_the_rest_is_compared(what, project, capsys):
    path, content = HOSTILE[what]
    (project.folder / path).write_bytes(content)
    honest = "metrics/digits/digits_softmax/validation.json"
    (project.folder / honest).unlink()
    assert project.commit()
    said = comment(project, capsys, "HEAD~1", "HEAD")
    assert honest in unescaped(said) and "is missing" in said
    assert path in unescaped(said).partition("####")[2]
    assert all(len(line) < 3000 for line in unescaped(said).splitlines())


def unescaped(comment: str) -> str:
    return html.unescape(comment)


def test_a_name_of_any_bytes_is_shown_escaped(project, capsys):
    blob = project.git("rev-parse", f"HEAD:{TEST}")
    names = (b"\xff\x1b[31m.json", b"a\nb.png", "\u202egnp.exe".encode())
    inner = tree(project, sorted(b"100644 blob %b\t%b" % (blob.encode(), name) for name in names))
    top = tree(project, [b"040000 tree %b\tmetrics" % inner.encode()])
    said = comment(project, capsys, "HEAD", commit_of(project, top))
    for name in (r"\udcff\x1b[31m.json", r"a\nb.png", r"\u202egnp.exe"):
        assert f"metrics/{name}" in unescaped(said)


def test_names_of_any_bytes_in_the_workspace(project, capsys):
    for name in (b"\xff.json", b'"a\nb\\n.json'):
        (project.folder / os.fsdecode(b"metrics/" + name)).write_bytes(b"{}")
    said = unescaped(comment(project, capsys, "HEAD", "HEAD"))
    assert diff_views.NOTHING in said
    with contextlib.chdir(project.folder):
        assert [found.why for found in diff.between("HEAD").not_compared] == [
            "its name has unprintable characters"
        ] * 2


def test_a_submodule_is_no_file_of_evidence(project, capsys):
    inner = tree(project, [b"160000 commit %b\tsub.json" % (b"1" * 40)])
    top = tree(project, [b"040000 tree %b\tmetrics" % inner.encode()])
    assert "sub.json" not in comment(project, capsys, "HEAD", commit_of(project, top))


def test_trees_of_trees_are_not_listed_to_the_end(project, capsys):
    blob = project.git("rev-parse", f"HEAD:{TEST}").encode()
    name = tree(project, [b"100644 blob %b\t%d.json" % (blob, number) for number in range(10)])
    for _ in range(9):
        rows = [b"040000 tree %b\t%d" % (name.encode(), number) for number in range(10)]
        name = tree(project, rows)
    bomb = commit_of(project, tree(project, [b"040000 tree %b\tmetrics" % name.encode()]))
    with contextlib.chdir(project.folder), pytest.raises(UserError, match="lists more than 16 MiB"):
        diff.between("HEAD", bomb)
    said = workflow(project, bomb)
    assert said.startswith(f"{diff_views.MARKER}\nThe evidence could not be compared (status 1):")
    assert said.splitlines()[3].startswith("    error: ") and "lists more than 16 MiB" in said


def workflow(project: Project, head: str) -> str:
    """The comment that the workflow writes for a pull request with this commit."""
    steps = yaml.safe_load((ROOT / ".github/workflows/difference.yml").read_text())
    (compare,) = (s for s in steps["jobs"]["compare"]["steps"] if s.get("name") == "Compare")
    (project.folder / ".venv/bin").mkdir(parents=True)
    (project.folder / ".venv/bin/kmnist").symlink_to(Path(sys.executable).parent / "kmnist")
    given = {"BASE": project.git("rev-parse", "HEAD"), "HEAD": head}
    github = {"GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "o/r"}
    done = project.run("bash", "-eo", "pipefail", "-c", compare["run"], **given, **github)
    assert done.returncode == 0, done.stderr
    return (project.folder / "difference/comment.md").read_text()


def test_a_comment_appears_whatever_ends_the_comparison(project):
    """Here, a branch that has no commit in common, and a command that is killed."""
    said = workflow(project, commit_of(project, project.git("write-tree"), parents=()))
    assert wording.UNRELATED in said
    shutil.rmtree(project.folder / "difference")
    shutil.rmtree(project.folder / ".venv")
    (project.folder / "src/numpy.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    assert "could not be compared (status 137)" in workflow(
        project, project.git("rev-parse", "HEAD")
    )


@pytest.mark.parametrize(
    ("limit", "value", "why"),
    [
        ("MOST", 2, "3 files differ; the first 2 are compared"),
        ("ALL", 3, "at most 3 of all files are read"),
    ],
)
def test_no_more_is_read_than_is_allowed(limit, value, why, project, monkeypatch, capsys):
    for number in range(3):
        (project.folder / f"metrics/{number}.json").write_text("{}")
    monkeypatch.setattr(diff, limit, value)
    project.commit()
    said = unescaped(comment(project, capsys, "HEAD~1", "HEAD"))
    assert why in said
    assert "metrics/0.json" in said


def test_a_lock_of_many_paths_takes_no_quadratic_time(project):
    """2 MB took more than 400 s."""
    for md5 in ("a" * 32, "b" * 32):
        deps, outs = (
            "".join(f"    - path: {letter}/{n}\n      md5: {md5}\n" for n in range(20_000))
            for letter in "xy"
        )
        text = f"schema: '2.0'\nstages:\n  s@1:\n    cmd: x\n    deps:\n{deps}    outs:\n{outs}"
        (project.folder / locks.LOCK).write_text(text)
        project.commit()
    began = time.process_time()
    with contextlib.chdir(project.folder):
        (stage,) = diff.between("HEAD~1", "HEAD").stages
    assert len(stage.changes) == 20_000
    assert time.process_time() - began < 90  # most of it reads YAML


def test_many_values_are_counted(project):
    for number in (1, 2):
        many = {f"a{position}": number for position in range(diff.MANY + 1)}
        (project.folder / "metrics/many.json").write_text(json.dumps(many))
        project.commit()
    with contextlib.chdir(project.folder):
        (found,) = diff.between("HEAD~1", "HEAD").metrics
    assert found.what == f"{diff.MANY + 1} values differ"


def test_the_page_is_not_written_through_a_link(project, capsys):
    other = project.folder / "other"
    other.write_text("mine")
    (project.folder / "page").mkdir()
    (project.folder / "page/index.html").symlink_to(other)
    with contextlib.chdir(project.folder):
        assert cli.main(["diff", "HEAD", "--output", "page"]) == 1
    assert "page/index.html: is not a regular file" in capsys.readouterr().err
    assert other.read_text() == "mine"


def test_dvc_gives_a_terminal_no_control_characters(project):
    """From a committed lock, in the command that brings missing files back."""
    path = "path: metrics/digits/digits_cnn/test.json"
    project.replace(locks.LOCK, path, r'path: "metrics/\e]0;x\a.json"')
    project.commit()
    done = project.run(sys.executable, "-m", "kmnist_pipeline.cli.dvc", "repro", "no@stage")
    assert r"metrics/\x1b]0;x\x07.json" in done.stderr
    assert all(line.isprintable() for line in done.stderr.split("\n"))


def test_a_terminal_gets_no_control_characters(project, capsys):
    """From the name of a file, from a lock, and from the name of a branch."""
    name = "\x1b[31m\x9b1m\nfigure.png"
    (project.folder / name).write_bytes(b"x")
    lock = project.folder / locks.LOCK
    lock.write_text(re.sub("cmd: .*", r'cmd: "\\e]0;x\\a"', lock.read_text(), count=1))
    project.git("branch", "\u202ebranch")
    shown = []
    with contextlib.chdir(project.folder):
        for command in (
            ["trace", name], ["trace", "--json", name], ["trace", "--dot"], ["check"],
            ["diff", "\u202ebranch"], ["diff", "\u202ebranch", "--json"], ["impact"],
            ["predict", name, "--model", "\x1b[31m"],
        ):  # fmt: skip
            cli.main(command)
            found = capsys.readouterr()
            shown += [*found.out.split("\n"), *found.err.split("\n")]
    assert [line for line in shown if not line.isprintable()] == []
    for escaped in (r"\x1b[31m\x9b1m\nfigure.png", r"\x1b]0;x\x07", r"\u202ebranch"):
        assert any(escaped in line for line in shown), escaped

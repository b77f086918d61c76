"""The stages of a lock: who made a path, and what no lock may say, because it may be anyone's."""

import re
import sys
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.repository import locks, revision
from kmnist_pipeline.repository.locks import Graph, LockedStage
from kmnist_pipeline.repository.revision import DamagedError, Revision

MD5 = "f" * 32
PATHS = st.lists(st.text("ab-0", max_size=2), min_size=1, max_size=4).map("/".join)
LOCKS = st.lists(st.lists(PATHS, max_size=4), max_size=6)


def graph_of(outs: list[list[str]], deps: list[list[str]] | None = None) -> Graph:
    """A stage for each list of outs."""
    read = deps or [[] for _ in outs]
    return Graph(
        {
            f"s@{n}": LockedStage(
                f"s@{n}", "", dict.fromkeys(read[n], MD5), {}, dict.fromkeys(made, MD5)
            )
            for n, made in enumerate(outs)
        }
    )


def plainly(graph: Graph, path: str) -> list[str]:
    """The definition: the maker of the path or of a folder above, else all that write below."""
    makers = {out: stage.address for stage in graph.stages.values() for out in stage.outs}
    for above in accumulate(path.split("/"), "{}/{}".format):
        if above in makers:
            return [makers[above]]
    return sorted({maker for out, maker in makers.items() if out.startswith(f"{path}/")})


@given(LOCKS, st.lists(PATHS, max_size=8))
def test_makers_are_those_of_the_definition(outs, paths):
    graph = graph_of(outs)
    for path in [*paths, *paths, *(out for made in outs for out in made)]:
        assert [stage.address for stage in graph.makers(path)] == plainly(graph, path)


def steps(work: Callable[[], object]) -> int:
    """The lines and calls of Python that it runs."""
    taken = 0

    def count(*_: object) -> Any:
        nonlocal taken
        taken += 1
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        work()
    finally:
        sys.settrace(before)
    return taken


@pytest.mark.parametrize(
    "paths",
    [
        lambda n: ([[f"b/{i}" for i in range(n)]], [[f"a/{i}" for i in range(n)]]),
        lambda n: ([[f"a/{i}"] for i in range(n)], [["a"]] * n),
    ],
    ids=["files", "a folder"],
)
def test_makers_of_many_paths_take_no_quadratic_time(paths):
    """Going through all outs for each of 27,000 dependencies took 400 s."""

    def taken(makers: Callable[[Graph, str], object], n: int) -> int:
        graph = graph_of(*paths(n))
        deps = [dep for stage in graph.stages.values() for dep in stage.deps]
        return steps(lambda: [makers(graph, dep) for dep in deps])

    assert taken(Graph.makers, 400) < 2.5 * taken(Graph.makers, 200)
    assert taken(plainly, 400) > 3.5 * taken(plainly, 200)  # as it would be seen


FLOW = (
    "{{schema: '2.0', stages: {{ {address}: {{cmd: x, {kind}: [{{path: {path}, md5: {md5}}}]}}}}}}"
)
BLOCK = """schema: '2.0'
stages:
  {address}:
    cmd: x
    {kind}:
    - path: {path}
      md5: {md5}
"""
OUTSIDE = [
    "../victim",
    "/tmp/victim",
    "models/../../x",
    "models/..",
    ".",
    "a//b",
    "./a",
    "''",
    '"a\\0b"',
]


@pytest.mark.parametrize("form", [BLOCK, FLOW], ids=["block", "flow"])
@pytest.mark.parametrize("kind", ["deps", "outs"])
@pytest.mark.parametrize("path", OUTSIDE)
def test_a_path_outside_the_project_is_refused(path, kind, form):
    text = form.format(address="evaluate@gone", kind=kind, path=path, md5=MD5)
    with pytest.raises(UserError) as caught:
        locks.parse(text, "dvc.lock at abc")
    said = str(caught.value)
    assert said.startswith("dvc.lock at abc: evaluate@gone: ")
    assert "is not a path in the project's folder; remove evaluate@gone from the file" in said


@pytest.mark.parametrize(
    ("address", "md5", "words"),
    [
        ("download@../x", MD5, "download@../x: is not the name of a stage"),
        ("download@x", "ab/etc/passwd", "data has md5 ab/etc/passwd, which is not an md5"),
        ("download@x", f"{MD5}.dir.dir", "which is not an md5"),
        ("download@x", "..", "which is not an md5"),
    ],
)
def test_a_name_or_md5_that_leads_elsewhere_is_refused(address, md5, words):
    text = BLOCK.format(address=address, kind="outs", path="data", md5=md5)
    with pytest.raises(UserError, match=re.escape(words)):
        locks.parse(text)


@pytest.mark.parametrize("path", ["a", "a/b", "..a", "a/...", "a..b/c", "data/raw/ä ö"])
def test_other_paths_are_not_refused(path):
    text = BLOCK.format(address="s@1", kind="outs", path=path, md5=f"{MD5}.dir")
    assert locks.parse(text).stages["s@1"].outs == {path: f"{MD5}.dir"}


# --- writing the files of a revision -------------------------------------------------------------


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What Git has at the revision, for a test to fill."""
    files: dict[str, bytes] = {}

    def found(self: Revision, *paths: str) -> dict[str, bytes]:
        inside = tuple(f"{path}/" for path in paths)
        return {k: v for k, v in files.items() if k in paths or k.startswith(inside)}

    monkeypatch.setattr(Revision, "files", found)
    return files


@pytest.mark.parametrize("name", ["src/../../victim", "/{}/victim", "src/link/victim"])
def test_a_file_of_a_commit_is_not_written_elsewhere(name, held, tmp_path):
    """Git refuses to check out a folder named `..`, but can hold one."""
    root = tmp_path / "root"
    (root / "src").mkdir(parents=True)
    (root / "src/link").symlink_to(tmp_path)
    name = name.format(tmp_path)
    held[name] = b"mine now"
    with pytest.raises(UserError, match=r"victim: is not written, because it would be outside of"):
        Revision("HEAD", "0" * 40).write(root, "src", name)
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


@pytest.mark.parametrize(
    "listing",
    [
        f'[{{"md5": "{MD5}", "relpath": "../../../victim"}}]',
        f'[{{"md5": "{MD5}", "relpath": "/victim"}}]',
        '[{"md5": "ab/etc/passwd", "relpath": "a"}]',
        f'[{{"md5": "{MD5}"}}]',
        '[["md5"]]',
        "[1]",
        "no JSON",
    ],
)
def test_a_listing_that_names_other_places_is_refused(listing, held, tmp_path, monkeypatch):
    cache, root = tmp_path / "cache", tmp_path / "deep/er/root"
    root.mkdir(parents=True)
    md5 = revision.lineage.digest_of_bytes(listing.encode())
    for name, content in {f"{md5}.dir": listing, MD5: "content"}.items():
        (cache / name[:2]).mkdir(parents=True)
        (cache / name[:2] / name[2:]).write_text(content)
    monkeypatch.setattr(Revision, "_cache", cache)
    monkeypatch.setattr(Revision, "_check_names", lambda *given: None)
    with pytest.raises(DamagedError, match=r"models/x at HEAD: its listing .* has .*: delete "):
        Revision("HEAD", "0" * 40).put("models/x", f"{md5}.dir", root)
    assert not [path for path in tmp_path.rglob("*") if path.name == "victim"]


@pytest.mark.parametrize("path", ["../victim", "models/../../victim", "link/victim"])
def test_an_out_is_not_put_elsewhere(path, held, tmp_path):
    root, victim = tmp_path / "root", tmp_path / "victim"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    victim.write_text("precious")
    with pytest.raises(UserError, match="would be outside"):
        Revision("HEAD", "0" * 40).put(path, revision.lineage.digest(victim), root)
    assert victim.read_text() == "precious"


def test_what_is_below_is_written(held, tmp_path):
    held["src/a/b.py"] = b"1"
    Revision("HEAD", "0" * 40).write(tmp_path, "src")
    assert (tmp_path / "src/a/b.py").read_bytes() == b"1"
    assert Path(tmp_path, "src").is_dir()

"""`kmnist check` names a file that cannot be read, and a fault that no claim detects any more."""

import json

import pytest
from support import wording
from support.checking import reasons as findings
from support.project import Project, replaced

from kmnist_pipeline import cli
from kmnist_pipeline.errors import UserError


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        (
            "dvc.lock",
            "<<<<<<< HEAD\nstages: {",
            ["dvc.lock: line 1: a merge conflict", "`git checkout HEAD -- dvc.lock` restores"],
        ),
        (
            "dvc.lock",
            "schema: '2.0'\nstages:\n" + 2 * "  a@b:\n    cmd: c\n",
            ["dvc.lock: a@b: is listed twice, as after a merge that kept both sides"],
        ),
        ("dvc.lock", "schema: '2.0'\nstages: 5\n", ["dvc.lock: stages: must be a map"]),
        ("dvc.lock", "schema: '2.0'\nstages: {a: {deps: []}}\n", ["dvc.lock: a: 'cmd' is missing"]),
        ("dvc.lock", "[]", ["dvc.lock: must be a map"]),
        (
            "dvc.lock",
            "schema: '2.0'\nstages: {a: {cmd: b, outs: [{path: c}]}}",
            ["a: c has no md5"],
        ),
        ("dvc.yaml", "stages: [", ["dvc.yaml", "line 2"]),
        ("dvc.yaml", "<<<<<<< HEAD\nstages: {}", ["dvc.yaml: line 1: a merge conflict"]),
        ("dvc.yaml", "stages: {a: {cmdd: x}}\n", ["dvc.yaml"]),
        (".git/HEAD", "nonsense", ["git"]),
    ],
)
def test_a_broken_file_is_named(file, content, words, clone):
    with (
        replaced(clone.folder / file, content.encode()),
        pytest.raises((UserError, OSError)) as caught,
    ):
        findings(clone)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("file", ["dvc.lock", "conf/config.yaml"])
def test_a_broken_file_gives_one_message(file, clone, monkeypatch, capsys):
    monkeypatch.chdir(clone.folder)
    with replaced(clone.folder / file, b"stages: ["):
        assert cli.main(["check"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert file in message


CONFLICTED = {  # a text of each kind that commands read, and how to resolve a conflict in it
    "params.yaml": "`kmnist compose` writes it again",
    "conf/claims/kmnist_linear.csv": "keep what both sides need",
    "conf/experiment/digits_cnn.yaml": "keep what both sides need",
    "requirements.lock": "keep what both sides need",
    "reviews/none.csv": "keep what both sides need",
    "metrics/digits/digits_cnn/test.json": "take one side's: `git checkout HEAD -- metrics/",
    "metrics/digits/digits_cnn/curves.csv": "take one side's: `git checkout HEAD -- metrics/",
    "reports/digits/README.md": "take one side's: `git checkout HEAD -- reports/digits/README.md`",
    "receipts/one.json": "take one side's: `git checkout HEAD -- receipts/one.json`",
}


@pytest.mark.parametrize("command", [["check"], ["verify", "--quick"], ["impact"], ["publish"]])
def test_each_merge_conflict_is_called_that_with_the_way_out(
    command, full_project, monkeypatch, capsys
):
    monkeypatch.chdir(full_project.folder)
    for file in CONFLICTED:
        path = full_project.folder / file
        path.parent.mkdir(exist_ok=True)
        text = path.read_text() if path.exists() else "{}\n"
        path.write_text(f"{text}<<<<<<< HEAD\n{text}=======\n{text}>>>>>>> other\n")
    assert cli.main(command) == 1
    lines = capsys.readouterr().err.removeprefix("error: ").splitlines()
    assert len(lines) == len(CONFLICTED)
    for file, way in CONFLICTED.items():
        (line,) = (line for line in lines if line.startswith(f"{file}: line "))
        assert f": {wording.CONFLICT}; " in line
        assert way in line


def test_composing_names_a_merge_conflict_in_claims_and_resolves_that_in_params(
    full_project, monkeypatch, capsys
):
    folder = full_project.folder
    monkeypatch.chdir(folder)
    params = (folder / "params.yaml").read_bytes()
    claims = folder / "conf/claims/kmnist_linear.csv"
    (folder / "params.yaml").write_bytes(b"<<<<<<< HEAD\n" + params)
    with replaced(claims, b"<<<<<<< HEAD\n" + claims.read_bytes()):
        assert cli.main(["compose"]) == 1
        said = capsys.readouterr().err
    assert said.startswith("error: conf/claims/kmnist_linear.csv: line 1: a merge conflict")
    assert cli.main(["compose"]) == 0
    assert (folder / "params.yaml").read_bytes() == params


def test_a_fault_that_no_claim_detects_any_more(project: Project) -> None:
    path = "reports/digits/claims.json"
    file = project.folder / path
    content = json.loads(file.read_text())

    def detection(**claims: dict[str, bool]) -> None:
        file.write_text(json.dumps({**content, "faults": claims}))

    def lost() -> list[str]:
        return [line for line in findings(project) if "detects the injected fault" in line]

    def line(fault: str, claims: str) -> str:
        says = f"no claim detects the injected fault {fault} any more"
        return f"{path}: {says}; {claims} did in the last commit"

    listed = "faults:\n  digits:\n    catalogue: {leak: {}, swap: {}, rate: {}}\n"
    project.replace("params.yaml", "\nfaults: {}\n", f"\n{listed}")
    detection(a={"leak": True, "swap": True, "rate": False}, b={"leak": False, "swap": True})
    project.commit("detected")
    assert lost() == []
    detection(a={"leak": False, "swap": False, "rate": False}, b={"leak": False, "swap": True})
    assert lost() == [line("leak", "a")]
    detection(a={"swap": False}, b={"swap": True})  # as if it had not been tried
    assert lost() == [line("leak", "a")]
    for gone in (content, {**content, "faults": None}):
        file.write_text(json.dumps(gone))
        assert lost() == [line("leak", "a"), line("swap", "a, b")]
    file.write_text("{")  # this is another finding
    assert lost() == []
    assert any(found.startswith(path) or "report@digits" in found for found in findings(project))

    file.write_text(json.dumps(content))
    project.replace("params.yaml", "catalogue: {leak: {}, swap: {}", "catalogue: {swap: {}")
    assert lost() == [line("swap", "a, b")]
    detection(a={"leak": False, "swap": True})  # the catalogue no longer has `leak`
    assert lost() == []

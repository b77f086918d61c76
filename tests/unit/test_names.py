"""The answer to an unknown name, and to a missing or outdated params.yaml."""

import shutil

import pytest
from support import wording
from support.project import ROOT

from kmnist_pipeline import cli
from kmnist_pipeline.repository.names import unknown


@pytest.mark.parametrize(
    ("name", "hint"), [("digit", "did you mean digits?"), ("x", "known: digits, kmnist")]
)
def test_a_like_name_is_suggested_and_else_all_are_listed(name, hint):
    assert str(unknown("no such name", name, ["digits", "kmnist"])) == f"no such name; {hint}"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, wording.NOT_COMPOSED),
        ("lr: 0.4", f"{wording.CONF_CHANGED}: run `kmnist compose`"),
    ],
)
def test_fit_refuses_parameters_that_are_not_those_of_conf(
    content, problem, tmp_path, monkeypatch, capsys
):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    if content is not None:
        text = (ROOT / "params.yaml").read_text().replace("lr: 0.5", content, 1)
        (tmp_path / "params.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["fit"]) == 1
    assert capsys.readouterr().err == f"error: params.yaml {problem}\n"

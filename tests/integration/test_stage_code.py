"""Each stage depends on the modules that its settings use, and on no others."""

import re
from pathlib import Path

import pytest
import yaml
from support.parameters import COMMITTED, GRID, NETWORK_GRID, changed
from support.project import ROOT

from kmnist_pipeline.config import code, node, rules


def test_stages_depend_on_the_modules_that_their_settings_use():
    found = code.of(rules.check(COMMITTED))
    assert found == COMMITTED["code"]
    families = "src/kmnist_pipeline/families/"
    used = {name: set(about["code"]) for name, about in found["kfold_train"].items()}
    assert used["digits_softmax"] == {f"{families}linear/{name}.py" for name in ("model", "train")}
    network = used["digits_cnn"] ^ used["kmnist_siamese"]
    assert network == {f"{families}cnn/architectures/{n}.py" for n in ("simple", "siamese")}
    measured = {name: set(about["code"]) for name, about in found["evaluate"].items()}
    assert measured["digits_softmax"] == {f"{families}linear/model.py"}
    saliency = f"{families}cnn/insight/saliency.py"
    assert saliency in measured["digits_cnn"] and saliency not in measured["kmnist_siamese"]


def test_every_line_of_dvc_yaml_has_a_module():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for kind, lines in code.LINES.items():
        stage = stages[kind.replace("_", "-")]
        assert stage["foreach"] == f"${{code.{kind}}}"
        assert [dep for dep in stage["do"]["deps"] if dep.startswith("${item.code")] == [
            f"${{item.code[{number}]}}" for number in range(lines)
        ]


def test_a_study_depends_on_the_modules_of_all_its_trials():
    names = ["simple", "improved"]
    content = changed(GRID, NETWORK_GRID | {"product": {"model.architecture": names}})
    used = set(code.of(rules.check(content))["tune"]["digits_cnn_grid"]["code"])
    assert {Path(path).stem for path in used if "/architectures/" in path} == {*names}


def test_faults_depend_on_the_modules_of_all_trials():
    point = {"model.architecture": "improved"}
    study = NETWORK_GRID | {"base": "kmnist_simple_cnn", "product": {}, "points": [point]}
    content = changed("faults.kmnist_cnn.studies", {"grid": study})
    used = set(code.of(rules.check(content))["faults"]["kmnist_cnn"]["code"])
    assert {Path(path).stem for path in used if "/architectures/" in path} == {"simple", "improved"}


def test_more_modules_than_lines_are_refused(monkeypatch):
    monkeypatch.setitem(code.LINES, "kfold_train", 1)
    with pytest.raises(node.ConfigError, match=r"uses 2 modules, and kfold-train in dvc\.yaml has"):
        code.of(rules.check(COMMITTED))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("PAIRED = False\n", "architectures/own.py: must define build, as the other modules there"),
        ("def build(): ...\n", "architectures/own.py: must define PAIRED, as the other modules"),
        ("def build(:\n", "architectures/own.py:1: not valid Python: "),
    ],
)
def test_a_network_without_what_a_network_needs_is_refused(text, words, tmp_path, monkeypatch):
    monkeypatch.setattr(code, "PACKAGE", tmp_path / "src/kmnist_pipeline")
    module = tmp_path / "src/kmnist_pipeline/families/cnn/architectures/own.py"
    module.parent.mkdir(parents=True)
    module.write_text(text)
    with pytest.raises(node.ConfigError, match=re.escape(words)):
        code._check(module)

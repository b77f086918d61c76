"""Readings and faults of the demo: DVC runs their stages, and no other becomes stale."""

import json
import re

import pytest
import yaml
from support.project import Project

READINGS = """
dataset: digits
claims: ${reports.digits.claims}
confidence: ${reports.digits.confidence}
experiments: {digits_softmax: %s}
studies: {}
choices:
  scaling: [minmax, zscore]
  loss: [mean, sum]
  folds: [2, 5]
  epochs: [1, 3]
  keep: [last, best_accuracy]
  value: [mean, mean_best]
seeds: [0, 1, 2]
best: 2
"""
FAULTS = """
defaults: [base, _self_]
dataset: digits
family: linear
budget: one seed and two epochs
experiments: {digits_softmax: "${experiments.digits_softmax}"}
changes: {trainer.epochs: 2, validation: {method: holdout, fraction: 0.2}}
"""
CLAIMS = """\
id,where,quote,configuration,metric,reported,file,trial,value,unknown,spread,same_as
val,I,a,softmax,validation accuracy,0.95,digits_softmax/validation.json,,accuracy,seed and split,,
near,I,a,softmax,validation accuracy,0.97,digits_softmax/validation.json,,accuracy,seed and split,,
test,I,b,softmax,test accuracy,0.2,digits_softmax/test.json,,accuracy,nothing,,
"""


@pytest.mark.system
def test_a_report_gets_readings_and_faults(without_mlflow: Project) -> None:
    project, conf = without_mlflow, without_mlflow.folder / "conf"
    own = yaml.safe_load((project.folder / "params.yaml").read_text())
    softmax = own["experiments"]["digits_softmax"]
    softmax["trainer"] |= {"epochs": 3, "patience": None}
    (conf / "readings/digits.yaml").write_text(READINGS % json.dumps(softmax))
    (conf / "faults/digits.yaml").write_text(FAULTS)
    (conf / "claims/digits.csv").write_text(CLAIMS)
    project.replace("conf/report/digits.yaml", "dataset: digits", "dataset: digits\nclaims: digits")
    lines = "  - readings@readings.digits: digits\n  - faults@faults.digits: digits\n\n  - _self_\n"
    project.replace("conf/config.yaml", "  - _self_\n", lines)
    assert project.run("kmnist", "compose").returncode == 0
    done = project.run("dvc", "repro", "report@digits")
    assert done.returncode == 0, done.stdout + done.stderr
    ran = re.findall(r"^Running stage '([^']+)'", done.stdout, re.MULTILINE)
    assert sorted(ran) == ["faults@digits", "readings@digits", "report@digits"]

    # Nothing else has changed: readings and faults choose nothing.
    changed = {line.split()[-1] for line in project.changed().splitlines()}
    assert {path for path in changed if path.startswith(("metrics", "figures"))} == {
        "metrics/digits/readings.json",
        "metrics/digits/faults.json",
        "figures/digits/readings/",
    }
    read = project.json("metrics/digits/readings.json")
    assert (read["claims"]["val"]["readings"], read["seeds"], len(read["best"])) == (64, 3, 2)
    assert read["claims"]["val"]["agree"] > 0 and read["claims"]["test"]["agree"] == 0
    written = json.loads((project.folder / "reports/digits/claims.json").read_text())
    assert written["faults"]["near"]["labels_swapped"] is True
    for name in ("val", "test"):  # they differ already
        assert set(written["faults"][name].values()) == {False}
    page = (project.folder / "reports/digits/index.html").read_text()
    for words in ("Choices that the publication does not state", "What the claims detect",
                  'class="v explained"', 'id="metrics/digits/readings.json"'):  # fmt: skip
        assert words in page, words
    rows = re.findall(r'<tr><th scope="row"><a href="#(\w+)"><code>(.*?)</tr>', page)
    assert {name: "uninformative" in row for name, row in rows} == {
        "val": True, "near": False, "test": True,
    }  # fmt: skip

    # What `check` computes again agrees, and a run from the store gives the same bytes.
    checked = project.run("kmnist", "check")
    assert not [line for line in checked.stdout.splitlines() if "digits" in line.partition(" ")[0]]
    before = (project.folder / "metrics/digits/readings.json").read_bytes()
    again = project.run("dvc", "repro", "--force", "--single-item", "readings@digits")
    assert again.returncode == 0 and "to go" not in again.stderr
    assert (project.folder / "metrics/digits/readings.json").read_bytes() == before

"""The workflows are valid and safe, and run what `.ci/run` runs; other files that GitHub reads."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml
from support.project import ROOT

WORKFLOWS = ROOT / ".github" / "workflows"


def tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = Path(sys.executable).parent / name
    return subprocess.run([path, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_actionlint_finds_nothing():
    found = tool("actionlint", *map(str, WORKFLOWS.glob("*.yml")))
    assert found.returncode == 0, found.stdout


def test_zizmor_finds_nothing():
    found = tool("zizmor", "--offline", "--no-progress", str(WORKFLOWS))
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_workflow_runs_what_ci_run_runs():
    workflow = yaml.safe_load((WORKFLOWS / "ci.yml").read_text())
    steps = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    checks = re.compile(r"^(make (?!setup)\S+|\S*kmnist \w+)", re.MULTILINE)
    local = checks.findall((ROOT / ".ci" / "run").read_text())
    assert local == checks.findall("\n".join(steps))
    assert local == ["make demo", ".venv/bin/kmnist check", "make test-all"]
    assert workflow["permissions"] == {"contents": "read"}


def test_every_test_runs_once_in_test_all():
    dry = ["make", "--dry-run", "test-all"]
    printed = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (command,) = re.findall("^pytest .*", printed, re.MULTILINE)
    assert not re.search(r"tests/| -m | -k |--deselect|--ignore", command)


def test_every_week_two_images_verify_and_the_newest_libraries_may_fail():
    jobs = yaml.safe_load((WORKFLOWS / "weekly.yml").read_text())["jobs"]
    verify, newest = jobs["verify"], jobs["newest"]
    assert len(set(verify["strategy"]["matrix"]["image"])) == 2
    assert "kmnist verify report@digits" in verify["steps"][-1]["run"]
    assert newest["continue-on-error"] is True
    assert "requirements.lock" not in str(newest["steps"][2]) and "make demo" in str(newest)


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["version"] == project["version"]


def test_the_container_sets_the_project_up():
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    assert container["postCreateCommand"] == "make setup"


def test_git_changes_no_line_ending_of_evidence_and_folds_what_is_generated():
    attributes = ("text", "eol", "linguist-generated")
    files = ["dvc.lock", "figures/digits/digits_softmax/curves.png", "reports/digits/index.html"]
    asked = ["git", "check-attr", *attributes, "--", *files]
    said = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.count("linguist-generated: set") == len(files)
    assert "curves.png: text: unset" in said and "dvc.lock: eol: lf" in said

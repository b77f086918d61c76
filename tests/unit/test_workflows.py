"""The workflows are valid and safe, and run what `.ci/run` runs; other files that GitHub reads."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml
from support.project import ROOT

from kmnist_pipeline.commands import receipts

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
    *_, ran, kept = verify["steps"]
    assert "kmnist verify report@digits" in ran["run"]
    assert kept["with"]["path"] == f"{receipts.FOLDER}/" and kept["if"] == "${{ !cancelled() }}"
    assert yaml.safe_load((WORKFLOWS / "weekly.yml").read_text())["permissions"] == {
        "contents": "read"
    }
    assert newest["continue-on-error"] is True
    assert "requirements.lock" not in str(newest["steps"][2]) and "make demo" in str(newest)


def test_what_is_newer_than_the_lock_is_found(tmp_path):
    """With a pip that lists the packages of the lock, and one of them newer."""
    newest = yaml.safe_load((WORKFLOWS / "weekly.yml").read_text())["jobs"]["newest"]
    (script,) = (step["run"] for step in newest["steps"] if "newer" in step.get("name", ""))
    pins = re.findall(r"^[^#\s]+==\S+", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    listed = [pin.replace("numpy==", "numpy==9") for pin in pins]
    pip = tmp_path / ".venv/bin/pip"
    pip.parent.mkdir(parents=True)
    pip.write_text("#!/bin/sh\ncat << 'END'\n" + "\n".join(listed) + "\nEND\n")
    pip.chmod(0o755)
    shutil.copy(ROOT / "requirements.lock", tmp_path)
    run = ["bash", "-e", "-c", script]
    said = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    changed = [line for line in said.splitlines() if line[0] in "<>"]
    (pin,) = (pin for pin in pins if pin.startswith("numpy=="))
    assert changed == [f"< {pin}", f"> {pin.replace('==', '==9')}"]


def test_the_lock_has_the_hash_of_every_package():
    text = (ROOT / "requirements.lock").read_text()
    blocks = re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]
    assert len(blocks) > 150
    for block in blocks:
        first, *rest = block.removesuffix("\n").split(" \\\n    ")
        assert re.fullmatch(r"[\w.-]+==[\w.]+", first), block
        assert rest and all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", line) for line in rest), (
            block
        )
    dry = ["make", "--dry-run", "--always-make", "setup"]
    said = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "--require-hashes --requirement requirements.lock" in said


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

"""The workflows are valid and safe, and run what `.ci/run` runs."""

import subprocess
import sys
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


def test_the_workflow_runs_the_targets_of_ci_run():
    workflow = yaml.safe_load((WORKFLOWS / "ci.yml").read_text())
    steps = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    local = (ROOT / ".ci" / "run").read_text()
    check = ".venv/bin/kmnist check --except .ci/stale-stages"
    for command in ("make test-all", check, "make demo"):
        assert command in steps
        assert f"\n{command}\n" in local
    assert workflow["permissions"] == {"contents": "read"}

"""What a stage reads without declaring it is found, however it reads it."""

from __future__ import annotations

import ast
import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.project import ROOT

from kmnist_pipeline.config import rules
from kmnist_pipeline.evidence import reads

PROGRAM = """
import os, sqlite3, subprocess, sys
from pathlib import Path
from kmnist_pipeline.evidence import reads
reads.HERE = Path(__file__).parent
reads.watch()
{}
print(*reads.undeclared(["declared", "program.py"]))
"""
LIBRARY = (
    "import os, subprocess\ndef start(): os.system('true'), subprocess.run('true', shell=True)\n"
)
READS = {
    "open('secret').read()": "secret",
    "open(b'secret').read()": "secret",
    "os.read(os.open('secret', os.O_RDONLY), 1)": "secret",
    "sqlite3.connect('secret')": "secret",
    "subprocess.run('true', shell=True)": "/bin/sh",
    "os.system('true')": "true",
    "import package": "package/__init__.py",
    "import bare": "",
    "open('declared/file').read()": "",
    "open('written', 'w').write('x')": "",
    "subprocess.run([sys.executable, '-c', ''])": "",
    "import library; library.start()": "",  # as Matplotlib lists fonts, and torch libraries
}


@pytest.mark.parametrize("code", READS)
def test_what_is_read_is_found(code, tmp_path: Path):
    project, site = tmp_path / "project", tmp_path / "site"
    for name in ("declared", "package", "bare"):
        (project / name).mkdir(parents=True)
    (project / "secret").touch()
    (project / "declared/file").touch()
    (project / "package/__init__.py").write_text('"""It acts."""\nvalue = 1\n')
    (project / "bare/__init__.py").write_text('"""It does nothing."""\n')
    (project / "program.py").write_text(PROGRAM.format(code))
    site.mkdir()
    (site / "library.py").write_text(LIBRARY)
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-B", "program.py"], cwd=project, env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == READS[code]


# They open a path in C++ or Rust, where no audit hook hears it. Give them bytes or an open file.
UNHEARD = ("safe_open", "load_file", "from_file", "torch.load", "jit.load", "truetype", "imread")
UNHEARD_LIBRARIES = {"cv2", "h5py", "pyarrow", "tables"}


def unheard(source: str) -> list[str]:
    nodes = list(ast.walk(ast.parse(source)))
    called = [ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)]
    imported = [alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names]
    imported += [n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)]
    found = [name for name in called if name.endswith(UNHEARD)]
    return found + [name for name in imported if name.partition(".")[0] in UNHEARD_LIBRARIES]


@pytest.fixture(scope="module")
def modules() -> set[Path]:
    """All that stages depend on."""
    named = re.findall(r"src/\S+\.py", (ROOT / "dvc.yaml").read_text())
    families = (ROOT / "src/kmnist_pipeline/families").rglob("*.py")
    return {*families, *(ROOT / path for path in named)}


def test_no_module_of_a_stage_lets_a_library_open_a_file_unheard(modules):
    assert len(modules) > 80
    assert {file.name: found for file in modules if (found := unheard(file.read_text()))} == {}
    examples = ["safetensors.safe_open('a')", "torch.load('a')", "import pyarrow.parquet as p"]
    assert all(map(unheard, examples))


CONFIG = ROOT / "src/kmnist_pipeline/config"
FREE = [file for file in CONFIG.glob("*.py") if reads.FREE.fullmatch(str(file.relative_to(ROOT)))]


def test_free_modules_of_the_configuration_change_nothing_of_others():
    """Neither a module that they import, nor the parameters that they check."""
    assert len(FREE) == 5
    for file in FREE:
        for node in ast.walk(ast.parse(file.read_text())):
            stores = isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load)
            sets = isinstance(node, ast.Name) and node.id in ("setattr", "exec", "eval", "globals")
            assert not (stores or sets), (file.name, ast.unparse(node))
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    before = copy.deepcopy(params)
    rules.check(params)
    assert params == before


def test_free_modules_of_the_configuration_give_a_stage_no_value(modules):
    """Only `grid` does, where it is declared; of the others a stage calls `check` alone."""
    free = {file.stem for file in FREE} - {"grid"}
    found = set()
    for file in modules - {*FREE}:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and "kmnist_pipeline.config" in str(node.module):
                names = {str(node.module).rpartition(".")[2], *(a.name for a in node.names)}
                found |= {(file.name, name) for name in names & free}
    assert found == {("frame.py", "rules")}
    frame = ast.parse((ROOT / "src/kmnist_pipeline/stages/frame.py").read_text())
    parts = [ast.unparse(n) for n in ast.walk(frame) if isinstance(n, ast.Expr | ast.Name)]
    assert parts.count("rules.check(content)") == parts.count("rules") == 1

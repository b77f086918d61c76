"""What a stage reads without declaring it is found, however it reads it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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

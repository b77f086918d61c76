"""What a stage reads without declaring it is found, however it reads it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, sqlite3, subprocess, sys
from kmnist_pipeline.evidence import reads
reads.watch()
{}
print(*reads.undeclared(["declared"]))
"""
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
}


@pytest.mark.parametrize("code", READS)
def test_what_is_read_is_found(code, tmp_path: Path):
    for name in ("declared", "package", "bare"):
        (tmp_path / name).mkdir()
    (tmp_path / "secret").touch()
    (tmp_path / "declared/file").touch()
    (tmp_path / "package/__init__.py").write_text('"""It acts."""\nvalue = 1\n')
    (tmp_path / "bare/__init__.py").write_text('"""It does nothing."""\n')
    done = subprocess.run(
        [sys.executable, "-B", "-c", PROGRAM.format(code)],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == READS[code]

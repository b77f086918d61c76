"""Print requirements.lock: what is installed, with the sha256 of all files of these releases.

Needs uv (`pip install uv`), which reads the hashes from the package index. A build from another
place, such as torch 2.13.0+cpu, counts as a file of the release, 2.13.0.
"""

import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HEADER = """\
# Every package that the project runs with, and the sha256 of every file of its release: pip
# installs no other file. Why each direct one is here stands in pyproject.toml. torch has several
# builds, which give the same bytes: the one with CUDA, which the package index has for Linux, and
# the one for CPUs alone. Made by tools/lock.py, after packages were installed or removed:
#   python tools/lock.py > requirements.new && mv requirements.new requirements.lock
"""
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
UV = ("uv", "pip", "compile", "-", "--no-deps", "--generate-hashes")
QUIET = ("--quiet", "--no-annotate", "--no-header")


def main() -> None:
    """Print it."""
    freeze = output(*PIP, "freeze", "--all", "--exclude", "pip", "--exclude-editable").splitlines()
    pins = {line.partition("+")[0]: line for line in freeze}
    blocks = re.split(r"^(?=\w)", output(*UV, *QUIET, stdin="\n".join(pins)), flags=re.MULTILINE)
    hashes = {plain(block): re.findall(r"sha256:\w+", block) for block in blocks}
    print(HEADER, end="")
    for pin, installed in pins.items():
        found = [*hashes[plain(pin)], *(digests(installed) if installed != pin else [])]
        print(" \\\n    --hash=".join([pin, *sorted(set(found))]))


def plain(pin: str) -> str:
    """A package's name as uv prints it."""
    return re.sub(r"[-_.]+", "-", pin.partition("==")[0]).lower()


def digests(pin: str) -> list[str]:
    """The hash of the file that pip finds for a version with a local part."""
    with tempfile.TemporaryDirectory() as folder:
        output(*PIP, "download", "--quiet", "--no-deps", "--dest", folder, pin)
        files = [file.read_bytes() for file in Path(folder).iterdir()]
    return [f"sha256:{hashlib.sha256(content).hexdigest()}" for content in files]


def output(*command: str, stdin: str | None = None) -> str:
    """What a command prints; it must succeed."""
    return subprocess.run(
        command, input=stdin, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


if __name__ == "__main__":
    main()

"""The blocks of code and commands on the pages of the documentation."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

from support.project import ROOT, Project

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"(^|\s+)#\s.*$", re.MULTILINE)


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and content of every fenced block."""
    return FENCE.findall((ROOT / page).read_text())


def commands(block: str) -> Iterator[str]:
    """The commands of a shell block in one line each; a command ends where bash can parse it."""
    lines: list[str] = []
    for line in COMMENT.sub("", block).splitlines():
        lines.append(line)
        if line.endswith("\\"):
            continue
        parsed = subprocess.run(
            ["bash", "-n", "-c", "\n".join(lines)], capture_output=True, check=False
        )
        if parsed.returncode == 0:
            if text := "\n".join(lines).strip():
                yield text
            lines = []
    assert not lines, f"bash cannot parse {lines}"


def place_file(project: Project, text: str) -> None:
    """Write a block to the file that its first line names; a module that is there gets longer.

    Menu lines go before the last one.
    """
    path = re.match(r"# ((?:conf|src)/\S+)\n", text)
    if path is None:
        return
    file = project.folder / path[1]
    if path[1] == "conf/config.yaml":
        project.replace(path[1], "  - _self_\n", text.partition("\n")[2] + "  - _self_\n")
    elif path[1].endswith(".py") and file.exists():
        file.write_text(file.read_text() + text)
    else:
        file.write_text(text)

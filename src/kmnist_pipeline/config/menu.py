"""The menu, `conf/config.yaml`: its lines, and the files of `conf/` that none of them leads to."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

FILE = "config.yaml"
SECTIONS = {
    "dataset": "datasets",
    "experiment": "experiments",
    "study": "studies",
    "report": "reports",
}
# Groups whose items have the name of an experiment or a report, and go with it.
ATTACHED = {
    "conditions": "experiments",
    **dict.fromkeys(("suspects", "loop", "readings", "faults"), "reports"),
}
# The folders whose files belong to single items, and those whose files are choices for all.
OWNED = [*SECTIONS, *ATTACHED, "protocol", "claims"]
CHOICES = {"model", "optimizer", "trainer", "validation"}
SUFFIXES = {".yaml", ".yml", ".csv"}
# A line of the menu: the key that removes it, its group, its section and its name.
LINE = re.compile(r"^ *- *((\w+)@(\w+)\.([\w-]+)):.*\n", re.MULTILINE)
# The datasets and models whose weights are in Git: a map, because stages read it from params.yaml.
WEIGHTS = re.compile(r"^weights:.*\n(?:[ \t]+.*\n)*", re.MULTILINE)
END = re.compile(r"^ *- *_self_", re.MULTILINE)


def items(text: str) -> list[tuple[str, str]]:
    """Group and name of every line, such as `("dataset", "digits")`."""
    return [(line[2], line[4]) for line in LINE.finditer(text)]


def added(text: str, new: Iterable[tuple[str, str]]) -> str:
    """The menu with a line for each group and name, after the last line of its group."""
    for group, name in new:
        line = f"  - {group}@{SECTIONS[group]}.{name}: {name}\n"
        last = [found.end() for found in LINE.finditer(text) if found[2] == group]
        end = END.search(text)
        if last:
            position = last[-1]
        else:
            position, line = (end.start(), f"{line}\n") if end else (len(text), line)
        text = text[:position] + line + text[position:]
    return text


def weights(text: str) -> dict[str, str]:
    """The models whose weights are in Git, by dataset."""
    found = WEIGHTS.search(text)
    return (yaml.safe_load(found[0]) or {}).get("weights") or {} if found else {}


def without_weights(text: str, datasets: Iterable[str]) -> str:
    """The menu without the weights of these datasets; unchanged if there are none."""
    gone, known = {*datasets}, weights(text)
    if not gone & known.keys():
        return text
    left = {dataset: model for dataset, model in known.items() if dataset not in gone}
    new = "".join(f"  {dataset}: {model}\n" for dataset, model in left.items())
    return WEIGHTS.sub(f"weights:\n{new}" if left else "weights: {}\n", text, count=1)


def unused(conf: Path, text: str | None = None) -> list[Path]:
    """The files that no line of the menu leads to, but for the choices for all.

    text: of another menu than the file's. A file that cannot be read leads nowhere.
    """
    menu = (conf / FILE).read_text("utf-8") if text is None else text
    used = {conf / FILE}
    queue = [conf / group / f"{name}.yaml" for group, name in items(menu)]
    while queue:
        if (file := queue.pop()) not in used:
            used.add(file)
            queue += _leads_to(conf, file)
    bases = {conf / group / "base.yaml" for group in (*SECTIONS, *ATTACHED)}
    used |= bases | {conf / "claims/none.csv"}
    used |= {
        conf / group / file.name for group in CHOICES for file in (conf / group).glob("*.yaml")
    }
    files = (path for path in sorted(conf.rglob("*")) if path.suffix in SUFFIXES)
    return [path for path in files if path.is_file() and path not in used]


def _leads_to(conf: Path, file: Path) -> list[Path]:
    """The files that the list `defaults` of a file names, and its claims."""
    try:
        content: Any = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return []
    if not isinstance(content, dict):
        return []
    found, defaults = [], content.get("defaults")
    for entry in defaults if isinstance(defaults, list) else []:
        pairs = entry.items() if isinstance(entry, dict) else [(file.parent.name, entry)]
        for key, name in pairs:
            group = str(key).split()[-1].partition("@")[0].lstrip("/")
            found.append(conf / group / f"{str(name).lstrip('/')}.yaml")
    return [*found, conf / f"claims/{content.get('claims')}.csv"]

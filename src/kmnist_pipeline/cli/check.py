"""Check that the committed evidence is up to date with code, configuration and data.

Lists every stage whose entry in dvc.lock, or whose files under metrics/, figures/ or reports/, do
not agree with code, configuration, data and the libraries of requirements.lock, or were edited by
hand. Computes rates, scores, means and verdicts again from other evidence. Says what changed, from
which value to which, and which commands fix it. Needs neither DVC's cache nor the data, runs no
stage and changes nothing.
"""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from kmnist_pipeline.cli.common import say


def add(parser: ArgumentParser) -> None:
    """No options."""


def run(chosen: Namespace) -> int:
    from kmnist_pipeline.commands import check, status
    from kmnist_pipeline.commands.words import count
    from kmnist_pipeline.config import compose as composition
    from kmnist_pipeline.repository import locks

    composed = composition.compose(Path("conf"), [])
    found = status.of(status.locked_here(), locks.load(composed, "conf/"))
    findings = check.findings(found, composed)
    for line in check.lines(findings):
        say(line)
    if not findings:
        print("up to date: the evidence is what code, configuration and data give")
    print(status.summary(check.of_head()))
    if findings:
        numbers = {"stage": len(found.stages), "other file": len(findings) - len(found.stages)}
        parts = [count(number, noun) for noun, number in numbers.items() if number]
        line = f"not up to date: {' and '.join(parts)}; the commands above fix this"
        say(line, sys.stderr)
    return 1 if findings else 0

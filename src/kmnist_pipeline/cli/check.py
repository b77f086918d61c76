"""Check that the committed evidence is up to date with code, configuration and data.

Lists every stage whose entry in dvc.lock, or whose files under metrics/, figures/, reports/ or
weights/, do not agree with code, configuration, data and the libraries of requirements.lock, or
were edited by hand. Computes rates, scores, means and verdicts again from other evidence. Compares
the pointers of imported datasets with conf/, if DVC's cache or data/imported/ has their files.
Reports libraries of requirements.lock without a hash, or with other hashes than in the last commit.
Says what changed, from which value to which, and which commands fix it. Then lists the receipts in
receipts/ that are valid for this evidence: they say which stages `kmnist verify` has run again.
Needs neither DVC's cache nor the data, and runs no stage. Changes nothing, unless an interrupted
DVC has truncated dvc.lock: then it restores the committed entries that are still valid.
"""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from kmnist_pipeline.cli.common import MADE, SOURCES, mend_lock, refuse_conflicts, say


def add(parser: ArgumentParser) -> None:
    """No options."""


def run(chosen: Namespace) -> int:
    from kmnist_pipeline.commands import check, receipts, status
    from kmnist_pipeline.commands.words import count
    from kmnist_pipeline.config import compose as composition
    from kmnist_pipeline.repository import locks
    from kmnist_pipeline.repository.compare import Verdict

    refuse_conflicts(*SOURCES, *MADE)
    mend_lock()
    composed = composition.compose(Path("conf"), [])
    lock = status.locked_here()
    found = status.of(lock, locks.load(composed, "conf/"))
    findings = check.findings(found, composed)
    for line in check.lines(findings):
        say(line)
    if not findings:
        print("up to date: the evidence matches code, configuration and data")
    for line in receipts.lines(lock):
        say(line)
    differences = check.of_head()
    is_committed = all(each.verdict is Verdict.IDENTICAL for each in differences)
    if not (findings and is_committed):
        say(check.last(found, findings, differences))
    if findings:
        numbers = {"stage": len(found.stages), "other file": len(findings) - len(found.stages)}
        parts = [count(number, noun) for noun, number in numbers.items() if number]
        line = f"not up to date: {' and '.join(parts)}; the commands above fix this"
        if is_committed:
            line += ". The files of evidence are those of the last commit"
        say(line, sys.stderr)
    return 1 if findings else 0

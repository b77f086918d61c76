"""Receipts of verifications: what was run again, where, and whether its outs had the same bytes.

`kmnist verify` leaves a receipt in `receipts/`: a statement in the format of in-toto
(https://in-toto.io/Statement/v1). Its subjects are the committed outs with their md5s of
`dvc.lock`, so that a look at the lock shows whether a receipt is of the evidence that is here. The
md5 is enough for this: the run makes the bytes itself, so nobody can choose them.

`<receipt>.sig` is the signature of `ssh-keygen`, which also Git uses. It counts as that of a person
if `receipts/allowed_signers` lists the key (see "ALLOWED SIGNERS" in `man ssh-keygen`).
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from kmnist_pipeline import arithmetic
from kmnist_pipeline.commands.words import count
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import lineage
from kmnist_pipeline.repository.locks import Graph, LockedStage

if TYPE_CHECKING:  # `kmnist trace` reads receipts without waiting for NumPy
    from kmnist_pipeline.repository.compare import Difference

FOLDER = Path("receipts")
SIGNERS = FOLDER / "allowed_signers"
STATEMENT, TYPE = "https://in-toto.io/Statement/v1", "urn:kmnist-pipeline:verification:v1"
NAMESPACE = "kmnist-receipt"  # a signature made for another purpose is not valid for a receipt
V4 = {
    "avx512f",
    "avx512bw",
    "avx512cd",
    "avx512dq",
    "avx512vl",
}  # of x86-64-v4, as Linux names them
MAKERS = {"AuthenticAMD": "AMD", "GenuineIntel": "Intel"}
# The libraries that affect the bytes of the evidence; `environment` names only some of them.
MAKE_BYTES = ("numpy", "scipy", "scikit-learn", "torch", "matplotlib", "pillow")


# What `kmnist check` prints: a forged receipt cannot send control characters to a terminal.
Name = Annotated[str, StringConstraints(pattern=r"^[\w@.+ -]+$")]


Word = Literal["identical", "equal", "different"]  # the worst last


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Subject(_Part):
    """An out; digest: `md5` of a file, or `dvcDir`, DVC's md5 of the listing of a folder."""

    name: str
    digest: dict[str, str]


class StageResult(_Part):
    """A stage that was run again: its lineage key, and the verdict on each out."""

    lineage: str
    outs: dict[str, Word]


class Verification(_Part):
    """A run of `kmnist verify`.

    target: None for all stages; epochs: of each fit, None for whole runs; machine: the type.
    """

    arithmetic: str
    commit: str
    epochs: int | None
    libraries: dict[str, str]
    machine: Name
    stages: dict[str, StageResult]
    target: Name | None

    @property
    def command(self) -> str:
        """The command that ran."""
        epochs = f"--epochs {self.epochs}" if self.epochs else None
        return " ".join(filter(None, ("kmnist verify", epochs, self.target)))


class Statement(_Part):
    """A receipt."""

    type: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    predicate: Verification
    predicate_type: Literal["urn:kmnist-pipeline:verification:v1"] = Field(alias="predicateType")
    subject: list[Subject]

    @model_validator(mode="after")
    def _names_what_ran(self) -> Self:
        outs = [out for stage in self.predicate.stages.values() for out in stage.outs]
        if sorted(subject.name for subject in self.subject) != sorted(outs):
            raise ValueError("the subjects must be the outs of the stages")
        return self


@dataclass(frozen=True)
class Receipt:
    """A receipt in `receipts/`."""

    path: Path
    statement: Statement

    @property
    def ran(self) -> Verification:
        """What ran."""
        return self.statement.predicate

    def covers(self, stage: LockedStage) -> bool:
        """Whether it ran this stage with these inputs, and compared with these outs."""
        outcome, made = self.ran.stages.get(stage.address), _digests(stage)
        subjects = {subject.name: subject.digest for subject in self.statement.subject}
        return (
            outcome is not None
            and outcome.outs != {}
            and outcome.lineage == stage.key
            and all(made.get(out) == subjects[out] for out in outcome.outs)
        )

    def stands(self, lock: Graph) -> bool:
        """Whether it is of the evidence that a lock records."""
        stages = [lock.stages.get(address) for address in self.ran.stages]
        return bool(stages) and all(stage and self.covers(stage) for stage in stages)

    def verdict(self, *addresses: str) -> str:
        """The worst verdict on the outs of these stages; of all stages without addresses."""
        found = (self.ran.stages[address] for address in addresses or self.ran.stages)
        words = {word for outcome in found for word in outcome.outs.values()}
        return max(words, key=get_args(Word).index)

    @cached_property
    def signature(self) -> str:
        """Who signed it, in words."""
        signature = _beside(self.path)
        if not signature.exists():
            return "not signed"
        if shutil.which("ssh-keygen") is None:
            return "signed, but ssh-keygen is not here to check it"
        content, check = self.path.read_bytes(), ["-s", str(signature)]
        done = _keygen("check-novalidate", content, *check)
        if done.returncode:
            return _FORGED
        fingerprint = done.stdout.decode().split()[-1]
        if SIGNERS.exists():
            check += ["-f", str(SIGNERS)]
            for name in _keygen("find-principals", content, *check).stdout.decode().splitlines():
                if not _keygen("verify", content, *check, "-I", name).returncode:
                    return f"signed by {name}"
        return f"signed by {fingerprint}, unknown"


_FORGED = "its signature does not match"


def _digests(stage: LockedStage) -> dict[str, dict[str, str]]:
    return {
        out: {"dvcDir": md5.removesuffix(".dir")} if md5.endswith(".dir") else {"md5": md5}
        for out, md5 in stage.outs.items()
    }


# Writing.


def statement(
    commit: str,
    target: str | None,
    epochs: int | None,
    found: Iterable[tuple[LockedStage, list[Difference]]],
) -> Statement:
    """The receipt of a run: each stage as it ran, and the comparison of its outs.

    outs: with the md5s of the committed lock. A stage that ran with other inputs than the lock says
    has another lineage key, so the receipt does not stand for the evidence.
    """
    digests: dict[str, dict[str, str]] = {}
    stages = {}
    for stage, differences in found:
        verdicts = {}
        for out, digest in _digests(stage).items():
            inside = (f"{out}/", f"{out} ")  # a file of a folder, and a fit of a file
            own = [d.verdict for d in differences if f"{d.path} ".startswith(inside)]
            if own:
                verdicts[out] = max(own).name.lower()
                digests[out] = digest
        stages[stage.address] = {"lineage": stage.key, "outs": verdicts}
    cpus = Path("/proc/cpuinfo")
    kind, level = machine(cpus.read_text("utf-8") if cpus.exists() else "", platform.machine())
    return Statement.model_validate(
        {
            "_type": STATEMENT,
            "predicateType": TYPE,
            "subject": [{"name": out, "digest": digests[out]} for out in sorted(digests)],
            "predicate": {
                "arithmetic": arithmetic.V3 if level.startswith("x86-64-v") else level,
                "commit": commit,
                "epochs": epochs,
                "libraries": lineage.versions(MAKE_BYTES),
                "machine": kind,
                "stages": stages,
                "target": target,
            },
        }
    )


def machine(cpus: str, kind: str) -> tuple[str, str]:
    """The type of a machine, such as `AMD x86-64-v4`, and its instruction set alone.

    Two machines of a type have CPUs of one maker that run the same code of the libraries. cpus:
    the content of /proc/cpuinfo; kind: as Python names it.
    """
    level = kind.replace("x86_64", "x86-64")
    if (words := set(cpus.split())) >= arithmetic.FLAGS:
        level = "x86-64-v4" if words >= V4 else arithmetic.V3
    maker = re.search(r"^vendor_id\s*: (\S+)", cpus, re.MULTILINE)
    return f"{MAKERS.get(maker[1], maker[1])} {level}" if maker else level, level


def leave(receipt: Statement, key: Path | None) -> Path:
    """Write a receipt, in place of an earlier one of the same run on the same type of machine.

    key: of SSH, to sign it. Raises UserError if it cannot sign.
    """
    from kmnist_pipeline.evidence import outs

    ran = receipt.predicate
    epochs = f"epochs {ran.epochs}" if ran.epochs else ""
    name = " ".join(filter(None, (ran.target or "all", epochs, ran.machine))).replace(" ", "-")
    path = FOLDER / f"{name}.json"
    content = outs.json_bytes(receipt.model_dump(by_alias=True))
    signature = sign(content, key) if key else None
    if not path.exists() or path.read_bytes() != content:
        _beside(path).unlink(missing_ok=True)
        outs.write_bytes(path, content)
    if signature:
        outs.write_bytes(_beside(path), signature)
    return path


def sign(content: bytes, key: Path) -> bytes:
    """The signature by `ssh-keygen`. Raises UserError if there is none."""
    if shutil.which("ssh-keygen") is None:
        raise UserError("--sign: ssh-keygen is not installed, or not in PATH")
    done = _keygen("sign", content, "-f", str(key))
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip()
        raise UserError(f"--sign {key}: ssh-keygen cannot sign with this key: {reason}")
    return done.stdout


def _keygen(action: str, content: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = ["ssh-keygen", "-Y", action, "-n", NAMESPACE, *arguments]
    return subprocess.run(command, input=content, capture_output=True, check=False)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.sig")


# Reading.


def here() -> list[Receipt]:
    """All valid receipts in this folder."""
    return [found for path in _paths() if isinstance(found := _read(path), Receipt)]


def _paths() -> list[Path]:
    return sorted(FOLDER.glob("*.json"))


def _read(path: Path) -> Receipt | str:
    """A receipt, or what is wrong with the file."""
    try:
        receipt = Receipt(path, Statement.model_validate_json(path.read_bytes()))
    except (ValidationError, OSError):
        return "is not a receipt of `kmnist verify`"
    return f"does not count: {_FORGED}" if receipt.signature == _FORGED else receipt


def lines(lock: Graph) -> Iterator[str]:
    """The receipts in one line each: those that stand for the evidence of a lock come first."""
    found = {path: _read(path) for path in _paths()}
    receipts = [receipt for receipt in found.values() if isinstance(receipt, Receipt)]
    standing = [receipt for receipt in receipts if receipt.stands(lock)]
    for receipt in standing:
        number = count(len(receipt.statement.subject), "out")
        yield (
            f"verified by `{receipt.ran.command}` on {receipt.ran.machine}: "
            f"{receipt.verdict()} ({number}, {receipt.signature})"
        )
    if not standing:
        yield "not verified: `kmnist verify` has left no receipt of the current evidence"
    for path, problem in found.items():
        if isinstance(problem, str):
            yield f"{path}: {problem}"
    if old := [receipt for receipt in receipts if receipt not in standing]:
        yield f"receipts of older evidence: {', '.join(str(receipt.path) for receipt in old)}"

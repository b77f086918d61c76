"""What `kmnist check` says about a stage or file that is not up to date."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Remedy:
    """One way to fix a group of findings: its purpose, and commands to copy."""

    purpose: str
    commands: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([f"  {self.purpose}:", *(f"    {command}" for command in self.commands)])


@dataclass(frozen=True)
class Finding:
    """A stage (by its address) or file that is not up to date, the reasons, and the remedies.

    There are no remedies for a stage that is only downstream of other findings.
    """

    where: str
    reasons: tuple[str, ...]
    remedies: tuple[Remedy, ...] = ()

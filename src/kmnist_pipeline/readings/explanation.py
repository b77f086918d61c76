"""What the readings explain: for each published number, and for all of them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from kmnist_pipeline.evaluation.claims import Spread
from kmnist_pipeline.readings import multiverse
from kmnist_pipeline.readings.multiverse import SPLITS, Configuration, Courses, Reading, Stated


class Explanation:
    """The comparison of all readings with the published numbers.

    about: the settings of the study; stated: the published numbers; every: all readings in their
    order; own: our protocol's; courses: of the first seed for all readings, of all seeds for ours.
    """

    def __init__(
        self,
        about: Mapping[str, Any],
        stated: Sequence[Stated],
        every: Sequence[Reading],
        own: Reading,
        courses: Courses,
    ) -> None:
        self._about, self._stated, self._every, self._own = about, stated, every, own
        self._courses = courses

    @cached_property
    def numbers(self) -> dict[tuple[Configuration, str], np.ndarray]:
        """The numbers of each configuration and split by reading, of the first seed."""
        first = self._about["seeds"][0]
        known = dict.fromkeys(multiverse.configurations(self._about).values())
        found = {}
        for configuration in known:
            for split in SPLITS:
                read = [
                    multiverse.value(r, self._of(r, configuration, first, self._courses), split)
                    for r in self._every
                ]
                found[configuration, split] = np.array(read)
        return found

    @cached_property
    def agreement(self) -> np.ndarray:
        """Whether each reading agrees with each published number, (claims, readings) bool.

        One reading has one seed. Its spread is taken to be that of ours over all seeds.
        """
        rows = []
        for claim in self._stated:
            over = self._over_seeds(claim, self._own, self._courses, draws=1)
            numbers = self.numbers[claim.configuration, claim.split]
            rows.append(
                [
                    multiverse.agrees(claim, number, self._half(claim, reading, number, over))
                    for reading, number in zip(self._every, numbers, strict=True)
                ]
            )
        return np.array(rows, bool).reshape(len(self._stated), len(self._every))

    def best(self, count: int) -> list[Reading]:
        """The readings that agree with most claims; among equal ones the simplest."""
        agreed = self.agreement.sum(axis=0)
        order = sorted(range(len(self._every)), key=lambda p: (-agreed[p], self._simplicity(p)))
        return [self._every[position] for position in order[:count]]

    def content(self, best: Sequence[Reading], courses: Courses) -> dict[str, Any]:
        """The content of `readings.json`.

        best: the best readings; courses: theirs and ours, of all seeds.
        """
        agreed = self.agreement.sum(axis=0)
        return {
            "choices": self._about["choices"],
            "order": Reading._fields,
            "ours": self._own._asdict(),
            "ours_agrees": int(agreed[self._every.index(self._own)]),
            "numbers": {
                str(of): {split: self.numbers[of, split] for split in SPLITS}
                for of, first in self.numbers
                if first == SPLITS[0]
            },
            "claims": {
                claim.id: self._of_claim(claim, agrees)
                for claim, agrees in zip(self._stated, self.agreement, strict=True)
            },
            "best": [
                {
                    **reading._asdict(),
                    "agrees": int(agreed[self._every.index(reading)]),
                    "agrees_over_seeds": self._agreed_over_seeds(reading, courses),
                }
                for reading in best
            ],
            "seeds": len(self._about["seeds"]),
        }

    def _of_claim(self, claim: Stated, agrees: np.ndarray) -> dict[str, Any]:
        numbers = self.numbers[claim.configuration, claim.split]
        simplest = multiverse.simplest(self._every, agrees, self._own)
        return {
            "configuration": str(claim.configuration),
            "reported": float(claim.reported),
            "low": numbers.min(),
            "high": numbers.max(),
            "ours": numbers[self._every.index(self._own)],
            "agree": int(agrees.sum()),
            "readings": len(agrees),
            "simplest": simplest and simplest._asdict(),
            "moves": multiverse.moves(self._about["choices"], numbers),
        }

    def _agreed_over_seeds(self, reading: Reading, courses: Courses) -> int:
        """The number of claims inside the interval around a reading's mean over seeds."""
        agreed = 0
        for claim in self._stated:
            seeds = self._about["seeds"]
            over = self._over_seeds(claim, reading, courses, draws=len(seeds))
            of_first = self._of(reading, claim.configuration, seeds[0], courses)
            first = multiverse.value(reading, of_first, claim.split)
            centre = over.mean if over else first
            half = self._half(claim, reading, centre, over)
            printed = multiverse.agrees(claim, first, 0.0)
            agreed += printed or multiverse.agrees(claim, centre, half)
        return agreed

    def _over_seeds(
        self, claim: Stated, reading: Reading, courses: Courses, draws: int
    ) -> Spread | None:
        found = [
            multiverse.value(
                reading, self._of(reading, claim.configuration, seed, courses), claim.split
            )
            for seed in self._about["seeds"]
        ]
        return multiverse.spread(found, draws)

    def _half(self, claim: Stated, reading: Reading, number: float, over: Spread | None) -> float:
        return multiverse.half_width(claim, reading, number, over, self._about["confidence"])

    def _of(self, reading: Reading, of: Configuration, seed: int, courses: Courses) -> np.ndarray:
        return courses[multiverse.course(reading, of, seed)]

    def _simplicity(self, position: int) -> tuple[int, int]:
        return multiverse.differences(self._every[position], self._own), position

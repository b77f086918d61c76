"""Training the fits of one plan, and reading what came of them."""

from __future__ import annotations

from kmnist_pipeline.families.base import Fitted
from kmnist_pipeline.fits import pool, store
from kmnist_pipeline.fits.plan import LostError, Plan

ATTEMPTS = 3  # at a store from which files vanish between writing and reading


def train(plan: Plan) -> list[list[list[list[Fitted]]]]:
    """Train what the store of fits lacks: all fits of the plan by wave, trial, seed and fold."""
    kept = store.default()
    for attempt in range(1, ATTEMPTS + 1):
        pool.train([plan], kept)
        try:
            return [plan.fits(kept, wave) for wave in range(len(plan.waves))]
        except LostError:
            if attempt == ATTEMPTS:
                raise
    raise AssertionError

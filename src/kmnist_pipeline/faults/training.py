"""The fits of faults, in the pool and the store of all fits; their results are not evidence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kmnist_pipeline.evaluation import metrics
from kmnist_pipeline.families.base import Fit
from kmnist_pipeline.families.registry import FAMILIES
from kmnist_pipeline.faults.tampering import Experiment, Faulty
from kmnist_pipeline.fits import key, pool, store
from kmnist_pipeline.fits.plan import Plan, Task, Wave, cost

FIRST = 10  # of the misclassified images, as `evaluate` lists them


@dataclass(eq=False)
class FaultPlan(Plan):
    """A plan of one fit, which a fault has changed."""

    fit: Fit = field(kw_only=True)

    def wave(self, trials: dict[str, Experiment], stop_after: int | None = None) -> Wave:
        """The fit, for the only trial."""
        name = key.key(self.fit, self.digest)
        work = cost(self.fit, self.data)
        return {t: [[Task(self.fit, name, self.digest, self.label, work, name)]] for t in trials}


def plan_of(label: str, faulty: Faulty) -> FaultPlan:
    """The plan of a fault."""
    return FaultPlan(label, {"": faulty.experiment}, faulty.images, fit=faulty.fit)


def measured(several: dict[str, Faulty]) -> Iterable[tuple[str, dict[str, Any]]]:
    """Train what the store lacks; yields the numbers by split of each model, by label."""
    plans = {label: plan_of(label, faulty) for label, faulty in several.items()}
    kept = store.default()
    pool.train(list(plans.values()), kept)
    for label, plan in plans.items():
        faulty, fitted = several[label], plan.trained(kept, 0)[""].fits[0][0]
        model, images = faulty.experiment["model"], faulty.images
        of_family, classes = FAMILIES[model["family"]].model, len(images.classes)
        found = {}
        for split, rows in faulty.measured.items():
            if len(rows):
                settings = (model, fitted.tensors, images.pixels[rows], classes)
                predicted = of_family.probabilities(*settings).argmax(axis=1)
                found[split] = _numbers(images.labels[rows], predicted, images.classes)
        yield label, found


def _numbers(labels: np.ndarray, predicted: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
    counts = metrics.confusion(labels, predicted, len(names))
    scores = metrics.scores(counts, names)
    return {
        **{name: scores[name] for name in metrics.SCORES},
        "confusion": counts,
        "misclassified": np.flatnonzero(predicted != labels)[:FIRST],
    }

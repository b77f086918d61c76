"""The search of a study: Optuna proposes points, and successive halving ends most trials early.

A round asks for `size` points. Their trials are trained to the first of the `rungs`; the best of
them continue to the next one, and so on, and the last ones are trained to the end. Optuna learns
the results between two rounds. So the points depend on the size of a round, not on the number of
workers or on which of them is faster. After the last round, the best trial is trained again as the
base experiment says.

Nothing is stored but the fits: a search that was killed asks the same questions again, and finds
the answers in the store.

Bergstra et al. 2011, Algorithms for Hyper-Parameter Optimization (the sampler); Jamieson and
Talwalkar 2016, Non-stochastic Best Arm Identification (successive halving).
"""

from __future__ import annotations

import math
from typing import Any

from kmnist_pipeline.config import grid
from kmnist_pipeline.fits import results
from kmnist_pipeline.fits.results import TrainedTrials

Experiment = dict[str, Any]
DIGITS = 3  # significant digits of a proposed number, so that it is short and equal everywhere


class Search:
    """A search; points: of all trials until now, by trial name.

    retrained: the trial name of the winner that is trained again.
    """

    def __init__(self, study: dict[str, Any], base: Experiment, retrained: str) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.points: dict[str, dict[str, Any]] = {}
        self._study, self._base, self._retrained = study, base, retrained
        self._settings = study["search"]
        sampler = optuna.samplers.TPESampler(
            seed=self._settings["seed"], n_startup_trials=self._settings["size"]
        )
        self._optuna = optuna.create_study(direction="maximize", sampler=sampler)
        self._asked: dict[str, list[optuna.Trial]] = {}  # in this round, by trial name
        self._alive: list[str] = []  # the trials of this round that continue
        self._round, self._rung = 0, 0
        self._finished: dict[str, float] = {}  # validation accuracy of trials trained to the end

    def first(self) -> tuple[dict[str, Experiment], int | None]:
        """The trials of the first wave, and their last epoch."""
        self._round, self._rung, self._asked = self._round + 1, 0, {}
        for _ in range(self._settings["size"]):
            trial = self._optuna.ask()
            space = self._settings["space"]
            point = {key: _proposed(trial, key, values) for key, values in space.items()}
            name = grid.name(point)
            self.points[name] = point
            self._asked.setdefault(name, []).append(trial)
        self._alive = list(self._asked)
        return self._wave()

    def next(self, trained: TrainedTrials) -> tuple[dict[str, Experiment], int | None] | None:
        """The trials of the next wave, and their last epoch; None after the last wave.

        trained: the trials of the last wave.
        """
        if not self._alive:
            return None
        scores = {name: results.mean_accuracy(trained[name]) for name in self._alive}
        if self._rung < len(self._settings["rungs"]):
            self._halve(scores)
            return self._wave()
        for name in self._alive:
            for trial in self._asked[name]:
                self._optuna.tell(trial, scores[name])
        self._finished |= scores
        if self._round < self._settings["rounds"]:
            return self.first()
        self._alive = []
        return self._winner(), None

    def _wave(self) -> tuple[dict[str, Experiment], int | None]:
        rungs = self._settings["rungs"]
        stop = rungs[self._rung] if self._rung < len(rungs) else None
        trials = {n: grid.trial(self._study, self._base, self.points[n]) for n in self._alive}
        return trials, stop

    def _halve(self, scores: dict[str, float]) -> None:
        """Keep the best trials of a rung: one of `reduction`, rounded up; equal ones in order."""
        from optuna.trial import TrialState

        left = math.ceil(len(self._alive) / self._settings["reduction"])
        best = sorted(self._alive, key=scores.__getitem__, reverse=True)[:left]
        for name in self._alive:
            for trial in self._asked[name]:
                trial.report(scores[name], self._settings["rungs"][self._rung])
                if name not in best:
                    self._optuna.tell(trial, state=TrialState.PRUNED)
        self._alive = [name for name in self._alive if name in best]
        self._rung += 1

    def _winner(self) -> dict[str, Experiment]:
        finished = [name for name in self.points if name in self._finished]
        name = max(finished, key=self._finished.__getitem__)
        return {self._retrained: grid.retrained(self._study, self._base, self.points[name])}


def _proposed(trial: Any, key: str, values: Any) -> Any:
    """The value of a key that Optuna proposes: one of a list, or a number of a range."""
    if isinstance(values, list):
        return trial.suggest_categorical(key, values)
    low, high, log = values["low"], values["high"], values["log"]
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(key, low, high, log=log)
    return float(f"{trial.suggest_float(key, low, high, log=log):.{DIGITS}g}")

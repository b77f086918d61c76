"""Listing and cleaning the store of fits: `kmnist fits`."""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from kmnist_pipeline.commands import fit
from kmnist_pipeline.commands.words import count
from kmnist_pipeline.config import grid
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import paths
from kmnist_pipeline.fits.plan import RETRAINED, LostError
from kmnist_pipeline.fits.store import Entry, Store

LEFT = 3600  # seconds after which no process writes an incomplete file any more


def used(params: dict[str, Any], store: Store) -> set[str]:
    """The keys of all fits that the stages of `params.yaml` use or may use.

    Of readings and faults these are all in the store, because the published numbers decide which
    readings are trained with more seeds. The results in the store also decide which trials a search
    continues. Raises UserError if a dataset is not processed here: the fits of its stages are
    unknown.
    """
    # Which images a simulated loop labels depends on its own fits, so all of them are kept.
    sections = {"loop": "loops", "readings": "readings", "faults": "faults"}
    asked = {f"{kind}@{name}" for kind, section in sections.items() for name in params[section]}
    entries = store.entries()
    keys = {e.key for e in entries if e.about.get("label", "").partition(" ")[0] in asked}
    absent = set()
    for kind, section in {**fit.SECTIONS, fit.SUSPECTS: fit.SUSPECTS}.items():
        for name in params[section]:
            data = fit.dataset_of(f"{kind}@{name}", params)
            if not Path(paths.processed(data)).exists():
                absent.add(data)
                continue
            plan = fit.plan_of(f"{kind}@{name}", params)
            if plan.choose and params["studies"][name].get("search"):
                with suppress(LostError):
                    while plan.advance(store):
                        pass
                if plan.choose is not None:  # unfinished: what it continues is used too
                    keys |= {task.whole for task in plan.tasks()}
            elif plan.choose:
                study = params["studies"][name]  # each of its trials may win and be trained again
                base = params["experiments"][study["base"]]
                for point in plan.points.values():
                    again = grid.retrained(study, base, point)
                    plan.waves.append(plan.wave({RETRAINED: again}))
            keys |= {task.key for task in plan.tasks()}
    if absent:
        targets = " ".join(f"preprocess@{name}" for name in sorted(absent))
        raise UserError(
            f"data/processed lacks {', '.join(sorted(absent))}, so the used fits are unknown: "
            f"run `dvc repro {targets}`"
        )
    return keys


def clean(store: Store, keys: set[str] | None) -> list[Entry]:
    """Remove fits and checkpoints with other keys than `keys`, or all if it is None.

    Also remove incomplete files of killed processes.
    """
    for path in store.folder.glob("??/.*"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > LEFT:
                path.unlink()
    removed = [entry for entry in store.entries() if keys is None or entry.key not in keys]
    for entry in removed:
        entry.path.unlink(missing_ok=True)
    return removed


def lines(store: Store) -> Iterator[str]:
    """The content of the store as text, by experiment and study."""
    entries = list(store.entries())
    of_model = defaultdict(list)
    for entry in entries:
        of_model[entry.about.get("label", "unfinished").split()[0]].append(entry)
    yield f"{store.folder}: {summary(entries)}"
    width = max(map(len, of_model), default=0)
    for model in sorted(of_model):
        yield f"  {model:<{width}}  {summary(of_model[model])}"


def summary(entries: Iterable[Entry]) -> str:
    """The number, size and training time of files of the store, in words."""
    entries = list(entries)
    finished = [entry for entry in entries if entry.finished]
    seconds = sum(entry.about.get("seconds", 0) for entry in finished)
    words = [count(len(finished), "fit")]
    if unfinished := len(entries) - len(finished):
        words.append(count(unfinished, "checkpoint"))
    words.append(f"{sum(entry.size for entry in entries) / 1e6:.1f} MB")
    if finished:
        spent = f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
        words.append(f"{spent} of training")
    return ", ".join(words)

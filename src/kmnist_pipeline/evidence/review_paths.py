"""The paths of all that belongs to reviewing: people's decisions, and what the stages make of them.

Like `paths.py`, on which all stages depend: this module changes without making them all stale.
"""

from __future__ import annotations

from kmnist_pipeline.evidence.paths import FIGURES, METRICS

# The decisions about a dataset without any, and its new images: DVC needs files that exist.
NO_DECISIONS, NO_IMAGES = "reviews/none.csv", "reviews/none.npz"


def decisions(dataset: str) -> str:
    """People's decisions about the images of a dataset, in Git."""
    return f"reviews/{dataset}.csv"


def images(dataset: str) -> str:
    """The new images that people have decided about, in DVC's cache."""
    return f"data/reviewed/{dataset}.npz"


def queue(dataset: str) -> str:
    """The new images that wait for a decision: not evidence, and only here."""
    return f".kmnist/review/{dataset}.npz"


def suspects(report: str) -> str:
    """The numbers of a search for suspect labels."""
    return f"{METRICS}/{report}/suspects.json"


def suspects_figures(report: str) -> str:
    """The figures of a search for suspect labels."""
    return f"{FIGURES}/{report}/suspects"


def loop(report: str) -> str:
    """The numbers of a simulated loop of reviewing."""
    return f"{METRICS}/{report}/loop.json"


def loop_figures(report: str) -> str:
    """The figures of a simulated loop of reviewing."""
    return f"{FIGURES}/{report}/loop"

"""Speed on the real KMNIST, as ratios of our loops and a textbook's; they take turns three times.

Absolute seconds are printed for orientation; they depend on the machine as much as on the code. The
exit status is 1 if a bound is missed.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import large, predicting, records, schedule, stages, training
from benchmarks.measuring import unmeasured
from kmnist_pipeline import arithmetic

PARTS: dict[str, Callable[[], bool]] = {
    "networks": training.networks,
    "softmax": training.softmax,
    "batches-of-one": training.batches_of_one,
    "two-workers": schedule.two_workers,
    "empty-fits": schedule.empty_fits,
    "all-fits": schedule.all_fits,
    "evaluation": predicting.evaluation,
    "evidence": stages.evidence,
    "nothing-to-do": stages.nothing_to_do,
    "trace": stages.tracing,
    "memory": stages.memory,
    "memory-large": large.memory,
    "predict-batch": predicting.in_batch,
    "predict-one": predicting.one,
    "predict-start": predicting.start_up,
    "record-97": records.fast,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the named measurements, or all, each with its bound."""
    described = [f"  {name:<15} {_first_line(part)}" for name, part in PARTS.items()]
    parser = argparse.ArgumentParser(
        "python -m benchmarks.bench",
        description=f"{__doc__}\nparts:\n" + "\n".join(described),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="NAME", help="a part; default: all parts")
    chosen = parser.parse_args(arguments).parts
    if unknown := [name for name in chosen if name not in PARTS]:
        parser.error(f"there is no part {', '.join(unknown)}; known: {', '.join(PARTS)}")
    if not Path("dvc.yaml").exists():
        parser.error("no dvc.yaml here; run this from the folder of the project")
    if arithmetic.name() == "native":
        parser.error("each part chooses its arithmetic: unset KMNIST_ARITHMETIC")
    return 0 if all([_holds(name) for name in chosen or PARTS]) else 1


def _holds(name: str) -> bool:
    """Whether the bounds of a part hold; if a part fails, the others are still measured."""
    try:
        return PARTS[name]()
    except Exception as error:
        traceback.print_exc()
        return unmeasured(name, f"it fails with {type(error).__name__}, see above")


def _first_line(part: Callable[[], bool]) -> str:
    return (part.__doc__ or "").strip().splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())

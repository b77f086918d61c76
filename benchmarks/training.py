"""The speed of our training loops, compared with loops in the style of a tutorial in torch.

Each loop runs in its own process (`candidate`), because the arithmetic must be chosen before NumPy
and torch are loaded; the processes take turns.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.candidate import Candidate, side_by_side
from benchmarks.measuring import Answer, in_turn, prepare, tell, verdict

TWICE, TEXTBOOK = "two portable fits side by side", "textbook on two threads"
PORTABLE, NATIVE, BFLOAT16 = "portable float32", "native float32", "native bfloat16"
CORES = {TEXTBOOK: 2}  # that one fit of a candidate uses, if it is not 1
IN_SILICON = {"avx512_bf16", "amx_bf16"}
# The least gain of bfloat16 in hardware over the textbook's loop, for each core.
BFLOAT16_BOUNDS = {"simple": 2.2, "improved": 2.5}


def networks() -> bool:
    """Images a second and core for the Simple and the Improved CNN in each arithmetic."""
    prepare("kmnist")
    with ExitStack() as stack:
        twins = [stack.enter_context(Candidate("loops", "portable")) for _ in range(2)]
        native = stack.enter_context(Candidate("loops", "native"))
        textbook = stack.enter_context(Candidate("loops", "native", threads=2))
        held = [_network(name, twins, native, textbook) for name in BFLOAT16_BOUNDS]
    return all(held)


def _network(
    architecture: str, twins: list[Candidate], native: Candidate, textbook: Candidate
) -> bool:
    """The measurements and verdicts of one network."""

    def ours(one: Candidate, precision: str, seed: int) -> Answer:
        return one.ask("network", architecture=architecture, precision=precision, seed=seed)

    candidates: dict[str, Callable[[int], Answer]] = {
        PORTABLE: partial(ours, twins[0], "float32"),
        TWICE: lambda seed: side_by_side(
            twins, "network", architecture=architecture, precision="float32", seed=seed
        ),
        NATIVE: partial(ours, native, "float32"),
        TEXTBOOK: lambda seed: textbook.ask(
            "textbook_network", architecture=architecture, seed=seed
        ),
        "portable matrix": lambda _: twins[0].ask("matrix"),
        "native matrix": lambda _: native.ask("matrix"),
    }
    if able := has_bfloat16():
        candidates[BFLOAT16] = partial(ours, native, "bfloat16")
    size = native.ask("operations", architecture=architecture)
    taken = in_turn(candidates)
    matrix = {
        name.partition(" ")[0]: answer["operations"] / answer["seconds"]
        for name, answer in taken.items()
        if "operations" in answer
    }
    speed = {
        name: size["images"] / answer["seconds"] / CORES.get(name, 1)
        for name, answer in taken.items()
        if "accuracy" in answer
    }
    accuracy = {name: taken[name]["accuracy"] for name in speed}

    tell(
        f"{architecture} CNN; one core multiplies float32 matrices with "
        f"{matrix['portable'] / 1e9:.0f} GFLOP/s in portable and {matrix['native'] / 1e9:.0f} in "
        "native arithmetic"
    )
    for name, images in speed.items():
        share = images * size["operations"] / matrix["native"]
        tell(
            f"  {name}: {images:.0f} images/s and core, {share:.0%} of the matrix product; "
            f"accuracy {accuracy[name]:.4f}"
        )
    if not able:
        tell(f"  {BFLOAT16}: left out, this CPU has none of {', '.join(sorted(IN_SILICON))}")

    def compared(one: str, other: str, factor: int, bound: float, what: str) -> bool:
        values = f"{speed[one] * factor:.0f} and {speed[other] * factor:.0f} images/s"
        both = accuracy[one], accuracy[other]
        detail = f"{values}; accuracy {both[0]:.4f} and {both[1]:.4f}"
        name = f"{architecture} CNN, {what}"
        return verdict(name, speed[one] / speed[other], bound, True, detail, *both)

    held = [
        compared(TWICE, TEXTBOOK, 2, 1.0, f"{TWICE} / {TEXTBOOK}"),
        compared(NATIVE, TEXTBOOK, 1, 1.0, f"{NATIVE} / {TEXTBOOK}, a core"),
        compared(PORTABLE, NATIVE, 1, 0.7, f"{PORTABLE} / {NATIVE}, a core"),
    ]
    if able:
        bound = BFLOAT16_BOUNDS[architecture]
        held.append(compared(BFLOAT16, TEXTBOOK, 1, bound, f"{BFLOAT16} / {TEXTBOOK}, a core"))
    return all(held)


def has_bfloat16() -> bool:
    """Whether the CPU has bfloat16 in hardware; others compute it eleven times more slowly."""
    described = Path("/proc/cpuinfo")
    return described.exists() and bool(IN_SILICON & set(described.read_text().split()))


def softmax() -> bool:
    """Softmax regression, 50 epochs, batch 512, 5 folds, against nn.Linear and a DataLoader."""
    ours, torch = _against_textbook("softmax")
    detail = (
        f"ours {ours['seconds']:.1f} s on one thread in portable arithmetic, torch "
        f"{torch['seconds']:.1f} s on two; validation accuracy "
        f"{ours['accuracy']:.4f} and {torch['accuracy']:.4f}"
    )
    ratio = torch["seconds"] / ours["seconds"]
    both = ours["accuracy"], torch["accuracy"]
    return verdict("softmax, torch / ours", ratio, 3, True, detail, *both)


def batches_of_one() -> bool:
    """Steps a second of logistic regression in batches of one image, against torch."""
    ours, torch = _against_textbook("single")
    detail = (
        f"{ours['steps'] / ours['seconds']:.0f} and {torch['steps'] / torch['seconds']:.0f} "
        f"steps/s; validation accuracy {ours['accuracy']:.4f} and {torch['accuracy']:.4f}"
    )
    ratio = torch["seconds"] / ours["seconds"]
    both = ours["accuracy"], torch["accuracy"]
    return verdict("batches of one image, torch / ours", ratio, 3, True, detail, *both)


def _against_textbook(what: str) -> tuple[Answer, Answer]:
    """A linear model in portable arithmetic on one thread, and in torch on two."""
    prepare("kmnist")
    with Candidate("loops", "portable") as ours, Candidate("loops", "native", threads=2) as torch:
        taken = in_turn(
            {
                "ours": lambda _: ours.ask(what),
                "torch": lambda _: torch.ask(f"textbook_{what}"),
            }
        )
    return taken["ours"], taken["torch"]

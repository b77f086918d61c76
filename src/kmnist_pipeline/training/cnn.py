"""Training of the convolutional networks: one loop, with the images as plain tensors.

All images lie on the device once, scaled, channels-last and in the precision of the training,
so that a batch is one indexing. Every epoch draws its batches and its dropout from random
streams of its own: a checkpoint after each epoch needs no random state, and a run that was
killed ends with the bytes of an undisturbed one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kmnist_pipeline.data import scaling, splits
from kmnist_pipeline.data.dataset import Images
from kmnist_pipeline.models import cnn, file
from kmnist_pipeline.training.fit import Epoch, FoldFit, Memory, TrainingError

LIBRARIES = ("numpy", "torch")
# The purposes of random streams, beside those in data/splits.py.
SHUFFLE, WEIGHTS, DROPOUT, PARTNERS, SUPPORTS = 2, 3, 4, 5, 6
Examples = tuple[list[Tensor], Tensor]  # rows of each input, and targets


def groups(trials: list) -> list[list[int]]:
    """Which trials are trained together: none."""
    return [[position] for position in range(len(trials))]


def hardware(trainer) -> dict[str, str]:
    """Where, and in which number format, a training with these settings computes."""
    return {"device": cnn.device().type, "precision": precision(trainer.precision)}


def steps(trial, n: int) -> int:
    """How many updates a seed's training has, over all folds; n: number of images."""
    sizes = [len(rows) for rows, _ in splits.folds(trial.subset or n, asdict(trial.validation), 0)]
    return sum(-(-size // trial.optimizer.batch_size) for size in sizes) * trial.trainer.epochs


def fit(
    trials: list, images: Images, seed: int, memory: Memory, progress: Callable[[int], object]
) -> list[list[FoldFit]]:
    """Train one trial on every fold of one seed: FoldFits by trial and fold.

    images: the training split, restricted to the experiment's classes; memory: where
    checkpoints are kept. `progress` is told of each update.
    """
    (trial,) = trials
    if trial.subset is not None:
        images = images.take(splits.subset(len(images), trial.subset, seed))
    folds = splits.folds(len(images), asdict(trial.validation), seed)
    return [
        [
            fit_fold(trial, images, *rows, (seed, fold), memory.within(f"fold{fold}"), progress)
            for fold, rows in enumerate(folds)
        ]
    ]


@dataclass
class _State:
    """What an epoch leaves to the next, beside network and optimizer."""

    epoch: int = 0
    history: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0
    best_score: tuple[float, float] = (-1.0, 0.0)
    kept_epoch: int = 0
    kept: dict[str, np.ndarray] = field(default_factory=dict)


def fit_fold(
    trial,
    images: Images,
    training: np.ndarray,
    validation: np.ndarray,
    stream: tuple[int, int],
    memory: Memory,
    progress: Callable[[int], object],
) -> FoldFit:
    """Train one network with Adam on the mean cross-entropy of each batch.

    images: all images; training, validation: rows of them, of which the latter may be none;
    stream: seed and fold. Weights kept are those of the best epoch by validation accuracy (then
    the lowest loss), or of the last, as `trainer.keep` says. Training loss and accuracy are those
    of each batch before its update, averaged over the epoch.

    Raises TrainingError when a loss is not finite; `memory` then holds the weights of the last
    whole epoch.
    """
    settings, device = trial.trainer, cnn.device()
    dtype = getattr(torch, precision(settings.precision))
    torch.set_num_threads(settings.threads)
    cnn.deterministic()
    _keep_freed_memory()
    shift, scale = scaling.fit(trial.model.scaling, images.flat[training])
    fixed = {"shift": shift, "scale": scale}
    x = cnn.inputs(fixed, images.pixels).to(dtype)
    examples = _pairs if trial.model.architecture == "siamese" else _singles

    torch.manual_seed(_number(*stream, WEIGHTS))
    network = cnn.build(asdict(trial.model), images.pixels.shape[1:], len(images.classes))
    network.to(device)
    size = trial.optimizer.batch_size
    optimizer = torch.optim.Adam(network.parameters(), lr=trial.optimizer.lr, fused=True)
    state = _recall(memory, network, optimizer)
    progress(state.epoch * -(-len(training) // size))

    while state.epoch < settings.epochs and not _patience_is_out(settings.patience, state):
        epoch = state.epoch + 1
        torch.manual_seed(_number(*stream, epoch, DROPOUT))
        drawn = examples(images.labels, training, splits.generator(*stream, epoch, SHUFFLE))
        try:
            seen = _pass(network, x, drawn, size, optimizer, progress)
        except FloatingPointError as error:
            raise TrainingError(
                f"{error} of epoch {epoch} with optimizer.lr={trial.optimizer.lr}: a smaller "
                f"learning rate may help; the weights of the epoch before are kept in {memory}"
            ) from error
        state.history.append(Epoch(epoch, "train", *seen))
        score = (0.0, 0.0)
        if len(validation):
            drawn = examples(images.labels, validation, splits.generator(*stream, PARTNERS))
            with torch.no_grad():
                loss, accuracy = _pass(network, x, drawn, cnn.CHUNK)
            state.history.append(Epoch(epoch, "validation", loss, accuracy))
            score = (accuracy, -loss)

        state.epoch = epoch
        if score > state.best_score or not len(validation):
            state.best_epoch, state.best_score = epoch, score
        if settings.keep == "last" or state.best_epoch == epoch:
            state.kept_epoch, state.kept = epoch, cnn.to_tensors(network)
        _remember(memory, network, optimizer, state)

    tensors = {**state.kept, **fixed}
    if trial.model.draws:
        rows = validation if len(validation) else training
        tensors["supports"] = _supports(images, rows, trial.model.draws, stream)
    return FoldFit(state.history, state.kept_epoch, len(training), len(validation), tensors)


def _pass(
    network: nn.Module,
    x: Tensor,
    examples: Examples,
    size: int,
    optimizer: torch.optim.Optimizer | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> tuple[float, float]:
    """Mean loss (nats) and accuracy of one pass in batches of `size`, each with an update where
    there is an optimizer. x: all images, in the number format to compute in.

    Raises FloatingPointError when a loss is not finite, before the update.
    """
    rows, y = [part.to(x.device) for part in examples[0]], examples[1].to(x.device)
    network.train(optimizer is not None)
    total, hits = torch.zeros((), device=x.device), torch.zeros((), device=x.device)
    for start in range(0, len(y), size):
        batch = slice(start, start + size)
        with torch.autocast(x.device.type, x.dtype, enabled=x.dtype != torch.float32):
            logits = network(*(x[of_input[batch]] for of_input in rows)).float()
        loss = functional.cross_entropy(logits, y[batch])
        if optimizer is not None:
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"the loss is {float(loss.detach())} at step {start // size + 1}"
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        total += loss.detach() * len(y[batch])
        hits += (logits.argmax(dim=1) == y[batch]).sum()
        progress(1)
    return float(total) / len(y), float(hits) / len(y)


def _keep_freed_memory() -> None:
    """Have glibc keep what is freed: every step asks for the same megabytes again.

    It would give them back to the system, which clears each page anew: a tenth of a training.
    """
    trim_threshold, mmap_threshold = -1, -3  # mallopt(3)
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(trim_threshold, 2**31 - 1)


def precision(asked: str) -> str:
    """The number format of training: the one asked for, or for `auto` the hardware's fastest.

    bfloat16 on a GPU and on a CPU that has it in silicon, and float32 elsewhere: without
    avx512_bf16 or amx a CPU computes bfloat16 eleven times more slowly.
    """
    if asked != "auto":
        return asked
    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    able = torch.cpu.get_capabilities()
    return "bfloat16" if able.get("avx512_bf16") or able.get("amx_bf16") else "float32"


def _singles(labels: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> Examples:
    """Every row once, in random order, with its label."""
    order = rows[rng.permutation(len(rows))]
    return [torch.from_numpy(order)], torch.from_numpy(labels[order])


def _pairs(labels: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> Examples:
    """Every row once, in random order, paired with another: half of the pairs of one class.

    The partner of a pair is drawn uniformly from the row's class, or from another class, drawn
    uniformly. Targets are 1 for one class and 0 for two.
    """
    order = rows[np.argsort(labels[rows], kind="stable")]
    _, position, counts = np.unique(labels[order], return_inverse=True, return_counts=True)
    starts = np.cumsum(counts) - counts
    same = rng.permutation(len(order)) % 2 == 0
    step = rng.random(len(order))
    other = (position + 1 + rng.integers(len(counts) - 1, size=len(order))) % len(counts)
    within = np.arange(len(order)) - starts[position]
    mate = (within + 1 + (step * (counts[position] - 1)).astype(np.int64)) % counts[position]
    partner = np.where(
        same, starts[position] + mate, starts[other] + (step * counts[other]).astype(np.int64)
    )
    shuffle = rng.permutation(len(order))
    left, right = order[shuffle], order[partner[shuffle]]
    targets = torch.from_numpy(same[shuffle].astype(np.int64))
    return [torch.from_numpy(left), torch.from_numpy(right)], targets


def _supports(images: Images, rows: np.ndarray, draws: int, stream: tuple[int, int]) -> np.ndarray:
    """Pixels (draws, C, H * W) uint8 of one random image a class, drawn from `rows`.

    Raises TrainingError where a class has none.
    """
    rng = splits.generator(*stream, SUPPORTS)
    labels = images.labels[rows]
    of_class = [rows[labels == label] for label in range(len(images.classes))]
    missing = [name for name, own in zip(images.classes, of_class, strict=True) if not len(own)]
    if missing:
        raise TrainingError(
            f"one-shot needs a support image of each class, and there is none of "
            f"{', '.join(missing)} among the {len(rows)} images to draw from"
        )
    chosen = np.stack([rng.choice(own, size=draws) for own in of_class], axis=1)
    return images.flat[chosen]


def _number(*purpose: int) -> int:
    """A seed for torch's global random stream."""
    return int(splits.generator(*purpose).integers(2**63))


def _patience_is_out(patience: int | None, state: _State) -> bool:
    return patience is not None and state.epoch - state.best_epoch >= patience


def _remember(
    memory: Memory, network: nn.Module, optimizer: torch.optim.Optimizer, state: _State
) -> None:
    """Write a checkpoint."""
    tensors = cnn.to_tensors(network)
    tensors |= {f"kept.{name}": array for name, array in state.kept.items()}
    for number, parameter in enumerate(network.parameters()):
        for name, value in optimizer.state[parameter].items():
            tensors[f"adam.{number}.{name}"] = value.cpu().numpy()
    about = {**asdict(state), "kept": None}
    memory["checkpoint"] = file.encode(tensors, about)


def _recall(memory: Memory, network: nn.Module, optimizer: torch.optim.Optimizer) -> _State:
    """Set network and optimizer to the last checkpoint, if there is one."""
    if "checkpoint" not in memory:
        return _State()
    tensors, about = file.decode(memory["checkpoint"])
    state = network.state_dict()
    for name in state:
        state[name].copy_(torch.from_numpy(tensors[f"network.{name}"]))
    for number, parameter in enumerate(network.parameters()):
        # Moments have the layout of their parameter, on which the fused update relies.
        optimizer.state[parameter] = {
            "step": torch.from_numpy(tensors[f"adam.{number}.step"]).to(parameter.device),
            **{
                name: torch.empty_like(parameter).copy_(
                    torch.from_numpy(tensors[f"adam.{number}.{name}"])
                )
                for name in ("exp_avg", "exp_avg_sq")
            },
        }
    kept = {n.removeprefix("kept."): a for n, a in tensors.items() if n.startswith("kept.")}
    history = [Epoch(*epoch) for epoch in about["history"]]
    about |= {"history": history, "best_score": tuple(about["best_score"]), "kept": kept}
    return _State(**about)

"""The training loop of the convolutional networks.

Images are scaled, channels-last and in the precision of the training: all at once if they are few,
so that a batch is one indexing, else batch by batch, which gives the same bytes. Every epoch has
its own random streams for batches and dropout. So a checkpoint after each epoch needs no random
state, and a training that was killed and resumed gives the same bytes as an uninterrupted one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kmnist_pipeline.data import streams
from kmnist_pipeline.families import file
from kmnist_pipeline.families.base import (
    Checkpoint,
    Data,
    Epoch,
    Fit,
    Fitted,
    Progress,
    TrainingError,
    digest,
)
from kmnist_pipeline.families.cnn import model
from kmnist_pipeline.families.selection import Selection

# The purposes of random streams; data/splits.py has others.
SHUFFLE, WEIGHTS, DROPOUT, PARTNERS, SUPPORTS, AUGMENTATION = 2, 3, 4, 5, 6, 7
TOLD = 10  # updates between two reports of progress
AT_ONCE = 1 << 27  # values; KMNIST has 47 million
Examples = tuple[list[Tensor], Tensor]  # rows of each input, and targets


@dataclass
class _State:
    """The state of a training between two epochs, without network, optimizer and average."""

    selection: Selection
    epoch: int = 0
    history: list[Epoch] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    kept_epoch: int = 0
    kept: dict[str, np.ndarray] = field(default_factory=dict)


def fit(
    fit: Fit,
    data: Data,
    checkpoint: Checkpoint,
    progress: Progress,
    stop_after: int | None = None,
) -> Fitted:
    """Train one network on the cross-entropy of each batch.

    `trainer.loss` says whether the gradient is that of the mean or of the sum over the batch;
    reported losses are means. Training loss and accuracy are measured on each batch before its
    update, and averaged over the epoch. stop_after: the last epoch to train, None for all.

    Raises TrainingError when a loss is not finite.
    """
    trainer, stream = fit.settings["trainer"], (fit.seed, fit.fold)
    _keep_freed_memory()
    fixed = {"shift": fit.shift, "scale": fit.scale}
    images = _Images(fixed, data.pixels, getattr(torch, trainer["precision"]))
    paired = model.choice("architectures", fit.settings["model"]["architecture"]).PAIRED
    examples = _pairs if paired else _singles

    torch.manual_seed(_number(*stream, WEIGHTS))
    network = model.build(fit.settings["model"], data.pixels.shape[1:], data.classes)
    network.to(model.device())
    average = model.choice("averaging", trainer["averaging"]).Average(network, trainer)
    loop = _Loop(fit.settings, network, average, images)
    state = _recall(checkpoint, loop, Selection(trainer["keep"], trainer["patience"]))

    last = stop_after or trainer["epochs"]
    while state.epoch < last and not (state.epoch and state.selection.is_over(state.epoch)):
        epoch = state.epoch + 1
        torch.manual_seed(_number(*stream, epoch, DROPOUT))
        drawn = examples(data.labels, fit.training, streams.generator(*stream, epoch, SHUFFLE))
        varied = streams.generator(*stream, epoch, AUGMENTATION)
        validation = None
        try:
            seen = loop.train(drawn, varied, state.epoch, progress)
            if len(fit.validation):
                drawn = examples(data.labels, fit.validation, streams.generator(*stream, PARTNERS))
                validation = loop.measure(drawn)
        except FloatingPointError as error:
            raise TrainingError(
                f"{error} of epoch {epoch} with optimizer.lr={fit.settings['optimizer']['lr']}: "
                "a smaller learning rate may help"
            ) from error
        state.history.append(Epoch(epoch, "train", *seen))
        if validation is not None:
            state.history.append(Epoch(epoch, "validation", *validation))
        state.epoch = epoch
        state.digests.append(digest(model.to_tensors(network)))
        if state.selection.keeps(epoch, validation):
            state.kept_epoch, state.kept = epoch, model.to_tensors(average.network)
        if epoch < trainer["epochs"]:
            _remember(checkpoint, loop, state)
    progress(1.0)

    tensors = {**state.kept, **fixed}
    if paired:
        rows = fit.validation if len(fit.validation) else fit.training
        tensors["supports"] = _supports(data, rows, fit.settings["model"]["draws"], stream)
    return Fitted(
        state.history,
        state.digests,
        state.kept_epoch,
        len(fit.training),
        len(fit.validation),
        tensors,
    )


class _Images:
    """The scaled images by their rows."""

    def __init__(
        self, scaling: dict[str, np.ndarray], pixels: np.ndarray, precision: torch.dtype
    ) -> None:
        self._scaling, self._pixels = scaling, pixels
        self.device, self.dtype = model.device(), precision
        self._all = self._scaled(pixels) if pixels.size <= AT_ONCE else None

    def __getitem__(self, rows: Tensor) -> Tensor:
        """The images (n, C, H, W) at `rows`."""
        if self._all is not None:
            return self._all[rows]
        scaled = self._scaled(self._pixels[rows.cpu().numpy()])
        return scaled[torch.arange(len(rows), device=self.device)]  # with the strides of an index

    def _scaled(self, pixels: np.ndarray) -> Tensor:
        return model.inputs(self._scaling, pixels).to(self.dtype)


class _Loop:
    """One pass over examples, with or without updates."""

    def __init__(self, settings: dict, network: nn.Module, average, images: _Images) -> None:
        optimizer, trainer = settings["optimizer"], settings["trainer"]
        self.network, self.average, self._x = network, average, images
        self.optimizer = model.choice("optimizers", optimizer["name"]).build(network, optimizer)
        self._lr, self._size = optimizer["lr"], optimizer["batch_size"]
        self._factor: Callable = model.choice("schedules", trainer["schedule"]).factor
        self._augment: Callable = model.choice("augmentations", trainer["augmentation"]).augment
        self._trainer, self._reduction = trainer, trainer["loss"]

    def train(
        self, examples: Examples, rng: np.random.Generator, epochs: int, progress: Progress
    ) -> tuple[float, float]:
        """Mean loss (nats) and accuracy of each batch before its update; epochs: finished ones.

        Raises FloatingPointError when a loss is not finite, before the update.
        """
        rows, y = self._placed(examples)
        self.network.train()
        total, hits = torch.zeros((), device=y.device), torch.zeros((), device=y.device)
        for start in range(0, len(y), self._size):
            batch = slice(start, start + self._size)
            done = (epochs + start / len(y)) / self._trainer["epochs"]
            if start // self._size % TOLD == 0:
                progress(done)
            images = [
                self._augment(self._x[of_input[batch]], rng, self._trainer) for of_input in rows
            ]
            logits = self._logits(self.network, images)
            loss = functional.cross_entropy(logits, y[batch], reduction=self._reduction)
            if not torch.isfinite(loss):
                step = start // self._size + 1
                raise FloatingPointError(f"the loss is {float(loss.detach())} at step {step}")
            for group in self.optimizer.param_groups:
                group["lr"] = self._lr * self._factor(done, self._trainer)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.average.update()
            total += loss.detach() * (len(y[batch]) if self._reduction == "mean" else 1)
            hits += (logits.argmax(dim=1) == y[batch]).sum()
        return float(total) / len(y), float(hits) / len(y)

    @torch.no_grad()
    def measure(self, examples: Examples) -> tuple[float, float]:
        """Mean loss (nats) and accuracy of the weights that would be kept.

        Raises FloatingPointError when the loss is not finite.
        """
        rows, y = self._placed(examples)
        network = self.average.network.eval()
        total, hits = torch.zeros((), device=y.device), torch.zeros((), device=y.device)
        for start in range(0, len(y), model.CHUNK):
            batch = slice(start, start + model.CHUNK)
            logits = self._logits(network, [self._x[of_input[batch]] for of_input in rows])
            total += functional.cross_entropy(logits, y[batch], reduction="sum")
            hits += (logits.argmax(dim=1) == y[batch]).sum()
        if not torch.isfinite(total):
            raise FloatingPointError(f"the validation loss is {float(total)} at the end")
        return float(total) / len(y), float(hits) / len(y)

    def _placed(self, examples: Examples) -> Examples:
        return [part.to(self._x.device) for part in examples[0]], examples[1].to(self._x.device)

    def _logits(self, network: nn.Module, images: list[Tensor]) -> Tensor:
        x = self._x
        with torch.autocast(x.device.type, x.dtype, enabled=x.dtype != torch.float32):
            return network(*images).float()


def _keep_freed_memory() -> None:
    """Make glibc keep freed memory, because every step asks for the same megabytes again.

    Otherwise the system gets and clears each page again: a tenth of the time of a training.
    """
    trim_threshold, mmap_threshold = -1, -3  # mallopt(3)
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(trim_threshold, 2**31 - 1)


def _singles(labels: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> Examples:
    """Every row once, in random order, with its label."""
    order = rows[rng.permutation(len(rows))]
    return [torch.from_numpy(order)], torch.from_numpy(labels[order])


def _pairs(labels: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> Examples:
    """Every row once, in random order, paired with another; half of the pairs have one class.

    The partner is drawn uniformly from the row's class, or from another class, which is drawn
    uniformly too. The target is 1 if both have the same class, else 0.
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


def _supports(data: Data, rows: np.ndarray, draws: int, stream: tuple[int, int]) -> np.ndarray:
    """Pixels (draws, C, D) uint8 of one random image for each class, drawn from `rows`.

    Raises TrainingError if a class has no image there.
    """
    rng = streams.generator(*stream, SUPPORTS)
    labels = data.labels[rows]
    of_class = [rows[labels == label] for label in range(data.classes)]
    missing = [str(label) for label, own in enumerate(of_class) if not len(own)]
    if missing:
        raise TrainingError(
            f"one-shot needs a support image of each class, and there is none of class "
            f"{', '.join(missing)} among the {len(rows)} images to draw from"
        )
    chosen = np.stack([rng.choice(own, size=draws) for own in of_class], axis=1)
    return data.flat[chosen]


def _number(*purpose: int) -> int:
    """A seed for torch's global random stream."""
    return int(streams.generator(*purpose).integers(2**63))


def _remember(checkpoint: Checkpoint, loop: _Loop, state: _State) -> None:
    """Save a checkpoint."""
    tensors = model.to_tensors(loop.network)
    tensors |= {f"kept.{name}": array for name, array in state.kept.items()}
    tensors |= {f"average.{name}": array for name, array in loop.average.tensors().items()}
    for number, parameter in enumerate(loop.network.parameters()):
        for name, value in loop.optimizer.state[parameter].items():
            tensors[f"optimizer.{number}.{name}"] = value.cpu().numpy()
    about = {**asdict(state), "kept": None, "groups": _groups(loop.optimizer)}
    checkpoint.save(file.encode(tensors, about))


def _recall(checkpoint: Checkpoint, loop: _Loop, selection: Selection) -> _State:
    """Set network, optimizer and average to the last checkpoint, if there is one."""
    saved = checkpoint.load()
    if saved is None:
        return _State(selection)
    tensors, about = file.decode(saved)
    state = loop.network.state_dict()
    for name in state:
        state[name].copy_(torch.from_numpy(tensors[f"network.{name}"]))
    for number, parameter in enumerate(loop.network.parameters()):
        own = _below(f"optimizer.{number}.", tensors)
        loop.optimizer.state[parameter] = {
            name: _like(parameter, torch.from_numpy(value)) for name, value in own.items()
        }
    for group, values in zip(loop.optimizer.param_groups, about["groups"], strict=True):
        group.update(values)
    loop.average.restore(_below("average.", tensors))
    best = about["selection"].pop("best")
    return _State(
        Selection(**about["selection"], best=None if best is None else tuple(best)),
        about["epoch"],
        [Epoch(*epoch) for epoch in about["history"]],
        about["digests"],
        about["kept_epoch"],
        _below("kept.", tensors),
    )


def _groups(optimizer: torch.optim.Optimizer) -> list[dict[str, float]]:
    """The numeric options of each parameter group, some of which change during the training."""
    return [
        {name: value for name, value in group.items() if isinstance(value, int | float)}
        for group in optimizer.param_groups
    ]


def _below(prefix: str, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {n.removeprefix(prefix): a for n, a in tensors.items() if n.startswith(prefix)}


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """A value of the optimizer on the parameter's device. If it has one number for each weight, it
    also gets the parameter's layout, which a fused update needs."""
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter).copy_(value)

"""The choice of the epoch whose weights are kept, and early stopping."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Selection:
    """Follows the validation of a training, epoch by epoch.

    keep: `last`, `best_accuracy` (then the lower loss) or `best_loss` (then the higher accuracy);
    with `last`, accuracy decides which epoch is best; without validation the last epoch is best;
    patience: the training ends after this many epochs without a better one; None: never.
    """

    keep: str
    patience: int | None
    best_epoch: int = 0
    best: tuple[float, float] | None = None

    def keeps(self, epoch: int, validation: tuple[float, float] | None) -> bool:
        """Whether to keep the weights of this epoch; validation: its loss and accuracy."""
        if validation is None:
            self.best_epoch = epoch
            return True
        loss, accuracy = validation
        score = (-loss, accuracy) if self.keep == "best_loss" else (accuracy, -loss)
        if self.best is None or score > self.best:
            self.best_epoch, self.best = epoch, score
        return self.keep == "last" or self.best_epoch == epoch

    def is_over(self, epoch: int) -> bool:
        """Whether the training ends early after this epoch."""
        return self.patience is not None and epoch - self.best_epoch >= self.patience

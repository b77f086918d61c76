"""Which epoch's weights are kept, and when a training stops early."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Selection:
    """Follows the validation of a training, epoch by epoch.

    keep: `last`, `best_accuracy` (of equals the lower loss) or `best_loss` (of equals the higher
    accuracy); patience: so many epochs without a better one end the training, None: never. What
    is better goes by accuracy where the last epoch is kept. Without validation the last is best.
    """

    keep: str
    patience: int | None
    best_epoch: int = 0
    best: tuple[float, float] | None = None

    def keeps(self, epoch: int, validation: tuple[float, float] | None) -> bool:
        """Whether the weights of this epoch are to be kept; validation: its loss and accuracy."""
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

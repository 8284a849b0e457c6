"""Record of a training."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

__all__ = ["TrainingRecord"]

_LISTS = {"losses": np.float64, "epochs": np.int64, "epoch_losses": np.float64}
SMOOTHING = 0.3  # share of the newest loss in the running average


@dataclass
class TrainingRecord:
    """Losses of a training, in the units of `Objective`: those of f scaled to mean(|f|/p) = 1.

    Attributes
    ----------
    losses : list of float
        Loss of each step's minibatch, before the step.
    epochs : list of int
        Number of steps before each epoch, those that were begun again included.
    epoch_losses : list of float
        Loss after each epoch: on the held-out rows, or where there are none, on some rows of the training.
    initial_loss : float or None
        Loss on the same rows before the training.
    loss : float or None
        Running average of the losses.
    best_loss : float or None
        Least of the initial loss and those after an epoch.
    best_epoch : int or None
        The epoch it was reached in, counted from 1; 0 if training made nothing better.
    n_reloads : int
        How often training went back to the last good state.
    stopped_early : bool
        Whether it ended for lack of improvement.
    """

    losses: list[float] = field(default_factory=list, repr=False)
    epochs: list[int] = field(default_factory=list, repr=False)
    epoch_losses: list[float] = field(default_factory=list, repr=False)
    initial_loss: float | None = field(default=None, repr=False)
    loss: float | None = None
    best_loss: float | None = None
    best_epoch: int | None = None
    n_reloads: int = 0
    stopped_early: bool = False

    @property
    def step(self) -> int:
        """Number of steps."""
        return len(self.losses)

    @property
    def epoch(self) -> int:
        """Number of epochs that were completed."""
        return len(self.epoch_losses)

    def begin(self, loss: float) -> None:
        """Begin the record of a training with the loss before it."""
        self.initial_loss, self.stopped_early = loss, False
        self.best_loss = loss if math.isfinite(loss) else math.inf
        self.best_epoch = self.epoch

    def new_epoch(self) -> None:
        """Record that an epoch begins."""
        self.epochs.append(self.step)

    def log_loss(self, loss: float) -> None:
        """Record the loss of a step."""
        self.losses.append(loss)
        self.loss = loss if self.loss is None else (1 - SMOOTHING) * self.loss + SMOOTHING * loss

    def end_epoch(self, loss: float) -> bool:
        """Record the loss after an epoch; return whether it is the best so far."""
        self.epoch_losses.append(loss)
        if self.best_loss is not None and loss >= self.best_loss:
            return False
        self.best_loss, self.best_epoch = loss, self.epoch
        return True

    def scalars(self) -> dict[str, Any]:
        """Return everything but the lists, for the header of a file."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name not in _LISTS}

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the lists as arrays for a file."""
        return {name: np.array(getattr(self, name), dtype) for name, dtype in _LISTS.items()}

    @classmethod
    def of(cls, scalars: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> "TrainingRecord":
        """Restore the record from what `scalars` and `arrays` returned."""
        return cls(**{name: arrays[name].tolist() for name in _LISTS}, **scalars)

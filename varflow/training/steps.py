"""Interface of training steps: what takes them, and what a call returns."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from varflow.training.adam import Adam
from varflow.training.objective import Objective

__all__ = ["StepTaken", "Steps", "Taken"]


class StepTaken(NamedTuple):
    """Loss before a step, its learning rate, and the length of its gradient before it is clipped."""

    loss: float
    learning_rate: float
    gradient_length: float


class Taken(NamedTuple):
    """What came of a call: the steps that were taken, and why the next one was not."""

    steps: list[StepTaken]
    error: str | None


class Steps(Protocol):
    """What takes steps, with buffers for minibatches of at most `n_batch` rows."""

    n_batch: int
    at_once: int | None  # steps that a call had best take; None for as many as there are

    def take(
        self,
        objective: Objective,
        minibatches: Sequence[np.ndarray],
        optim: Adam,
        progress: Sequence[float],
        scale: float = 1.0,
        is_of_log: bool = False,
    ) -> Taken:
        """Take a step on each minibatch, up to the first that is refused; see `CpuSteps.take`."""

"""Largest weights of the points that estimate an integral: what heavier ones would add to it."""

import math
from collections.abc import Mapping

import numpy as np

from varflow.integration.iteration import LOG_OF_2, times_power
from varflow.training.pareto import change_by_heavier, pareto_shape_of_largest

__all__ = ["Tail"]

MAX_TAIL = 10_000  # weights that are kept: 10 million points have so many in their tail


class Tail:
    """Tail of the weights |f|/q.

    The scatter of weights tells nothing of those that few points would ever meet: where their tail is heavy,
    an estimate is too small most of the time, and its error with it. The error that is told therefore has
    what a single point heavier than all of them is expected to change.

    Attributes
    ----------
    n : int
        Number of all points.
    largest : ndarray, (k,)
        Natural logs of the largest weights.
    log_sum : float
        Natural log of the sum of all weights.
    sums : ndarray, (m,)
        Sum of |f|/q of each component.
    """

    def __init__(self) -> None:
        self.n, self.largest, self.log_sum, self.sums = 0, np.empty(0), -math.inf, np.zeros(1)

    def add(self, log_weights: np.ndarray, sums: np.ndarray) -> None:
        """Add logs of weights (n,), and the sums of those of the components, (m,)."""
        if len(log_weights) == 0:
            return
        self.n += len(log_weights)
        self.log_sum = float(np.logaddexp(self.log_sum, _log_sum(log_weights)))
        self.sums = self.sums + sums
        self.largest = np.concatenate([self.largest, log_weights])
        if len(self.largest) > MAX_TAIL:
            self.largest = np.partition(self.largest, -MAX_TAIL)[-MAX_TAIL:]

    def scale(self, exponent: int) -> None:
        """Multiply the integrand by 2^exponent."""
        self.largest = self.largest + exponent * LOG_OF_2
        self.log_sum += exponent * LOG_OF_2
        self.sums = times_power(self.sums, exponent)

    @property
    def shape(self) -> float:
        """Shape k of the generalised Pareto distribution that fits the tail; NaN where it cannot be told."""
        return pareto_shape_of_largest(self.largest, self.n)

    @property
    def heavier(self) -> np.ndarray:
        """What a point heavier than all may be expected to add to each component, (m,) or (1,), or inf."""
        if self.n == 0:
            return np.zeros(1)
        change = change_by_heavier(self.largest, self.n, self.log_sum - math.log(self.n))
        return change * self.sums / self.n if math.isfinite(change) else np.full(len(self.sums), math.inf)

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """Return what was added, as arrays to be saved; see `of`."""
        numbers = np.array([self.n, self.log_sum])
        return {f"{prefix}_numbers": numbers, f"{prefix}_largest": self.largest, f"{prefix}_sums": self.sums}

    @classmethod
    def of(cls, prefix: str, arrays: Mapping[str, np.ndarray]) -> "Tail":
        """Rebuild the tail from what `arrays` returned."""
        tail = cls()
        n, tail.log_sum = arrays[f"{prefix}_numbers"].tolist()
        tail.n, tail.largest, tail.sums = int(n), arrays[f"{prefix}_largest"], arrays[f"{prefix}_sums"]
        return tail


def _log_sum(log_weights: np.ndarray) -> float:
    """Log of the sum of weights (n,)."""
    largest = float(log_weights.max())
    if largest == -math.inf:
        return -math.inf
    with np.errstate(under="ignore"):
        return largest + math.log(np.exp(log_weights - largest).sum())

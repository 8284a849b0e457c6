"""How many points go to a worker at a time."""

import math

import numpy as np

from varflow.integration.components import FloatArray

__all__ = ["CHUNK", "SHORTEST", "TASKS_PER_WORKER", "Sizes"]

CHUNK = 1000  # points that a worker calls f for at once, at most: its temporary arrays stay in cache
TASKS_PER_WORKER = 4  # so that fast workers take over points from slow ones
# Seconds of a task: no less than it costs to send one, and little beside a round of a dear f.
SHORTEST, LONGEST = 0.01, 1.0
MAX_BYTES = 1 << 22  # of the points of a task, which go through one process


class Sizes:
    """Sizes of tasks, which follow the time that f was measured to take.

    Parameters
    ----------
    shortest : float
        Seconds of a task, at least.

    Attributes
    ----------
    seconds : float or None
        Seconds of f a point, in the last round; None before the first.
    """

    def __init__(self, shortest: float = SHORTEST) -> None:
        self._shortest = shortest
        self.seconds: float | None = None

    def split(self, x: FloatArray, n_workers: int) -> list[FloatArray]:
        """Divide points (n, d) into tasks of nearly equal size."""
        n, d = x.shape
        rows: float = n / (TASKS_PER_WORKER * n_workers)
        if self.seconds:
            rows = min(max(rows, self._shortest / self.seconds), LONGEST / self.seconds)
        rows = max(min(rows, MAX_BYTES / (8 * d)), 1.0)
        return np.array_split(x, min(math.ceil(n / rows), n))

    def note(self, seconds: float, n: int) -> None:
        """Take the seconds that f took for n points."""
        self.seconds = seconds / n

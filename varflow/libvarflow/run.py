"""A run whose points the host program has in the order in which it was given them."""

from typing import Any

import numpy as np

from varflow.integration import run

__all__ = ["Run"]

Numbers = np.ndarray  # of points, int64, (n,)


class Run(run.Run):
    """Run that gives points by as many as there is room for, and is told values without the points.

    Attributes
    ----------
    m : int
        Number of components of f.
    """

    m: int

    def __init__(self, *arguments: Any, m: int = 1, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.m = m
        self._waiting: Numbers = np.empty(0, np.int64)  # asked for, but not given yet
        self._given: Numbers = np.empty(0, np.int64)  # and not told

    def give(self, n: int) -> np.ndarray | None:
        """Give up to n points, (m, d), first those that were out when the run was saved; None at the end."""
        if len(self._waiting) == 0:
            asked = self.ask_numbers()  # as many as do not depend on others: n has no part in the result
            if asked is None:
                return None
            self._waiting = asked
        numbers, self._waiting = self._waiting[:n], self._waiting[n:]
        self._given = np.append(self._given, numbers)
        return self.points(numbers)

    def take(self, values: np.ndarray) -> None:
        """Take the values (n, m) at the n points that were given first, of those that are not told."""
        n = len(values)
        self.tell(self._first(n), values[:, 0] if self.m == 1 else values)
        self._given = self._given[n:]

    def give_up(self, n: int) -> None:
        """Forget the n points that were given first, of those that are not told."""
        self.forget(self._first(n))
        self._given = self._given[n:]

    def take_up(self, m: int) -> None:
        """Go on after `load`: whoever had the points that are out does not have them any more."""
        self.m, self._waiting = m, self.open_numbers()

    def _first(self, n: int) -> Numbers:
        if n > len(self._given):
            raise ValueError(f"n must be at most {len(self._given)}, as many points are out, got {n}")
        return self._given[:n]

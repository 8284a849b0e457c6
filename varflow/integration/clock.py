"""The clock of an integration, and the time that it is given."""

import math
import time
from dataclasses import dataclass

from varflow.kernels.compile import announcement
from varflow.validation import check_number

__all__ = ["Deadline", "now", "work_done"]

GRACE, SHARE_OF_GRACE = 0.3, 0.1  # seconds, and share of the time, that the least estimate may take longer


def now() -> float:
    """Give the time, in seconds from a beginning that is another in each process."""
    return time.perf_counter()


def work_done() -> float:
    """Give the time without that which kernels took to compile, as they do but once."""
    return now() - announcement.seconds


@dataclass(frozen=True)
class Deadline:
    """Time that an integration is given, from when this is made; without a number, as much as it takes.

    Attributes
    ----------
    seconds : float
        How long it may take.
    begin : float
        When it has begun, by `now`.
    """

    seconds: float = math.inf
    begin: float = 0.0

    @classmethod
    def after(cls, seconds: float | None) -> "Deadline":
        """Let the time begin that a user gives; None is no limit.

        Raises
        ------
        TypeError, ValueError
            If it is not a finite number above 0.
        """
        if seconds is None:
            return cls(begin=now())
        check_number("seconds", seconds, lambda number: 0 < number < math.inf, "above 0 and finite")
        return cls(float(seconds), now())

    def __bool__(self) -> bool:
        """Tell whether there is a limit."""
        return self.seconds < math.inf

    @property
    def spent(self) -> float:
        """Seconds since the beginning."""
        return now() - self.begin

    @property
    def left(self) -> float:
        """Seconds that are left, from 0; infinite without a limit."""
        return max(0.0, self.seconds - self.spent) if self else math.inf

    @property
    def is_over(self) -> bool:
        """Whether nothing is left."""
        return self.left == 0

    def is_past_grace(self, more: float) -> bool:
        """Tell whether so many seconds more are too many even for the least estimate."""
        return self.spent + more > self.seconds + max(GRACE, SHARE_OF_GRACE * self.seconds)

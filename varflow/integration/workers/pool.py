"""Workers that evaluate an integrand, whatever they are: points go out in tasks, and values come back."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from varflow.integration.calls import tell_nobody
from varflow.integration.components import FloatArray, Values
from varflow.integration.workers.sizes import SHORTEST, Sizes
from varflow.integration.workers.task import Function, Reply

__all__ = ["Outcome", "Pool"]


@dataclass
class Outcome:
    """What has come back of the points that went out.

    Attributes
    ----------
    tasks : list of ndarray, (n, d) each
        The points of each task.
    replies : list of Reply or None
        What came back of each.
    error : BaseException or None
        What kept others from coming back.
    """

    tasks: list[FloatArray]
    replies: list[Reply | None]
    error: BaseException | None = None

    @property
    def values(self) -> list[Values]:
        """Values of the tasks that came back, in the order of the points."""
        return [part for reply in self.replies if reply is not None for part in reply.values]

    @property
    def is_known(self) -> list[bool]:
        """Whether each point has its value."""
        pairs = zip(self.tasks, self.replies, strict=True)
        return [reply is not None for points, reply in pairs for _ in points]

    @property
    def seconds(self) -> float:
        """Seconds that f took for these values."""
        return sum(reply.seconds for reply in self.replies if reply is not None)


class Pool(ABC):
    """Workers that evaluate f.

    Parameters
    ----------
    f : callable
        The integrand.
    vectorized : bool
        Whether it takes many points.

    Attributes
    ----------
    told : callable
        Called with the number of points whose values have come back, each time that some have.
    """

    told: Callable[[int], object] = staticmethod(tell_nobody)
    shortest = SHORTEST  # seconds of f in a task

    def __init__(self, f: Callable[..., Any], vectorized: bool) -> None:
        self._f, self._vectorized = f, vectorized
        self._sizes = Sizes(self.shortest)

    def evaluate(self, x: FloatArray) -> Outcome:
        """Evaluate f at points (n, d), in tasks that are sized by the time that f takes.

        Raises
        ------
        TypeError, ValueError
            If the workers cannot be used: f cannot be sent to them, they were shut down, there are none.
        """
        outcome = self.evaluate_tasks(self._sizes.split(x, self.count()))
        n_known = sum(outcome.is_known)
        if n_known:
            self._sizes.note(outcome.seconds, n_known)
        return outcome

    def open(self) -> None:  # noqa: B027 - the pool of a user is open
        """Start workers, where they belong to varflow."""

    def close(self) -> None:  # noqa: B027 - most have nothing of varflow's
        """End what belongs to varflow; the pool of a user goes on."""

    @cached_property
    def functions(self) -> tuple[Function, Function]:
        """The integrand as it is sent, by its key and whole."""
        return Function.both(self._f, self._vectorized, self.dumps())

    def dumps(self) -> Callable[[Any], bytes] | None:
        """Give what pickles f for the workers; None where that is left to whatever pickles the tasks."""
        return None

    @abstractmethod
    def count(self) -> int:
        """Count the workers."""

    @abstractmethod
    def evaluate_tasks(self, tasks: list[FloatArray]) -> Outcome:
        """Evaluate f at the points of tasks."""

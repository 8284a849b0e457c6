"""What an integration has done, so that a run that is started again goes on from there.

The integrator takes its decisions anew, in the same order: it asks for one operation after the other, and
those that were done before are answered from the journal. Of the operation at hand, the journal has what the
integrand gave since the last place that the run could go on from.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from varflow.integration.integrand import Integrand

__all__ = ["Journal", "Mark"]

PIECE = 8192  # points evaluated together where they are journalled: what a kill may cost


class Mark(NamedTuple):
    """What was known after an operation."""

    name: str
    n_history: int  # iterations
    n_calls: int  # of the integrand
    rate: float  # power of n with which the error seems to fall
    # Not in files of version 1:
    power: float = 1.0  # how close the flow of the last look is
    log_lost: float = 0.0  # log of the largest f/q where walkers ended


class Journal:
    """Operations that were done, and values of the integrand in the one at hand.

    Parameters
    ----------
    integrand : Integrand
        The integrand on the unit cube.
    start : Mark
        What is known before the first operation.
    on_piece : callable
        Called after each piece of values.
    keeps : bool
        Whether values are kept.
    """

    def __init__(self, integrand: Integrand, start: Mark, on_piece: Callable[[], None], keeps: bool) -> None:
        self.integrand, self.marks, self.n_asked = integrand, [start], 0
        self._on_piece, self._keeps = on_piece, keeps
        self._values: list[np.ndarray] = []  # since the last place to go on from
        self._known = np.empty((0, 0))  # values that an earlier run has left

    @property
    def last(self) -> Mark | None:
        """The operation that was asked for last, if it is done."""
        return self.marks[self.n_asked] if self.n_asked < len(self.marks) else None

    def is_done(self, name: str) -> bool:
        """Ask for the next operation. Returns whether an earlier run has done it.

        Raises
        ------
        ValueError
            If that did another operation at this place.
        """
        self.n_asked += 1
        found = self.last
        if found is not None and found.name != name:
            raise ValueError(
                f"the checkpoint is of another integration: its operation {self.n_asked} was "
                f"{found.name!r}, here it is {name!r}"
            )
        return found is not None

    def forget_values(self) -> None:
        """Note that the run could go on from here."""
        self._values = []

    def evaluate(self, u: np.ndarray) -> np.ndarray:
        """Evaluate the integrand at points (n, d), (n, m), as far as an earlier run has not done it."""
        if not self._keeps:
            return self.integrand(u)
        pieces, begin = [], 0
        while begin < len(u):
            if len(self._known):
                piece, self._known = np.split(self._known, [len(u) - begin])
                self.integrand.n_calls += len(piece)
            else:
                piece = self.integrand(u[begin : begin + PIECE])
            pieces.append(piece)
            self._values.append(piece)
            begin += len(piece)
            self._on_piece()
        return np.concatenate(pieces)

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return header and arrays for a file."""
        known = [*self._values, self._known] if len(self._known) else self._values
        values = np.concatenate(known) if known else np.empty((0, 0))
        integrand = self.integrand.state()
        integrand["n_calls"] -= sum(map(len, self._values))  # these will be counted again
        return {"marks": [list(mark) for mark in self.marks], "integrand": integrand}, {"values": values}

    def restore(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Restore what `state` returned."""
        self.marks = [Mark(*mark) for mark in header["marks"]]
        self._known = arrays["values"]
        self.integrand.restore(header["integrand"])

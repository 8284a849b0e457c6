"""Journal of what an integration has done, from which a restarted run continues.

A restarted integrator takes its decisions anew, in the same order: it requests one operation after another,
and operations that the earlier run has completed are answered from the journal. For the operation that was
interrupted, the journal holds the values of the integrand since the last point from which a run can continue.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from varflow.integration.integrand import Integrand

__all__ = ["Journal", "Mark"]

PIECE = 8192  # points evaluated together if values are kept; the checkpoint may be written after each piece


class Mark(NamedTuple):
    """State of the integration after an operation."""

    name: str
    n_history: int  # iterations
    n_calls: int  # of the integrand
    rate: float  # exponent of the decrease of the error with n, as estimated
    # Not in files of version 1:
    power: float = 1.0  # see `tempered_power`, for the flow of the last pilot run
    log_lost: float = 0.0  # log of the largest f/q, in units of the integral, where MCMC walkers ended


class Journal:
    """Completed operations, and values of the integrand in the current one.

    Parameters
    ----------
    integrand : Integrand
        The integrand on the unit cube.
    start : Mark
        State before the first operation.
    on_piece : callable
        Called, without arguments, after each piece of values.
    keeps : bool
        Whether values are kept.
    """

    def __init__(self, integrand: Integrand, start: Mark, on_piece: Callable[[], None], keeps: bool) -> None:
        self.integrand, self.marks, self.n_asked = integrand, [start], 0
        self._on_piece, self._keeps = on_piece, keeps
        self._values: list[np.ndarray] = []  # since the last point from which a run can continue
        self._known = np.empty((0, 0))  # values left by an earlier run

    @property
    def last(self) -> Mark | None:
        """State after the last operation requested; None if that is not completed."""
        return self.marks[self.n_asked] if self.n_asked < len(self.marks) else None

    def is_done(self, name: str) -> bool:
        """Request the next operation, and return whether an earlier run has completed it.

        Raises
        ------
        ValueError
            If the earlier run did another operation at this place.
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
        """Discard the values kept so far, as a run can continue from here."""
        self._values = []

    def evaluate(self, u: np.ndarray) -> np.ndarray:
        """Return the values (n, m) of the integrand at points (n, d), from an earlier run where known."""
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
        """Return the header and the arrays for a file; see `restore`."""
        known = [*self._values, self._known] if len(self._known) else self._values
        values = np.concatenate(known) if known else np.empty((0, 0))
        integrand = self.integrand.state()
        integrand["n_calls"] -= sum(map(len, self._values))  # they are counted again when they are replayed
        return {"marks": [list(mark) for mark in self.marks], "integrand": integrand}, {"values": values}

    def restore(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Continue from what `state` returned."""
        self.marks = [Mark(*mark) for mark in header["marks"]]
        self._known = arrays["values"]
        self.integrand.restore(header["integrand"])

"""Conditions of a flow: numbers that its density depends on, and that it gives no density of.

A point and its conditions make a row of "columns": the coordinates first, then the conditions, mapped to the
unit interval. To the kernels, conditions are coordinates that no cell transforms and every cell is
conditioned on. So each coordinate depends on all of them, in one dimension too, and a flow without conditions
is as it would be if there were none.
"""

import logging

import numpy as np
import numpy.typing as npt

from varflow.data.arrays import as_floats, check_rows, checked_bounds

__all__ = ["ConditionMap", "check_unconditional"]

logger = logging.getLogger(__name__)


class ConditionMap:
    """Affine map of conditions from their range to the unit interval, which the networks see as [-1, 1].

    Conditions beyond the range are taken as the nearest in it, and warned of by the logger "varflow".

    Parameters
    ----------
    n : int
        Number of conditions.
    bounds : array_like, (n, 2) or (2,), optional
        Their range. Without one, all conditions are mapped to 1/2, on which nothing depends.
    """

    def __init__(self, n: int, bounds: npt.ArrayLike | None = None) -> None:
        self.n = n
        self._bounds: np.ndarray | None = np.empty((0, 2)) if n == 0 else None
        if bounds is not None:
            self.bounds = bounds

    @property
    def bounds(self) -> np.ndarray | None:
        """Range of the conditions, (n, 2); None as long as it is not known."""
        return self._bounds

    @bounds.setter
    def bounds(self, bounds: npt.ArrayLike | None) -> None:
        if self.n == 0:
            if bounds is not None and np.size(bounds) > 0:
                raise ValueError("condition_bounds are for a flow with conditions, and n_conditions is 0")
            return
        self._bounds = None if bounds is None else checked_bounds(bounds, self.n, "condition_bounds")

    def learn(self, conditions: np.ndarray) -> None:
        """Take the range from the least to the largest of conditions (m, n), unless one is known already.

        A condition that is the same in all rows gets a range about it.
        """
        if self._bounds is not None:
            return
        lower, upper = conditions.min(axis=0), conditions.max(axis=0)
        with np.errstate(over="ignore"):  # which is refused below
            is_constant = upper - lower < np.finfo(np.float64).tiny
        margin = np.where(is_constant, np.maximum(1.0, np.abs(lower)) / 2, 0.0)
        self.bounds = np.column_stack([lower - margin, upper + margin])

    def checked(self, conditions: npt.ArrayLike | None, n_rows: int) -> np.ndarray:
        """Check conditions of so many points, and return them as (n_rows, n).

        Parameters
        ----------
        conditions : array_like, (n_rows, n) or (n,), or None
            Those of each point, or of all of them. None where the flow has no conditions.
        n_rows : int
            Number of points.

        Returns
        -------
        ndarray, (n_rows, n)
            The conditions, some of its strides being zero where there is one row for all.

        Raises
        ------
        TypeError, ValueError
            If they are missing or not wanted, have the wrong shape, or are not finite.
        """
        if conditions is None:
            if self.n > 0:
                raise TypeError(f"conditions are missing: the flow has n_conditions = {self.n}")
            return np.empty((n_rows, 0))
        array = _checked(conditions, n_rows, self.n)
        self._warn_outside(array)
        return array

    def columns(self, points: np.ndarray, conditions: np.ndarray) -> np.ndarray:
        """Join points (m, d) and their conditions (m, n), which are not checked; see the module."""
        if self.n == 0:
            return points
        return np.concatenate([points, self.to_unit(conditions)], axis=1)

    def to_unit(self, conditions: np.ndarray) -> np.ndarray:
        """Map conditions (m, n) to the unit interval."""
        if self._bounds is None:
            return np.full(conditions.shape, 0.5)
        lower, upper = self._bounds.T
        with np.errstate(over="ignore", under="ignore"):  # what is so far outside is at the border
            unit: np.ndarray = np.clip((conditions - lower) / (upper - lower), 0.0, 1.0)
        return unit

    def _warn_outside(self, conditions: np.ndarray) -> None:
        if self._bounds is None or self.n == 0:
            return
        lower, upper = self._bounds.T
        outside = np.argwhere((conditions < lower) | (conditions > upper))
        if len(outside) == 0:
            return
        row, column = outside[0]
        logger.warning(
            "%d of %d conditions lie outside of the range that the flow knows, as %.6g in row %d, column %d, "
            "outside of [%.6g, %.6g]: there the density is that of the nearest condition in the range",
            len(outside), conditions.size, conditions[row, column], row, column, lower[column], upper[column],
        )  # fmt: skip


def _checked(conditions: npt.ArrayLike, n_rows: int, n: int) -> np.ndarray:
    """Check that conditions are finite, and (n_rows, n), or (n,) for all rows; return (n_rows, n)."""
    array = as_floats("conditions", conditions)
    if array.ndim == 0 or array.shape not in ((n_rows, n), (n,)):
        if n == 0:
            raise ValueError(f"conditions are given, of shape {array.shape}, but the flow has none")
        hint = "; give conditions[:, None]" if n == 1 and array.shape == (n_rows,) else ""
        raise ValueError(
            f"conditions must have shape ({n_rows}, {n}), a row for each point, or ({n},) for all of them, "
            f"found {array.shape}{hint}"
        )
    check_rows("conditions", array, "be finite", np.isfinite)
    return np.broadcast_to(array, (n_rows, n))


def check_unconditional(what: str, n_conditions: int) -> None:
    """Raise ValueError if a flow has conditions, for something that knows of none."""
    if n_conditions > 0:
        raise ValueError(
            f"{what} is for flows without conditions, and this one has n_conditions = {n_conditions}"
        )

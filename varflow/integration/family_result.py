"""Integrals of a family of functions, as a table."""

from dataclasses import dataclass, field

import numpy as np

from varflow.flow.flow import Flow
from varflow.integration.tables import format_estimate
from varflow.markup import bullets, table

__all__ = ["FamilyResult"]

MAX_LINES = 40  # of a printed table
NAMED = 5  # rows that a warning names


@dataclass(frozen=True, eq=False)
class FamilyResult:
    """What `integrate_family` has found: a row for each theta.

    Parameters
    ----------
    parameters : ndarray, (n_theta, c)
        The values of theta.
    mean : ndarray, (n_theta,)
        Estimates of the integrals.
    sdev : ndarray, (n_theta,)
        Their errors: standard deviations of Student's t. Infinite where f was zero at all points, or few of
        them have nearly all of the weight.
    n_calls : ndarray of int, (n_theta,)
        Calls of f that the estimates are made of.
    error_dof : ndarray, (n_theta,)
        Degrees of freedom of the errors.
    n_survey : int
        Calls of f that trained the flow.
    flow : Flow
        The flow on the unit cube, whose conditions are theta.
    bounds : ndarray, (d, 2)
        Bounds of x.
    n_invalid : int
        Points at which f was not finite and taken as 0.
    rtol : float
        The relative error that was asked for, or 0.

    Examples
    --------
    >>> f = lambda x, theta: theta[:, 0] * x[:, 0]
    >>> result = vf.integrate_family(f, 1, [[1.0], [2.0]], n_calls=40_000, seed=1)
    >>> np.round(result.mean, 3), result.warnings
    (array([0.5, 1. ]), ())
    >>> bool(result.n_calls_in_all == result.n_survey + result.n_calls.sum())
    True
    >>> print(result)
    theta 1 ...
    """

    parameters: np.ndarray
    mean: np.ndarray
    sdev: np.ndarray
    n_calls: np.ndarray
    error_dof: np.ndarray
    n_survey: int
    flow: Flow = field(repr=False)
    bounds: np.ndarray = field(repr=False)
    n_invalid: int = 0
    rtol: float = 0.0

    @property
    def n_calls_in_all(self) -> int:
        """Calls of f, those of the survey included."""
        return self.n_survey + int(self.n_calls.sum())

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes the result doubtful, and what to do, in words."""
        told = []
        unknown = np.flatnonzero(np.isinf(self.sdev))
        if len(unknown):
            told.append(
                f"the error is not known for {len(unknown)} of {len(self.mean)} theta, {_rows(unknown)}: f "
                "was zero at all points, or few of them have nearly all of the weight; allow more calls"
            )
        with np.errstate(invalid="ignore"):
            missed = np.flatnonzero(np.isfinite(self.sdev) & (self.sdev > self.rtol * np.abs(self.mean)))
        if self.rtol > 0 and len(missed):
            told.append(
                f"the tolerance was not reached for {len(missed)} of {len(self.mean)} theta, "
                f"{_rows(missed)}, in {self.n_calls_in_all} calls: allow more"
            )
        if self.n_invalid:
            told.append(
                f"f was not finite at {self.n_invalid} points, and taken as 0 there: see whether that is its "
                'value; on_invalid="raise" names the first of them'
            )
        return tuple(told)

    def __str__(self) -> str:
        """Return the table; of many rows, the first and the last."""
        titles, cells = self._titles(), self._cells()
        widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
        lines = [
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells
        ]
        if len(lines) > MAX_LINES:
            half = MAX_LINES // 2
            lines[half:-half] = [f"... {len(lines) - 2 * half} more ..."]
        head = "  ".join(title.rjust(width) for title, width in zip(titles, widths, strict=True))
        end = [f"calls: {self.n_calls_in_all:,}, {self.n_survey:,} of them to train the flow"]
        return "\n".join([head, *lines, *end, *(f"warning: {text}" for text in self.warnings)])

    def _repr_html_(self) -> str:
        """Return the table and the warnings as HTML, for notebooks."""
        return table("Integrals", self._titles(), self._cells()) + bullets(self.warnings)

    def _titles(self) -> list[str]:
        return [*(f"theta {k + 1}" for k in range(self.parameters.shape[1])), "integral", "calls"]

    def _cells(self) -> list[list[str]]:
        return [
            [*(f"{value:.6g}" for value in theta), format_estimate(mean, sdev), f"{n:,}"]
            for theta, mean, sdev, n in zip(
                self.parameters, self.mean.tolist(), self.sdev.tolist(), self.n_calls, strict=True
            )
        ]


def _rows(rows: np.ndarray) -> str:
    """Name rows, the first few of many."""
    named = ", ".join(map(str, rows[:NAMED].tolist()))
    return f"row{'s' * (len(rows) > 1)} {named}{', ...' if len(rows) > NAMED else ''} of the table"

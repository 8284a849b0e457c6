"""Points at which a flow is too small: those of the largest weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from varflow.data.dataset import Dataset
from varflow.flow.flow import Flow
from varflow.flow.mixture import Mixture
from varflow.markup import table
from varflow.training.log_weights import LogWeights, without_overflow
from varflow.validation import positive_int

__all__ = ["WorstPoints", "worst_points", "worst_table"]

N_FIRST, MAX_COORDINATES = 4, 12  # columns of a table in HTML


@dataclass(frozen=True, eq=False)
class WorstPoints:
    """Points with the largest weights f/q, the largest first.

    Parameters
    ----------
    rows : ndarray of int, (k,)
        Their rows in the dataset.
    x : ndarray, (k, d)
        The points.
    weight : ndarray, (k,)
        |f|/q over its mean for points from q.
    share : ndarray, (k,)
        Part of the variance of f/q that each of them is, as estimated from all points.
    log_q : ndarray, (k,)
        Logarithm of q.
    conditions : ndarray, (k, c)
        Conditions of the points, where the flow has some.

    Examples
    --------
    >>> x = np.linspace(0.05, 0.95, 10)[:, None]
    >>> worst = vf.worst_points(vf.Flow(1), vf.Dataset(x, px=np.ones(10), fx=x[:, 0]), k=2)
    >>> worst.rows, worst.x[:, 0], worst.weight.round(6)
    (array([9, 8]), array([0.95, 0.85]), array([1.9, 1.7]))
    """

    rows: np.ndarray
    x: np.ndarray
    weight: np.ndarray
    share: np.ndarray
    log_q: np.ndarray
    conditions: np.ndarray

    def __str__(self) -> str:
        """Return a table."""
        titles, cells = _titles(self, _coordinates(self)), _cells(self)
        widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
            for line in (titles, *cells)
        )

    def _repr_html_(self) -> str:
        """Return the table as HTML, for notebooks."""
        return worst_table(self, _coordinates(self))


def worst_table(found: WorstPoints, names: Sequence[str]) -> str:
    """Make a table, in HTML, of the points; of more than 12 coordinates, whose names are given, the first."""
    titles, cells = _titles(found, names), _cells(found)
    n = min(len(titles), N_FIRST + found.conditions.shape[1] + MAX_COORDINATES)
    return table("Points of largest weight f/q over its mean", titles[:n], [row[:n] for row in cells])


def _coordinates(found: WorstPoints) -> list[str]:
    return [f"x{k + 1}" for k in range(found.x.shape[1])]


def _titles(found: WorstPoints, names: Sequence[str]) -> list[str]:
    conditions = [f"condition {k + 1}" for k in range(found.conditions.shape[1])]
    return ["row", "weight", "of variance", "q", *conditions, *names]


def _cells(found: WorstPoints) -> list[list[str]]:
    """Write the row of each point in the table."""
    with np.errstate(over="ignore", under="ignore"):
        q = np.exp(found.log_q)
    numbers = np.concatenate([found.conditions, found.x], axis=1)
    return [
        [f"{row:,}", f"{weight:.4g}", f"{share:.1%}", f"{of_q:.3g}", *(f"{value:.6g}" for value in own)]
        for row, weight, share, of_q, own in zip(
            found.rows, found.weight, found.share, q, numbers, strict=True
        )
    ]


def worst_points(flow: Flow | Mixture, data: Dataset, k: int = 10) -> WorstPoints:
    """Find the points at which f/q is largest: where the flow is too small.

    Parameters
    ----------
    flow : Flow or Mixture
        The flow, with density q.
    data : Dataset
        At least two points that the flow was not trained on, with its bounds.
    k : int, optional
        How many; all if there are fewer.

    Returns
    -------
    WorstPoints
        The points.

    Raises
    ------
    TypeError, ValueError
        If k is not a positive integer, there are fewer than two points, f is zero at all of them, or they do
        not have the dimension d and the bounds of the flow.

    Examples
    --------
    >>> x = np.linspace(0.05, 0.95, 10)[:, None]
    >>> print(vf.worst_points(vf.Flow(1), vf.Dataset(x, px=np.ones(10), fx=x[:, 0]), k=3))
    row  weight  of variance  q    x1
      9     1.9        24.5%  1  0.95
      8     1.7        14.8%  1  0.85
      7     1.5         7.6%  1  0.75
    """
    k, found = positive_int("k", k), LogWeights.of(flow, data)
    rows = np.argsort(-found.after, kind="stable")[:k]
    weights = without_overflow(found.after)
    with np.errstate(under="ignore"):
        terms = without_overflow(found.counts) * np.square(weights - 1)
    total = terms.sum()
    share = terms[rows] / total if total > 0 else np.zeros(len(rows))
    return WorstPoints(rows, data.x[rows], weights[rows], share, found.q[rows], data.conditions[rows])

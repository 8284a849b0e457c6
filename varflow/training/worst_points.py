"""Points at which a flow is too small: those of the largest weights."""

from dataclasses import dataclass

import numpy as np

from varflow.data.dataset import Dataset
from varflow.flow.flow import Flow
from varflow.flow.mixture import Mixture
from varflow.training.log_weights import LogWeights, without_overflow
from varflow.validation import positive_int

__all__ = ["WorstPoints", "worst_points"]


@dataclass(frozen=True, eq=False)
class WorstPoints:
    """Points with the largest weights f/q, the largest first.

    Attributes
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
    """

    rows: np.ndarray
    x: np.ndarray
    weight: np.ndarray
    share: np.ndarray
    log_q: np.ndarray

    def __str__(self) -> str:
        """Return a table."""
        titles = ["row", "weight", "of variance", "q", *(f"x{k + 1}" for k in range(self.x.shape[1]))]
        with np.errstate(over="ignore", under="ignore"):
            q = np.exp(self.log_q)
        cells = [
            [f"{row:,}", f"{weight:.4g}", f"{share:.1%}", f"{of_q:.3g}", *(f"{value:.6g}" for value in x)]
            for row, weight, share, of_q, x in zip(self.rows, self.weight, self.share, q, self.x, strict=True)
        ]
        widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
            for line in (titles, *cells)
        )


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
    >>> print(vf.worst_points(flow, data, 5))
    """
    k, found = positive_int("k", k), LogWeights.of(flow, data)
    rows = np.argsort(-found.after, kind="stable")[:k]
    weights = without_overflow(found.after)
    with np.errstate(under="ignore"):
        terms = without_overflow(found.counts) * np.square(weights - 1)
    total = terms.sum()
    share = terms[rows] / total if total > 0 else np.zeros(len(rows))
    return WorstPoints(rows, data.x[rows], weights[rows], share, found.q[rows])

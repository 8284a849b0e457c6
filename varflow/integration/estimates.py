"""Estimates of integrals from values of the integrand at drawn points, with their covariances.

Points come from the defensive mixture q = (1 - e) q_f + e of the flow's density q_f and the uniform one, in
fixed numbers from each. The estimate is the mean of the weights w = f / q over batches that are independent
of each other: scrambles of Sobol points, or rounds of a survey. The scatter of the batches' means gives the
covariance.

The uniform share e bounds the weights by f / e, but adds to their scatter: even if f = I q_f, with I the
integral, the weights would not be equal. A control variate takes this out (Owen and Zhou, J. Am. Stat.
Assoc. 95 (2000) 135, section 4). Both q_f and the uniform density integrate to 1, so (q_f - 1) / q has mean
0 over q, and

    w - e I (q_f - 1) / q

has the same mean as w. For f = I q_f it equals I at every point, since f - e I (q_f - 1) = I ((1 - e) q_f +
e). The I in it is the estimate of earlier points. As it is fixed before the points are drawn, there is no
bias.
"""

from collections.abc import Mapping

import numpy as np

from varflow.integration.proposal import Draw

__all__ = ["Batches", "magnitudes", "weights_of"]


def magnitudes(values: np.ndarray) -> np.ndarray:
    """Compute what a flow learns, (n,), from values (n, m): |f|, or the root of the sum of squares."""
    if values.shape[1] == 1:
        return np.abs(values[:, 0])
    return np.sqrt(np.sum(np.square(values), axis=1))


def weights_of(points: Draw, values: np.ndarray) -> np.ndarray:
    """Compute the weights f/q, (n, m), of values f (n, m)."""
    with np.errstate(over="ignore", under="ignore"):
        weights: np.ndarray = values * np.exp(-points.log_q)[:, None]
    return weights


class Batches:
    """Means over batches of points: their mean is the estimate, their scatter gives its covariance.

    The points of a batch need not be independent, the batches are: scrambles of quasi-random points, or the
    rounds of a survey.

    Parameters
    ----------
    expected : ndarray, (m,)
        What the integrals are expected to be, known before the points are drawn; see `_controlled`.
    """

    def __init__(self, expected: np.ndarray) -> None:
        self.expected = expected
        self.n = self.n_batches = 0
        self._means: list[np.ndarray] = []
        self._whole: list[np.ndarray] = []
        self._quarters: list[np.ndarray] = []
        self._sum, self._squares, self._largest = 0.0, 0.0, 0.0

    def add(self, points: Draw, values: np.ndarray, n_batches: int = 1) -> None:
        """Add points with values f (n, m), which are `n_batches` batches of the same size in turn.

        They are so among the points from the flow, and among the uniform ones.
        """
        weights = weights_of(points, values)
        controlled = _controlled(points, weights, self.expected)
        n_flow = len(points.u) - points.n_uniform
        sums = [
            part.reshape(n_batches, len(part) // n_batches, -1).sum(axis=1)
            for part in (controlled[:n_flow], controlled[n_flow:])
            if len(part)
        ]
        self._means.append(np.sum(sums, axis=0) * (n_batches / len(points.u)))
        by_batch = controlled[:n_flow].reshape(n_batches, n_flow // n_batches, -1)
        self._whole.append(by_batch.mean(axis=1))
        self._quarters.append(by_batch[:, : max(1, by_batch.shape[1] // 4)].mean(axis=1))
        sizes = np.abs(weights).sum(axis=1)
        self.n += len(sizes)
        self.n_batches += n_batches
        self._sum += float(sizes.sum())
        self._squares += float(np.square(sizes).sum())
        self._largest = max(self._largest, float(sizes.max()))

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """Give what was added, as arrays for a file; see `of`."""
        sums = np.array([self.n, self.n_batches, self._sum, self._squares, self._largest])
        parts = {"means": self._means, "whole": self._whole, "quarters": self._quarters}
        empty = np.empty((0, len(self.expected)))
        arrays = {name: np.concatenate(part) if part else empty for name, part in parts.items()}
        arrays |= {"expected": self.expected, "sums": sums}
        return {f"{prefix}_{name}": array for name, array in arrays.items()}

    @classmethod
    def of(cls, prefix: str, arrays: Mapping[str, np.ndarray]) -> "Batches":
        """Make the batches again of what `arrays` gave."""
        batches = cls(arrays[f"{prefix}_expected"])
        n, n_batches, batches._sum, batches._squares, batches._largest = arrays[f"{prefix}_sums"].tolist()
        batches.n, batches.n_batches = int(n), int(n_batches)
        batches._means, batches._whole, batches._quarters = (
            list(arrays[f"{prefix}_{name}"][:, None]) for name in ("means", "whole", "quarters")
        )
        return batches

    @property
    def means(self) -> np.ndarray:
        """Means of the batches, (n_batches, m)."""
        return np.concatenate(self._means)

    @property
    def mean(self) -> np.ndarray:
        """The estimate, (m,)."""
        mean: np.ndarray = self.means.mean(axis=0)
        return mean

    @property
    def covariance(self) -> np.ndarray:
        """Covariance of the estimate, (m, m)."""
        residuals = self.means - self.mean
        covariance: np.ndarray = residuals.T @ residuals / (len(residuals) - 1) / len(residuals)
        return covariance

    @property
    def rate(self) -> float:
        """Power r of n with which the error falls, as n^-r: from a quarter of each batch to the whole of it.

        It is held to what independent points have at least, 1/2, and to 1, for it is an estimate.
        """
        quarter, whole = (np.concatenate(means).std(axis=0) for means in (self._quarters, self._whole))
        with np.errstate(divide="ignore", invalid="ignore"):
            rates = np.log(quarter / whole) / np.log(4)
        return float(np.clip(np.nan_to_num(rates, nan=0.5).min(), 0.5, 1.0))

    @property
    def ess(self) -> float:
        """Effective sample size (sum w)^2 / (n sum w^2), as a fraction of the points; w = |f|/q."""
        return self._sum**2 / (self.n * self._squares) if self._squares > 0 else 0.0

    @property
    def largest_share(self) -> float:
        """Largest share of one point in the sum of w."""
        return self._largest / self._sum if self._sum > 0 else 0.0


def _controlled(points: Draw, weights: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Subtract the control variate of the uniform share from weights (n, m); see the module."""
    if points.n_uniform == 0:
        return weights
    with np.errstate(over="ignore", under="ignore"):
        variate = np.exp(points.log_flow - points.log_q) - np.exp(-points.log_q)
    controlled: np.ndarray = weights - points.uniform_share * variate[:, None] * expected
    return controlled

"""Map of each coordinate of points to a nearly normal distribution, fitted to the points."""

import math

import numpy as np

from varflow.data.arrays import FloatArray

__all__ = ["Margin", "map_by_margins"]

TAIL_POINTS = 10  # points beyond the outermost knots


class Margin:
    """Map of [0, 1] to the whole line, by the distribution function F of one coordinate: y = Φ⁻¹(F(t)).

    F is linear between knots at sample quantiles, and a power of the distance from the border, with the
    exponent of largest likelihood, beyond the outermost of them: tails are thus followed to singular borders
    as well as to borders far from all points. Φ is the distribution function of a normal distribution.

    Parameters
    ----------
    t : ndarray, (n,)
        Sample of the coordinate, in [0, 1].
    """

    def __init__(self, t: FloatArray) -> None:
        shares = _knot_shares(len(t))
        knots = np.quantile(t, shares)
        is_inner = (np.diff(knots, prepend=0.0) > 0) & (knots < 1)
        if not is_inner.any():  # nearly all points lie at borders
            shares, knots, is_inner = np.array([0.5]), np.array([0.5]), np.array([True])
        self.shares, self.knots = shares[is_inner], knots[is_inner]
        first, last = self.knots[[0, -1]]
        self.powers = _power(t[t < first] / first), _power((1 - t[t > last]) / (1 - last))

    def __call__(self, t: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Map coordinates (n,). Returns y, infinite at the borders, and log |dy/dt|."""
        from scipy.special import ndtri, ndtri_exp  # slow to import

        slopes = np.append(np.diff(self.shares) / np.diff(self.knots), 1.0)
        first, last = self.knots[[0, -1]]
        y = ndtri(np.interp(t, self.knots, self.shares))
        log_slope = np.log(slopes[np.searchsorted(self.knots, t, "right") - 1])
        tails = (
            (t < first, t, first, self.shares[0], self.powers[0], 1),
            (t > last, 1 - t, 1 - last, 1 - self.shares[-1], self.powers[1], -1),
        )
        for is_beyond, distances, length, share, power, sign in tails:
            with np.errstate(divide="ignore", invalid="ignore"):  # at the border itself
                log_distance = np.log(distances[is_beyond])
                log_share = math.log(share) + power * (log_distance - math.log(length))
                y[is_beyond] = sign * ndtri_exp(log_share)
                log_slope[is_beyond] = math.log(power) + log_share - log_distance
        return y, log_slope + y * y / 2 + math.log(2 * math.pi) / 2


def map_by_margins(margins: list[Margin], t: FloatArray, log_p: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Map points (n, d) of the unit cube with the logs (n,) of their density; leave out those at borders."""
    y, log_p = np.empty_like(t), log_p.copy()
    for axis, margin in enumerate(margins):
        y[:, axis], log_slope = margin(t[:, axis])
        log_p -= log_slope
    is_inside = np.isfinite(y).all(axis=1) & np.isfinite(log_p)
    return y[is_inside], log_p[is_inside]


def _knot_shares(n: int) -> FloatArray:
    """Shares of n points below each knot: many points between knots, fewer towards the tails."""
    largest = max(n ** (2 / 3) / 2, TAIL_POINTS)
    counts = [TAIL_POINTS]
    while counts[-1] < largest and 2 * (sum(counts) + 2 * counts[-1]) < n:
        counts.append(2 * counts[-1])
    low = np.cumsum(counts)
    n_between = n - 2 * low[-1]
    parts = max(round(n_between / largest), 1)
    between = low[-1] + n_between * np.arange(1, parts) / parts
    return np.concatenate([low, between, n - low[::-1]]) / n


def _power(distances: FloatArray) -> float:
    """Exponent of largest likelihood of a distribution function u^power of distances u in [0, 1)."""
    total = -float(np.log(np.maximum(distances, np.finfo(float).tiny)).sum())
    return len(distances) / total if total > 0 else 1.0

"""Whether a density integrates to one, from points drawn from it and its values at these points alone.

**Truncated harmonic mean.** Let points x be drawn from a density p0, and let p = A p0 be given in its place:
A is the integral of p, which should be one. For any region R in which p0 > 0,

    E[1_R(x) / p(x)] = ∫_R p0 / p dx = vol(R) / A,

so that vol(R) over the mean of 1_R / p estimates A. With the whole box as R, the variance of the mean is
infinite wherever p falls fast to a border or in a tail. Hence R is kept to where p is large, as in Robert and
Wraith (arXiv 0907.5123).

**Region.** Half of the points choose R, and the others estimate; then they change places. R is an ellipsoid,
or a box along the axes. Its centre and its widths are those of neighbours, of which the nearest are taken
again and again, as in the concentration steps of Rousseeuw and Van Driessen (Technometrics 41 (1999) 212). It
is sought both in x and in coordinates that are mapped to normal ones, each by its own distribution function:
there, peaks and slopes along the axes are gone, and the borders are at infinity, so that no region is cut.

**Doubt.** Points alone cannot tell a density that is too large from one that is zero, or too small for any
point, in a part of R: either way, there are fewer points than p makes expect. So R is chosen where there are
many points for its p, and evenly large 1 / p. Its halves, cut through the centre across any axis, its core,
and small balls about points within it must then show such an A, too. That p is too small is not in doubt: no
hole adds points. Holes that are finer than the distances of neighbouring points, as those of a chequerboard
of many squares, cannot be seen.
"""

import math
from typing import NamedTuple

import numpy as np

from varflow.data.arrays import FloatArray, is_unbounded, log_sum_exp
from varflow.training.margins import Margin, map_by_margins

__all__ = ["Normalization", "estimate_normalization"]

MAX_POINTS = 20_000
MAX_SEARCH = 2000  # points of a half among which a region is sought
MIN_POINTS = 50

# What is called wrong: an integral that is so much above or below one, and its log so many errors from zero.
TOO_LARGE, TOO_SMALL = 1.5, 0.8  # holes that are not seen make the integral seem somewhat too large
MIN_SIGMAS = 5.0

START_RANKS = (0.0, 0.15, 0.4)  # of p among the points: where regions are sought from
NEIGHBOUR_SHARES = (0.5, 0.2, 0.08, 0.03)
N_CONCENTRATIONS = 3
MIN_ROWS = 20  # of a region, in the search
EVENNESS_POWER, VOID_POWER, NOISE = 2.0, 2.0, 6.0  # weights in the score of a region
CORE = 0.5  # share of the points of a region that its core has
NEIGHBOUR, MAX_BALLS = 6, 250  # small balls reach to this neighbour

FEWEST = 6.0  # effective sample size of 1 / p in R that an estimate needs at all

# What makes A > 1 credible. Views and halves show so much of log A, ...
HALF_OF_IT = 0.5
# ... the core and small balls, where holes are seen first, nearly all of it: they may lack MIN_LACK in any
# case, and MAX_LACK in none.
MOST_OF_IT, MIN_LACK, MAX_LACK = 0.85, 0.1, 0.4
# The more dimensions, the better do holes hide among few points: the effective sample size is at least
# MIN_ESS + MIN_ESS_D2 d^2 over log A, of which no more than MAX_SIZE counts. Or else R would be E_FOLDS too
# wide in every dimension.
MIN_ESS, MIN_ESS_D2, MAX_SIZE, E_FOLDS = 10.0, 1.5, 1.5, 10.0
# 1 / p varies little in R, as its mean otherwise hangs on points that are not there; or else log A is several
# times the variance of log p, half of which the log of the mean lacks where few points have log-normal 1 / p.
MIN_EVENNESS = 0.3  # effective sample size over the number of points
SPREADS = 3.0


class Normalization(NamedTuple):
    """Integral of a density, as points drawn from it imply it.

    Attributes
    ----------
    factor : float
        Integral of p over the box: 2 where p is given twice too large. One if it cannot be estimated.
    error : float
        Standard error of log(factor); infinite if it cannot be estimated.
    is_conclusive : bool
        Whether the views of both halves of the points, and parts of their regions, agree.
    """

    factor: float
    error: float
    is_conclusive: bool

    @property
    def is_wrong(self) -> bool:
        """Whether the integral of p is certainly not one."""
        if not self.is_conclusive or TOO_SMALL <= self.factor <= TOO_LARGE:
            return False
        return self.factor == 0 or abs(math.log(self.factor)) > MIN_SIGMAS * self.error


def estimate_normalization(x: FloatArray, logpx: FloatArray, bounds: FloatArray) -> Normalization:
    """Estimate the integral of a density from points drawn from it; see the module's docstring.

    The result is always the same for the same points; of more than MAX_POINTS, evenly spread ones are used.

    Parameters
    ----------
    x : ndarray, (n, d)
        Points in the box.
    logpx : ndarray, (n,)
        Natural logarithm of the density that is said to be theirs.
    bounds : ndarray, (d, 2)
        Lower and upper bound of each dimension; all finite, or all infinite.

    Returns
    -------
    Normalization
        The integral, its error, and whether it is conclusive. It never is for a few dozen points, or fewer
        than 20 d + 40.
    """
    t, log_p = _in_unit_cube(_Sample(x, logpx).thinned(MAX_POINTS), bounds)
    halves = [_Sample(t[k::2], log_p[k::2]) for k in (0, 1)]
    views = [_view(*pair) for pair in (halves, halves[::-1])] if len(t) >= MIN_POINTS else [None]
    if None in views:
        return Normalization(1.0, math.inf, False)
    return _judge([view for view in views if view is not None])


class _Sample(NamedTuple):
    """Points (n, d), and the logs (n,) of their density."""

    x: FloatArray
    log_p: FloatArray

    def thinned(self, n_max: int) -> "_Sample":
        """Return evenly spread rows, `n_max` at most."""
        n_kept = min(len(self.x), n_max)
        rows = np.arange(n_kept) * len(self.x) // max(n_kept, 1)
        return _Sample(self.x[rows], self.log_p[rows])


def _in_unit_cube(sample: _Sample, bounds: FloatArray) -> _Sample:
    """Map points to the unit cube: linearly from a box, by a Cauchy distribution function from all of space.

    That function is wider than most densities in their tails, so that they fall towards the faces.
    """
    x, log_p = sample
    if not is_unbounded(bounds):
        lower, upper = bounds.T
        return _Sample(np.clip((x - lower) / (upper - lower), 0, 1), log_p + np.log(upper - lower).sum())
    low, centre, high = np.quantile(x, (0.25, 0.5, 0.75), axis=0)
    widths = np.where(high > low, high - low, 1.0)
    y = (x - centre) / widths
    return _Sample(0.5 + np.arctan(y) / math.pi, log_p + np.log(math.pi * widths * (1 + y * y)).sum(axis=1))


class _Region(NamedTuple):
    """Points with |W (x - centre)| up to a radius, in the Euclidean norm, or the largest-component norm."""

    centre: FloatArray
    whitening: FloatArray  # W, lower triangular
    is_box: bool

    def whitened(self, x: FloatArray) -> FloatArray:
        # Not by BLAS, whose bits depend on the number of threads.
        return np.einsum("ij,kj->ki", self.whitening, x - self.centre)

    def radii(self, x: FloatArray) -> FloatArray:
        return self.norm(self.whitened(x))

    def log_volume(self, radius: FloatArray) -> FloatArray:
        d = len(self.centre)
        log_unit = d * math.log(2) if self.is_box else _log_unit_ball(d)
        with np.errstate(divide="ignore"):
            return log_unit + d * np.log(radius) - np.log(np.diag(self.whitening)).sum()

    def largest_radius(self, bounds: FloatArray) -> float:
        """Radius at which the region touches the first border of a box."""
        inverse = np.linalg.inv(self.whitening)
        reach = np.abs(inverse).sum(axis=1) if self.is_box else np.sqrt(np.square(inverse).sum(axis=1))
        return float((np.abs(bounds - self.centre[:, None]).min(axis=1) / reach).min())

    def norm(self, z: FloatArray) -> FloatArray:
        return np.abs(z).max(axis=1) if self.is_box else np.sqrt(np.square(z).sum(axis=1))


class _View(NamedTuple):
    """What one half of the points says about the region that the other has chosen."""

    log_factor: float
    error: float
    halves: list[float]  # log factors of halves of the region
    within: list[float]  # log factors of its core and of small balls within it
    ess: float
    evenness: float
    spread: float  # variance of log p in the region
    d: int

    def is_sure(self, log_factor: float) -> bool:
        """Whether this view supports a log factor, that of both views together."""
        size, slack = abs(log_factor), self.error
        if log_factor < 0:
            return -self.log_factor >= min(HALF_OF_IT * size, size + math.log(TOO_SMALL)) - slack
        least = min(HALF_OF_IT * size, size - math.log(TOO_LARGE)) - slack
        least_within = min(max(MOST_OF_IT * size, size - MAX_LACK), size - MIN_LACK) - slack
        counted = min(max(size, math.log(TOO_LARGE)), MAX_SIZE)
        return (
            all(log >= least for log in (self.log_factor, *self.halves))
            and all(log >= least_within for log in self.within)
            and (self.evenness >= MIN_EVENNESS or size > SPREADS * self.spread)
            and (self.ess * counted >= MIN_ESS + MIN_ESS_D2 * self.d**2 or size > E_FOLDS * self.d)
        )


def _judge(views: list[_View]) -> Normalization:
    log_factor = sum(view.log_factor for view in views) / len(views)
    error = math.hypot(*(view.error for view in views)) / len(views)
    with np.errstate(over="ignore", under="ignore"):
        factor = float(np.exp(log_factor))
    return Normalization(factor, error, all(view.is_sure(log_factor) for view in views))


def _view(choice: _Sample, test: _Sample) -> _View | None:
    """Choose a region by one half of the points, and estimate by the other; None if it has too few there."""
    margins = [Margin(column) for column in choice.x.T]
    d = choice.x.shape[1]
    spaces = (
        (choice, test, np.tile([0.0, 1.0], (d, 1))),
        (
            _Sample(*map_by_margins(margins, *choice)),
            _Sample(*map_by_margins(margins, *test)),
            np.tile([-math.inf, math.inf], (d, 1)),
        ),
    )
    found = [_find_region(choice.thinned(MAX_SEARCH), bounds) for choice, _, bounds in spaces]
    score, k = max((score, k) for k, (score, _, _) in enumerate(found))
    if score == -math.inf:
        return None
    _, region, radii = found[k]
    return _estimate(region, radii, spaces[k][0], spaces[k][1], len(test.x))


def _find_region(sample: _Sample, bounds: FloatArray) -> tuple[float, _Region, FloatArray]:
    """Find the best region. Returns its score, -inf if there is none, and its radius and that of its core."""
    x, log_p = sample
    n, d = x.shape
    best = (-math.inf, _Region(np.zeros(d), np.eye(d), True), np.zeros(2))
    order = np.argsort(-log_p, kind="stable")
    for n_near in sorted({max(int(share * n), 10 * d + 20) for share in NEIGHBOUR_SHARES}):
        if n_near > n:
            break
        for rank in START_RANKS:
            for is_box in (False, True):
                region = _concentrated(x, x[order[int(rank * n)]], n_near, is_box)
                if region is None:
                    continue
                radii = region.radii(x)
                by_radius = np.argsort(radii, kind="stable")
                radii = radii[by_radius]
                scores = _scores(region, radii, log_p[by_radius])
                scores[: max(MIN_ROWS, n_near // 5)] = -math.inf
                scores[(radii == 0) | (radii > region.largest_radius(bounds))] = -math.inf
                row = int(np.argmax(scores))
                if scores[row] > best[0]:
                    best = (float(scores[row]), region, radii[[row, int(CORE * row)]])
    return best


def _concentrated(x: FloatArray, start: FloatArray, n_near: int, is_box: bool) -> _Region | None:
    """Take the nearest points again and again, by the spread of the last; None if they lie in a plane."""
    region = _Region(start, np.eye(len(start)), is_box)
    for _ in range(N_CONCENTRATIONS):
        near = x[np.argpartition(region.radii(x), n_near - 1)[:n_near]]
        centre = near.mean(axis=0)
        offsets = near - centre
        if is_box:
            variances = np.square(offsets).mean(axis=0)
            if not (variances > 0).all():
                return None
            whitening = np.diag(1 / np.sqrt(variances))
        else:
            try:
                root = np.linalg.cholesky(np.einsum("ki,kj->ij", offsets, offsets) / n_near)
            except np.linalg.LinAlgError:
                return None
            whitening = np.linalg.inv(root)
        region = _Region(centre, whitening, is_box)
    return region


def _scores(region: _Region, radii: FloatArray, log_p: FloatArray) -> FloatArray:
    """Score a region by its radius, that of one after the other of the points (n,), sorted by radius."""
    weights = np.exp(np.clip(np.median(log_p) - log_p, -300, 300))
    totals = np.cumsum(weights)
    ess = totals**2 / np.cumsum(weights**2)
    evenness = ess / np.arange(1, len(radii) + 1)
    log_factors = region.log_volume(radii) - np.log(totals) - np.median(log_p)
    return np.log(ess) + EVENNESS_POWER * np.log(evenness) - VOID_POWER * (log_factors + NOISE / np.sqrt(ess))


def _estimate(region: _Region, radii: FloatArray, choice: _Sample, test: _Sample, n: int) -> _View | None:
    """Estimate log A, by n points in all, from those of a sample in the region; None if these are too few."""
    z = region.whitened(test.x)
    distances = region.norm(z)
    is_inside, is_core = (distances < radius for radius in radii)
    if not is_core.any():
        return None
    log_p = test.log_p[is_inside]
    weights = np.zeros(n)
    weights[: len(log_p)] = np.exp(log_p.min() - log_p)
    ess = float(weights.sum() ** 2 / np.square(weights).sum())
    if ess < FEWEST:
        return None
    log_volume, log_core = region.log_volume(radii)

    def log_factor(rows: np.ndarray, log_volume: float) -> float:
        return float(log_volume) - log_sum_exp(-test.log_p[rows]) + math.log(n)

    sides = np.concatenate([z > 0, z < 0], axis=1).T
    return _View(
        log_factor=log_factor(is_inside, log_volume),
        error=float(weights.std() / weights.mean()) / math.sqrt(n),
        halves=[log_factor(is_inside & side, log_volume - math.log(2)) for side in sides],
        within=[log_factor(is_core, log_core), _log_factor_of_balls(region, radii[0], choice, test, n)],
        ess=ess,
        evenness=ess / len(log_p),
        spread=float(log_p.var()),
        d=len(region.centre),
    )


def _log_factor_of_balls(region: _Region, radius: float, choice: _Sample, test: _Sample, n: int) -> float:
    """Estimate log A from small balls about points of the region; NaN if those are not distinct."""
    from scipy.spatial import cKDTree  # slow to import

    z = region.whitened(choice.x)
    inside = _Sample(z, choice.log_p)
    inside = _Sample(*(part[region.norm(z) < radius] for part in inside)).thinned(MAX_BALLS)
    radii = cKDTree(z).query(inside.x, [NEIGHBOUR])[0][:, 0]
    is_ball = radii > 0  # not so where points are repeated
    if not is_ball.any():
        return math.nan
    radii = radii[is_ball]
    near = cKDTree(region.whitened(test.x)).query_ball_point(inside.x[is_ball], radii, return_sorted=True)
    d = z.shape[1]
    log_volumes = _log_unit_ball(d) + d * np.log(radii) - np.log(np.diag(region.whitening)).sum()
    logs = np.array([log_sum_exp(-test.log_p[rows]) for rows in near])
    return math.log(n) + math.log(len(radii)) - log_sum_exp(logs - log_volumes)


def _log_unit_ball(d: int) -> float:
    return d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)

"""MCMC probe for regions of large |f| that the flow has lost, and points to regain them.

Points drawn from a flow say little about where the flow is not: a peak that it has lost is hit by none of
them, and the estimate misses it with a small error. So MCMC walkers climb, independently of the flow, and
the density of the flow is examined where they end. Here f is the integrand on the unit cube, the Jacobian of
the map onto the box included.

**Where they start** (`chosen`). Half of the ``N_WALKERS`` walkers start anywhere in the unit cube. The others
start at uniform points that were seen before (`State.explored`), drawn without replacement with probabilities
in proportion to f/(q + c), in the notation of below. A region that only the first, uniform points of a survey
have met, and the flow has not followed, or one whose tails they have met, is thus looked at again.

**Metropolis steps** (`propose`, `moved`). In each step a walker at u proposes

    u' = reflect(u + s z),    z ~ N(0, 1) in each of the d coordinates,

folded back at the faces of the unit cube, and moves there with probability min(1, |f(u')| / |f(u)|), or
always where f(u) = 0. The step length s begins at ``FIRST_STEP`` and is adapted for each walker by itself, by
the method of Robbins and Monro: after step t, counted from 0,

    log s += 2 (a - WANTED_ACCEPTANCE) / sqrt(1 + t / 10),    a = 1 if the step was accepted, else 0.

These changes decrease, but slowly enough that s can reach any value, up to ``MAX_STEP``. Because of them the
walkers do not end in a sample from |f|, but in the peaks that they came near to.

**Width.** For random walks over a Gaussian of standard deviation w in many dimensions, an acceptance rate of
about ``WANTED_ACCEPTANCE`` is near the best, and the steps that have it are of length s = STEP_OF_WIDTH w /
sqrt(d) (Roberts et al., Ann. Appl. Probab. 7 (1997) 110). The last s of a walker thus tells the width of its
peak,

    w = min(1, s sqrt(d) / STEP_OF_WIDTH),    or 1 where s is at its bound.

**When a region counts as lost** (`State.is_lost`). With q the density of the flow and c the uniform
share of the points that estimate the integral (``DEFENSIVE_SHARE`` of `varflow.integration.state`), let

    R = |f| / ((q + c) I),    I = mean of |f|/p over the later half of the points of the survey,

where p is the density that each of those points was drawn from. Were all of the integral I in the region
where a walker ended, with f/q the same all over it, then 1/R of the points would fall there. The region
counts as lost for n points if fewer than ``UNSEEN`` of n points would do so, but not unless 1/R < 1: if

    R > max(1, n / UNSEEN).

**Points to regain it** (`draw_around`, `Regain` of `varflow.integration.steps`). Half of the new points are
drawn from the mixture of the K walkers that ended in lost regions, with equal shares: Gaussians around their
ends c_k, of their widths w_k, truncated at the faces of the unit cube,

    p(u) = (1/K) sum_k prod_j φ((u_j - c_kj) / w_k) / (w_k (Φ((1 - c_kj) / w_k) - Φ(-c_kj / w_k))),

with φ and Φ the density and the distribution function of the standard normal distribution. They are drawn by
inversion of Φ, one coordinate at a time. The other half are drawn from the flow and its uniform share, with
the density q', and all get that of both, (p + q') / 2, so that no weight is large where p alone would be
small. The next stage of the survey trains the flow on these points.
"""

import math
from typing import NamedTuple

import numpy as np

from varflow.integration.proposal import inside

__all__ = [
    "MAX_STEPS",
    "N_WALKERS",
    "Walkers",
    "chosen",
    "draw_around",
    "log_density_around",
    "moved",
    "no_walkers",
    "propose",
    "walkers_at",
]

N_WALKERS = 32
MAX_STEPS = 128  # enough in 16 dimensions for peaks of a tenth of the box
FIRST_STEP = 0.1  # standard deviation in each coordinate
WANTED_ACCEPTANCE = 0.25
STEP_OF_WIDTH = 2.38
MAX_STEP = 0.5  # with which a walker forgets where it was; of much longer ones, folding would leave few bits


class Walkers(NamedTuple):
    """MCMC walkers, wherever they are by now.

    Attributes
    ----------
    u : ndarray, (n, d)
        Their points, in the unit cube.
    log_f : ndarray, (n,)
        Log of |f| there.
    log_step : ndarray, (n,)
        Log of the step length of each.
    """

    u: np.ndarray
    log_f: np.ndarray
    log_step: np.ndarray

    def beside(self, others: "Walkers") -> "Walkers":
        """Give these walkers and others."""
        return Walkers(*(np.concatenate(parts) for parts in zip(self, others, strict=True)))

    @property
    def width(self) -> np.ndarray:
        """Widths (n,) of the peaks that the walkers are in, at most 1; see the module's docstring."""
        d, is_longest = self.u.shape[1], self.log_step == math.log(MAX_STEP)
        width = np.minimum(np.exp(self.log_step) * math.sqrt(d) / STEP_OF_WIDTH, 1)
        return np.where(is_longest, 1.0, width)


def no_walkers(d: int) -> Walkers:
    """Make none."""
    return Walkers(np.empty((0, d)), np.empty(0), np.empty(0))


def chosen(log_weights: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    """Draw points without replacement, with probabilities in proportion to their weights.

    The keys of Efraimidis and Spirakis (Inf. Process. Lett. 97 (2006) 181) are taken by their logarithms.

    Parameters
    ----------
    log_weights : ndarray, (m,)
        Natural logs of the weights.
    n : int
        Number of points, up to m.
    generator : Generator
        Source of the random numbers.

    Returns
    -------
    ndarray of int, (n,)
        Their rows.
    """
    rows: np.ndarray = np.argsort(-(log_weights + generator.gumbel(size=len(log_weights))))[:n]
    return rows


def walkers_at(u: np.ndarray, log_f: np.ndarray) -> Walkers:
    """Make walkers that start at points u (n, d), where the log of |f| is log_f (n,)."""
    return Walkers(u, log_f, np.full(len(u), np.log(FIRST_STEP)))


def propose(walkers: Walkers, generator: np.random.Generator) -> np.ndarray:
    """Draw the points (n, d) to which the walkers may go next."""
    shifts = np.exp(walkers.log_step)[:, None] * generator.normal(size=walkers.u.shape)
    return inside(_reflected(walkers.u + shifts))


def moved(
    walkers: Walkers, u: np.ndarray, log_f: np.ndarray, step: int, generator: np.random.Generator
) -> Walkers:
    """Move walkers to proposed points, or leave them where they are.

    Parameters
    ----------
    walkers : Walkers
        Where they are.
    u : ndarray, (n, d)
        Where they may go; see `propose`.
    log_f : ndarray, (n,)
        Log of |f| there: -inf where f is zero, or where they are not to go.
    step : int
        Number of the step, counted from 0.
    generator : Generator
        Source of the random numbers.

    Returns
    -------
    Walkers
        Where they are then, with the step lengths of the next step.
    """
    with np.errstate(invalid="ignore"):  # from zero to zero: -inf minus -inf
        gain = np.where(walkers.log_f == -np.inf, 0.0, log_f - walkers.log_f)
    is_accepted = np.log(1 - generator.random(len(u))) < gain
    change = (is_accepted - WANTED_ACCEPTANCE) * 2 / np.sqrt(1 + step / 10)
    return Walkers(
        np.where(is_accepted[:, None], u, walkers.u),
        np.where(is_accepted, log_f, walkers.log_f),
        np.minimum(walkers.log_step + change, math.log(MAX_STEP)),
    )


def draw_around(walkers: Walkers, n: int, generator: np.random.Generator) -> np.ndarray:
    """Draw points (n, d) from a mixture of truncated Gaussians around the ends of walkers.

    Parameters
    ----------
    walkers : Walkers
        At least one. Each has an equal share of the mixture, with a Gaussian of its width, truncated at the
        faces of the unit cube.
    n : int
        Number of points.
    generator : Generator
        Source of the random numbers.
    """
    from scipy.special import ndtr, ndtri  # slow to import, and only lost regions need it

    centre, width = walkers.u, walkers.width[:, None]
    below, above = ndtr(-centre / width), ndtr((1 - centre) / width)
    k = generator.integers(len(centre), size=n)
    share = below[k] + (above - below)[k] * generator.random((n, centre.shape[1]))
    return inside(centre[k] + width[k] * ndtri(share))


def log_density_around(walkers: Walkers, u: np.ndarray) -> np.ndarray:
    """Compute the log density (n,) of the mixture of `draw_around` at points u (n, d)."""
    from scipy.special import logsumexp, ndtr

    centre, width = walkers.u, walkers.width[:, None]
    below, above = ndtr(-centre / width), ndtr((1 - centre) / width)
    log_scale = np.log(width * math.sqrt(2 * math.pi) * (above - below)).sum(axis=1)
    squares = np.stack([np.square((u - c) / w).sum(axis=1) for c, w in zip(centre, width, strict=True)])
    log_density: np.ndarray = logsumexp(-0.5 * squares - log_scale[:, None], axis=0) - math.log(len(centre))
    return log_density


def _reflected(u: np.ndarray) -> np.ndarray:
    """Reflect points beyond the faces of the unit cube back into it."""
    folded: np.ndarray = 1 - np.abs(1 - np.mod(u, 2))
    return folded

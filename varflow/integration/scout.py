"""MCMC probe for regions of large |f| that the flow has lost, and points to regain them.

Points drawn from a flow say little about where the flow is not: a peak that it has lost is hit by none of
them, and the estimate misses it with a small error. So MCMC walkers start anywhere in the unit cube and
climb, independently of the flow, and the density of the flow is examined where they end. Here f is the
integrand on the unit cube, the Jacobian of the map onto the box included.

**Metropolis steps** (`wander`). ``N_WALKERS`` walkers start at uniform points. In each step a walker at u
proposes

    u' = reflect(u + s z),    z ~ N(0, 1) in each of the d coordinates,

folded back at the faces of the unit cube, and moves there with probability min(1, |f(u')| / |f(u)|), or
always where f(u) = 0. The step length s begins at ``FIRST_STEP`` and is adapted for each walker by itself, by
the method of Robbins and Monro: after step t, counted from 0,

    log s += 2 (a - WANTED_ACCEPTANCE) / sqrt(1 + t / 10),    a = 1 if the step was accepted, else 0.

These changes decrease, but slowly enough that s can reach any value. Because of them the walkers do not end
in a sample from |f|, but in the peaks that they came near to.

**Width.** For random walks over a Gaussian of standard deviation w in many dimensions, an acceptance rate of
about ``WANTED_ACCEPTANCE`` is near the best, and the steps that have it are of length s = STEP_OF_WIDTH w /
sqrt(d) (Roberts et al., Ann. Appl. Probab. 7 (1997) 110). The last s of a walker thus tells the width of its
peak,

    w = min(1, s sqrt(d) / STEP_OF_WIDTH).

**When a region counts as lost** (`Iterations.is_lost`). With q the density of the flow and c the uniform
share of the points that estimate the integral (``DEFENSIVE_SHARE`` of `varflow.integration.iterations`), let

    R = |f| / ((q + c) I),    I = mean of |f|/p over the later half of the points of the survey,

where p is the density that each of those points was drawn from. Were all of the integral I in the region
where a walker ended, with f/q the same all over it, then 1/R of the points would fall there. The region
counts as lost for n points if fewer than ``UNSEEN`` of n points would do so, but not unless 1/R < 1: if

    R > max(1, n / UNSEEN).

**Points to regain it** (`draw_around`, `Iterations.regain`). New points are drawn from the mixture of the K
walkers that ended in lost regions, with equal shares: Gaussians around their ends c_k, of their widths w_k,
truncated at the faces of the unit cube,

    p(u) = (1/K) sum_k prod_j φ((u_j - c_kj) / w_k) / (w_k (Φ((1 - c_kj) / w_k) - Φ(-c_kj / w_k))),

with φ and Φ the density and the distribution function of the standard normal distribution. They are drawn by
inversion of Φ, one coordinate at a time. The next stage of the survey trains the flow on these points, with
their densities p, along with the points of the last pilot run.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

__all__ = ["MAX_STEPS", "N_WALKERS", "Walkers", "draw_around", "wander"]

N_WALKERS = 32
MAX_STEPS = 128  # enough in 16 dimensions for peaks of a tenth of the box
FIRST_STEP = 0.1  # standard deviation in each coordinate
WANTED_ACCEPTANCE = 0.25
STEP_OF_WIDTH = 2.38


class Walkers(NamedTuple):
    """Points where MCMC walkers have ended.

    Attributes
    ----------
    u : ndarray, (n, d)
        The points, in the unit cube.
    log_f : ndarray, (n,)
        Log of |f| there.
    width : ndarray, (n,)
        Standard deviation, at most 1, of a Gaussian over which the last steps would have the wanted
        acceptance rate; see the module's docstring.
    """

    u: np.ndarray
    log_f: np.ndarray
    width: np.ndarray


def wander(
    log_magnitude: Callable[[np.ndarray], np.ndarray],
    d: int,
    n_steps: int,
    generator: np.random.Generator,
) -> Walkers:
    """Run MCMC walkers from uniform points of the unit cube, by adaptive Metropolis steps on |f|.

    Parameters
    ----------
    log_magnitude : callable
        (n, d) -> (n,), the log of |f|; -inf where f is zero.
    d : int
        Number of dimensions.
    n_steps : int
        Number of steps. With its start, each walker evaluates |f| at n_steps + 1 points.
    generator : Generator
        Source of the random numbers.

    Returns
    -------
    Walkers
        The ends of ``N_WALKERS`` walkers.
    """
    u = generator.random((N_WALKERS, d))
    log_f = log_magnitude(u)
    log_step = np.full(N_WALKERS, np.log(FIRST_STEP))
    for step in range(n_steps):
        shifts = np.exp(log_step)[:, None] * generator.normal(size=u.shape)
        proposed = _reflected(u + shifts)
        log_proposed = log_magnitude(proposed)
        with np.errstate(invalid="ignore"):  # from zero to zero: -inf minus -inf
            gain = np.where(log_f == -np.inf, 0.0, log_proposed - log_f)
        is_accepted = np.log(1 - generator.random(N_WALKERS)) < gain
        u = np.where(is_accepted[:, None], proposed, u)
        log_f = np.where(is_accepted, log_proposed, log_f)
        log_step += (is_accepted - WANTED_ACCEPTANCE) * 2 / np.sqrt(1 + step / 10)
    return Walkers(u, log_f, np.minimum(np.exp(log_step) * math.sqrt(d) / STEP_OF_WIDTH, 1))


def draw_around(walkers: Walkers, n: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw points from a mixture of truncated Gaussians around the ends of walkers.

    Parameters
    ----------
    walkers : Walkers
        At least one. Each has an equal share of the mixture, with a Gaussian of its width, truncated at the
        faces of the unit cube.
    n : int
        Number of points.
    generator : Generator
        Source of the random numbers.

    Returns
    -------
    u : ndarray, (n, d)
        The points.
    log_q : ndarray, (n,)
        Log density of the mixture at the points.
    """
    from scipy.special import logsumexp, ndtr, ndtri  # slow to import, and only lost regions need it

    centre, width = walkers.u, walkers.width[:, None]
    below, above = ndtr(-centre / width), ndtr((1 - centre) / width)
    k = generator.integers(len(centre), size=n)
    share = below[k] + (above - below)[k] * generator.random((n, centre.shape[1]))
    u = np.clip(centre[k] + width[k] * ndtri(share), 0, 1)
    log_scale = np.log(width * math.sqrt(2 * math.pi) * (above - below)).sum(axis=1)
    squares = np.stack([np.square((u - c) / w).sum(axis=1) for c, w in zip(centre, width, strict=True)])
    return u, logsumexp(-0.5 * squares - log_scale[:, None], axis=0) - math.log(len(centre))


def _reflected(u: np.ndarray) -> np.ndarray:
    """Reflect points beyond the faces of the unit cube back into it."""
    folded: np.ndarray = 1 - np.abs(1 - np.mod(u, 2))
    return folded

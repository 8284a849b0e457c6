"""Scouts: MCMC walkers that look for regions of large |f| which the flow has lost, and points drawn there.

Points drawn from a flow tell nothing of where its density is nearly zero: a peak that it has lost is hit by
none of them, and the estimate misses it with a small error.

**The probe.** N_WALKERS walkers start at uniform points u and take Metropolis steps with |f| as the
density: a step u' = u + s n, with n standard normal and folded back at the faces of the cube, is accepted
with probability min(1, |f(u')| / |f(u)|). Each walker adapts the length s of its steps so that a share
WANTED_ACCEPTANCE is accepted (Robbins and Monro), which is near the optimum for Gaussians of many
dimensions, where the best s is 2.38 w / sqrt(d) for a peak of width w (Roberts et al., Ann. Appl. Probab. 7
(1997) 110). So walkers end in the peaks that they came near to, and s tells the width of the peak.

**Lost regions.** A region counts as lost if n points of the flow would not see it: f/q there, in units of
the integral, exceeds n / UNSEEN (`varflow.integration.iterations`), q being the density of the defensive
mixture.

**Regaining them.** Points are drawn from the mixture of Gaussians N(u_j, w_j^2), cut off at the faces of
the cube, over the walkers j that ended in lost regions. The density of this mixture is known, so the points
can be trained on like those of a survey's round, and a further stage of the survey begins with them.
Estimates that were made without the region do not count any more.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

__all__ = ["MAX_STEPS", "N_WALKERS", "Walkers", "draw_around", "wander"]

N_WALKERS = 32
MAX_STEPS = 128  # enough in 16 dimensions for peaks of a tenth of the box
FIRST_STEP = 0.1  # standard deviation in each coordinate
# For random walks over a Gaussian of many dimensions (Roberts et al., Ann. Appl. Probab. 7 (1997) 110): near
# the best acceptance, and the length of the steps that have it, in widths of the Gaussian over the root of d.
WANTED_ACCEPTANCE = 0.25
STEP_OF_WIDTH = 2.38


class Walkers(NamedTuple):
    """Where walkers have ended.

    Attributes
    ----------
    u : ndarray, (n, d)
        Their points in the unit cube.
    log_f : ndarray, (n,)
        The log of |f| there.
    width : ndarray, (n,)
        Standard deviation, up to 1, of a Gaussian over which their last steps would be accepted as often as
        wanted.
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
    """Run Metropolis walkers with density |f| from uniform points of the unit cube.

    Each adapts the length of its steps to how often they are accepted. So what the walkers end in are the
    peaks that they came near to, not a sample of |f|.

    Parameters
    ----------
    log_magnitude : callable
        (n, d) -> (n,), the log of |f|; -inf where f is zero.
    d : int
        Number of dimensions.
    n_steps : int
        Number of steps; with the start, each walker looks at n_steps + 1 points.
    generator : Generator
        Source of the random numbers.

    Returns
    -------
    Walkers
        N_WALKERS of them.
    """
    u = generator.random((N_WALKERS, d))
    log_f = log_magnitude(u)
    log_step = np.full(N_WALKERS, np.log(FIRST_STEP))
    for step in range(n_steps):
        shifts = np.exp(log_step)[:, None] * generator.normal(size=u.shape)
        proposed = _reflected(u + shifts)
        log_proposed = log_magnitude(proposed)
        with np.errstate(invalid="ignore"):  # from zero to zero: -inf less -inf
            gain = np.where(log_f == -np.inf, 0.0, log_proposed - log_f)
        is_accepted = np.log(1 - generator.random(N_WALKERS)) < gain
        u = np.where(is_accepted[:, None], proposed, u)
        log_f = np.where(is_accepted, log_proposed, log_f)
        # Robbins and Monro: the changes fall off, but slowly enough to come anywhere.
        log_step += (is_accepted - WANTED_ACCEPTANCE) * 2 / np.sqrt(1 + step / 10)
    return Walkers(u, log_f, np.minimum(np.exp(log_step) * math.sqrt(d) / STEP_OF_WIDTH, 1))


def draw_around(walkers: Walkers, n: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw points around the end points of walkers.

    Parameters
    ----------
    walkers : Walkers
        At least one. Each has the same share of a mixture of Gaussians of their widths, cut off at the faces
        of the unit cube.
    n : int
        Number of points.
    generator : Generator
        Source of the random numbers.

    Returns
    -------
    u : ndarray, (n, d)
        The points.
    log_q : ndarray, (n,)
        Log density of the mixture there.
    """
    from scipy.special import logsumexp, ndtr, ndtri  # only lost regions are to pay for it

    centre, width = walkers.u, walkers.width[:, None]
    below, above = ndtr(-centre / width), ndtr((1 - centre) / width)
    k = generator.integers(len(centre), size=n)
    share = below[k] + (above - below)[k] * generator.random((n, centre.shape[1]))
    u = np.clip(centre[k] + width[k] * ndtri(share), 0, 1)
    log_scale = np.log(width * math.sqrt(2 * math.pi) * (above - below)).sum(axis=1)
    squares = np.stack([np.square((u - c) / w).sum(axis=1) for c, w in zip(centre, width, strict=True)])
    return u, logsumexp(-0.5 * squares - log_scale[:, None], axis=0) - math.log(len(centre))


def _reflected(u: np.ndarray) -> np.ndarray:
    """Fold points beyond the faces of the unit cube back into it."""
    folded: np.ndarray = 1 - np.abs(1 - np.mod(u, 2))
    return folded

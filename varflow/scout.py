"""Scouts: walkers that look for regions of large |f| which the flow has lost.

Points drawn from a flow say little of where the flow is not: a peak that it has lost is met by none of them,
and the estimate misses it with a small error. So walkers start anywhere and climb, whatever the flow says,
and the flow's density is looked at where they end.
"""

from collections.abc import Callable

import numpy as np

__all__ = ["MOST_STEPS", "N_WALKERS", "wander"]

N_WALKERS = 32
MOST_STEPS = 128  # enough in 16 dimensions for peaks of a tenth of the box
FIRST_STEP = 0.1  # standard deviation in each coordinate
WANTED_ACCEPTANCE = 0.25  # near the best for random walks (Roberts et al., Ann. Appl. Probab. 7 (1997) 110)


def wander(
    log_magnitude: Callable[[np.ndarray], np.ndarray],
    d: int,
    n_steps: int,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Let walkers go from uniform points of the unit cube by Metropolis steps with |f| for their density.

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
    u : ndarray, (N_WALKERS, d)
        Where the walkers end.
    log_f : ndarray, (N_WALKERS,)
        The log of |f| there.
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
    return u, log_f


def _reflected(u: np.ndarray) -> np.ndarray:
    """Fold points beyond the faces of the unit cube back into it."""
    folded: np.ndarray = 1 - np.abs(1 - np.mod(u, 2))
    return folded

"""Sampling of points for the user, weighted or with unit weights."""

import logging
import math
from collections.abc import Callable, Sequence

import numpy as np

from varflow.flow.flow import Flow
from varflow.integration.estimates import magnitudes, weights_of
from varflow.integration.proposal import draw, log_mixture

__all__ = ["proposed_points", "sampling_generator", "unweighted_points", "weighted_points"]

logger = logging.getLogger(__name__)

REFERENCE = 0.999  # quantile of |w| at which the acceptance probability reaches 1
MIN_DRAWN = 1000  # points drawn at once, at least
MAX_DRAWN_A_POINT = 2000  # points drawn per point wanted, at most: beyond that, the flow is far from f

Points = tuple[np.ndarray, np.ndarray]
Evaluate = Callable[[np.ndarray], np.ndarray]


def sampling_generator(seed: int | Sequence[int] | None) -> np.random.Generator:
    """Make the source of random numbers; the integration that a seed belongs to has other ones."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(1,))))


def proposed_points(
    n: int, flow: Flow, uniform_share: float, generator: np.random.Generator, rows: slice = slice(None)
) -> tuple[np.ndarray, np.ndarray]:
    """Draw points u (n, d) of the unit cube, in random order, with log q (n,), or some rows of them.

    The number of uniform points is drawn from the binomial distribution with the probability `uniform_share`,
    and q is the mixture of the flow and the uniform density with the resulting share; see `draw`. A single
    point is always drawn from the flow.
    """
    n_uniform = int(generator.binomial(n, uniform_share)) if n > 1 else 0
    latent = generator.random((n - n_uniform, flow.d))
    uniform = generator.random((n_uniform, flow.d))
    chosen = generator.permutation(n)[rows]
    is_uniform = chosen >= len(latent)
    points = draw(flow, latent[chosen[~is_uniform]], uniform[chosen[is_uniform] - len(latent)])
    place = np.argsort(np.argsort(is_uniform, kind="stable"), kind="stable")
    return points.u[place], log_mixture(points.log_flow, n_uniform / n)[place]


def weighted_points(
    n: int,
    flow: Flow,
    uniform_share: float,
    evaluate: Evaluate,
    generator: np.random.Generator,
    is_log: bool = False,
) -> Points:
    """Draw points u (n, d) of the unit cube, in random order, with weights f/q (n, m).

    Where `is_log`, values of f are given by their logarithms, and so are the weights.
    """
    u, log_q = proposed_points(n, flow, uniform_share, generator)
    values = evaluate(u)
    return u, values - log_q[:, None] if is_log else weights_of(log_q, values)


def unweighted_points(
    n: int,
    flow: Flow,
    uniform_share: float,
    evaluate: Evaluate,
    generator: np.random.Generator,
    is_log: bool = False,
) -> Points:
    """Draw points u (n, d) of the unit cube, with weights (n, 1) of magnitude 1 wherever possible.

    Points with weights w = f/q are accepted with probability |w|/r, where r is the quantile ``REFERENCE`` of
    |w| over the first max(n, MIN_DRAWN) points. The weight of an accepted point is the sign of f (of its
    first component). Where |w| exceeds r, it is |w|/r times that sign; the number of such points is logged.

    Raises
    ------
    ValueError
        If r is zero, or more than MAX_DRAWN_A_POINT * n points were drawn and too few of them accepted.
    """
    source = flow, uniform_share, evaluate, generator, is_log
    u, weights = weighted_points(max(n, MIN_DRAWN), *source)
    # "lower": of a zero and a positive weight, whose log is -inf, there is nothing in between.
    unit = float(np.quantile(_sizes(weights, is_log), REFERENCE, method="lower" if is_log else "linear"))
    if unit == (-math.inf if is_log else 0.0):
        raise ValueError("f is zero at nearly all points: there is nothing to be unweighted")
    kept: list[Points] = []
    n_missing, n_drawn = n, 0
    while True:
        n_drawn += len(u)
        sizes = _sizes(weights, is_log)
        ratio = np.exp(sizes - unit) if is_log else sizes / unit
        is_kept = generator.random(len(u)) < ratio
        sign = 1.0 if is_log else np.sign(weights[:, 0])
        kept.append((u[is_kept], (sign * np.maximum(ratio, 1.0))[is_kept]))
        n_missing -= int(np.count_nonzero(is_kept))
        if n_missing <= 0:
            break
        if n_drawn > MAX_DRAWN_A_POINT * n:
            raise ValueError(
                f"only {n - n_missing} of {n} points were kept of {n_drawn} drawn: a few weights are much "
                "larger than all others; train the flow further, or take weighted points"
            )
        u, weights = weighted_points(max(2 * n_missing, MIN_DRAWN), *source)
    all_u, unit_weights = (np.concatenate(parts)[:n] for parts in zip(*kept, strict=True))
    n_over = int(np.count_nonzero(np.abs(unit_weights) > 1))
    if n_over:
        logger.warning("%d of %d unweighted points keep a weight above 1", n_over, n)
    return all_u, unit_weights[:, None]


def _sizes(weights: np.ndarray, is_log: bool) -> np.ndarray:
    """Magnitudes (n,) of weights (n, m), or their logarithms where they are given by these, (n, 1)."""
    return weights[:, 0] if is_log else magnitudes(weights)

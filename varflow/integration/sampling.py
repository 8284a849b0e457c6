"""Sampling of points for the user, weighted or with unit weights."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from varflow.flow.flow import Flow
from varflow.integration.proposal import draw, log_mixture
from varflow.integration.unweighting import Choice, Form, Unweighting, Weighted

__all__ = [
    "MIN_DRAWN",
    "Points",
    "joined",
    "proposed_points",
    "sampling_generator",
    "unweighted_points",
    "weighted_points",
]

logger = logging.getLogger(__name__)

DEFAULT = Choice()
MIN_DRAWN = 1000  # points drawn at once, at least
MAX_DRAWN_A_POINT = 2000  # points drawn per point wanted, at most: beyond that, the flow is far from f

Points = tuple[np.ndarray, np.ndarray]
Draw = Callable[[int], Points]
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


def weighted_points(n: int, propose: Draw, evaluate: Evaluate, form: Form) -> Points:
    """Draw points u (n, d) of the unit cube with weights f/q (n, m), or their logarithms: see `form`."""
    u, log_q = propose(n)
    return u, form.weights(log_q, evaluate(u))


def unweighted_points(
    n: int,
    weighted: Draw,
    form: Form,
    generator: np.random.Generator,
    choice: Choice = DEFAULT,
    most: int | None = None,
) -> Iterator[tuple[Points, Unweighting]]:
    """Draw points u (k, d) of the unit cube, with weights (k,) of magnitude 1 wherever possible, n in all.

    Points with weights w = f/q are accepted with probability |w|/r, where r is the maximum weight that
    `choice` finds among the first max(n, MIN_DRAWN) points. The weight of an accepted point is the sign of f
    (of its first component). Where |w| exceeds r, it is |w|/r times that sign; the number of such points is
    logged.

    Parameters
    ----------
    n : int
        Number of points.
    weighted : callable
        Draws so many weighted points, in random order.
    form : Form
        Whether their weights (k, m) are given by their values or by their logarithms.
    generator : numpy.random.Generator
        What decides on the acceptance.
    choice : Choice
        What is taken for the maximum weight.
    most : int, optional
        Points that are drawn at once at most.

    Yields
    ------
    tuple of (ndarray (k, d), ndarray (k,)), and Unweighting
        Points and their weights, and what has become of all points so far.

    Raises
    ------
    ValueError
        If r is zero, or more than MAX_DRAWN_A_POINT * n points were drawn and too few of them accepted.
    """

    def drawn(n_wanted: int) -> Weighted:
        n_points = max(n_wanted, MIN_DRAWN)
        u, weights = weighted(min(n_points, most or n_points))
        return Weighted(u, form.sizes(weights), form.signs(weights))

    points = drawn(n)
    state = Unweighting(choice.of(points.sizes, form), form, n, generator)
    while True:
        yield state.accept(points), state
        if not state.n_missing:
            break
        if state.n_drawn > MAX_DRAWN_A_POINT * n:
            raise ValueError(
                f"only {state.n_accepted} of {n} points were kept of {state.n_drawn} drawn: a few weights "
                "are much larger than all others; train the flow further, or take weighted points"
            )
        points = drawn(2 * state.n_missing)
    if state.n_overweight:
        logger.warning("%d of %d unweighted points keep a weight above 1", state.n_overweight, n)


def joined(blocks: Iterable[tuple[Points, Unweighting]]) -> tuple[np.ndarray, np.ndarray, Unweighting]:
    """Join blocks of unweighted points, and give what has become of all points in the end."""
    parts = list(blocks)
    u, weights = (np.concatenate(arrays) for arrays in zip(*(points for points, _ in parts), strict=True))
    return u, weights, parts[-1][1]

"""Events: unweighted points of a function, drawn from a flow, or chosen among points that are there."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from varflow.data.dataset import Dataset
from varflow.flow.flow import Flow
from varflow.flow.mixture import Mixture
from varflow.integration.domain import Domain, domain_of
from varflow.integration.integrand import Integrand
from varflow.integration.proposal import inside
from varflow.integration.result import Result
from varflow.integration.sampling import (
    Draw,
    Points,
    joined,
    proposed_points,
    sampling_generator,
    unweighted_points,
    weighted_points,
)
from varflow.integration.unweighting import (
    EPSILON,
    FORMS,
    LOGS,
    Choice,
    Unweighting,
    UnweightingFigures,
    Weighted,
)
from varflow.runtime.ranks import as_communicator
from varflow.validation import positive_int

__all__ = ["Events", "event_blocks", "generate", "unweight"]

MOST = 131_072  # points drawn at once, so that memory does not grow with the number of events


@dataclass(frozen=True, eq=False)
class Events:
    """Unweighted points.

    Parameters
    ----------
    x : ndarray, (n, d)
        The points.
    w : ndarray, (n,)
        Their weights: 1, or what |f|/q is in units of the maximum weight where it exceeds that, with the sign
        of f.
    figures : UnweightingFigures
        How many points it took, and how many of the weights are not 1.

    Examples
    --------
    >>> x = np.random.default_rng(1).random((1000, 2))
    >>> events = vf.unweight(vf.Dataset(x, px=np.ones(1000), fx=x[:, 0]), seed=1)
    >>> events.x.shape == (events.figures.n_events, 2)
    True
    >>> np.unique(events.w[events.w <= 1])
    array([1.])
    """

    x: np.ndarray
    w: np.ndarray
    figures: UnweightingFigures

    def __str__(self) -> str:
        """Return the table of the figures."""
        return str(self.figures)


def generate(
    flow: Flow | Mixture | Result,
    f: Callable[..., Any],
    n: int,
    *,
    max_weight: str = "quantile",
    epsilon: float = EPSILON,
    log: bool = False,
    vectorized: bool = True,
    workers: Any = 1,
    on_invalid: str = "raise",
    seed: int | None = None,
    comm: Any = None,
) -> Events:
    """Generate unweighted events of a function f from a flow.

    Points are drawn from the flow and accepted with the probability |w| / r, where w = f/q, and r is the
    maximum weight among the first max(n, 1000) of them, or 131072 where n is larger. Where |w| exceeds r, the
    event keeps |w|/r as its weight, so that sums over events with their weights stay unbiased; leave the
    weights out where that does not matter.

    Parameters
    ----------
    flow : Flow, Mixture or Result
        What the points are drawn from; of a result, the flow with its share of the uniform density.
    f : callable
        The function, (n, d) -> (n,), in the coordinates of the box of the flow; see `Integrand` for all that
        it may be and return. Of several components, the root of the sum of their squares is unweighted.
    n : int
        Number of events.
    max_weight : {"quantile", "overweight", "bootstrap"}
        What is taken for the maximum weight: the weight that a share `epsilon` of the points exceeds; or the
        one above which weights have a share `epsilon` of the integral, as event generators reduce it (Sherpa
        by Max_Epsilon, MadEvent; Danziger et al., SciPost Phys. 12 (2022) 164); or the median of the largest
        of 1/epsilon weights over bootstrap replicas (Gao et al., Phys. Rev. D 101 (2020) 076002).
    epsilon : float
        That share, at least 0 and less than 1. With 0, each of the three is the largest weight.
    log : bool
        Whether f returns its logarithm.
    vectorized : bool
        Whether f takes many points at once; see `Integrand`.
    workers : int, executor, pool, client or callable
        What calls f; see `Integrand`.
    on_invalid : {"raise", "zero"}
        What becomes of values that are not finite; see `Integrand`.
    seed : int, optional
        Seed of the random numbers; drawn from the system if not given.
    comm : mpi4py.MPI.Intracomm, optional
        Ranks that share the calls of f. All get all events.

    Returns
    -------
    Events
        The events, in random order.

    Raises
    ------
    TypeError, ValueError
        If an argument is refused; if f is zero at nearly all points, or so few of them are accepted that the
        flow is useless for f.
    Exception
        What f raises.

    Examples
    --------
    >>> f = lambda x: np.exp(-5 * x.sum(axis=1))
    >>> result = vf.integrate(f, 2, n_calls=3000, seed=1)
    >>> events = vf.generate(result, f, 1000, seed=2)
    >>> events.x.shape, events.figures.efficiency > 0.5, round(events.figures.mean, 2)
    ((1000, 2), True, 0.04)
    >>> least = vf.generate(result, f, 1000, max_weight="overweight", epsilon=0, seed=2)
    >>> least.figures.n_overweight <= events.figures.n_overweight
    True
    """
    ranks, choice = as_communicator(comm), Choice(max_weight, epsilon)
    called = {
        "vectorized": vectorized,
        "workers": workers,
        "on_invalid": on_invalid,
        "log": log,
        "comm": ranks,
    }
    with Integrand(f, box_of(flow), **called) as integrand, ranks.running():
        ranks.check_same("arguments", {"n": n, "seed": seed, **vars(choice)})
        entropy = ranks.first(lambda: np.random.SeedSequence(seed).entropy)
        x, w, state = joined(event_blocks(flow, integrand, n, choice, entropy))
    return Events(x, w, state.figures())


def box_of(source: Flow | Mixture | Result) -> Domain:
    """Make the box of whatever events are drawn from."""
    return domain_of(source.bounds, source.flow if isinstance(source, Result) else source)


def event_blocks(
    flow: Flow | Mixture | Result, integrand: Integrand, n: int, choice: Choice, seed: Any
) -> Iterator[tuple[Points, Unweighting]]:
    """Generate events as `generate` does, in blocks, for more than memory has room for.

    All ranks that share the calls of the integrand need the same seed.

    Yields
    ------
    tuple of (ndarray (k, d), ndarray (k,)), and Unweighting
        Events and their weights, and what has become of all points so far.
    """
    n, generator = positive_int("n", n), sampling_generator(seed)
    form = FORMS[integrand.received.is_log]
    propose = _proposals(flow, integrand.domain, generator)
    weighted = partial(weighted_points, propose=propose, evaluate=integrand, form=form)
    for (u, w), state in unweighted_points(n, weighted, form, generator, choice, MOST):
        yield (integrand.domain.from_cube(u)[0] if len(u) else u, w), state


def _proposals(flow: Flow | Mixture | Result, domain: Domain, generator: np.random.Generator) -> Draw:
    """Give what draws points u (n, d) of the unit cube from a flow, with log q (n,) there."""
    if isinstance(flow, Result):
        if flow.channels:
            raise ValueError(
                "a result with channels has several flows and maps: take the method sample, with "
                "unweight=True, of the result that integrate has returned"
            )
        return partial(
            proposed_points, flow=flow.flow, uniform_share=flow.defensive_share, generator=generator
        )

    def propose(n: int) -> Points:
        x, log_q = flow.sample(n, seed=int(generator.integers(2**63)))
        u, log_jacobian = domain.to_cube(x)
        return inside(u), log_q + log_jacobian

    return propose


def unweight(
    data: Dataset,
    n: int | None = None,
    *,
    max_weight: str = "quantile",
    epsilon: float = EPSILON,
    seed: int | None = None,
) -> Events:
    """Choose events among weighted points: unweight them by f/p.

    This is for points whose f another program has computed: draw points from a flow, add f to them, and give
    them here with p, the density of the flow that came with them.

    Parameters
    ----------
    data : Dataset
        The points.
    n : int, optional
        Number of events; all that are accepted if not given.
    max_weight : {"quantile", "overweight", "bootstrap"}
        What is taken for the maximum weight; see `generate`.
    epsilon : float
        Its share; see `generate`.
    seed : int, optional
        Seed of the random numbers; drawn from the system if not given.

    Returns
    -------
    Events
        The events, in the order of the points.

    Raises
    ------
    TypeError, ValueError
        If an argument is refused, as points with conditions are; if f is zero at nearly all points, or fewer
        than n are accepted.

    Examples
    --------
    >>> flow = vf.Flow(2, n_bins=4, d_hidden=8, seed=1)
    >>> x, log_q = flow.sample(10_000, seed=1)
    >>> data = vf.Dataset(x, logpx=log_q, fx=1 + x[:, 0])  # f by another program
    >>> print(vf.unweight(data, 5000, seed=2))
    events                  5,000 of 10,000 points: unweighting efficiency 7...%
    maximum weight          ...
    overweight events       ...
    integral                1.50...
    """
    if data.n_conditions:
        raise ValueError(
            f"data has n_conditions = {data.n_conditions}, and events keep none: choose among the points of "
            "one value of the conditions, as a Dataset without them"
        )
    choice, generator = Choice(max_weight, epsilon), sampling_generator(seed)
    n_wanted = data.n if n is None else positive_int("n", n)
    log_weights = data.logfx - data.logpx
    signs = np.sign(data.fx)
    signs[(signs == 0) & (log_weights > -np.inf)] = 1.0  # given by its logarithm, and so positive
    state = Unweighting(choice.of(log_weights, LOGS), LOGS, n_wanted, generator)
    x, w = state.accept(Weighted(data.x, log_weights, signs))
    if n is not None and state.n_missing:
        raise ValueError(
            f"of {data.n} points, {state.n_accepted} were accepted, fewer than n = {n}: leave n out to take "
            "them all, or give more points"
        )
    return Events(x, w, state.figures())

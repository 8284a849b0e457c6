"""The result of an integration as far as it has come, with all that makes it doubtful."""

import copy
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from varflow.flow.discrete_flow import DiscreteFlow
from varflow.integration.averages import estimate
from varflow.integration.domain import Domain
from varflow.integration.iteration import Iteration
from varflow.integration.received import Received
from varflow.integration.result import Result, Source
from varflow.integration.state import DEFENSIVE_SHARE, State

__all__ = ["outcome", "taken_as_zero"]

NOTHING = 2.0**-400  # of the unit: squares of errors vanish
MAX_SHARE = 0.05  # share of one point in the sum of all weights that is warned of
MAX_K = 0.7  # Pareto shape of the weights that is warned of
GOOD_ESS = 0.9  # effective sample size above which the tail of the weights, whatever its shape, holds little
MIN_Q = 1e-3  # probability of chi2 that is warned of


def outcome(
    state: State, history: list[Iteration], domain: Domain, received: Received, source: Source | None
) -> Result:
    """Make the result; before any refinement it is that of the survey.

    Parameters
    ----------
    state : State
        What is known.
    history : list of Iteration
        The iterations that belong to it, in units of the state.
    domain : Domain
        The box.
    received : Received
        The values that came in.
    source : Source or None
        What further points come from, and values of f there.

    Raises
    ------
    RuntimeError
        If there is nothing yet.
    """
    components = received.components
    estimates = [one for one in history if not np.isnan(one.mean).any()]
    if not estimates or components is None:
        raise RuntimeError("there is no estimate yet: the values of a first iteration must be known")
    if not any(iteration.is_used for iteration in history):
        history = [_of_survey(one) for one in history]
    if not any(_has_mass(one) for one in history if one.is_used):
        history = [_of_unknown_error(one) for one in history]
    result = Result(
        history,
        state.flow.copy(),
        components=components,
        bounds=domain.bounds,
        exponent=state.exponent,
        log=state.is_log,
        defensive_share=DEFENSIVE_SHARE,
        n_invalid=received.n_invalid,
        lost=_lost(state, history),
        k=state.tail.shape,
        heavier=state.tail.heavier,
        resolution=1 - 0.05 ** (1 / state.n_uniform) if state.n_uniform else 1.0,
        tail=copy.copy(state.tail),
        notes=state.notes,
        source=source,
    )
    result.warnings = (*state.warnings, *_doubts(state, history, result))
    return result


def _lost(state: State, history: list[Iteration]) -> float:
    """What regions may have of the integral that the points which count would not see, relative to the rest.

    For want of anything better, the share of the integral is taken to be the share of walkers that end there,
    which so many of them tell no better than by its upper limit of 95 % (Clopper and Pearson, Biometrika 26
    (1934) 404). As half of them start where f is far above the flow, it is rather too large.
    """
    n, n_lost = len(state.log_lost), _n_lost(state, history)
    if n_lost == 0:
        return 0.0
    from scipy.special import betaincinv  # slow to import, and only lost regions need it

    n_lost = min(n_lost, n - 1)
    share = float(betaincinv(n_lost + 1, n - n_lost, 0.95))
    return share / (1 - share)


def _n_lost(state: State, history: list[Iteration]) -> int:
    """Count the walkers that ended in such regions."""
    return int(np.count_nonzero(state.is_lost(_n_used(history))))


def taken_as_zero(n_invalid: int) -> str:
    """Say that f had values that are no numbers."""
    return (
        f"f was not finite at {n_invalid} points, and taken as 0 there: see whether that is its value; "
        'on_invalid="raise" names the first of them'
    )


def _n_used(history: list[Iteration]) -> int:
    return sum(iteration.n_calls for iteration in history if iteration.is_used)


def _of_survey(iteration: Iteration) -> Iteration:
    """Let an estimate of the survey count."""
    is_estimate = iteration.stage == "survey" and not np.isnan(iteration.mean).any()
    return replace(iteration, is_used=is_estimate, weight=float(iteration.n_calls))


def _has_mass(iteration: Iteration) -> bool:
    """Tell whether f was anything beside the largest value that was seen, in units of which estimates are."""
    return bool((np.abs(iteration.mean) > NOTHING).any() or iteration.covariance.any())


def _of_unknown_error(iteration: Iteration) -> Iteration:
    """Say of an iteration without mass that its error is not known."""
    return replace(iteration, covariance=np.full_like(iteration.covariance, math.inf))


def _doubts(state: State, history: list[Iteration], result: Result) -> Iterator[str]:
    """Collect the warnings about the result of that history."""
    used = [iteration for iteration in history if iteration.is_used]
    if all(np.isinf(one.covariance).all() for one in used):
        where = f"zero at all {result.n_calls} points"
        if any(one.mean.any() for one in used):
            where = "nearly zero at all points that count, beside a value elsewhere: its mass was not found"
        yield f"f was {where}: the error is not known; allow more calls, or narrow the bounds"
    elif np.isinf(result.heavier).any():
        yield "few of all points have nearly all of the weight: the error is not known; allow more calls"
    if state.tolerance and state.shortfall(*estimate(used, result.heavier, result.lost)) > 1:
        seconds = f" and {state.deadline.seconds:g} s" if state.deadline else ""
        yield f"the tolerance was not reached in {result.n_calls} calls{seconds}: allow more"
    n_used, n_lost = _n_used(history), _n_lost(state, history)
    if n_lost:
        yield (
            f"{n_lost} of {len(state.log_lost)} walkers that climb from uniform points ended where f/q is up "
            f"to {math.exp(min(state.log_lost.max(), 700)):.1g} times the integral: with {n_used} points the "
            "flow has lost a region there, which the integral misses; the error has a share of it for that, "
            "and more calls may find it"
        )
    if state.replay.n_skipped:
        yield (f"{state.replay.n_skipped} training steps were left out, as their gradients were not finite")
    if state.heaviest > max(MAX_SHARE, 10 / n_used):
        yield (
            f"one point carries {state.heaviest:.0%} of the sum of the weights of its iteration: the flow is "
            "too small there, and the error cannot be relied upon; allow more calls"
        )
    if result.k > MAX_K and result.ess < GOOD_ESS:
        yield (
            f"the largest weights f/q fall off like a Pareto distribution of shape k = {result.k:.2f}: above "
            f"{MAX_K}, the mean converges slowly if at all, and its error is larger than it seems; f may "
            "have a singularity that the flow does not follow, which a change of variables removes, or its "
            "integral may not exist"
        )
    if result.Q < MIN_Q:
        yield (
            f"the iterations disagree: chi2/dof = {result.chi2:.3g}/{result.dof}, Q = {result.Q:.2g}; "
            "their errors are probably too small, allow more calls"
        )
    if result.n_invalid:
        yield taken_as_zero(result.n_invalid)
    yield from _of_no_weight(state)


def _of_no_weight(state: State) -> Iterator[str]:
    """Tell of states that were given no weight, and at which f is not 0."""
    if not isinstance(state.flow, DiscreteFlow):
        return
    known = state.memory.arrays()
    states = state.flow.states(known["u"][known["log_f"] > -math.inf])
    for of_points, (column, one) in zip(states.T, state.flow.discrete.items(), strict=True):
        for k in np.flatnonzero(one.weights == 0):
            if (n := int(np.count_nonzero(of_points == k))) > 0:
                yield (
                    f"state {k} of coordinate {column} was given the weight 0, and f is not 0 at {n} points "
                    "there: it counts, and was learnt from rare points at first; give it a weight"
                )

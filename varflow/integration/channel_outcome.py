"""The result of an integration with channels: the sum of its parts, each with its own doubts."""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from varflow.integration.averages import degrees_of_freedom, variances_of
from varflow.integration.channel_domain import ChannelDomain
from varflow.integration.channel_state import ChannelState, Part
from varflow.integration.channel_table import ChannelEstimate
from varflow.integration.iteration import Iteration, times_power
from varflow.integration.outcome import outcome, taken_as_zero
from varflow.integration.received import Received
from varflow.integration.result import Result, Source

__all__ = ["channel_outcome"]

SMALL = 1e-3  # share of the squared error below which the tail of a part's weights is of no matter


def channel_outcome(
    state: ChannelState,
    history: list[Iteration],
    domain: ChannelDomain,
    received: Received,
    source: Source | None,
) -> Result:
    """Make the result; before any refinement it is that of the surveys.

    Parameters
    ----------
    state : ChannelState
        What is known.
    history : list of Iteration
        The iterations that belong to it, of all parts.
    domain : ChannelDomain
        The box, with the channels.
    received : Received
        The values that came in.
    source : Source or None
        What further points come from, and values of f there.

    Raises
    ------
    RuntimeError
        If there is nothing yet.
    """
    histories = state.histories(len(history))
    parts = [part for part in state.parts if part.is_active]
    if received.components is None or not all(
        each for part, each in zip(state.parts, histories, strict=True) if part.is_active
    ):
        raise RuntimeError("there is no estimate yet: each channel needs an iteration whose values are known")
    own = copy.copy(received)
    own.n_invalid = 0  # told once, of all
    n_iterations = {id(part): len(each) for part, each in zip(state.parts, histories, strict=True)}
    results = [
        outcome(part.state, part.state.history[: n_iterations[id(part)]], domain, own, None) for part in parts
    ]
    exponent = max(part.state.exponent for part in parts)
    sums = [_in_unit(one, part, exponent) for one, part in zip(results, parts, strict=True)]
    total = _total(sums, results, parts)
    found = {id(part): one for part, one in zip(parts, zip(results, sums, strict=True), strict=True)}
    calls = [_calls(part, each) for part, each in zip(state.parts, histories, strict=True)]
    nothing = np.full_like(total.mean, math.nan), np.full_like(total.covariance, math.nan)
    others = Iteration("survey", sum(calls) - total.n_calls, *nothing, math.nan, 0.0, False, 0.0, math.nan)
    result = Result(
        [others, total],
        state.flow.copy(),
        components=received.components,
        bounds=domain.bounds,
        exponent=exponent,
        log=state.is_log,
        defensive_share=results[0].defensive_share,
        n_invalid=received.n_invalid,
        k=_largest_k(results, sums),
        resolution=max(one.resolution for one in results),
        source=source,
        channels=_table(state, domain, found, calls, exponent),
    )
    result.warnings = tuple(_warnings(state, domain, result, results))
    return result


Estimate = tuple[np.ndarray, np.ndarray]  # mean and covariance


def _in_unit(result: Result, part: Part, exponent: int) -> Estimate:
    """Mean and covariance of a part, in units of 2^exponent."""
    mean, covariance = result._average
    if _cancels(part):
        return np.zeros_like(mean), np.zeros_like(covariance)
    shift = part.state.exponent - exponent
    return times_power(mean, shift), times_power(covariance, 2 * shift)


def _cancels(part: Part) -> bool:
    """Tell whether the channels of a group cancel each other at all points, so that their sum is exact."""
    return part.is_hit and not part.state.has_unit


def _total(sums: Sequence[Estimate], results: Sequence[Result], parts: Sequence[Part]) -> Iteration:
    """Add up the parts, as an iteration."""
    mean = np.sum([one for one, _ in sums], axis=0)
    covariance = np.sum([one for _, one in sums], axis=0)
    n_calls = [
        part.cost * sum(one.n_calls for one in result.history if one.is_used)
        for part, result in zip(parts, results, strict=True)
    ]
    seconds = sum(one.seconds for result in results for one in result.history)
    ess = float(np.average([one.ess for one in results], weights=n_calls))
    of_parts = [
        Iteration("refine", n, *estimate, 0.0, 0.0, True, 1.0, one.error_dof)
        for n, estimate, one in zip(n_calls, sums, results, strict=True)
    ]
    dof = degrees_of_freedom(of_parts)
    return Iteration("refine", sum(n_calls), mean, covariance, ess, seconds, True, 1.0, dof)


def _calls(part: Part, history: Sequence[Iteration]) -> int:
    """Calls of f that a part has had."""
    pilot = [] if part.pilot is None else [part.pilot]
    return part.cost * (part.n_before + sum(one.n_calls for one in (*pilot, *history)))


def _largest_k(results: Sequence[Result], sums: Sequence[Estimate]) -> float:
    """Largest shape of the tails of the parts that have a share in the error; NaN where none is known."""
    variances = np.array([variances_of(covariance).max() for _, covariance in sums])
    counts = variances >= SMALL * variances.sum()
    known = [one.k for one, is_one in zip(results, counts, strict=True) if is_one and not math.isnan(one.k)]
    return max(known, default=math.nan)


def _table(
    state: ChannelState,
    domain: ChannelDomain,
    found: Mapping[int, tuple[Result, Estimate]],
    calls: Sequence[int],
    exponent: int,
) -> list[ChannelEstimate]:
    """Make the rows, by what was found of the parts that take part."""
    all_of_it = sum(abs(float(mean[0])) for _, (mean, _) in found.values())
    sizes = state.sizes()
    rows = []
    for part, n_calls, size in zip(state.parts, calls, sizes, strict=True):
        result, (mean, covariance) = found.get(id(part), (None, next(iter(found.values()))[1]))
        if result is None:
            mean, covariance = np.zeros_like(mean), np.zeros_like(covariance)
        rows.append(
            ChannelEstimate(
                name=", ".join(str(domain.channels[k].name) for k in part.channels),
                share=float(mean[0]) / all_of_it if all_of_it else 0.0,
                weight=float(size),
                n_calls=n_calls,
                ess=math.nan if result is None else result.ess,
                is_dropped=result is None,
                flow=part.state.flow.copy(),
                scaled_mean=mean,
                scaled_variance=np.array(variances_of(covariance)),
                exponent=exponent,
                chi2=0.0 if result is None else result.chi2,
                dof=0 if result is None else result.dof,
            )
        )
    return rows


def _warnings(
    state: ChannelState, domain: ChannelDomain, result: Result, results: Sequence[Result]
) -> Iterator[str]:
    """Collect the warnings about all channels, and about those that were dropped."""
    rows = {id(part): row for part, row in zip(state.parts, result.channels, strict=True)}
    found = iter(results)
    for part in state.parts:
        name = rows[id(part)].name
        if part.is_active:
            warnings = next(found).warnings
            if not _cancels(part):
                yield from (f"channel {name!r}: {warning}" for warning in warnings)
        else:
            pilot = part.pilot.n_calls if part.pilot else 0
            yield (
                f"channel {name!r} brought {part.size:.1%} of the integral of |f| at {pilot} points: it was "
                "dropped, and the others have its share"
            )
    if state.tolerance and state.tolerance.shortfall(*result._average, result._exponent) > 1:
        yield f"the tolerance was not reached in {result.n_calls} calls: allow more"
    if result.n_invalid:
        yield taken_as_zero(result.n_invalid)

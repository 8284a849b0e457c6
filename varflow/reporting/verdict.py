"""What the figures say, in a sentence."""

import math

import numpy as np

from varflow.integration.result import Result
from varflow.training.evaluation import HEAVY_TAIL, Evaluation
from varflow.training.log_weights import LogWeights, without_overflow

__all__ = ["share_lost", "verdict_of_flow", "verdict_of_result"]

FINITE_VARIANCE = 0.5  # Pareto shape below which the weights have a finite variance
FAR_TOO_SMALL = 100.0  # times that q is below f, where f counts as lost


def verdict_of_flow(found: Evaluation, lost: float | None) -> str:
    """Say what a flow saves, and whether its weights can be relied upon.

    Parameters
    ----------
    found : Evaluation
        Its figures.
    lost : float or None
        What `share_lost` has found; None where there are no points to tell.

    Returns
    -------
    str
        A sentence.
    """
    parts = [_saving(found), _spread(found.pareto_after, found.variance_after)]
    if lost is not None:
        parts.append(_loss(lost, found.n))
    return "; ".join(parts) + "."


def verdict_of_result(result: Result) -> str:
    """Say how well an integral is known, and whether its error can be relied upon; otherwise the same."""
    parts = [f"{_precision(result)} after {result.n_calls:,} calls of the function"]
    parts.append(_spread(result.k, 1 / result.ess - 1 if result.ess > 0 else math.inf))
    if result.lost > 0:
        parts.append(f"regions that the flow has lost may have {result.lost:.1%} of it, which the error has")
    elif any(iteration.stage == "scouts" for iteration in result.history):
        parts.append("nothing was lost")
    else:
        parts.append("no walkers have looked for what may have been lost")
    return "; ".join(parts) + "."


def share_lost(found: LogWeights) -> float:
    """Find the share of f at points where q is more than a hundred times too small."""
    of_f = without_overflow(found.before)
    return float(of_f[found.after > math.log(FAR_TOO_SMALL)].sum() / of_f.sum())


def _saving(found: Evaluation) -> str:
    if found.variance_after == 0:
        return "The weights f/q are the same at all points, so that no error is left"
    if found.variance_before == 0:
        return "The weights f/p are the same at all points, so that p needs no flow"
    if not 0 < found.ratio < math.inf:
        return "The weights scatter beyond all numbers, before or after"
    times = _two_digits(max(found.ratio, 1 / found.ratio))
    if times == "1":
        return "The flow uses as many points as p for the same error"
    comparison = (
        f"{times} times fewer points than p" if found.ratio > 1 else f"{times} times as many points as p"
    )
    return f"The flow uses {comparison} for the same error"


def _spread(k: float, variance: float) -> str:
    if variance == 0:
        return "the weights have no variance"
    if math.isnan(k):
        return "whether the weights have a finite variance, these points cannot tell"
    if k <= FINITE_VARIANCE:
        return "the weights have finite variance"
    if k <= HEAVY_TAIL:
        return f"the variance of the weights may be infinite (Pareto shape {k:.2f} > {FINITE_VARIANCE})"
    return (
        f"the weights' tail is so heavy (Pareto shape {k:.2f} > {HEAVY_TAIL}) that errors cannot be relied on"
    )


def _loss(lost: float, n: int) -> str:
    if lost == 0:
        return f"nothing was lost at these {n:,} points"
    return f"{lost:.1%} of f was lost: it lies where q is more than {FAR_TOO_SMALL:.0f} times too small"


def _precision(result: Result) -> str:
    relative = result.components.pack(result.log_sdev)
    if not np.isfinite(relative).all():
        what = "The integral" if len(relative) == 1 else "One integral or more"
        return f"{what} has no known relative error"
    least, most = (f"{100 * float(f'{value:.2g}'):.6g}%" for value in (relative.min(), relative.max()))
    if len(relative) == 1:
        return f"The integral is {str(result).partition(chr(10))[0]}, known to {least},"
    return f"The {len(relative):,} integrals are known to {least} to {most}"


def _two_digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):,.10g}"

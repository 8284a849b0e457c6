"""What an integration did: its iterations, weights, calls and seconds."""

from typing import TYPE_CHECKING, Any

import numpy as np

from varflow.integration.result import Result
from varflow.plots.picture import AFTER, BEFORE, NEUTRAL, panels, whole_numbers
from varflow.plots.tail import draw_tail

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_result"]

MARGIN = 3.0  # times the spread of what counts
COUNTS: dict[str, Any] = {"color": AFTER}
COUNTS_NOT: dict[str, Any] = {"color": NEUTRAL, "markerfacecolor": "white"}


def draw_result(result: Result) -> "Figure":
    """Draw the panels of `Result.plot`."""
    rows = result.rows()
    figure, (estimates, tail, ess, effort) = panels(2, 2)
    _draw_estimates(estimates, result, rows)
    _draw_tail(tail, result)
    _draw_ess(ess, rows)
    _draw_effort(effort, rows)
    return figure


def _draw_estimates(axes: "Axes", result: Result, rows: list[dict[str, Any]]) -> None:
    """Estimates of the iterations with their errors, as far as they lie near, and a band for the result."""
    names = ("log_mean", "log_sdev") if result.is_log else ("mean", "sdev")
    for is_used, label, style in ((True, "counts", COUNTS), (False, "does not count", COUNTS_NOT)):
        drawn = [(row["itn"], *(row[name] for name in names)) for row in rows if row["is_used"] == is_used]
        number, mean, sdev = np.array(drawn).reshape(-1, 3).T
        sdev = np.where(np.isfinite(sdev), sdev, 0.0)
        axes.errorbar(number, mean, sdev, fmt="o", markersize=4, label=label, **style)
    whole, error = (_first(getattr(result, name)) for name in names)
    axes.axhline(whole, color=BEFORE, linewidth=1, label="result and its error")
    if np.isfinite(error):
        axes.axhspan(whole - error, whole + error, color=BEFORE, alpha=0.25, linewidth=0)
    _limit(axes, *(np.array([row[name] for row in rows if row["is_used"]]) for name in names))
    several = " (first component)" if result.components.size > 1 else ""
    quantity = "log of the integral" if result.is_log else "integral, in units of f"
    axes.set(title="estimates" + several, xlabel="iteration", ylabel=quantity)
    axes.xaxis.set_major_locator(whole_numbers())
    axes.legend(fontsize="small")


def _limit(axes: "Axes", mean: np.ndarray, sdev: np.ndarray) -> None:
    """Limit the axis to what counts: the first iterations may be off by orders of magnitude."""
    half = MARGIN * float(np.ptp(mean) + np.nanmax(np.where(np.isfinite(sdev), sdev, np.nan), initial=0.0))
    middle = float(mean.min() + mean.max()) / 2
    if np.isfinite(middle) and half > 0:
        axes.set_ylim(middle - half, middle + half)


def _draw_tail(axes: "Axes", result: Result) -> None:
    """Share of the points of the refinement with a larger weight."""
    axes.set(title="tail of the weights", xlabel="|f|/q over its mean")
    axes.set(ylabel="share of points with a larger weight")
    tail = result.tail
    if tail is None or not np.isfinite(tail.log_sum):
        axes.text(0.5, 0.5, "not known", ha="center", transform=axes.transAxes)
        return
    log_weights = tail.largest - tail.log_sum + np.log(tail.n)
    draw_tail(axes, log_weights, np.zeros(len(log_weights)), tail.n, result.k, color=AFTER, label="f/q")
    axes.legend(fontsize="small")


def _draw_ess(axes: "Axes", rows: list[dict[str, Any]]) -> None:
    """Effective sample size of each iteration."""
    for is_used, style in ((True, COUNTS), (False, COUNTS_NOT)):
        drawn = [(row["itn"], 100 * row["ess"]) for row in rows if row["is_used"] == is_used]
        axes.plot(*np.array(drawn).reshape(-1, 2).T, "o", markersize=4, **style)
    axes.set(
        title="effective sample size", xlabel="iteration", ylabel="share of the points / %", ylim=(0, 105)
    )
    axes.xaxis.set_major_locator(whole_numbers())


def _draw_effort(axes: "Axes", rows: list[dict[str, Any]]) -> None:
    """Calls and seconds of each stage."""
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    place = np.arange(len(stages))
    calls, seconds = (
        [sum(row[name] for row in rows if row["stage"] == stage) for stage in stages]
        for name in ("n_calls", "seconds")
    )
    bars = axes.bar(place - 0.2, calls, 0.4, color=BEFORE)
    beside = axes.twinx()
    bars_beside = beside.bar(place + 0.2, seconds, 0.4, color=AFTER)
    axes.set(title="calls and seconds", xticks=place, xticklabels=stages, ylabel="calls of f")
    beside.set(ylabel="time / s")
    axes.legend([bars, bars_beside], ["calls of f", "time"], fontsize="small")


def _first(values: Any) -> float:
    """Give the first component."""
    part = next(iter(values.values())) if isinstance(values, dict) else values
    return float(np.ravel(part)[0])

"""Quality of a flow for importance sampling, measured on weighted points that it was not trained on."""

import math
from dataclasses import dataclass

import numpy as np

from varflow.data.dataset import Dataset
from varflow.flow.flow import Flow
from varflow.training.objective import check_same_box

__all__ = ["Evaluation", "evaluate"]

TAIL = 0.001  # share of the points whose weights exceed the reference weight of unweighting


@dataclass(frozen=True)
class Evaluation:
    """Figures of merit of importance sampling before (points from p) and after (points from the flow's q).

    All are estimated from the same points x ~ p. Errors are standard deviations, to first order in the
    fluctuations of the means. For n -> infinity points, the relative error of the estimated integral is
    sqrt(relative variance / n).

    Attributes
    ----------
    n : int
        Number of points.
    variance_before, variance_before_error : float
        Relative variance of f/p for x ~ p, and its error.
    variance_after, variance_after_error : float
        Relative variance of f/q for x ~ q, and its error.
    ratio, ratio_error : float
        Variance before divided by variance after, and its error: the factor by which fewer points are needed.
    ess_before, ess_after : float
        Effective sample size as a fraction of the points, 1 / (1 + relative variance).
    efficiency_before, efficiency_after : float
        Unweighting efficiency: mean of the weights divided by their 99.9 % quantile.
    """

    n: int
    variance_before: float
    variance_before_error: float
    variance_after: float
    variance_after_error: float
    ratio: float
    ratio_error: float
    ess_before: float
    ess_after: float
    efficiency_before: float
    efficiency_after: float

    def __str__(self) -> str:
        """Return a table of the figures."""
        rows = [
            (
                "relative variance",
                _pm(self.variance_before, self.variance_before_error),
                _pm(self.variance_after, self.variance_after_error),
            ),
            ("effective sample size", f"{self.ess_before:.1%}", f"{self.ess_after:.1%}"),
            ("unweighting efficiency", f"{self.efficiency_before:.1%}", f"{self.efficiency_after:.1%}"),
        ]
        lines = [f"{'on ' + format(self.n, ',') + ' points':<24}{'before (f/p)':>20}{'after (f/q)':>20}"]
        lines += [f"{name:<24}{before:>20}{after:>20}" for name, before, after in rows]
        lines += [f"{'variance ratio':<24}{_pm(self.ratio, self.ratio_error):>40}"]
        return "\n".join(lines)


def evaluate(flow: Flow, data: Dataset) -> Evaluation:
    """Measure the quality of a flow for importance sampling of f.

    Parameters
    ----------
    flow : Flow
        The flow.
    data : Dataset
        At least two weighted points that the flow was not trained on, with its bounds. Where f has both
        signs, the figures are those of |f|.

    Returns
    -------
    Evaluation
        The figures of merit.

    Raises
    ------
    ValueError
        If there are fewer than two points, f is zero at all points, or the points do not have the dimension d
        and the bounds of the flow.
    """
    check_same_box(flow, data)
    if data.n < 2:
        raise ValueError(f"an evaluation needs at least 2 points, got {data.n}")
    if data.log_integral == -np.inf:
        raise ValueError("f is zero at all points of the evaluation")
    log_f_over_p = data.log_weight(1)
    log_q_over_p = flow.log_prob(data.x) - data.logpx
    with np.errstate(all="ignore"):  # if weights overflow, an infinite variance is the right answer
        weights = np.exp(log_f_over_p)  # their mean is 1
        before = _relative_variance(weights**2, weights)
        after = _relative_variance(np.exp(2 * log_f_over_p - log_q_over_p), weights)
        after_weights = np.exp(log_f_over_p - log_q_over_p)
        q_over_p = np.exp(log_q_over_p - log_q_over_p.max())
        ratio, ratio_error = _ratio(before, after)
    return Evaluation(
        n=data.n,
        variance_before=before[0],
        variance_before_error=_error(before[1]),
        variance_after=after[0],
        variance_after_error=_error(after[1]),
        ratio=ratio,
        ratio_error=ratio_error,
        ess_before=_inverse(1 + before[0]),
        ess_after=_inverse(1 + after[0]),
        efficiency_before=_inverse(_tail_quantile(weights, np.ones(data.n))),
        efficiency_after=_inverse(_tail_quantile(after_weights, q_over_p)),
    )


def _relative_variance(squares: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """Estimate E[squares] / E[weights]^2 - 1, and the influence of each point on the estimate, (n,)."""
    second, first = squares.mean(), weights.mean()
    influence = (squares - second) / first**2 - 2 * second / first**3 * (weights - first)
    return float(second / first**2 - 1), influence


def _ratio(before: tuple[float, np.ndarray], after: tuple[float, np.ndarray]) -> tuple[float, float]:
    """Compute the ratio of two relative variances from the same points, and its error."""
    if after[0] <= 0:
        return float("nan"), float("nan")
    ratio = before[0] / after[0]
    return ratio, _error((before[1] - ratio * after[1]) / after[0])


def _error(influence: np.ndarray) -> float:
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # inf or NaN are right answers
        return float(np.sqrt(np.mean(influence**2) / len(influence)))


def _inverse(value: float) -> float:
    """Return 1 / value, or NaN for 0: the quantile of weights that are nearly all zero."""
    return 1 / value if value != 0 else math.nan


def _tail_quantile(values: np.ndarray, counts: np.ndarray) -> float:
    """Find the value above which a share TAIL of the total count lies."""
    order = np.argsort(values)
    total = np.cumsum(counts[order])
    k = np.searchsorted(total, (1 - TAIL) * total[-1])
    return float(values[order[min(k, len(values) - 1)]])


def _pm(value: float, error: float) -> str:
    return f"{value:.4g} ± {error:.2g}"

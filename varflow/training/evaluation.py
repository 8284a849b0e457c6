"""Quality of a density q for importance sampling, measured on weighted points that it was not trained on."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from varflow.data.arrays import log_mean_exp, weighted_quantiles
from varflow.data.dataset import Dataset
from varflow.flow.flow import Flow
from varflow.flow.mixture import Mixture
from varflow.markup import bullets, paragraph, table
from varflow.training.objective import check_same_box
from varflow.training.pareto import pareto_shape, tail_size

__all__ = [
    "Evaluation",
    "check_measurable",
    "evaluate",
    "evaluate_density",
    "figures_table",
    "log_prob_of",
    "relative_variance",
]

TAIL = 0.001  # share of the points whose weights exceed the reference weight of unweighting
LARGE = 40.0  # log of a ratio to which one more or less makes no difference
MIN_TERMS, LARGEST_SHAPE = 50, 0.9  # of a tail that is extrapolated
HEAVY_TAIL = 0.7  # Pareto shape above which neither the estimate nor its error can be relied on


@dataclass(frozen=True)
class Evaluation:
    """Figures of merit of importance sampling before (points from p) and after (points from q).

    All are estimated from the same points x ~ p. Errors are standard deviations, to first order in the
    fluctuations of the means; that of the variance after has what a heavy tail hides from few points, too.
    For n -> infinity points, the relative error of the estimated integral is sqrt(relative variance / n).
    Where points have conditions, it is the mean of the integrals over these that is estimated, and how much
    the integral varies with them is part of the variances.

    Where f has both signs, the figures are those of |f|. The relative variance of f/q is then

        (1 + relative variance of |f|/q) (1 + floor) - 1,    floor = (int |f| / int f)^2 - 1,

    which is at least ``floor``, whatever q is.

    Parameters
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
    pareto_before, pareto_after : float
        Shape k of the generalised Pareto distribution that fits the largest weights. Above 0.5 their variance
        may be infinite, above 0.7 the other figures cannot be relied on (Vehtari et al., arXiv 1507.02646).
        NaN where there are too few points to tell, -inf where there is no tail.
    floor : float
        Relative variance that no density can go below, which is 0 unless f has both signs.

    Examples
    --------
    A uniform density, and points that are uniform, too:

    >>> x = np.linspace(0.005, 0.995, 100)[:, None]
    >>> evaluation = vf.evaluate(vf.Flow(1), vf.Dataset(x, px=np.ones(100), fx=x[:, 0]))
    >>> print(evaluation)
    on 100 points                   before (f/p)         after (f/q)
    relative variance             0.3333 ± 0.049      0.3333 ± 0.049
    effective sample size                  75.0%               75.0%
    unweighting efficiency                 50.3%               50.3%
    Pareto shape of the tail               -0.40               -0.40
    variance ratio                                             1 ± 0
    warning: on these points q is no better than p: keep sampling from p, or train on more points
    >>> round(evaluation.ess_before, 3), len(evaluation.warnings)
    (0.75, 1)
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
    pareto_before: float
    pareto_after: float
    floor: float

    @property
    def warnings(self) -> list[str]:
        """What speaks against sampling from q, and what to do, in words."""
        told = []
        if not (self.variance_after < self.variance_before or self.variance_after == 0):
            told.append(
                "on these points q is no better than p: keep sampling from p, or train on more points"
            )
        if self.pareto_after > HEAVY_TAIL:
            told.append(
                f"the weights f/q have a heavy tail, of Pareto shape {self.pareto_after:.2f} > "
                f"{HEAVY_TAIL}: their variance, and errors computed from it, cannot be relied on; add a "
                "share of the uniform density (defensive), or train on more points"
            )
        return told

    def __str__(self) -> str:
        """Return a table of the figures, and the warnings below it."""
        lines = [f"{'on ' + format(self.n, ',') + ' points':<24}{'before (f/p)':>20}{'after (f/q)':>20}"]
        lines += [f"{name:<24}{before:>20}{after:>20}" for name, before, after in _rows(self)]
        lines += [f"{'variance ratio':<24}{_pm(self.ratio, self.ratio_error):>40}"]
        return "\n".join([*lines, *_remarks(self), *(f"warning: {text}" for text in self.warnings)])

    def _repr_html_(self) -> str:
        """Return the table and the warnings as HTML, for notebooks."""
        return figures_table(self) + bullets(self.warnings)


def figures_table(found: Evaluation) -> str:
    """Make a table, in HTML, of the figures before and after."""
    rows = [*_rows(found), ("variance ratio", "", _pm(found.ratio, found.ratio_error))]
    table_of_figures = table(f"On {found.n:,} points", ["figure", "before (f/p)", "after (f/q)"], rows)
    return table_of_figures + "".join(map(paragraph, _remarks(found)))


def _rows(found: Evaluation) -> list[tuple[str, str, str]]:
    """Name the figures, with their values before and after as text."""
    return [
        (
            "relative variance",
            _pm(found.variance_before, found.variance_before_error),
            _pm(found.variance_after, found.variance_after_error),
        ),
        ("effective sample size", f"{found.ess_before:.1%}", f"{found.ess_after:.1%}"),
        ("unweighting efficiency", f"{found.efficiency_before:.1%}", f"{found.efficiency_after:.1%}"),
        ("Pareto shape of the tail", _shape(found.pareto_before), _shape(found.pareto_after)),
    ]


def _remarks(found: Evaluation) -> list[str]:
    """Say what the table of figures does not."""
    if found.floor <= 0:
        return []
    return [f"these are figures of |f|; as f has both signs, its variance is {found.floor:.4g} or more"]


def evaluate(flow: Flow | Mixture, data: Dataset) -> Evaluation:
    """Measure the quality of a flow for importance sampling of f.

    Parameters
    ----------
    flow : Flow or Mixture
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
        If there are fewer than two points, f is zero at all points, or the points do not have the dimension
        d, the bounds and the number of conditions of the flow.

    Examples
    --------
    >>> x = np.random.default_rng(1).random((1000, 2))
    >>> data = vf.Dataset(x, px=np.ones(1000), fx=np.exp(-5 * x.sum(axis=1)))
    >>> learnt, others = data.split(0.2)
    >>> evaluation = vf.evaluate(vf.train(learnt, seed=1, n_epochs=10).flow, others)
    >>> evaluation.variance_after < evaluation.variance_before
    True
    """
    check_same_box(flow, data)
    return evaluate_density(log_prob_of(flow, data), data)


def log_prob_of(flow: Flow | Mixture, data: Dataset, rows: slice | np.ndarray = slice(None)) -> np.ndarray:
    """Compute log q (m,) at some points of a dataset, with the conditions that they have."""
    if data.n_conditions == 0:
        return flow.log_prob(data.x[rows])
    return flow.log_prob(data.x[rows], data.conditions[rows])


def check_measurable(data: Dataset) -> None:
    """Raise ValueError where points cannot tell how good a density is."""
    if data.n < 2:
        raise ValueError(f"an evaluation needs at least 2 points, got {data.n}")
    if data.log_integral == -np.inf:
        raise ValueError(f"f is zero at all {data.n} points of the evaluation: keep more points for it")


def evaluate_density(logqx: np.ndarray, data: Dataset) -> Evaluation:
    """Measure the quality of a density, given by its logs (n,) at the points; otherwise as `evaluate`.

    Over points from p, with r = f/q and counts q/p, the relative variance of f/q is

        mean((q/p) (r - m)^2) / (m^2 mean(q/p)),    m = mean((q/p) r) / mean(q/p),

    whose numerator is the mean of (f - q)^2 / (p q), for f in units of m. It is never negative, quiet where q
    is near f, and the same if p lacks a constant factor.
    """
    check_measurable(data)
    log_f_over_p = data.log_weight(1)
    log_q_over_p = logqx - data.logpx
    log_f_over_q = log_f_over_p - log_q_over_p
    with np.errstate(all="ignore"):  # if weights overflow, an infinite variance is the right answer
        weights = np.exp(log_f_over_p)  # their mean is 1
        q_over_p = np.exp(log_q_over_p - log_q_over_p.max())
        after_weights = np.exp(log_f_over_q - log_f_over_q.max())
        before = relative_variance(log_f_over_p, np.zeros(data.n))
        after = relative_variance(log_f_over_q, log_q_over_p)
        ratio, ratio_error = _ratio(before, after)
        unseen = _unseen(after.terms)
    return Evaluation(
        n=data.n,
        variance_before=before.value,
        variance_before_error=_error(before.influence),
        variance_after=after.value,
        variance_after_error=math.hypot(_error(after.influence), unseen),
        ratio=ratio,
        ratio_error=math.hypot(ratio_error, ratio * unseen / after.value) if after.value > 0 else ratio_error,
        ess_before=_inverse(1 + before.value),
        ess_after=_inverse(1 + after.value),
        efficiency_before=_inverse(_tail_quantile(weights, np.ones(data.n))),
        efficiency_after=_efficiency(after_weights, q_over_p),
        pareto_before=pareto_shape(log_f_over_p),
        pareto_after=pareto_shape(log_f_over_q, log_q_over_p),
        floor=_floor(data, weights),
    )


class _Variance(NamedTuple):
    """Relative variance, the influence of each point on it, (n,), and the terms (n,) whose mean it is."""

    value: float
    influence: np.ndarray
    terms: np.ndarray


def relative_variance(log_values: np.ndarray, log_counts: np.ndarray) -> _Variance:
    """Estimate the relative variance of values with counts."""
    log_shares = log_counts - log_mean_exp(log_counts)
    log_ratios = log_values - log_mean_exp(log_shares + log_values)  # to their mean
    deviations = np.expm1(log_ratios)
    # A deviation beyond the range of numbers is as good as the ratio.
    log_deviations = np.where(log_ratios > LARGE, log_ratios, np.log(np.abs(deviations)))
    terms = np.exp(log_shares + 2 * log_deviations)
    variance = float(np.mean(terms))
    # What the mean does to the variance is of second order.
    return _Variance(variance, terms - variance * np.exp(log_shares) * (1 + 2 * deviations), terms)


def _unseen(terms: np.ndarray) -> float:
    """Estimate how much the mean of terms (n,) lacks for the large ones among which there is no point yet.

    Where the tail of the terms is so heavy that their variance is infinite (shape k > 1/2), a sample's own
    mean is mostly too small, and its error with it. A generalised Pareto distribution that has the median of
    the largest terms says what their mean would be; its shape is limited, so that it has one.
    """
    terms = np.sort(terms[np.isfinite(terms) & (terms > 0)])
    if len(terms) < MIN_TERMS:
        return 0.0
    k = min(pareto_shape(np.log(terms)), LARGEST_SHAPE)
    if not k > 0.5:
        return 0.0
    n_tail = math.ceil(tail_size(len(terms)))
    excesses = terms[-n_tail:] - terms[-n_tail - 1]
    mean = float(np.median(excesses)) * k / ((2**k - 1) * (1 - k))
    return max(0.0, mean - float(excesses.mean())) * n_tail / len(terms)


def _floor(data: Dataset, weights: np.ndarray) -> float:
    """Compute (int |f| / int f)^2 - 1 from the weights |f|/p, whose mean is one."""
    if not data.has_both_signs:
        return 0.0
    with np.errstate(divide="ignore"):
        return float(1 / np.mean(weights * np.sign(data.fx)) ** 2) - 1


def _ratio(before: _Variance, after: _Variance) -> tuple[float, float]:
    """Compute the ratio of two relative variances from the same points, and its error."""
    if after.value <= 0:
        return float("nan"), float("nan")
    ratio = before.value / after.value
    return ratio, _error((before.influence - ratio * after.influence) / after.value)


def _error(influence: np.ndarray) -> float:
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # inf or NaN are right answers
        return float(np.sqrt(np.mean(influence**2) / len(influence)))


def _inverse(value: float) -> float:
    """Return 1 / value, or NaN for 0: the quantile of weights that are nearly all zero."""
    return 1 / value if value != 0 else math.nan


def _tail_quantile(values: np.ndarray, counts: np.ndarray) -> float:
    """Find the value above which a share TAIL of the total count lies."""
    return float(weighted_quantiles(values, counts, [1 - TAIL])[0])


def _efficiency(values: np.ndarray, counts: np.ndarray) -> float:
    """Compute the mean of values divided by their 99.9 % quantile."""
    return float(np.average(values, weights=counts)) * _inverse(_tail_quantile(values, counts))


def _shape(k: float) -> str:
    if math.isnan(k):
        return "unknown"
    return "none" if k == -math.inf else f"{round(k, 2) + 0.0:.2f}"  # not -0.00


def _pm(value: float, error: float) -> str:
    return f"{value:.4g} ± {error:.2g}"

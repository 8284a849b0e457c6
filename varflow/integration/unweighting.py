"""Acceptance and rejection of weighted points, and the maximum weight that is taken for it.

Weights w = f/q are given by their sizes, |w| or its logarithm, and their signs: see `Form`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from varflow.integration.estimates import magnitudes, weights_of
from varflow.integration.tables import format_estimate
from varflow.validation import check_name

__all__ = [
    "EPSILON",
    "FORMS",
    "LOGS",
    "MAX_WEIGHTS",
    "VALUES",
    "Choice",
    "Form",
    "Unweighting",
    "UnweightingFigures",
    "Weighted",
]

EPSILON = 0.001
PLAIN = 690.0  # log of the largest number that is written without exp(...)


class Weighted(NamedTuple):
    """Weighted points.

    Attributes
    ----------
    x : ndarray, (n, d)
        The points.
    sizes : ndarray, (n,)
        Magnitudes of their weights, or the logarithms of these.
    signs : ndarray, (n,)
        Signs of f, of its first component; 0 where that is zero.
    """

    x: np.ndarray
    sizes: np.ndarray
    signs: np.ndarray


@dataclass(frozen=True)
class Form:
    """How weights are given: by their values or by their logarithms.

    Attributes
    ----------
    zero : float
        Size of a weight that is zero.
    quantile : str
        Method of `numpy.quantile` for sizes.
    weights : callable
        Weights (n, m) of log q (n,) and what the integrand gives, (n, m).
    sizes, signs : callable
        Sizes and signs (n,) of weights (n, m).
    ratios : callable
        Sizes (n,) over another size, as numbers.
    log : callable
        Logarithm of a size above zero.
    """

    zero: float
    quantile: Literal["linear", "lower"]
    weights: Callable[[np.ndarray, np.ndarray], np.ndarray]
    sizes: Callable[[np.ndarray], np.ndarray]
    signs: Callable[[np.ndarray], np.ndarray]
    ratios: Callable[[np.ndarray, float], np.ndarray]
    log: Callable[[float], float]


VALUES = Form(
    zero=0.0,
    quantile="linear",
    weights=weights_of,
    sizes=magnitudes,
    signs=lambda weights: np.sign(weights[:, 0]),
    ratios=lambda sizes, unit: sizes / unit,
    log=math.log,
)
LOGS = Form(
    zero=-math.inf,
    quantile="lower",  # of a zero and a positive weight, whose log is -inf, there is nothing in between
    weights=lambda log_q, values: values - log_q[:, None],
    sizes=lambda weights: weights[:, 0],
    signs=lambda weights: np.ones(len(weights)),
    ratios=lambda sizes, unit: np.exp(sizes - unit),
    log=float,
)
FORMS = {False: VALUES, True: LOGS}  # whether f is given by its logarithm


def _quantile(sizes: np.ndarray, epsilon: float, form: Form) -> float:
    """Find the weight that a share epsilon of the points exceeds."""
    return float(np.quantile(sizes, 1 - epsilon, method=form.quantile))


def _overweight(sizes: np.ndarray, epsilon: float, form: Form) -> float:
    """Find the weight above which weights have a share epsilon of the sum of all, at most."""
    descending = np.sort(sizes)[::-1]
    if descending[0] == form.zero:
        return form.zero
    sums = np.cumsum(form.ratios(descending, descending[0]))
    n_above = int(np.searchsorted(sums, epsilon * sums[-1], side="right"))
    return float(descending[min(n_above, len(sizes) - 1)])


def _bootstrap(sizes: np.ndarray, epsilon: float, form: Form) -> float:
    """Find the median of the largest of 1 / epsilon weights that are drawn anew, with replacement.

    Of n weights, all are at most w with the probability F(w)^n, so that the median over ever more replicas
    is where F = 2^(-1/n): no replica has to be drawn.
    """
    return float(np.quantile(sizes, 2**-epsilon, method="inverted_cdf"))


MAX_WEIGHTS = {"quantile": _quantile, "overweight": _overweight, "bootstrap": _bootstrap}


@dataclass(frozen=True)
class Choice:
    """What is taken for the maximum weight.

    Attributes
    ----------
    name : str
        One of MAX_WEIGHTS.
    epsilon : float
        Its share.
    """

    name: str = "quantile"
    epsilon: float = EPSILON

    def __post_init__(self) -> None:
        check_name("max_weight", self.name, MAX_WEIGHTS)
        if not 0 <= self.epsilon < 1:
            raise ValueError(f"epsilon must be at least 0 and less than 1, got {self.epsilon}")

    def of(self, sizes: np.ndarray, form: Form) -> float:
        """Find it among sizes (n,).

        Raises
        ------
        ValueError
            If it is zero.
        """
        found = MAX_WEIGHTS[self.name](sizes, self.epsilon, form)
        if found == form.zero:
            raise ValueError("f is zero at nearly all points: there is nothing to be unweighted")
        return found


@dataclass(frozen=True)
class UnweightingFigures:
    """What became of weighted points that were accepted or rejected.

    Parameters
    ----------
    n_events : int
        Number of points that were accepted and wanted.
    n_drawn : int
        Number of points that were decided on, each with a value of f.
    efficiency : float
        Unweighting efficiency: share of them that were accepted, wanted or not.
    log_max_weight : float
        Logarithm of the maximum weight, relative to which points were accepted.
    n_overweight : int
        Number of events with a weight beyond 1, as |f|/q exceeded the maximum.
    overweight : float
        What these have of the sum of all weights of the events, without signs.
    largest : float
        Largest weight of an event, without its sign; at least 1.
    n_negative : int
        Number of events where f is negative.
    relative_mean, relative_sdev : float
        Mean of the weights of all points that were drawn, and its error, in units of the maximum weight.

    Examples
    --------
    >>> flow = vf.Flow(2, n_bins=4, d_hidden=8, seed=1)
    >>> figures = vf.generate(flow, lambda x: 1 + x[:, 0], 1000, seed=1).figures
    >>> print(figures)
    events                  1,000 of 2,000 points: unweighting efficiency 7...%
    maximum weight          1.99...
    overweight events       1 with 0.10% of all weight, up to 1.000...
    integral                1.5...
    >>> abs(figures.mean - 1.5) < 5 * figures.sdev, figures.max_weight <= 2
    (True, True)
    """

    n_events: int
    n_drawn: int
    efficiency: float
    log_max_weight: float
    n_overweight: int
    overweight: float
    largest: float
    n_negative: int
    relative_mean: float
    relative_sdev: float

    @property
    def max_weight(self) -> float:
        """The maximum weight, in units of the integral; 0 or infinite where it underflows or overflows."""
        with np.errstate(over="ignore", under="ignore"):
            return float(np.exp(self.log_max_weight))

    @property
    def mean(self) -> float:
        """Estimate of the integral of f, or of |f| with the sign of its first component if it has several."""
        return self.max_weight * self.relative_mean

    @property
    def sdev(self) -> float:
        """Standard deviation of `mean`."""
        return self.max_weight * self.relative_sdev

    def __str__(self) -> str:
        """Return a table."""
        lines = {
            "events": f"{self.n_events:,} of {self.n_drawn:,} points: unweighting efficiency "
            f"{self.efficiency:.1%}",
            "maximum weight": _number(self.log_max_weight),
            "overweight events": "none",
            "integral": self._integral(),
        }
        if self.n_overweight:
            lines["overweight events"] = (
                f"{self.n_overweight:,} with {self.overweight:.2%} of all weight, up to {self.largest:.5g}"
            )
        if self.n_negative:
            lines["negative events"] = f"{self.n_negative:,}"
        return "\n".join(f"{name:<24}{text}" for name, text in lines.items())

    def _integral(self) -> str:
        if abs(self.log_max_weight) < PLAIN:
            return format_estimate(self.mean, self.sdev)
        log_mean = self.log_max_weight + math.log(abs(self.relative_mean))
        sign = "-" if self.relative_mean < 0 else ""
        return f"{sign}exp({format_estimate(log_mean, self.relative_sdev / abs(self.relative_mean))})"


def _number(log: float) -> str:
    """Format a number that may be beyond what a float64 holds."""
    return f"{math.exp(log):.6g}" if abs(log) < PLAIN else f"exp({log:.6g})"


class Unweighting:
    """Acceptance of points with the probability |w| / r, and what has become of all points so far.

    Parameters
    ----------
    unit : float
        Size of the maximum weight r.
    form : Form
        How sizes are given.
    n : int
        Number of events that are wanted.
    generator : numpy.random.Generator
        What decides.
    """

    def __init__(self, unit: float, form: Form, n: int, generator: np.random.Generator) -> None:
        self.unit, self.form, self.n, self._generator = unit, form, n, generator
        self.n_drawn = self.n_accepted = self.n_overweight = self.n_negative = 0
        self._overweight, self._largest = 0.0, 1.0
        self._sums = np.zeros(2)  # of signed |w|/r, and of their squares

    @property
    def n_missing(self) -> int:
        """Number of events that are still wanted."""
        return max(self.n - self.n_accepted, 0)

    def accept(self, points: Weighted) -> tuple[np.ndarray, np.ndarray]:
        """Accept points.

        Parameters
        ----------
        points : Weighted
            The points.

        Returns
        -------
        x : ndarray, (k, d)
            Those that are accepted, as long as events are wanted.
        w : ndarray, (k,)
            Their weights: 1, or |w|/r where that is larger, with the sign of f.
        """
        ratios = self.form.ratios(points.sizes, self.unit)
        is_kept = self._generator.random(len(ratios)) < ratios
        n_missing = self.n_missing
        weights = (points.signs * np.maximum(ratios, 1.0))[is_kept][:n_missing]
        self._count(points.signs, ratios, is_kept, weights)
        return points.x[is_kept][:n_missing], weights

    def _count(self, signs: np.ndarray, ratios: np.ndarray, is_kept: np.ndarray, weights: np.ndarray) -> None:
        self.n_drawn += len(ratios)
        self.n_accepted += int(np.count_nonzero(is_kept))
        sizes = np.abs(weights)
        self.n_overweight += int(np.count_nonzero(sizes > 1))
        self.n_negative += int(np.count_nonzero(weights < 0))
        self._overweight += float(sizes[sizes > 1].sum())
        self._largest = max(self._largest, float(sizes.max(initial=0.0)))
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            signed = signs * ratios
            self._sums += [signed.sum(), np.square(signed).sum()]

    def figures(self) -> UnweightingFigures:
        """Tell what has become of all points so far."""
        n_events = min(self.n, self.n_accepted)
        mean, mean_square = self._sums / self.n_drawn
        return UnweightingFigures(
            n_events=n_events,
            n_drawn=self.n_drawn,
            efficiency=self.n_accepted / self.n_drawn,
            log_max_weight=self.form.log(self.unit),
            n_overweight=self.n_overweight,
            overweight=self._overweight / max(n_events - self.n_overweight + self._overweight, 1.0),
            largest=self._largest,
            n_negative=self.n_negative,
            relative_mean=float(mean),
            relative_sdev=math.sqrt(max(mean_square - mean**2, 0.0) / self.n_drawn),
        )

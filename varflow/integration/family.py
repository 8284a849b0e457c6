"""Integrals of a family f(x, theta), for a table of theta, from one flow that all of them share.

**Survey.** One flow, whose conditions are theta, is trained on all of them together, in stages of rounds by
replay (see `varflow.integration.family_survey`). To a tolerance, each stage is as long as all before, until
the refinement seems to need fewer calls than another one would take. Without one, a single stage has a share
of the calls.

**Refinement.** Each theta is estimated on its own, from scrambled Sobol points of the flow at that theta, and
a share of uniform ones, with the errors of `varflow.integrate`: from the scatter of scrambles, with what
weights heavier than all that were seen would add. Different theta have different points. Iterations are
averaged with weights that depend on numbers of points alone.

**Errors.** Where the flow is close to f but for rare points, the few points of a theta may meet none of
them, and its scatter is far too small. Neighbours tell: the variance that is taken is the mean of its own one
and of the mean over the ``NEIGHBOURS`` nearest theta, each for one point, and in units of the integral of |f|
(variances of few degrees of freedom are moderated by those of others: Smyth, Stat. Appl. Genet. Mol. Biol. 3
(2004) 3). On average over theta, that is the variance that there is.
"""

import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from varflow.data.arrays import as_floats, check_rows, checked_bounds
from varflow.flow.make_flow import make_flow
from varflow.integration.averages import (
    RATE_OF_MANY,
    degrees_of_freedom,
    estimate,
    standard_deviations,
    weight_of,
)
from varflow.integration.domain import Bounds, Domain
from varflow.integration.estimates import Batches, sums_of_weights
from varflow.integration.family_result import FamilyResult
from varflow.integration.family_survey import FamilySurvey
from varflow.integration.integrand import Integrand
from varflow.integration.iteration import Iteration, times_power
from varflow.integration.make_engine import check_maps_cube
from varflow.integration.proposal import Draw, draw_given
from varflow.integration.sobol import sobol_points
from varflow.integration.state import DEFENSIVE_SHARE
from varflow.integration.survey import MIN_STEPS, ROUND, stage_optimiser
from varflow.integration.tail import Tail
from varflow.runtime.progress import Progress, way_of_showing
from varflow.validation import check_finite_from_0, positive_int

__all__ = ["integrate_family"]

logger = logging.getLogger(__name__)

FIRST_ROUNDS = 32  # of the first stage to a tolerance
N_STEPS = 24  # of a round: twice those of a single integral leave two thirds of the variance
SURVEY_SHARE = 0.5  # of the calls without a tolerance; at most, with one
# Rounds, in those of the first stage, after which a stage that leaves so much of what is needed is the last.
STAGES_TO_LEARN, WORTH = 4, 0.75
RECENT_ROUNDS = 8  # that tell how good the flow is
N_SCRAMBLES = 16  # of an iteration of each theta, whose scatter gives the error
NEIGHBOURS = 16  # theta whose variances moderate that of each
SAFETY = 1.3  # factor of errors, which are themselves uncertain
MIN_EACH = 32  # points of each
GROUP = 131_072  # points drawn together, at least
N_PARAMETERS = 64  # Sobol points of a box


def integrate_family(
    f: Callable[..., Any],
    bounds: Bounds,
    parameters: npt.ArrayLike | int = N_PARAMETERS,
    *,
    parameter_bounds: npt.ArrayLike | None = None,
    n_calls: int = 1_000_000,
    rtol: float = 0.0,
    flow: str = "pwquad",
    flow_options: dict[str, Any] | None = None,
    vectorized: bool = True,
    workers: Any = 1,
    on_invalid: str = "raise",
    seed: int | None = None,
    threads: int | None = None,
    backend: str | None = None,
    progress: bool | None = None,
) -> FamilyResult:
    """Integrate a function with parameters, f(x, theta), over x, for many values of theta at once.

    One flow with conditions learns f for all theta together, and each integral is then estimated from it with
    an error of its own. That takes far fewer calls than an integration for each where the integrands are
    alike, as where a peak moves with a parameter.

    Parameters
    ----------
    f : callable
        The integrand: points x (n, d) and parameters theta (n, c), a row for each point, -> (n,).
    bounds : int or sequence of (lower, upper)
        Number of dimensions of the unit cube, or a pair for each dimension, which may be infinite.
    parameters : array_like, (n_theta, c), or int
        The values of theta. Or how many of them, with `parameter_bounds`: scrambled Sobol points of that box,
        64 if not given.
    parameter_bounds : array_like, (c, 2), optional
        Box of theta. With a table it is the range of its values if not given.
    n_calls : int
        Largest number of calls of f, for all theta together.
    rtol : float
        Stop when the error of each integral is at most rtol times its estimate. Where it is 0, all calls are
        used, half of them for the survey, and the rest in equal numbers for each theta.
    flow : {"pwquad", "pwlinear", "rqs"}
        Kind of cell of the flow.
    flow_options : dict, optional
        Other arguments of `Flow`.
    vectorized : bool
        Whether f takes many points at once; if not, it gets x (d,) and theta (c,).
    workers : int, executor, pool, client or callable
        What calls f; see `Integrand`.
    on_invalid : {"raise", "zero"}
        What is done about values that are not finite; see `Integrand`.
    seed : int, optional
        Seed of everything random; drawn from the system if not given.
    threads : int, optional
        Threads of the flow; see `Flow`.
    backend : {"cpu", "cuda", "auto"}, optional
        Backend of the flow; see `Flow`.
    progress : bool or None
        Whether to show a bar on stderr; None shows it where that is a terminal.

    Returns
    -------
    FamilyResult
        A table: for each theta the estimate, its error, and the calls that it took.

    Raises
    ------
    TypeError, ValueError
        If an argument is refused, or f returns anything but a number for each point.
    Exception
        What the integrand raises.

    Examples
    --------
    A peak whose place is a parameter; all integrals are one, nearly:

    >>> def f(x, theta):
    ...     return np.exp(-0.5 * ((x[:, 0] - theta[:, 0]) / 0.05) ** 2) / (0.05 * np.sqrt(2 * np.pi))
    >>> theta = np.linspace(0.3, 0.7, 20)[:, None]
    >>> result = vf.integrate_family(f, 1, theta, n_calls=60_000, seed=1)
    >>> result.mean.shape, bool(np.all(abs(result.mean - 1) < 5 * result.sdev + 1e-6))
    ((20,), True)
    >>> x, logqx = result.flow.sample(100, seed=1, conditions=[0.42])
    """
    generator = np.random.default_rng(seed)
    table, box = _checked_parameters(parameters, parameter_bounds, generator)
    n_calls = positive_int("n_calls", n_calls)
    check_finite_from_0("rtol", rtol)
    domain = Domain(bounds)
    if domain.discrete:
        raise ValueError(
            "integrate_family is for boxes of intervals, and these bounds have Discrete among them: sum over "
            "the states in f, or take integrate for each theta"
        )
    d, c = domain.d, table.shape[1]
    least = FIRST_ROUNDS * ROUND + len(table) * N_SCRAMBLES * MIN_EACH
    if n_calls < least:
        raise ValueError(f"n_calls must be at least {least} for {len(table)} values of theta, got {n_calls}")
    sizes = {"n_bins": 32 if d == 1 else 16, "d_hidden": 64, "n_hidden": 2}
    sizes["repetitions"] = {1: 4, 2: 2}.get(d, 1)
    given = {"n_conditions": c, "condition_bounds": box, "threads": threads}
    options = {"seed": int(generator.integers(2**63)), **sizes, **given, **(flow_options or {})}
    if not isinstance(flow, str):
        raise TypeError(f"flow must be the name of a cell, got {flow!r}")
    check_maps_cube(flow)
    made = make_flow(d, flow, options, backend)
    made.condition_map.learn(table)
    show = way_of_showing(progress)
    split = _Split(f, d) if callable(f) else f
    with (
        Integrand(split, domain, vectorized=vectorized, workers=workers, on_invalid=on_invalid) as integrand,
        show(n_calls, "call", "integrating") as shown,
    ):
        family = _Family(integrand, FamilySurvey(made, table, generator), shown)
        family.survey(n_calls, rtol)
        family.refine(n_calls, rtol)
    return family.result(rtol)


def _checked_parameters(
    parameters: npt.ArrayLike | int, bounds: npt.ArrayLike | None, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None]:
    """Give the table of theta, (n_theta, c), and their box where it is given."""
    is_number = isinstance(parameters, int | np.integer)
    if bounds is None:
        if is_number:
            raise TypeError(
                "parameters must be a table, (n_theta, c), unless parameter_bounds gives their box"
            )
        box = None
    else:
        shape = np.shape(bounds)
        if len(shape) != 2 or shape[1] != 2:
            raise ValueError(f"parameter_bounds must have shape (c, 2), found {shape}")
        box = checked_bounds(bounds, shape[0], "parameter_bounds")
    if is_number:
        assert box is not None
        n = positive_int("parameters", parameters)
        return box[:, 0] + sobol_points(n, len(box), generator) * (box[:, 1] - box[:, 0]), box
    table = as_floats("parameters", parameters)
    if table.ndim != 2 or 0 in table.shape:
        hint = "; for one parameter, give parameters[:, None]" if table.ndim == 1 else ""
        raise ValueError(f"parameters must have shape (n_theta, c), found {table.shape}{hint}")
    check_rows("parameters", table, "be finite", np.isfinite)
    if box is not None:
        if len(box) != table.shape[1]:
            raise ValueError(f"parameter_bounds must have {table.shape[1]} rows, found {len(box)}")
        rule = "lie within parameter_bounds"
        check_rows("parameters", table, rule, lambda rows: (rows >= box[:, 0]) & (rows <= box[:, 1]))
    return table, box


class _Split:
    """A function f(x, theta) as one of points that have theta as their last columns."""

    def __init__(self, f: Callable[..., Any], d: int) -> None:
        self.f, self.d = f, d

    def __call__(self, points: np.ndarray) -> Any:
        return self.f(
            np.ascontiguousarray(points[..., : self.d]), np.ascontiguousarray(points[..., self.d :])
        )


class _Theta:
    """What is known of the integral at one theta, in units of 2^exponent."""

    def __init__(self, exponent: int, expected: float) -> None:
        self.exponent, self.expected = exponent, np.array([expected])
        self.used: list[Iteration] = []
        self.tail = Tail()

    def add(self, points: Draw, values: np.ndarray) -> None:
        """Add an iteration of N_SCRAMBLES batches, with values (n, 1)."""
        batches = Batches(self.expected, keeps_covariance=False)
        values = times_power(values, -self.exponent)
        batches.add(points, values, N_SCRAMBLES)
        with np.errstate(divide="ignore"):
            self.tail.add(np.log(np.abs(values[:, 0])) - points.log_q, sums_of_weights(points.log_q, values))
        weight = weight_of(batches.n, batches.n // N_SCRAMBLES)
        one = Iteration(
            "refine",
            batches.n,
            batches.mean,
            batches.covariance,
            batches.ess,
            0.0,
            True,
            weight,
            N_SCRAMBLES - 1,
        )
        self.used.append(one)
        self.expected = batches.mean

    @property
    def n_calls(self) -> int:
        """Number of points so far."""
        return sum(one.n_calls for one in self.used)

    def estimate(self) -> tuple[float, float]:
        """Give the mean and its error, in these units; the error is infinite where f was zero everywhere."""
        if self.tail.sums[0] == 0:
            return 0.0, math.inf
        mean, variance = estimate(self.used, self.tail.heavier)
        return float(mean[0]), float(standard_deviations(variance)[0])

    @property
    def size(self) -> float:
        """Estimate of the integral of |f|."""
        return float(self.tail.sums[0]) / self.tail.n


class _Family:
    """An integration of a family: what has been learnt, and the calls that it took."""

    def __init__(self, integrand: Integrand, learnt: FamilySurvey, shown: Progress) -> None:
        self.integrand, self.learnt, self.shown = integrand, learnt, shown
        self.thetas: list[_Theta] = []
        self.n_surveyed = 0

    def survey(self, n_calls: int, rtol: float) -> None:
        """Train the flow, in at most a share of the calls; see the module."""
        left = n_calls - len(self.learnt.table) * N_SCRAMBLES * MIN_EACH
        most = min(max(FIRST_ROUNDS, int(SURVEY_SHARE * n_calls) // ROUND), left // ROUND)
        n_rounds = min(FIRST_ROUNDS, most) if rtol > 0 else most
        n_done, needed = 0, math.inf
        while n_rounds > 0:
            self._stage(n_rounds, 0.5 if n_done < 4 * FIRST_ROUNDS else 0.25)
            n_done += n_rounds
            n_rounds = min(n_done, most - n_done)
            before, needed = needed, float(self._sizes(rtol).sum()) if rtol > 0 else 0.0
            logger.info("after %d calls, the refinement seems to need %.0f", n_done * ROUND, needed)
            has_learnt = n_done >= STAGES_TO_LEARN * FIRST_ROUNDS and needed > WORTH * before
            if needed <= n_rounds * ROUND or has_learnt:
                break
        self.n_surveyed = n_done * ROUND
        self._begin()

    def _stage(self, n_rounds: int, share_of_dkl: float) -> None:
        learnt, optim = self.learnt, stage_optimiser()
        n_steps = max(N_STEPS, -(-MIN_STEPS // n_rounds))
        for k in range(n_rounds):
            points, rows = learnt.draw()
            values = self._evaluate(points.u, rows)
            with np.errstate(divide="ignore"):
                learnt.add(points, rows, np.log(np.abs(values[:, 0])))
            learnt.train(optim, k, n_rounds, share_of_dkl, n_steps)
            self.shown.update(self.integrand.n_calls, "training")

    def _evaluate(self, u: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Evaluate f on the unit cube at points with the parameters of these rows, (n, 1)."""
        evaluated = self.integrand.evaluate(u, self.learnt.table[rows])
        if evaluated.error is not None:
            raise evaluated.error
        if self.integrand.m != 1:
            raise ValueError(f"f must return one number for each point, got {self.integrand.m}")
        return evaluated.values

    def _begin(self) -> None:
        """Choose the unit of each integral by the largest value that was seen, and what it may be."""
        log_largest, log_integrals = self.learnt.log_largest(), self.learnt.log_integrals()
        overall = log_largest.max(initial=-math.inf)
        for top, log_integral in zip(log_largest.tolist(), log_integrals.tolist(), strict=True):
            top = top if top > -math.inf else max(overall, 0.0)
            exponent = math.ceil(top / math.log(2))
            expected = math.exp(min(log_integral - exponent * math.log(2), 700.0))
            self.thetas.append(_Theta(exponent, expected))

    def _sizes(self, rtol: float) -> np.ndarray:
        """Estimate the points that each theta needs, (n_theta,), from the last rounds of the survey."""
        n_theta = len(self.learnt.table)
        variances = self.learnt.relative_variances(max(RECENT_ROUNDS * ROUND, 2 * n_theta))
        finite = variances[np.isfinite(variances)]
        worst = float(finite.max(initial=1.0))
        sdevs = np.sqrt(np.where(np.isfinite(variances), np.maximum(variances, 0), worst))
        each = (SAFETY * sdevs / (rtol * math.sqrt(N_SCRAMBLES))) ** (1 / RATE_OF_MANY)
        return N_SCRAMBLES * np.clip(np.ceil(each), MIN_EACH, 1e9).astype(np.int64)

    def refine(self, n_calls: int, rtol: float) -> None:
        """Estimate each theta, in as many calls as are left, or until all errors are small enough."""
        n_theta = len(self.learnt.table)
        if rtol == 0:
            n_each = (n_calls - self.n_surveyed) // (2 * n_theta * N_SCRAMBLES)
            sizes = [max(n_each, 1), max(n_each, 1)] if n_each >= MIN_EACH else [2 * n_each]
            for size in sizes:
                self._iteration(np.full(n_theta, size))
            return
        each = self._sizes(rtol) // N_SCRAMBLES
        while each.any():
            left = (n_calls - self.integrand.n_calls) // N_SCRAMBLES
            for divisor in (1, math.ceil(each.sum() / max(left, 1)), int(each.max())):
                affordable = np.where(each > 0, np.maximum(each // divisor, MIN_EACH), 0)
                if affordable.sum() <= left:
                    break
            else:
                return
            self._iteration(affordable)
            each = self._missing(rtol)

    def _missing(self, rtol: float) -> np.ndarray:
        """Choose how many more points a scramble of each theta has, (n_theta,); none where that will do."""
        mean, sdev = self.estimates()
        n = np.array([one.n_calls for one in self.thetas]) / N_SCRAMBLES
        uncertainty = np.array([1 / math.sqrt(2 * len(one.used) * (N_SCRAMBLES - 1)) for one in self.thetas])
        with np.errstate(divide="ignore", invalid="ignore"):
            shortfall = np.where(sdev == 0, 0.0, (1 + uncertainty) * sdev / (rtol * np.abs(mean)))
            more = n * ((1.05 * shortfall) ** (1 / RATE_OF_MANY) - 1)
        more = np.where(np.isfinite(shortfall), np.clip(more, np.maximum(n / 4, MIN_EACH), 8 * n), 4 * n)
        return np.where(shortfall <= 1, 0, np.ceil(more)).astype(np.int64)

    def estimates(self) -> tuple[np.ndarray, np.ndarray]:
        """Give means and errors, (n_theta,) each, in the units of each theta; see the module."""
        mean, sdev = np.array([one.estimate() for one in self.thetas]).T
        n, size = (np.array([getattr(one, name) for one in self.thetas]) for name in ("n_calls", "size"))
        is_known = np.isfinite(sdev) & (size > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            variance = np.where(is_known, n * np.square(sdev / size), np.nan)  # for one point
        order = self.learnt.neighbours
        moderated = np.empty(len(order))
        moderated[order] = moving_mean(variance[order], NEIGHBOURS)
        taken = np.where(is_known, size * np.sqrt((variance + moderated) / (2 * n)), sdev)
        return mean, taken

    def _iteration(self, each: np.ndarray) -> None:
        """Estimate theta from scrambles of so many points each, (n_theta,), in groups."""
        begin = 0
        sums = np.cumsum(each) * N_SCRAMBLES
        while begin < len(each):
            before = sums[begin - 1] if begin else 0
            end = max(begin + 1, int(np.searchsorted(sums, before + GROUP, side="right")))
            chosen = begin + np.flatnonzero(each[begin:end])
            if len(chosen):
                self._estimate(chosen, each[chosen])
            self.shown.update(self.integrand.n_calls, "refining")
            begin = end

    def _estimate(self, chosen: np.ndarray, each: np.ndarray) -> None:
        learnt, d = self.learnt, self.learnt.flow.d
        n_uniform = np.maximum(1, np.rint(DEFENSIVE_SHARE * each)).astype(np.int64)
        n_flow = each - n_uniform

        def latent(sizes: np.ndarray) -> np.ndarray:
            drawn = [sobol_points(n, d, learnt.generator) for n in sizes.tolist() for _ in range(N_SCRAMBLES)]
            return np.concatenate(drawn)

        of_flow, of_uniform = (
            np.repeat(np.arange(len(chosen)), N_SCRAMBLES * n) for n in (n_flow, n_uniform)
        )
        owner = np.concatenate([of_flow, of_uniform])
        points = draw_given(learnt.flow, latent(n_flow), latent(n_uniform), learnt.table[chosen[owner]])
        values = self._evaluate(points.u, chosen[owner])
        for k, row in enumerate(chosen.tolist()):
            mine = np.flatnonzero(owner == k)
            n_own = N_SCRAMBLES * int(n_uniform[k])
            own = Draw.of_flow(points.u[mine], points.log_flow[mine], n_own)
            self.thetas[row].add(own, values[mine])

    def result(self, rtol: float) -> FamilyResult:
        """Make the table."""
        exponents = [one.exponent for one in self.thetas]
        mean, sdev = (
            np.array([float(times_power(value, e)) for value, e in zip(column, exponents, strict=True)])
            for column in self.estimates()
        )
        return FamilyResult(
            parameters=self.learnt.table,
            mean=mean,
            sdev=sdev,
            n_calls=np.array([one.n_calls for one in self.thetas]),
            error_dof=np.array([degrees_of_freedom(one.used) for one in self.thetas]),
            n_survey=self.n_surveyed,
            flow=self.learnt.flow,
            bounds=self.integrand.domain.bounds.copy(),
            n_invalid=self.integrand.n_invalid,
            rtol=rtol,
        )


def moving_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Mean of each of values (n,) and its neighbours, `width` in all, but for those that are NaN."""
    n, half = len(values), width // 2
    found = np.empty(n)
    for k in range(n):
        first = max(0, min(k - half, n - width))
        near = values[first : first + width]
        known = near[~np.isnan(near)]
        found[k] = known.mean() if len(known) else np.nan
    return found

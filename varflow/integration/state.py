"""What an integration knows: the flow, points and estimates so far, and what the next step begins with."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np

from varflow.data.dataset import Dataset
from varflow.flow.elementwise import FLAT_SHARE, fit_elementwise
from varflow.flow.flow import Flow
from varflow.integration.averages import USUAL_RATE, estimate, student_variance, weight_of
from varflow.integration.clock import Deadline
from varflow.integration.costs import Costs
from varflow.integration.estimates import Batches, Evaluated, largest_size, sums_of_weights
from varflow.integration.iteration import (
    LOG_OF_2,
    Iteration,
    pack_history,
    scaled,
    times_power,
    unpack_history,
)
from varflow.integration.proposal import Draw, log_mixture
from varflow.integration.scout import Walkers, chosen, no_walkers, walkers_at
from varflow.integration.survey import Memory, Replay, stage_optimiser
from varflow.integration.tables import with_relative_error
from varflow.integration.tail import Tail
from varflow.integration.tolerance import Tolerance
from varflow.runtime.checkpoint import Saved
from varflow.training.adam import Adam, AdamState
from varflow.training.stateful_trainers import BasicStatefulTrainer

__all__ = ["DEFENSIVE_SHARE", "Round", "State", "show_nobody"]

logger = logging.getLogger(__name__)

DEFENSIVE_SHARE = 0.01  # of the points that estimate the integral
HALF_TRAINED = 0.5  # progress from which on rounds count
MAX_COVARIANCE = 500  # components, of which covariances are kept unless it is asked for
UNIFORM = 1e-6  # difference of log q from 0, at most, that rounding makes where q is uniform
SHARE_OF_TIME = 0.9  # that is planned with: points may take longer than the last ones
N_SCRAMBLES = 64  # of the points of an iteration, the uniform ones included
LEAST_SECONDS = 1e-9  # that a point takes
FAR = 300  # powers of two from the unit, beyond which squares might overflow
MAX_EXPLORED = 65_536  # uniform points that are kept, for walkers to start at
UNSEEN = 10  # a region is lost where fewer points would stand for all of the integral, were it there

MakePoints = Callable[[int, int, np.random.Generator], np.ndarray]


def show_nobody(share: float) -> None:
    """Take how much of a training is done, for nothing."""


class Round(NamedTuple):
    """Density that the points of a round of few calls were drawn from.

    Attributes
    ----------
    params : ndarray, (n_params,)
        Parameters of the flow.
    n : int
        Number of points whose values are known.
    uniform_share : float
        Share of the uniform density among them.
    """

    params: np.ndarray
    n: int
    uniform_share: float


class State:
    """What an integration knows between two steps.

    Parameters
    ----------
    flow : Flow
        The flow on the unit cube, trained in place.
    is_flow_new : bool
        Whether it was made for this integral.
    generator : Generator
        Source of all random numbers.
    make_points : callable
        (n, d, generator) -> (n, d): latent points of one scramble.
    loss : str
        What a survey by replay makes small in the end.
    counts_survey : bool
        Whether rounds of a survey count in the result.
    trainer : BasicStatefulTrainer
        Trainer of that flow, for strategies other than replay.
    is_log : bool
        Whether values of the integrand are told by their logarithms.
    sample : Dataset, optional
        Points of the survey that are given.
    covariance : bool, optional
        Whether estimates have covariances; if not given, up to ``MAX_COVARIANCE`` components.
    is_deterministic : bool
        Whether no decision may depend on clocks.

    Attributes
    ----------
    costs : Costs
        What points and steps of training cost.
    exponent : int
        Everything about the integrand is in units of 2^exponent; see `in_its_unit`.
    has_unit : bool
        Whether that is known, since a value was not zero.
    tolerance : Tolerance
        That was asked for last.
    n_calls : int
        Points whose values the steps have taken.
    history : list of Iteration
        All of them.
    memory : Memory
        Points of the survey.
    explored : Memory
        Uniform points of the survey where f is not zero, the first ones up to about ``MAX_EXPLORED``.
    rounds : list of Round
        Where the latest of them came from, in a survey with few calls.
    replay : Replay
        What trains on them in rounds.
    expected : ndarray, (m,)
        The integrals, as far as they are known.
    rate : float
        Power of n with which the error seems to fall.
    power : float
        How close the flow of the last pilot run is to the integrand, up to 1; see `tempered_power`.
    kept : ndarray
        Parameters of the flow to go back to.
    best : int
        Number, in the history, of the pilot run with these parameters.
    heaviest : float
        Largest share of one point in the sum of the weights of an iteration that counts.
    tail : Tail
        Of the weights |f|/q of the refinement.
    n_uniform : float
        Points that looked everywhere: those of the uniform share, and of a flow that was still uniform.
    walkers : Walkers
        The last that looked for regions the flow has lost.
    log_lost : ndarray
        Log of f/q, in units of the integral of |f|, where they ended.
    figure, best_figure : float
        Relative error at equal numbers of points, of the last iteration and of the best; for few calls.
    is_surveyed : bool
        Whether there was a survey.
    is_trained : bool
        Whether a flow that is new has been trained.
    warnings : list of str
        What is to be said of the last survey.
    notes : list of str
        What was decided in it, and why.
    n_stages : int
        Stages of training in it so far.
    n_trials : int
        Iterations that came before it, to see how long f takes.
    deadline : Deadline
        Time that there is.
    show_training : callable
        Called with the share, up to 1, of a training anew that is done.
    batches : Batches or None
        Of the iteration at hand.
    optim : Adam or None
        Optimiser of the stage at hand.
    of_best_round : ndarray
        Parameters of the flow in the best round of the stage at hand; empty where there is none.
    """

    def __init__(
        self,
        flow: Flow,
        is_flow_new: bool,
        generator: np.random.Generator,
        make_points: MakePoints,
        loss: str,
        counts_survey: bool,
        trainer: BasicStatefulTrainer,
        is_log: bool,
        sample: Dataset | None = None,
        covariance: bool | None = None,
        is_deterministic: bool = True,
    ) -> None:
        self.costs = Costs() if is_deterministic else Costs.in_seconds(flow.n_params)
        self.flow, self.is_flow_new, self.generator = flow, is_flow_new, generator
        self.is_log = is_log
        self.exponent, self.has_unit = 0, False
        self.sample, self.tolerance, self._covariance = sample, Tolerance(), covariance
        self.counts_survey, self.trainer, self._make_points = counts_survey, trainer, make_points
        self.memory, self.explored = Memory(flow.d), Memory(flow.d)
        self.replay = Replay(flow, self.memory, generator, loss, trainer.comm)
        self.history: list[Iteration] = []
        self.rounds: list[Round] = []
        self.expected = np.zeros(1)
        self.kept = flow.params.copy()
        self.tail, self.n_uniform = Tail(), 0
        self.walkers, self.log_lost = no_walkers(flow.d), np.empty(0)
        self.n_calls = self.best = 0
        self.rate, self.power, self.heaviest = USUAL_RATE, 1.0, 0.0
        self.figure = self.best_figure = math.inf
        self.is_surveyed = self.is_trained = False
        self.warnings: list[str] = []
        self.notes: list[str] = []
        self.n_stages = self.n_trials = 0
        self.deadline = Deadline()
        self.show_training: Callable[[float], object] = show_nobody
        self.batches: Batches | None = None
        self.optim: Adam | None = None
        self.of_best_round = np.empty(0)

    def latent(self, n: int, size: int) -> np.ndarray:
        """Draw latent points of n scrambles, (n * size, d)."""
        return np.concatenate([self._make_points(size, self.flow.d, self.generator) for _ in range(n)])

    @property
    def is_untouched(self) -> bool:
        """Whether the flow is new, and no survey has begun."""
        return self.is_flow_new and len(self.history) == self.n_trials

    @property
    def n_affordable(self) -> float:
        """Points that the time which is left suffices for; infinite where there is no limit."""
        if not self.deadline:
            return math.inf
        left = SHARE_OF_TIME * self.deadline.left - N_SCRAMBLES * self.costs.scramble
        return max(0.0, left) / max(self.costs.call, LEAST_SECONDS)

    @property
    def seconds_of_survey(self) -> float:
        """Seconds that all but the refinement have taken so far."""
        return sum(one.seconds for one in self.history if one.stage != "refine")

    def in_its_unit(self, values: np.ndarray) -> Evaluated:
        """Divide values (n, m) of the integrand by the unit in which all else is, a power of two.

        It is 1 unless squares could overflow or underflow: then it follows from the largest value, and from a
        larger one once that is met. Where `is_log`, the values are logarithms, (n, 1).
        """
        exponent = self._exponent_of(values)
        if exponent is not None:
            if exponent - self.exponent > FAR or (not self.has_unit and exponent < -FAR):
                self._scale(self.exponent - exponent)
            self.has_unit = True
        return self.divided(values)

    def _exponent_of(self, values: np.ndarray) -> int | None:
        """Exponent of the power of two just above the largest value; None where f is zero at all points."""
        if self.is_log:
            largest = float(values.max(initial=-math.inf))
            return None if largest == -math.inf else math.ceil(largest / LOG_OF_2)
        largest = largest_size(values)
        return None if largest == 0 else math.frexp(largest)[1]

    def divided(self, values: np.ndarray) -> Evaluated:
        """Divide values of the integrand, as `in_its_unit` takes them, by the unit as it is."""
        if self.is_log:
            return Evaluated.of_logs(values[:, 0] - self.exponent * LOG_OF_2)
        with np.errstate(under="ignore"):
            return Evaluated.of(np.ldexp(values, -self.exponent))

    def _scale(self, shift: int) -> None:
        """Multiply everything about the integrand by 2^shift, and keep the unit that makes up for it."""
        self.exponent -= shift
        self.expected = times_power(self.expected, shift)
        self.history = [scaled(iteration, shift) for iteration in self.history]
        if self.batches is not None:
            self.batches.scale(shift)
        self.memory.scale(shift)
        self.explored.scale(shift)
        self.tail.scale(shift)
        self.walkers = self.walkers._replace(log_f=self.walkers.log_f + shift * LOG_OF_2)

    def shortfall(self, mean: np.ndarray, covariance: np.ndarray) -> float:
        """Compute how many times too large an error is for the tolerance; see `Tolerance.shortfall`."""
        return self.tolerance.shortfall(mean, covariance, self.exponent)

    def remember(self, points: Draw, values: Evaluated, is_known: np.ndarray) -> None:
        """Add points with known values, is_known (n,), to those of the survey."""
        known = points if is_known.all() else points.only(is_known)
        self.memory.add(known.u, values.log_f[is_known], known.log_q)
        self._note_exploration(points)
        self._explore(known, values.log_f[is_known])

    def add_round(self, points: Draw, is_known: np.ndarray) -> None:
        """Note where the points came from that were added last, and give those of all rounds their density.

        That is the density of the mixture of the rounds, in their numbers.
        """
        n = int(np.count_nonzero(is_known))
        if n == 0:
            return
        self.rounds.append(Round(self.flow.params.copy(), n, points.only(is_known).uniform_share))
        n_total = sum(one.n for one in self.rounds)
        latest, earlier = self.memory.latest(n), slice(self.memory.n - n_total, self.memory.n - n)
        of_latest = [self._log_part(one, n_total, latest) for one in self.rounds]
        self.memory.set_density(latest, np.logaddexp.reduce(of_latest))
        if n < n_total:
            of_others = self.memory.log_q[earlier] + math.log((n_total - n) / n_total)
            of_last = self._log_part(self.rounds[-1], n_total, earlier)
            self.memory.set_density(earlier, np.logaddexp(of_others, of_last))

    def _log_part(self, one: Round, n_total: int, rows: slice) -> np.ndarray:
        """Log of the part of a round in the density of the mixture, at some points of the memory."""
        log_of_round = log_mixture(self._log_q_with(one.params, rows), one.uniform_share)
        return math.log(one.n / n_total) + log_of_round

    def _log_q_with(self, params: np.ndarray, rows: slice) -> np.ndarray:
        """Log of the density that the flow has with other parameters, at some points of the memory."""
        kept = self.flow.params.copy()
        np.copyto(self.flow.params, params)
        log_q = self.flow.log_prob(self.memory.u[rows])
        np.copyto(self.flow.params, kept)
        return log_q

    def note_weights(self, points: Draw, values: Evaluated, is_known: np.ndarray) -> None:
        """Keep the largest weights of points of the refinement."""
        log_q = points.log_q[is_known]
        known = values.f if is_known.all() else values.f[is_known]
        self.tail.add(values.log_f[is_known] - log_q, sums_of_weights(log_q, known))
        self._note_exploration(points)

    def _explore(self, points: Draw, log_f: np.ndarray) -> None:
        """Keep the uniform points where f, whose log is log_f (n,), is not zero."""
        if self.explored.n >= MAX_EXPLORED:
            return
        is_kept = (np.arange(len(log_f)) >= len(log_f) - _n_uniform(points)) & (log_f > -math.inf)
        self.explored.add(points.u[is_kept], log_f[is_kept], np.zeros(np.count_nonzero(is_kept)))

    def _note_exploration(self, points: Draw) -> None:
        """Count the points that looked everywhere; those of walkers go where |f| leads them."""
        self.n_uniform += _n_uniform(points)

    def keep(self) -> None:
        """Remember the flow as it is, whose pilot run is the last iteration."""
        np.copyto(self.kept, self.flow.params)
        self.best = len(self.history) - 1

    def go_back(self) -> None:
        """Give the flow the parameters that were remembered last."""
        np.copyto(self.flow.params, self.kept)

    def was_better(self, params: np.ndarray, n: int) -> bool:
        """Tell whether the flow had a larger likelihood with other parameters, over the latest n points."""
        rows = self.memory.latest(min(n, self.memory.n))
        log_weights = self.memory.log_weights(rows)
        if log_weights.max() == -math.inf:
            return False
        with np.errstate(under="ignore"):
            weights = np.exp(log_weights - log_weights.max())
        log_now = self.flow.log_prob(self.memory.u[rows])
        return bool(np.sum(weights * (self._log_q_with(params, rows) - log_now)) > 0)

    def fit_map(self, rows: slice, power: float, least: int, flat_share: float = FLAT_SHARE) -> None:
        """Give a flow that is not trained an element-wise map, fitted to some points of the memory.

        power: of their weights |f|/p. least: points where f is not zero, below which nothing is fitted.
        flat_share: see `fit_elementwise`.
        """
        log_weights = self.memory.log_weights(rows)
        if np.count_nonzero(log_weights > -math.inf) >= least:
            with np.errstate(under="ignore"):
                weights = np.exp(power * (log_weights - log_weights.max()))
            fit_elementwise(self.flow, self.memory.u[rows], weights, flat_share)

    def is_lost(self, n_points: int) -> np.ndarray:
        """Which walkers, (n,) bool, ended in a region that so many points of the flow would not see."""
        # log f/q, in units of the integral, beyond which n_points see nothing of a region
        is_lost: np.ndarray = self.log_lost > math.log(max(1.0, n_points / UNSEEN))
        return is_lost

    def has_lost(self, n_points: int) -> bool:
        """Whether any walker did."""
        return bool(self.is_lost(n_points).any())

    def look_for_lost(self, log_mean: float) -> None:
        """Examine the flow where the walkers are; log_mean is the log of the integral of |f|."""
        self.log_lost = self.walkers.log_f - self._log_q_at_least(self.walkers.u) - log_mean

    def most_lost(self, n: int) -> Walkers:
        """Make n walkers at uniform points that were seen so far, drawn in proportion to f/q."""
        if n == 0:
            return no_walkers(self.flow.d)
        u, log_f = self.explored.u, self.explored.log_weights(slice(0, self.explored.n))
        rows = chosen(log_f - self._log_q_at_least(u), n, self.generator)
        return walkers_at(u[rows], log_f[rows])

    def _log_q_at_least(self, u: np.ndarray) -> np.ndarray:
        """Log of the density at points (n, d), of the flow and of the uniform share of an estimate."""
        log_q: np.ndarray = np.logaddexp(self.flow.log_prob(u), math.log(DEFENSIVE_SHARE))
        return log_q

    def new_batches(self, m: int) -> Batches:
        """Begin an iteration, of m components."""
        self.expected = np.broadcast_to(self.expected, m).copy()
        return Batches(self.expected, self.keeps_covariance)

    @property
    def keeps_covariance(self) -> bool:
        """Whether estimates have a covariance, or variances alone."""
        return len(self.expected) <= MAX_COVARIANCE if self._covariance is None else self._covariance

    def append(self, stage: str, seconds: float, counts: bool, weight: float) -> None:
        """Append the iteration that the batches give, and begin without batches again.

        The scatter of few batches is uncertain: the error is the standard deviation of Student's t.
        """
        batches, self.batches = self.batches, None
        if batches is None or batches.n_batches < 2:
            return  # of which no error can be told
        dof = batches.n_batches - 1
        mean, covariance = batches.mean, student_variance(dof) * batches.covariance
        self.history.append(
            Iteration(stage, batches.n, mean, covariance, batches.ess, seconds, counts, weight, float(dof))
        )
        self.expected = mean
        self.rate = (batches.rate + USUAL_RATE) / 2  # some scrambles leave much noise in it
        if counts:
            self.heaviest = max(self.heaviest, batches.largest_share)
        text = with_relative_error(mean, covariance, self.exponent, self.is_log)
        logger.info(
            "%s: %s, %d points in %.2f s, effective sample size %.1f %%, %d calls in all",
            stage, text, batches.n, seconds, 100 * batches.ess, self.n_calls,
        )  # fmt: skip

    def append_search(self, stage: str, n_calls: int, seconds: float) -> None:
        """Append an iteration without an estimate."""
        m = len(self.expected)
        nothing = np.full(m, math.nan), np.full((m, m) if self.keeps_covariance else m, math.nan)
        self.history.append(Iteration(stage, n_calls, *nothing, math.nan, seconds, False, 0.0, math.nan))
        logger.info("%s: %d points in %.2f s", stage, n_calls, seconds)

    def counts(self, progress: float) -> bool:
        """Whether a round of a survey counts in the result, after so much of a training, from 0 to 1.

        In the first half, few points have much of the weight. To a tolerance, none counts: how many stages
        there are depends on values.
        """
        return self.counts_survey and progress >= HALF_TRAINED and not self.tolerance

    def discount(self) -> None:
        """Let no estimate so far count any more."""
        self.history = [replace(iteration, is_used=False) for iteration in self.history]
        self.heaviest = 0.0
        self.tail = Tail()

    def count_last(self) -> None:
        """Let the last iteration count, as it has the same density as those to come."""
        last = self.history[-1]
        self.history[-1] = replace(last, is_used=True, weight=weight_of(last.n_calls, last.n_calls))

    def estimate(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Mean and covariance of the iterations that count, as in `averages`; None if there are none."""
        used = [iteration for iteration in self.history if iteration.is_used]
        return estimate(used, self.tail.heavier) if used else None

    # How it is kept

    def saved(self) -> Saved:
        """Header and arrays, for a file; a copy, so that they stay what they are."""
        header = {
            "generator": _as_lists(self.generator.bit_generator.state),
            "stages": [iteration.stage for iteration in self.history],
            "n_skipped": self.replay.n_skipped,
            "stage_optim": self.optim is not None,
            "batches": self.batches is not None,
            **{name: getattr(self, name) for name in (*_NUMBERS, *_FLAGS)},
        }
        header |= {"warnings": list(self.warnings), "tolerance": asdict(self.tolerance)}
        header |= {"notes": list(self.notes), "n_stages": self.n_stages, "n_trials": self.n_trials}
        arrays = self.memory.arrays() | pack_history(self.history, len(self.expected))
        arrays |= {"params": self.flow.params.copy(), "kept": self.kept.copy(), "expected": self.expected}
        arrays |= {f"walkers_{name}": part for name, part in self.walkers._asdict().items()}
        arrays |= {"of_best_round": self.of_best_round, "log_lost": self.log_lost, **self.tail.arrays("tail")}
        arrays |= {f"explored_{name}": part for name, part in self.explored.arrays().items()}
        arrays |= {
            "round_params": np.array([one.params for one in self.rounds], self.flow.params.dtype),
            "round_n": np.array([one.n for one in self.rounds], np.int64),
            "round_shares": np.array([one.uniform_share for one in self.rounds], np.float64),
        }
        if self.trainer_optim is not None:
            arrays |= self.trainer_optim.state().arrays("trainer")
        if self.optim is not None:
            arrays |= self.optim.state().arrays("stage")
        if self.batches is not None:
            arrays |= self.batches.arrays("batches")
        return header, arrays

    def restore(self, header: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Go on from what `saved` returned."""
        self.generator.bit_generator.state = header["generator"]
        for name in (*_NUMBERS, *_FLAGS):
            setattr(self, name, header[name])
        self.warnings, self.tolerance = list(header["warnings"]), Tolerance(**header["tolerance"])
        self.notes = list(header.get("notes", []))  # files had none until version 8 of checkpoints
        self.n_stages, self.n_trials = header.get("n_stages", 0), header.get("n_trials", 0)
        self.replay.n_skipped = header["n_skipped"]
        self.expected, self.log_lost = arrays["expected"], arrays["log_lost"]
        self.tail = Tail.of("tail", arrays)
        self.walkers = Walkers(*(arrays[f"walkers_{name}"] for name in Walkers._fields))
        parts = (arrays[f"round_{name}"] for name in ("params", "n", "shares"))
        self.rounds = [Round(params, int(n), float(share)) for params, n, share in zip(*parts, strict=True)]
        self.history = unpack_history(header["stages"], arrays, len(self.expected))
        self.memory.restore(arrays)
        self.explored.restore({name: arrays[f"explored_{name}"] for name in self.explored.arrays()})
        np.copyto(self.flow.params, arrays["params"])
        np.copyto(self.kept, arrays["kept"])
        self.of_best_round = arrays.get("of_best_round", np.empty(0))  # files had none until version 9
        if self.trainer_optim is not None:
            self.trainer_optim.restore(AdamState.of("trainer", arrays))
            self.trainer_optim.claim(self.flow.params)
        self.optim = None
        if header["stage_optim"]:
            self.optim = stage_optimiser()
            self.optim.restore(AdamState.of("stage", arrays))
        is_begun = header["batches"]
        self.batches = Batches.of("batches", arrays, self.keeps_covariance) if is_begun else None

    @property
    def trainer_optim(self) -> Adam | None:
        """Optimiser of the trainer, where it goes on from one training to the next."""
        optim: Adam | None = self.trainer.get_config()["optim"]
        return optim


_NUMBERS = (
    "n_calls",
    "exponent",
    "n_uniform",
    "best",
    "rate",
    "power",
    "heaviest",
    "figure",
    "best_figure",
)
_FLAGS = ("has_unit", "is_surveyed", "is_trained", "is_flow_new")


def _n_uniform(points: Draw) -> int:
    """Count the points that are uniform, the last ones: all where the flow is still uniform."""
    is_uniform = np.abs(points.log_q).max(initial=0.0) < UNIFORM
    return len(points.u) if is_uniform else points.n_uniform


def _as_lists(state: Any) -> Any:
    """State of a generator in what JSON can hold; generators take lists for arrays."""
    if isinstance(state, Mapping):
        return {name: _as_lists(value) for name, value in state.items()}
    return state.tolist() if isinstance(state, np.ndarray) else state

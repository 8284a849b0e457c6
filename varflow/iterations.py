"""Iterations of an integration: each draws points, evaluates the integrand at them, and adds an estimate."""

import logging
import math
import time
from collections.abc import Callable

import numpy as np

from varflow.dataset import Dataset
from varflow.estimates import Batches
from varflow.flow import Flow
from varflow.integrand import Integrand
from varflow.progress import Progress
from varflow.proposal import draw
from varflow.result import Iteration, format_estimate
from varflow.scout import MOST_STEPS, N_WALKERS, wander
from varflow.survey import FEWEST_ROUNDS, Memory, Replay, choose_points, magnitudes
from varflow.trainers import BasicStatefulTrainer

__all__ = ["FEWEST_POINTS", "LOOK", "MANY_BATCHES", "SCOUT_SHARE", "UNIFORM_SHARE", "Iterations"]

logger = logging.getLogger(__name__)

# Scrambles of an iteration: their scatter gives the error, good to a fifth or an eighth.
FEW_BATCHES, MANY_BATCHES = 16, 32
FEW_CALLS = 32_768  # below which an iteration has few
FEWEST_POINTS = 2 * FEW_BATCHES
GROUP = 131_072  # points evaluated together, at least
LOOK = 4096  # points of an iteration that looks how good the flow is
UNIFORM_SHARE = 0.01  # of the points that estimate the integral
USUAL_RATE = 0.65  # power of n with which errors of Sobol points fall
SCOUT_SHARE = 0.05  # of the calls, at most, that look for regions the flow has lost
LARGEST = 1e140  # |f| beyond which squares overflow

MakePoints = Callable[[int, int, np.random.Generator], np.ndarray]


class Iterations:
    """The iterations so far, and what the next one begins with.

    Parameters
    ----------
    integrand : Integrand
        The integrand on the unit cube.
    flow : Flow
        The flow on the unit cube, trained in place.
    generator : Generator
        Source of all random numbers.
    make_points : callable
        (n, d, generator) -> (n, d): latent points of one scramble.
    loss : str
        What a survey by replay makes small in the end.
    counts_survey : bool
        Whether rounds of the survey count in the result.

    Attributes
    ----------
    history : list of Iteration
        All of them.
    memory : Memory
        Points of the survey.
    rate : float
        Power of n with which the error seems to fall.
    heaviest : float
        Largest share of one point in the sum of the weights of an iteration that counts.
    log_lost : ndarray
        Log of f/q, in units of the integral of |f|, where walkers ended.
    n_skipped : int
        Training steps that were left out because the gradient was not finite.
    """

    def __init__(
        self,
        integrand: Integrand,
        flow: Flow,
        generator: np.random.Generator,
        make_points: MakePoints,
        loss: str,
        counts_survey: bool,
    ) -> None:
        self.integrand, self.flow, self.generator = integrand, flow, generator
        self.history: list[Iteration] = []
        self.memory = Memory(flow.d)
        self.rate = USUAL_RATE
        self.heaviest = 0.0
        self.log_lost = np.empty(0)
        self._make_points, self._counts_survey = make_points, counts_survey
        self._replay = Replay(flow, self.evaluate, self.memory, generator, loss)
        self._expected = np.zeros(1)  # the integrals, as far as they are known

    @property
    def n_skipped(self) -> int:  # noqa: D102 - see the class
        return self._replay.n_skipped

    def evaluate(self, u: np.ndarray) -> np.ndarray:
        """Evaluate the integrand at points (n, d) of the unit cube, (n, m).

        Raises
        ------
        ValueError
            If |f| is too large for its square to be computed.
        """
        values = self.integrand(u)
        largest = float(np.abs(values).max())
        if largest > LARGEST:
            raise ValueError(f"|f| is up to {largest:.3g}, whose square overflows: use other units for f")
        return values

    def look(self, progress: Progress) -> Iteration:
        """Estimate the integral with the flow as it is, to see how good that is.

        The estimate is not part of the result, as it decides which flow is kept; its points are trained on.
        """
        self._estimate(LOOK, "survey", progress)
        return self.history[-1]

    def refine(self, n_calls: int, progress: Progress) -> None:
        """Estimate the integral from fresh points of the flow as it is, for the result."""
        self._estimate(n_calls, "refine", progress)

    def stage(self, n_rounds: int, share_of_dkl: float, progress: Progress) -> None:
        """Train in rounds of replay; a tenth of them at a time is an iteration."""
        n_iterations = max(1, min(10, n_rounds // FEWEST_ROUNDS))
        ends = [k * n_rounds // n_iterations for k in range(1, n_iterations + 1)]
        batches, begin = Batches(self._expected), time.perf_counter()
        for k, (points, values) in enumerate(self._replay.stage(n_rounds, share_of_dkl), 1):
            batches.add(points, values)
            if k in ends:
                # Later flows are better: the square-root rule of Owen and Zhou, arXiv 1901.02976.
                weight = batches.n * math.sqrt(k / n_rounds)
                self._append("survey", batches, begin, self._counts_survey, weight, progress)
                batches, begin = Batches(self._expected), time.perf_counter()

    def survey(
        self, strategy: str, k: int, n_points: int, trainer: BasicStatefulTrainer, progress: Progress
    ) -> None:
        """Train on the points of iteration k, from 0, of a strategy that uses each in one iteration only."""
        begin = time.perf_counter()
        n_points = n_points // FEW_BATCHES * FEW_BATCHES
        points = choose_points(strategy, k, self.flow, n_points, self.generator, self.memory)
        values = self.evaluate(points.u)
        size = magnitudes(values)
        self.memory.add(points.u, size, points.log_q)
        if size.any():
            trainer.train_on_dataset(Dataset(points.u, logpx=points.log_q, fx=size))
        batches = Batches(self._expected)
        batches.add(points, values, FEW_BATCHES)
        self._append("survey", batches, begin, False, 0.0, progress)

    def scout(self, n_calls: int) -> None:
        """Look for regions that the flow has lost, with a small share of n_calls; see `log_lost`."""
        begin, n_before = time.perf_counter(), self.integrand.n_calls
        n_steps = min(MOST_STEPS, int(SCOUT_SHARE * n_calls) // N_WALKERS - 1)
        log_mean = self.memory.log_mean(self.memory.n // 2)
        if n_steps < 1 or log_mean == -math.inf:
            return
        u, log_f = wander(self._log_magnitude, self.flow.d, n_steps, self.generator)
        log_q = np.logaddexp(self.flow.log_prob(u), math.log(UNIFORM_SHARE))
        self.log_lost = log_f - log_q - log_mean
        m = len(self.history[-1].mean)
        n_spent, seconds = self.integrand.n_calls - n_before, time.perf_counter() - begin
        nothing = np.full(m, math.nan), np.full((m, m), math.nan)
        self.history.append(Iteration("scouts", n_spent, *nothing, math.nan, seconds, False, 0.0))

    def _log_magnitude(self, u: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            log_magnitude: np.ndarray = np.log(magnitudes(self.evaluate(u)))
        return log_magnitude

    def _estimate(self, n_calls: int, stage: str, progress: Progress) -> None:
        begin = time.perf_counter()
        n_batches = FEW_BATCHES if n_calls < FEW_CALLS else MANY_BATCHES
        n_each = n_calls // n_batches
        n_uniform = max(1, round(UNIFORM_SHARE * n_each))
        at_once = max(1, GROUP // n_each)
        batches = Batches(self._expected)
        try:
            for first in range(0, n_batches, at_once):
                n = min(at_once, n_batches - first)
                points = draw(self.flow, self._latent(n, n_each - n_uniform), self._latent(n, n_uniform))
                values = self.evaluate(points.u)
                if stage == "survey":
                    self.memory.add(points.u, magnitudes(values), points.log_q)
                batches.add(points, values, n)
        finally:  # where f raises, the scrambles that are complete count
            if batches.n_batches > 1:
                # Errors of Sobol points fall faster than the root of n, so larger iterations count more.
                self._append(stage, batches, begin, stage == "refine", float(batches.n) ** 1.5, progress)

    def _latent(self, n: int, size: int) -> np.ndarray:
        """Latent points of n scrambles, (n * size, d)."""
        return np.concatenate([self._make_points(size, self.flow.d, self.generator) for _ in range(n)])

    def _append(
        self, stage: str, batches: Batches, begin: float, counts: bool, weight: float, progress: Progress
    ) -> None:
        mean, covariance = batches.mean, batches.covariance
        seconds = time.perf_counter() - begin
        self.history.append(
            Iteration(stage, batches.n, mean, covariance, batches.ess, seconds, counts, weight)
        )
        self._expected = mean
        self.rate = (batches.rate + USUAL_RATE) / 2  # some scrambles leave much noise in it
        if counts:
            self.heaviest = max(self.heaviest, batches.largest_share)
        text = format_estimate(float(mean[0]), math.sqrt(covariance[0, 0]))
        logger.info("%s: %s, %d calls", stage, text, self.integrand.n_calls)
        progress.update(self.integrand.n_calls, stage, text)

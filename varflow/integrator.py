"""The integrator: a survey that trains a flow, and a refinement that estimates the integral with it."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from varflow.architecture import positive_int
from varflow.dataset import Dataset
from varflow.domain import Domain
from varflow.errors import unknown_name
from varflow.estimates import Batches, weights_of
from varflow.flow import Flow
from varflow.integrand import Integrand
from varflow.losses import LOSSES
from varflow.progress import Progress
from varflow.proposal import LATENT_POINTS, Draw, draw
from varflow.result import Iteration, Result, format_estimate
from varflow.scout import MOST_STEPS, N_WALKERS, wander
from varflow.survey import FEWEST_ROUNDS, ROUND, STRATEGIES, Memory, Replay, choose_points, magnitudes
from varflow.trainers import BasicStatefulTrainer

__all__ = ["Integrator", "integrate"]

logger = logging.getLogger(__name__)

# Scrambles of an iteration: their scatter gives the error, good to a fifth or an eighth.
FEW_BATCHES, MANY_BATCHES = 16, 32
FEW_CALLS = 32_768  # below which an iteration has few batches
FEWEST_POINTS = 2 * FEW_BATCHES
UNIFORM_SHARE = 0.01  # of the points of a refinement
LOOK = 4096  # calls of an iteration that looks how good the flow is
FEWEST_CALLS = 4 * LOOK  # that leave room for two looks, a survey and a refinement
USUAL_RATE = 0.65  # power of n with which errors of Sobol points fall
MOST_CALLS = 1 << 21  # an iteration, for the sake of memory
GROUP = 32_768  # points evaluated together, at least
SURVEY_SHARE = 0.75  # of the calls, at most
TOO_HEAVY = 0.05  # share of one point in the sum of all weights that is warned of
SCOUT_SHARE = 0.05  # of the calls, at most, that look for regions the flow has lost
UNSEEN = 10  # a region is lost where fewer points would stand for all of the integral, were it there
DISAGREEMENT = 4.0  # standard deviations between two estimates that do not belong together
UNLIKELY = 1e-3  # probability of chi2 that is warned of
SMALLEST, LARGEST = 1e-140, 1e140  # beyond which squares leave the range of float64


class Integrator:
    """Integrator of a function over a box, by importance sampling from a flow that it trains.

    Parameters
    ----------
    f : callable
        The integrand, (n, d) -> (n,); see `Integrand` for all that it may be and return.
    bounds : int or sequence of (lower, upper)
        Number of dimensions of the unit cube, or a pair for each dimension, which may be infinite.
    survey_strategy : str
        Where the points of the survey come from. "replay": many small rounds of points from the flow, each
        training on new and on earlier ones. In the other strategies each of `n_iter_survey` iterations trains
        on its own points, from "flat": the uniform density; "forward": the flow; "forward_flat_init": the
        flow, but the first from the uniform density; "adaptive_variance", "adaptive_dkl": the uniform density
        until the flow has the smaller loss of that name; "fixed_sample": always `sample`.
    loss : {"variance", "dkl"}
        What training makes small. In "replay" it is the loss of the second part of the survey.
    flow : str or Flow
        Kind of cell of a flow to be made, or a flow on the unit cube that training goes on with, such as
        `Result.flow` of a similar integral; it is copied.
    n_iter, n_points : int
        Iterations of the survey and of the refinement, and points in each.
    n_iter_survey, n_points_survey, n_iter_refine, n_points_refine : int, optional
        The same for one of the two.
    flow_options : dict, optional
        Arguments of `Flow` besides d and cell.
    trainer_options : dict, optional
        Settings of `BasicStatefulTrainer`, for strategies other than "replay".
    sample : Dataset, path or (x, px, fx), optional
        Weighted points of "fixed_sample", in the coordinates of f.
    use_survey : bool
        Whether points of a survey by "replay" count in the result. Each round's flow was trained on earlier
        points alone, so that they are unbiased.
    latent_points : {"sobol", "random"}
        Latent points of the refinement: scrambled Sobol points, or pseudo-random ones.
    vectorized, workers, on_invalid
        See `Integrand`.
    seed : int, optional
        Seed of everything random; drawn from the system if not given.
    threads : int, optional
        Threads of the flow; see `Flow`.
    progress : bool, optional
        Whether to show a bar on stderr; if not given, where that is a terminal.

    Attributes
    ----------
    flow : Flow
        The flow as it is.
    history : list of Iteration
        All iterations so far.

    Raises
    ------
    TypeError, ValueError
        If an argument is refused.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        bounds: int | Sequence[Sequence[float]] | npt.NDArray[np.floating],
        *,
        survey_strategy: str = "replay",
        loss: str = "variance",
        flow: str | Flow = "pwquad",
        n_iter: int = 10,
        n_points: int = 100_000,
        n_iter_survey: int | None = None,
        n_points_survey: int | None = None,
        n_iter_refine: int | None = None,
        n_points_refine: int | None = None,
        flow_options: dict[str, Any] | None = None,
        trainer_options: dict[str, Any] | None = None,
        sample: Any = None,
        use_survey: bool = False,
        latent_points: str = "sobol",
        vectorized: bool = True,
        workers: Any = 1,
        on_invalid: str = "raise",
        seed: int | None = None,
        threads: int | None = None,
        progress: bool | None = None,
    ) -> None:
        for name, found, valid in (
            ("survey_strategy", survey_strategy, STRATEGIES),
            ("loss", loss, LOSSES),
            ("latent_points", latent_points, LATENT_POINTS),
        ):
            if found not in valid:
                raise unknown_name(name, found, valid)
        if (sample is not None) != (survey_strategy == "fixed_sample"):
            raise ValueError("sample is for survey_strategy='fixed_sample', which needs it")
        self.domain = Domain(bounds)
        self.integrand = Integrand(
            f, self.domain, vectorized=vectorized, workers=workers, on_invalid=on_invalid
        )
        self.survey_strategy, self.loss, self.use_survey = survey_strategy, loss, use_survey
        self.n_iter_survey = positive_int("n_iter_survey", n_iter_survey or n_iter)
        self.n_points_survey = positive_int("n_points_survey", n_points_survey or n_points)
        self.n_iter_refine = positive_int("n_iter_refine", n_iter_refine or n_iter)
        self.n_points_refine = positive_int("n_points_refine", n_points_refine or n_points)
        if self.n_points_refine < FEWEST_POINTS:
            raise ValueError(f"n_points_refine must be at least {FEWEST_POINTS}, got {self.n_points_refine}")
        self.progress = progress
        self.history: list[Iteration] = []
        self._make_points = LATENT_POINTS[latent_points]
        self._sample = None if sample is None else _on_cube(sample, self.domain)
        self._generator = np.random.Generator(np.random.Philox(seed))
        self.flow = _make_flow(self.domain.d, flow, flow_options, self._generator, threads)
        self._trainer = BasicStatefulTrainer(
            self.flow, loss=loss, **{"n_epochs": 10, "minibatch_size": 1000, **(trainer_options or {})}
        )
        self._memory = Memory(self.domain.d)
        self._replay = Replay(self.flow, self._evaluate, self._memory, self._generator, loss)
        self._expected: np.ndarray | None = None  # the integrals, as known so far
        self._heaviest = 0.0  # largest share of a point in the sum of the weights of an iteration in use
        self._scouts = np.empty(0)  # log of f/q in units of the integral, where walkers ended
        self._is_surveyed = False
        self._warnings: list[str] = []

    def survey(self) -> None:
        """Train the flow, with `n_iter_survey` times `n_points_survey` points.

        Raises
        ------
        Exception
            What the integrand raises, with the estimate so far in its attribute `partial`.
        """
        n_calls = self.n_iter_survey * self.n_points_survey
        with self._running(n_calls) as progress:
            if self.survey_strategy == "replay":
                self._replay_survey(n_calls, progress)
            else:
                for k in range(self.n_iter_survey):
                    self._survey_iteration(k)
                    if self.history:
                        self._show(progress)
                self._scout(n_calls)
        self._is_surveyed = True

    def refine(self) -> None:
        """Estimate the integral from the flow as it is, in `n_iter_refine` iterations.

        Where there was no survey and there are 40960 points or more, up to 8192 others tell first whether the
        flow has lost a region.

        Raises
        ------
        Exception
            What the integrand raises, with the estimate so far in its attribute `partial`.
        """
        n_calls = self.n_iter_refine * self.n_points_refine
        with self._running(n_calls) as progress:
            if self._memory.n == 0 and n_calls >= 10 * LOOK:
                self._look(progress)
                self._scout(n_calls)
            for _ in range(self.n_iter_refine):
                self._refine(self.n_points_refine, "refine")
                self._show(progress)

    def integrate(self) -> Result:
        """Do the survey and the refinement, unless they were done already.

        Returns
        -------
        Result
            The estimate and all that belongs to it.
        """
        if not self._is_surveyed:
            self.survey()
        if not any(iteration.stage == "refine" for iteration in self.history):
            self.refine()
        return self.result()

    def integrate_to(self, n_calls: int, rtol: float = 0.0, atol: float = 0.0) -> Result:
        """Survey and refine until a tolerance is reached, or the calls of the integrand are spent.

        With a tolerance, the survey goes through stages, each as long as all before, until what is left to be
        refined costs less than another would.

        Parameters
        ----------
        n_calls : int
            Largest number of calls of the integrand, at least 16384.
        rtol, atol : float
            Stop when the error is at most atol or rtol times the estimate, for all components. Where both
            are 0, all calls are used.

        Returns
        -------
        Result
            The estimate; a warning is in it if the tolerance was not reached.
        """
        n_calls = positive_int("n_calls", n_calls)
        if n_calls < FEWEST_CALLS:
            raise ValueError(f"n_calls must be at least {FEWEST_CALLS}, got {n_calls}")
        for name, tolerance in (("rtol", rtol), ("atol", atol)):
            if not 0 <= tolerance < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {tolerance!r}")
        if self.survey_strategy != "replay":
            raise ValueError("integrate_to is for survey_strategy='replay'; call integrate() instead")
        with self._running(n_calls) as progress:
            if rtol == 0 and atol == 0:
                self._replay_survey(int(SURVEY_SHARE * n_calls), progress)
                for share in (2, 1):  # two iterations, which can be compared
                    self._refine((n_calls - self.integrand.n_calls) // share, "refine")
                    self._show(progress)
            else:
                self._survey_to(n_calls, rtol, atol, progress)
                self._refine_to(n_calls, rtol, atol, progress)
        return self.result()

    def extend(self, n_calls: int) -> Result:
        """Refine further.

        Parameters
        ----------
        n_calls : int
            Number of points to add.

        Returns
        -------
        Result
            The estimate from all iterations of the refinement.
        """
        n_calls = positive_int("n_calls", n_calls)
        if n_calls < FEWEST_POINTS:
            raise ValueError(f"n_calls must be at least {FEWEST_POINTS}, got {n_calls}")
        with self._running(n_calls) as progress:
            while n_calls >= FEWEST_POINTS:
                self._refine(min(n_calls, MOST_CALLS), "refine")
                self._show(progress)
                n_calls -= MOST_CALLS
        return self.result()

    def result(self) -> Result:
        """Collect what has been reached.

        Returns
        -------
        Result
            The estimate. Before any refinement it is that of the survey.

        Raises
        ------
        RuntimeError
            If there is nothing yet.
        """
        components = self.integrand.components
        if not self.history or components is None:
            raise RuntimeError("there is no estimate yet: call integrate() first")
        history = self.history
        if not any(iteration.is_used for iteration in history):
            history = [
                replace(one, is_used=one.stage == "survey", weight=float(one.n_calls)) for one in history
            ]
        result = Result(
            history,
            self.flow.copy(),
            components=components,
            bounds=self.domain.bounds,
            defensive_share=UNIFORM_SHARE,
            n_invalid=self.integrand.n_invalid,
            source=self,
        )
        result.warnings = (*self._warnings, *self._doubts(result))
        return result

    def sample(
        self, n: int, *, unweight: bool = False, seed: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw weighted points from the flow; the integrand is called for each.

        Parameters
        ----------
        n : int
            Number of points.
        unweight : bool
            Whether to accept points with probabilities that make weights equal. Those whose weights exceed
            the 99.9 % quantile keep the excess as a weight above 1; how many do is logged.
        seed : int, optional
            Seed of the random numbers; drawn from the system if not given.

        Returns
        -------
        x : ndarray, (n, d)
            Points, in the coordinates of f.
        w : ndarray, (n,) or (n, m)
            Weights f/q, whose mean is the integral; where unweighted: 1, or what is left of an excess, with
            the sign of f (of its first component).
        """
        n = positive_int("n", n)
        generator = np.random.Generator(np.random.Philox(seed))
        u, weights = self._weighted_points(n, generator)
        if unweight:
            u, weights = self._unweighted_points(n, u, weights, generator)
        x, _ = self.domain.from_cube(u)
        return x, weights[:, 0] if weights.shape[1] == 1 else weights

    def close(self) -> None:
        """End the processes of the integrand, if there are any; they are started anew when needed."""
        self.integrand.close()

    def __enter__(self) -> "Integrator":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # What the methods above share

    def _evaluate(self, u: np.ndarray) -> np.ndarray:
        values = self.integrand(u)
        largest = float(np.abs(values).max())
        if largest > LARGEST:
            raise ValueError(f"|f| is up to {largest:.3g}, whose square overflows: use other units for f")
        return values

    @contextmanager
    def _running(self, n_calls: int) -> Iterator[Progress]:
        """Show the progress; whatever is raised takes along what has been reached."""
        try:
            with Progress(self.integrand.n_calls + n_calls, self.progress) as progress:
                yield progress
        except BaseException as error:
            with suppress(Exception):  # some exceptions take no attributes, and there may be nothing yet
                error.partial = self.result() if self.history else None  # type: ignore[attr-defined]
            raise
        finally:
            self.close()

    def _show(self, progress: Progress) -> None:
        last = self.history[-1]
        text = format_estimate(float(last.mean[0]), math.sqrt(last.covariance[0, 0]))
        logger.info("%s: %s, %d calls", last.stage, text, self.integrand.n_calls)
        progress.update(self.integrand.n_calls, last.stage, text)

    def _batches(self) -> Batches:
        return Batches(np.zeros(1) if self._expected is None else self._expected)

    # The survey

    def _replay_survey(self, n_calls: int, progress: Progress) -> None:
        """Look, go through one stage, and look again: whichever flow is better is kept."""
        n_rounds = (int((1 - SCOUT_SHARE) * n_calls) - 2 * LOOK) // ROUND
        if n_rounds < FEWEST_ROUNDS:
            fewest = 2 * LOOK + FEWEST_ROUNDS * ROUND
            raise ValueError(f"a survey by replay needs {fewest} calls at least, got {n_calls}")
        before, params = self._look(progress), self.flow.params.copy()
        self._stage(n_rounds, 0.5, progress)
        if _is_better(before, self._look(progress)):
            self.flow.params = params
            self._warnings.append("training made the flow no better: the first one is used")
        self._scout(n_calls)

    def _survey_to(self, n_calls: int, rtol: float, atol: float, progress: Progress) -> None:
        """Go through stages as long as they pay."""
        best = self._look(progress)
        params, n_failures = self.flow.params.copy(), 0
        missing = LOOK * _shortfall(best.mean, best.covariance, rtol, atol) ** (1 / self._rate)
        while True:
            used = self.integrand.n_calls
            # Another stage costs as much as all before and saves about half of what is missing.
            n_rounds = max(FEWEST_ROUNDS, used // ROUND)
            is_affordable = used + n_rounds * ROUND + LOOK <= SURVEY_SHARE * n_calls
            if missing <= 2 * used or n_failures == 2 or not is_affordable:
                break
            self._stage(n_rounds, 0.5 if used < 10 * LOOK else 0.25, progress)
            look = self._look(progress)
            if _is_better(best, look):
                n_failures += 1
                continue
            best, params, n_failures = look, self.flow.params.copy(), 0
            missing = LOOK * _shortfall(best.mean, best.covariance, rtol, atol) ** (1 / self._rate)
        self.flow.params = params
        self._scout(self.integrand.n_calls)

    def _look(self, progress: Progress) -> Iteration:
        """Estimate the integral with the flow as it is, to see how good that is.

        The estimate is not part of the result, as it decides which flow is kept; its points are trained on.
        """
        self._refine(LOOK, "survey", self._memory)
        self._show(progress)
        return self.history[-1]

    def _stage(self, n_rounds: int, share_of_dkl: float, progress: Progress) -> None:
        """Train in rounds; a tenth of them at a time is an iteration."""
        n_iterations = min(10, n_rounds // FEWEST_ROUNDS)
        ends = [k * n_rounds // n_iterations for k in range(1, n_iterations + 1)]
        batches, begin = self._batches(), time.perf_counter()
        for k, (points, values) in enumerate(self._replay.stage(n_rounds, share_of_dkl), 1):
            batches.add(points, values)
            if k in ends:
                # Later flows are better: the square-root rule of Owen and Zhou, arXiv 1901.02976.
                weight = batches.n * math.sqrt(k / n_rounds)
                self._append("survey", batches, begin, self.use_survey, weight)
                self._show(progress)
                batches, begin = self._batches(), time.perf_counter()
        if self._replay.n_skipped:
            self._warnings.append(f"{self._replay.n_skipped} training steps had no finite gradient")

    def _scout(self, n_calls: int) -> None:
        """Look for regions that the flow has lost, and note how large f/q is in them.

        That takes a small share of n_calls.
        """
        begin, n_before = time.perf_counter(), self.integrand.n_calls
        n_steps = min(MOST_STEPS, int(SCOUT_SHARE * n_calls) // N_WALKERS - 1)
        log_mean = self._memory.log_mean(self._memory.n // 2)
        if n_steps < 1 or log_mean == -math.inf:
            return
        u, log_f = wander(self._log_magnitude, self.domain.d, n_steps, self._generator)
        log_q = np.logaddexp(self.flow.log_prob(u), math.log(UNIFORM_SHARE))
        self._scouts = log_f - log_q - log_mean
        m = len(self.history[-1].mean)
        n_spent, seconds = self.integrand.n_calls - n_before, time.perf_counter() - begin
        nothing = np.full(m, math.nan), np.full((m, m), math.nan)
        self.history.append(Iteration("scouts", n_spent, *nothing, math.nan, seconds, False, 0.0))

    def _log_magnitude(self, u: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            log_magnitude: np.ndarray = np.log(magnitudes(self._evaluate(u)))
        return log_magnitude

    def _survey_iteration(self, k: int) -> None:
        """Train on points of one of the strategies that look at each point in one iteration only."""
        begin = time.perf_counter()
        if self._sample is not None:
            self._trainer.train_on_dataset(self._sample)
            return
        points = choose_points(
            self.survey_strategy, k, self.flow, self.n_points_survey, self._generator, self._memory
        )
        values = self._evaluate(points.u)
        size = magnitudes(values)
        self._memory.add(points.u, size, points.log_q)
        if size.any():
            self._trainer.train_on_dataset(Dataset(points.u, logpx=points.log_q, fx=size))
        batches = self._batches()
        n_batches = math.gcd(len(points.u), FEW_BATCHES)
        batches.add(points, values, n_batches if n_batches > 1 else len(points.u))
        self._append("survey", batches, begin, False, 0.0)

    # The refinement

    def _refine_to(self, n_calls: int, rtol: float, atol: float, progress: Progress) -> None:
        n, mean, covariance = 0, np.zeros(1), np.full((1, 1), math.inf)
        while True:
            more = self._next_size(n, _shortfall(mean, covariance, rtol, atol))
            more = min(more, n_calls - self.integrand.n_calls)
            if more < FEWEST_POINTS:
                self._warnings.append(f"the tolerance was not reached within {n_calls} calls")
                return
            self._refine(more, "refine")
            self._show(progress)
            used = [one for one in self.history if one.is_used]
            weights = np.array([one.weight for one in used]) / sum(one.weight for one in used)
            n = sum(one.n_calls for one in used)
            mean = np.sum([w * one.mean for w, one in zip(weights, used, strict=True)], axis=0)
            covariance = np.sum([w**2 * one.covariance for w, one in zip(weights, used, strict=True)], axis=0)
            if _shortfall(mean, covariance, rtol, atol) <= 1:
                return

    def _next_size(self, n: int, shortfall: float) -> int:
        """Points of the next iteration: what seems to be missing, but not much more than there are."""
        if n == 0:
            return 2 * LOOK
        missing = n * (1.05 * shortfall) ** (1 / self._rate)
        return int(min(max(missing, n / 4, LOOK), 8 * n, MOST_CALLS)) // MANY_BATCHES * MANY_BATCHES

    def _refine(self, n_calls: int, stage: str, memory: Memory | None = None) -> None:
        """Estimate the integral from fresh points of the flow as it is."""
        begin = time.perf_counter()
        n_batches = FEW_BATCHES if n_calls < FEW_CALLS else MANY_BATCHES
        n_each = n_calls // n_batches
        n_uniform = max(1, round(UNIFORM_SHARE * n_each))
        at_once = max(1, GROUP // n_each)
        batches = self._batches()
        try:
            for first in range(0, n_batches, at_once):
                n = min(at_once, n_batches - first)
                points = draw(self.flow, self._latent(n, n_each - n_uniform), self._latent(n, n_uniform))
                values = self._evaluate(points.u)
                if memory is not None:
                    memory.add(points.u, magnitudes(values), points.log_q)
                batches.add(points, values, n)
        finally:  # where f raises, the scrambles that are complete count
            if len(batches.means) > 1:
                # Errors of Sobol points fall faster than the root of n, so larger iterations count more.
                self._append(stage, batches, begin, stage == "refine", float(batches.n) ** 1.5)

    def _latent(self, n: int, size: int) -> np.ndarray:
        """Latent points of n scrambles, (n * size, d)."""
        return np.concatenate([self._make_points(size, self.domain.d, self._generator) for _ in range(n)])

    def _append(self, stage: str, batches: Batches, begin: float, is_used: bool, weight: float) -> None:
        seconds = time.perf_counter() - begin
        self.history.append(
            Iteration(
                stage, batches.n, batches.mean, batches.covariance, batches.ess, seconds, is_used, weight
            )
        )
        self._rate = (batches.rate + USUAL_RATE) / 2  # 16 scrambles leave much noise in it
        self._expected = batches.mean
        if is_used:
            self._heaviest = max(self._heaviest, batches.largest_share)

    def _doubts(self, result: Result) -> Iterator[str]:
        """What the user ought to know about the result."""
        used = [iteration for iteration in result.history if iteration.is_used]
        if all(not iteration.mean.any() and not iteration.covariance.any() for iteration in used):
            yield f"f was zero at all {result.n_calls} points"
        n_used = sum(iteration.n_calls for iteration in used)
        is_lost = self._scouts > math.log(n_used / UNSEEN)
        if is_lost.any():
            yield (
                f"{np.count_nonzero(is_lost)} of {len(is_lost)} walkers that climb from uniform points ended "
                f"where f/q is up to {math.exp(min(self._scouts.max(), 700)):.1g} times the integral: with "
                f"{n_used} points the flow has lost a region there, and integral and error miss it"
            )
        if self._heaviest > TOO_HEAVY:
            yield (
                f"one point carries {self._heaviest:.0%} of the sum of the weights of its iteration: "
                "the flow is too small there, and the error cannot be relied upon"
            )
        if any(0 < np.abs(iteration.mean).max() < SMALLEST for iteration in used):
            yield "f is so small that the square of its error is 0 in float64: use other units for f"
        if result.Q < UNLIKELY:
            yield f"the iterations disagree: chi2/dof = {result.chi2:.3g}/{result.dof}, Q = {result.Q:.2g}"
        if result.n_invalid:
            yield f"f was not finite at {result.n_invalid} points, and taken as 0 there"

    # Points for the user

    def _weighted_points(self, n: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw points u (n, d) with weights f/q (n, m), in random order."""
        n_uniform = generator.binomial(n, UNIFORM_SHARE) if n > 1 else 0
        latent = generator.random((n - n_uniform, self.domain.d))
        points = draw(self.flow, latent, generator.random((n_uniform, self.domain.d)))
        order = generator.permutation(n)
        values = self._evaluate(points.u[order])
        shuffled = Draw(points.u[order], points.log_flow[order], points.log_q[order], points.n_uniform)
        return shuffled.u, weights_of(shuffled, values)

    def _unweighted_points(
        self, n: int, u: np.ndarray, weights: np.ndarray, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Accept points with probability |w| / reference, until there are n."""
        reference = float(np.quantile(magnitudes(weights), 0.999))
        if reference == 0:
            raise ValueError("f is zero at nearly all points: there is nothing to be unweighted")
        kept_u: list[np.ndarray] = []
        kept_w: list[np.ndarray] = []
        while True:
            ratio = magnitudes(weights) / reference
            is_kept = generator.random(len(u)) < ratio
            kept_u.append(u[is_kept])
            kept_w.append((np.sign(weights[:, 0]) * np.maximum(ratio, 1.0))[is_kept])
            n_missing = n - sum(map(len, kept_u))
            if n_missing <= 0:
                break
            u, weights = self._weighted_points(max(n_missing * 2, 1000), generator)
        unit = np.concatenate(kept_w)[:n]
        n_over = int(np.count_nonzero(np.abs(unit) > 1))
        if n_over:
            logger.warning("%d of %d unweighted points keep a weight above 1", n_over, n)
        return np.concatenate(kept_u)[:n], unit[:, None]


def integrate(
    f: Callable[..., Any],
    bounds: int | Sequence[Sequence[float]] | npt.NDArray[np.floating],
    *,
    n_calls: int = 400_000,
    rtol: float = 0.0,
    atol: float = 0.0,
    **options: Any,
) -> Result:
    """Integrate a function over a box.

    Parameters
    ----------
    f : callable
        The integrand, (n, d) -> (n,); see `Integrand` for all that it may be and return.
    bounds : int or sequence of (lower, upper)
        Number of dimensions of the unit cube, or a pair for each dimension, which may be infinite.
    n_calls : int
        Largest number of calls of the integrand.
    rtol, atol : float
        Stop when the error is at most atol or rtol times the estimate; all calls are used where both are 0.
    **options
        Arguments of `Integrator`.

    Returns
    -------
    Result
        The estimate: ``result.mean``, ``result.sdev``, and more.

    Raises
    ------
    TypeError, ValueError
        If an argument is refused.
    Exception
        What the integrand raises, with the estimate so far in its attribute `partial`.
    """
    return Integrator(f, bounds, **options).integrate_to(n_calls, rtol, atol)


def _make_flow(
    d: int,
    flow: str | Flow,
    flow_options: dict[str, Any] | None,
    generator: np.random.Generator,
    threads: int | None,
) -> Flow:
    if isinstance(flow, str):
        seed = int(generator.integers(2**63))
        # Two cells are too few for what two coordinates can have in common.
        options = {
            "repetitions": 2 if d == 2 else 1,
            "seed": seed,
            "threads": threads,
            **(flow_options or {}),
        }
        return Flow(d, flow, **options)
    if not isinstance(flow, Flow):
        raise TypeError(f"flow must be the name of a cell or a Flow, got {flow!r}")
    if flow_options is not None:
        raise TypeError("flow_options are for a flow that is made here, but flow is one already")
    if flow.d != d:
        raise ValueError(f"bounds have {d} dimensions, but the flow has d = {flow.d}")
    if not np.array_equal(flow.bounds, np.tile([0.0, 1.0], (d, 1))):
        raise ValueError(f"the flow must be on the unit cube, it has bounds {flow.bounds.tolist()}")
    return flow.copy()


def _on_cube(sample: Any, domain: Domain) -> Dataset:
    """Weighted points in the coordinates of f, moved to the unit cube."""
    if isinstance(sample, tuple):
        sample = Dataset(*sample, bounds=domain.bounds)
    elif not isinstance(sample, Dataset):
        sample = Dataset.read(sample, bounds=domain.bounds)
    u, log_jacobian = domain.to_cube(sample.x)
    return Dataset(u, logpx=sample.logpx + log_jacobian, logfx=sample.logfx + log_jacobian)


def _is_better(before: Iteration, after: Iteration) -> bool:
    """Tell whether the flow was better before further training than after it.

    Its error alone does not tell: a flow that has lost a peak has a small one. Where the estimates disagree,
    the flow that was trained on more points is believed.
    """
    variances = np.diag(before.covariance) + np.diag(after.covariance)
    agree = np.abs(before.mean - after.mean) <= DISAGREEMENT * np.sqrt(variances)
    errors = [_shortfall(one.mean, one.covariance, 1.0, 0.0) for one in (before, after)]
    return bool(agree.all()) and errors[0] <= errors[1]


def _shortfall(mean: np.ndarray, covariance: np.ndarray, rtol: float, atol: float) -> float:
    """Find how many times too large the error is, for the component where it is most so."""
    sdev = np.sqrt(np.maximum(np.diag(covariance), 0))
    target = np.maximum(atol, rtol * np.abs(mean))
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.where(sdev == 0, 0.0, sdev / target).max())

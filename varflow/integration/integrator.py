"""The integrator: a survey that trains a flow, and a refinement that estimates the integral with it."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from varflow.data.dataset import Dataset
from varflow.flow.defaults import default_sizes
from varflow.flow.flow import Flow
from varflow.flow.make_flow import make_flow
from varflow.integration.averages import average
from varflow.integration.domain import Domain
from varflow.integration.integrand import Integrand
from varflow.integration.iteration import Iteration
from varflow.integration.iterations import (
    DEFENSIVE_SHARE,
    LOOK,
    MANY_BATCHES,
    MIN_POINTS,
    SCOUT_SHARE,
    Iterations,
)
from varflow.integration.proposal import LATENT_POINTS
from varflow.integration.result import Result
from varflow.integration.sampling import unweighted_points, weighted_points
from varflow.integration.settings import IterationSizes, SurveySettings, Tolerance
from varflow.integration.survey import MIN_ROUNDS, ROUND
from varflow.runtime.archive import Kind
from varflow.runtime.checkpoint import SECONDS, Checkpoint, CheckpointSettings
from varflow.runtime.fingerprint import digest
from varflow.runtime.progress import Progress
from varflow.training.adam import Adam
from varflow.training.settings import TrainingSettings
from varflow.training.stateful_trainers import BasicStatefulTrainer
from varflow.validation import positive_int

__all__ = ["Integrator", "integrate"]

FILE = Kind("varflow integration checkpoint", version=3, oldest=1, sealed=1)  # 1 and 2 knew fewer runs apart
MIN_SURVEYED = math.ceil((2 * LOOK + 2 * ROUND) / (1 - SCOUT_SHARE))  # one round has no scatter
MIN_CALLS = 4 * LOOK  # that leave room for two looks, a survey and a refinement
SURVEY_SHARE = 0.75  # of the calls, at most
MAP_SHARE = 0.25  # of the calls of a survey, at most, that an element-wise map is fitted to
STEP_OF_MAP, GAIN_OF_MAP = 1.1, 2.0  # factors by which maps have to raise `Iterations.power`: each, all
MAX_ROUNDS = 4096  # of a stage: more points are not kept in memory
MAX_CALLS = 1 << 21  # an iteration, for the sake of memory
DISAGREEMENT = 4.0  # standard deviations between two estimates that do not belong together
MAX_SHARE = 0.05  # share of one point in the sum of all weights that is warned of
MIN_Q = 1e-3  # probability of chi2 that is warned of
MAX_COORDINATE = 1e300  # coordinate of a given point where the bounds are infinite
MIN_INTEGRAL = 1e-140  # integral below which the square of an error underflows


class Integrator:
    """Integrator of a function over a box, by importance sampling from a flow that it trains.

    Parameters
    ----------
    f : callable
        The integrand, (n, d) -> (n,); see `Integrand` for all that it may be and return. The flow learns |f|,
        or where f has several components the root of the sum of their squares.
    bounds : int or sequence of (lower, upper)
        Number of dimensions of the unit cube, or a pair for each dimension, which may be infinite.
    survey_strategy : str
        Where the points of the survey come from. "replay": many small rounds of points from the flow, each
        training on new and on earlier ones; a new flow may begin with an element-wise map. In the other
        strategies each of `n_iter_survey` iterations trains on its own points, from "flat": the uniform
        density; "forward": the flow; "forward_flat_init": the flow, but the first from the uniform density;
        "adaptive_variance", "adaptive_dkl": the uniform density until the flow has the smaller loss of that
        name; "fixed_sample": always `sample`.
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
        Settings of `BasicStatefulTrainer`, for strategies other than "replay". For a fixed sample, those
        that are not given follow from it.
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
    backend : {"cpu", "cuda", "auto"}, optional
        Backend of a flow to be made; "cpu" if not given. See `Flow`.
    progress : bool, optional
        Whether to show a bar on stderr; if not given, where that is a terminal.
    checkpoint : path, optional
        File that the state is written to every `checkpoint_seconds` and at the end, at once or not at all. A
        run that goes on from it calls the same methods again, and ends with the same bits as one that was
        never interrupted. f is then called for at most 8192 points at once.
    resume : bool
        Whether to go on from that file if it exists. If not, a file that exists is an error.
    checkpoint_seconds : float
        Time between two checkpoints.

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
        backend: str | None = None,
        progress: bool | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
        checkpoint_seconds: float = SECONDS,
    ) -> None:
        for name, given in (("flow_options", flow_options), ("trainer_options", trainer_options)):
            if not isinstance(given, dict | None):
                raise TypeError(f"{name} must be a dict, got {given!r}")
        settings = SurveySettings(survey_strategy, loss, latent_points, use_survey, seed)
        if (sample is not None) != (survey_strategy == "fixed_sample"):
            raise ValueError("sample is for survey_strategy='fixed_sample', which needs it")
        self.sizes = IterationSizes(
            n_iter if n_iter_survey is None else n_iter_survey,
            n_points if n_points_survey is None else n_points_survey,
            n_iter if n_iter_refine is None else n_iter_refine,
            n_points if n_points_refine is None else n_points_refine,
        )
        is_fixed = survey_strategy == "fixed_sample"
        usual = TrainingSettings() if is_fixed else _settings_a_batch()
        training = usual.replaced(**(trainer_options or {}))
        kept = CheckpointSettings(checkpoint, resume, checkpoint_seconds)
        self.survey_strategy, self.progress = survey_strategy, progress
        self.domain = Domain(bounds)
        self.integrand = Integrand(
            f, self.domain, vectorized=vectorized, workers=workers, on_invalid=on_invalid
        )
        self._sample = None if sample is None else _on_cube(sample, self.domain)
        generator = np.random.Generator(np.random.Philox(seed))
        n_fixed = None if self._sample is None else self._sample.n
        self.flow = _flow_on_cube(self.domain.d, flow, flow_options, n_fixed, generator, threads, backend)
        self._is_surveyed, self._is_flow_new = False, isinstance(flow, str)
        is_start_known = seed is not None or not self._is_flow_new or "seed" in (flow_options or {})
        identity = {
            "bounds": self.domain.bounds.tolist(),
            **settings.identity(),
            "flow": self.flow.fingerprint(),
            "initial parameters": digest(self.flow.params) if is_start_known else None,
            "sample": None if self._sample is None else self._sample.digest(),
            "trainer": training.identity(),
            "vectorized": vectorized,
            "on_invalid": on_invalid,
            **asdict(self.sizes),
        }
        trainer = BasicStatefulTrainer(self.flow, loss=loss, **training.as_dict())
        self._iterations = Iterations(
            self.integrand,
            self.flow,
            generator,
            LATENT_POINTS[latent_points],
            loss,
            use_survey,
            trainer,
            Checkpoint(kept, FILE, identity),
        )
        self._tolerance = Tolerance()  # that was asked for last
        self._warnings: list[str] = []

    @property
    def history(self) -> list[Iteration]:
        """All iterations so far."""
        return self._iterations.history

    def survey(self) -> None:
        """Train the flow, with `n_iter_survey` times `n_points_survey` points.

        A survey by replay that follows one whose result warned of a lost region trains on points from there,
        and what was estimated without that region does not count any more.

        Raises
        ------
        Exception
            What the integrand raises, with the estimate so far in its attribute `partial`.
        """
        n_calls = self.sizes.n_iter_survey * self.sizes.n_points_survey
        with self._running(n_calls) as progress:
            if self.survey_strategy == "replay":
                self._replay_survey(n_calls, progress)
            elif self._sample is not None:
                for _ in range(self.sizes.n_iter_survey):
                    self._iterations.train(self._sample)
            else:
                for k in range(self.sizes.n_iter_survey):
                    self._iterations.survey(self.survey_strategy, k, self.sizes.n_points_survey, progress)
                self._iterations.scout(n_calls)
        self._is_surveyed = True

    def refine(self) -> None:
        """Estimate the integral with the current flow, in `n_iter_refine` iterations.

        Where there was no survey and there are 40960 points or more, up to 8192 others tell first whether the
        flow has lost a region.

        Raises
        ------
        Exception
            What the integrand raises, with the estimate so far in its attribute `partial`.
        """
        n_calls = self.sizes.n_iter_refine * self.sizes.n_points_refine
        with self._running(n_calls) as progress:
            is_surveyed = any(iteration.stage == "survey" for iteration in self.history)
            if not is_surveyed and n_calls >= 10 * LOOK:
                self._iterations.look(progress)
                self._iterations.scout(n_calls)
            for _ in range(self.sizes.n_iter_refine):
                self._iterations.refine(self.sizes.n_points_refine, progress)

    def integrate(self) -> Result:
        """Run the survey and the refinement, unless they have been run already.

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
        """Survey and refine until a tolerance is reached or the calls are spent.

        With a tolerance, the survey goes through stages, each as long as all before, until what is left to be
        refined costs less than another would.

        Parameters
        ----------
        n_calls : int
            Largest number of calls of the integrand, at least 16384, besides those of earlier integrations.
        rtol, atol : float
            Stop when the error, and its own uncertainty besides, is at most atol or rtol times the estimate,
            for all components. Where both are 0, all calls are used.

        Returns
        -------
        Result
            The estimate; a warning is in it if the tolerance was not reached.
        """
        n_calls = positive_int("n_calls", n_calls)
        if n_calls < MIN_CALLS:
            raise ValueError(f"n_calls must be at least {MIN_CALLS}, got {n_calls}")
        tolerance = Tolerance(rtol, atol)
        if self.survey_strategy != "replay":
            raise ValueError(
                "a number of calls or a tolerance needs survey_strategy='replay'; "
                f"for {self.survey_strategy!r} call Integrator(...).integrate()"
            )
        self._tolerance = tolerance
        begin, n_survey = self._iterations.n_calls, int(SURVEY_SHARE * n_calls)
        end = begin + n_calls
        with self._running(n_calls) as progress:
            if tolerance:
                self._survey_to(begin + n_survey, tolerance, progress)
                self._refine_to(end, tolerance, progress)
            else:
                self._replay_survey(n_survey, progress)
                n_more = (end - self._iterations.n_calls) // 2
                if self._can_regain(n_more):
                    self._replay_survey(n_more, progress)
                self._refine_in_parts(end - self._iterations.n_calls, 2, progress)  # to be compared
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
        if n_calls < MIN_POINTS:
            raise ValueError(f"n_calls must be at least {MIN_POINTS}, got {n_calls}")
        with self._running(n_calls) as progress:
            self._refine_in_parts(n_calls, 1, progress)
        return self.result()

    def result(self) -> Result:
        """Return the result so far.

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
            defensive_share=DEFENSIVE_SHARE,
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
        # The survey has the numbers of the seed itself.
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(1,))))
        points = unweighted_points if unweight else weighted_points
        try:
            u, weights = points(n, self.flow, DEFENSIVE_SHARE, self._iterations.evaluate, generator)
        finally:
            self.close()
        x, _ = self.domain.from_cube(u)
        return x, weights[:, 0] if weights.shape[1] == 1 else weights

    def close(self) -> None:
        """Shut down the worker processes of the integrand, if any; they are restarted when needed."""
        self.integrand.close()

    def __enter__(self) -> "Integrator":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # What the methods above share

    @contextmanager
    def _running(self, n_calls: int) -> Iterator[Progress]:
        """Show progress, and attach the result so far to any exception."""
        try:
            self.integrand.open()
            with self._iterations.running():
                with Progress(self.integrand.n_calls + n_calls, self.progress) as progress:
                    yield progress
                self._iterations.save()
        except BaseException as error:
            with suppress(Exception):  # some exceptions take no attributes, and there may be nothing yet
                error.partial = self.result() if self.history else None  # type: ignore[attr-defined]
            raise
        finally:
            self.close()

    # The survey

    def _first_look(self, n_calls: int, progress: Progress) -> Iteration:
        """Make the first pilot run ("look"); a new flow that is far off may get an element-wise map."""
        is_new = self._is_flow_new and not self.history
        look = self._iterations.look(progress)
        self._iterations.keep()
        n_fits = int(MAP_SHARE * n_calls) // LOOK
        if not is_new or n_fits == 0 or self._iterations.power * GAIN_OF_MAP > 1:
            return look
        return self._fit_map(n_fits, look, progress)

    def _fit_map(self, n_fits: int, best: Iteration, progress: Progress) -> Iteration:
        """Alternate fits of an element-wise map with pilot runs; return that of the map that is kept.

        Fresh points tell how close the flow has come to the integrand. Where that is not much closer, as
        where coordinates depend on each other, the flow stays without a map.
        """
        enough = GAIN_OF_MAP * self._iterations.power
        for _ in range(n_fits):
            before = self._iterations.power
            if before == 1:
                break
            self._iterations.fit_map()
            look = self._iterations.look(progress)
            if self._iterations.power < STEP_OF_MAP * before:
                break
            if self._iterations.power >= enough:
                self._iterations.keep_map()
                best = look
        self._iterations.end_maps()
        return best

    def _replay_survey(self, n_calls: int, progress: Progress) -> None:
        """Train for one stage between two pilot runs, and keep the better flow.

        Where the last survey has lost a region, this one begins with points from there, and its flow is kept:
        the errors of the two would not tell.
        """
        if n_calls < MIN_SURVEYED:
            raise ValueError(f"a survey by replay needs {MIN_SURVEYED} calls at least, got {n_calls}")
        self._warnings.clear()  # an earlier survey's are of no more interest
        n_before, is_regaining = self._iterations.n_calls, self._can_regain(n_calls)
        before = self._first_look(n_calls, progress)
        if is_regaining:
            self._iterations.regain(n_before)
        n_left = int((1 - SCOUT_SHARE) * n_calls) - (self._iterations.n_calls - n_before) - LOOK
        n_rounds = min(n_left // ROUND, MAX_ROUNDS)
        self._iterations.stage(n_rounds, 0.5, progress)
        if _is_better(before, self._iterations.look(progress)) and not is_regaining:
            self._iterations.go_back()
            self._warnings.append("training made the flow no better: the first one is used")
        self._iterations.scout(n_calls)

    def _can_regain(self, n_calls: int) -> bool:
        """Tell whether the flow has lost a region that the calls suffice to regain."""
        return n_calls >= 2 * MIN_SURVEYED and self._iterations.has_lost(self._iterations.n_calls)

    def _survey_to(self, end: int, tolerance: Tolerance, progress: Progress) -> None:
        """Run stages as long as they pay, and again if that has lost a region.

        end: calls of the integrand that are not to be exceeded.
        """
        while True:
            self._go_through_stages(end, tolerance, progress)
            used = self._iterations.n_calls
            self._iterations.scout(used)
            n_rounds = self._affordable_rounds(end)
            if n_rounds == 0 or not self._iterations.has_lost(used):
                return
            self._iterations.regain(used)
            self._iterations.stage(n_rounds, 0.5, progress)

    def _go_through_stages(self, end: int, tolerance: Tolerance, progress: Progress) -> None:
        """Look, go through stages with a look after each, and keep the best flow."""
        best = self._first_look(end - self._iterations.n_calls, progress)
        n_failures = 0
        missing = self._calls_missing(best, tolerance)
        while True:
            used, n_rounds = self._iterations.n_calls, self._affordable_rounds(end)
            if missing <= used or n_failures == 2 or n_rounds == 0:
                break
            self._iterations.stage(n_rounds, 0.5 if used < 10 * LOOK else 0.25, progress)
            look = self._iterations.look(progress)
            if _is_better(best, look):
                n_failures += 1
                continue
            self._iterations.keep()
            best, n_failures = look, 0
            missing = self._calls_missing(best, tolerance)
        self._iterations.go_back()

    def _calls_missing(self, look: Iteration, tolerance: Tolerance) -> float:
        """Estimate the points that a refinement needs to reach a tolerance, from what a look has found."""
        return LOOK * tolerance.shortfall(look.mean, look.covariance) ** (1 / self._iterations.rate)

    def _affordable_rounds(self, end: int) -> int:
        """Count the rounds of another stage; 0 if that would exceed `end` calls.

        It costs as much as all before and saves about half of what is missing, or more where that was taken
        for too little: a refinement much too long costs more than a stage too many.
        """
        used = self._iterations.n_calls
        n_rounds = min(max(MIN_ROUNDS, used // ROUND), MAX_ROUNDS)
        return n_rounds if used + n_rounds * ROUND + 2 * LOOK <= end else 0

    # The refinement

    def _refine_in_parts(self, n_calls: int, n_parts: int, progress: Progress) -> None:
        """Refine in at least so many iterations, none of them too large."""
        n_parts = max(n_parts, -(-n_calls // MAX_CALLS))
        for k in range(n_parts):
            self._iterations.refine((k + 1) * n_calls // n_parts - k * n_calls // n_parts, progress)

    def _refine_to(self, end: int, tolerance: Tolerance, progress: Progress) -> None:
        n, shortfall = 0, math.inf
        while True:
            more = min(self._next_size(n, shortfall), end - self._iterations.n_calls)
            if more < MIN_POINTS:
                return
            self._iterations.refine(more, progress)
            used = [one for one in self.history if one.is_used]
            n = sum(one.n_calls for one in used)
            # Errors are themselves uncertain: those that are too small by chance are not to end runs.
            uncertainty = 1 / math.sqrt(2 * len(used) * (MANY_BATCHES - 1))
            shortfall = (1 + uncertainty) * tolerance.shortfall(*average(used))
            if shortfall <= 1:
                return

    def _next_size(self, n: int, shortfall: float) -> int:
        """Choose the points of the next iteration: those missing, but not many more than there are."""
        if n == 0:
            return 2 * LOOK
        missing = n * (1.05 * shortfall) ** (1 / self._iterations.rate)
        return int(min(max(missing, n / 4, LOOK), 8 * n, MAX_CALLS)) // MANY_BATCHES * MANY_BATCHES

    def _doubts(self, result: Result) -> Iterator[str]:
        """Collect the warnings about the result."""
        used = [iteration for iteration in result.history if iteration.is_used]
        if all(not iteration.mean.any() and not iteration.covariance.any() for iteration in used):
            yield f"f was zero at all {result.n_calls} points"
        if self._tolerance and self._tolerance.shortfall(*average(used)) > 1:
            yield f"the tolerance was not reached in {result.n_calls} calls"
        n_used = sum(iteration.n_calls for iteration in used)
        log_lost, heaviest = self._iterations.log_lost, self._iterations.heaviest
        n_lost = np.count_nonzero(self._iterations.is_lost(n_used))
        if n_lost:
            yield (
                f"{n_lost} of {len(log_lost)} walkers that climb from uniform points ended where f/q is up "
                f"to {math.exp(min(log_lost.max(), 700)):.1g} times the integral: with {n_used} points the "
                "flow has lost a region there, and integral and error miss it"
            )
        if self._iterations.has_integrand_changed:
            yield (
                "f has not the value that it had in the run that the checkpoint is of: it has changed, or is "
                "random, and the result mixes both"
            )
        if n_skipped := self._iterations.n_skipped:
            yield f"{n_skipped} training steps were left out, as their gradients were not finite"
        if heaviest > MAX_SHARE:
            yield (
                f"one point carries {heaviest:.0%} of the sum of the weights of its iteration: the flow is "
                "too small there, and the error cannot be relied upon"
            )
        if any(0 < np.abs(iteration.mean).max() < MIN_INTEGRAL for iteration in used):
            yield "f is so small that the square of its error is 0 in float64: use other units for f"
        if result.Q < MIN_Q:
            yield f"the iterations disagree: chi2/dof = {result.chi2:.3g}/{result.dof}, Q = {result.Q:.2g}"
        if result.n_invalid:
            yield f"f was not finite at {result.n_invalid} points, and taken as 0 there"


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


def _flow_on_cube(
    d: int,
    flow: str | Flow,
    flow_options: dict[str, Any] | None,
    n_fixed: int | None,
    generator: np.random.Generator,
    threads: int | None,
    backend: str | None,
) -> Flow:
    """Make the flow of an integral, or copy one that is given.

    n_fixed: number of points of a fixed sample.
    """
    if isinstance(flow, str):
        seed = int(generator.integers(2**63))
        # Two cells are too few for what two coordinates can have in common.
        sizes = {"n_bins": 16, "d_hidden": 64, "n_hidden": 2, "repetitions": 2 if d == 2 else 1}
        if n_fixed is not None:
            sizes = default_sizes(d, flow, n_fixed)
        return make_flow(d, flow, flow_options, backend, **sizes, seed=seed, threads=threads)
    copied = make_flow(d, flow, flow_options, backend).copy()
    if not np.array_equal(copied.bounds, np.tile([0.0, 1.0], (d, 1))):
        raise ValueError(f"the flow must be on the unit cube, it has bounds {copied.bounds.tolist()}")
    if threads is not None:
        copied.threads = positive_int("threads", threads)
    return copied


def _settings_a_batch() -> TrainingSettings:
    """Settings of a training on one batch of points, of which there are several: a step of a longer one."""
    return TrainingSettings(n_epochs=10, minibatch_size=1000, optim=Adam(), holdout=0.0, p_normalized=True)


def _on_cube(sample: Any, domain: Domain) -> Dataset:
    """Map weighted points from the coordinates of f to the unit cube."""
    bounds = np.clip(domain.bounds, -MAX_COORDINATE, MAX_COORDINATE)
    if isinstance(sample, tuple | list):
        try:
            sample = Dataset(*sample, bounds=bounds)
        except (TypeError, ValueError) as error:
            raise ValueError(f"sample: {error}") from error
    elif isinstance(sample, str | os.PathLike):
        sample = Dataset.read(sample, bounds=bounds)
    elif not isinstance(sample, Dataset):
        raise TypeError(f"sample must be a Dataset, a path or (x, px, fx), got {sample!r}")
    u, log_jacobian = domain.to_cube(sample.x)
    return Dataset(u, logpx=sample.logpx + log_jacobian, logfx=sample.logfx + log_jacobian)


def _is_better(before: Iteration, after: Iteration) -> bool:
    """Tell whether the flow was better before further training than after it.

    Its error alone does not tell: a flow that has lost a peak has a small one. Where the estimates disagree,
    the flow that was trained on more points is believed.
    """
    variances = np.diag(before.covariance), np.diag(after.covariance)
    agree = np.abs(before.mean - after.mean) <= DISAGREEMENT * np.sqrt(sum(variances))
    return bool(agree.all() and (variances[0] <= variances[1]).all())

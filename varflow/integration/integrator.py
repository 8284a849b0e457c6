"""The integrator: a survey that trains a flow, and a refinement that estimates the integral with it."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np

from varflow.data.dataset import Dataset
from varflow.flow.flow import Flow
from varflow.integration import clock
from varflow.integration.calls import tell_nobody
from varflow.integration.channel_domain import ChannelDomain
from varflow.integration.channel_engine import ChannelEngine
from varflow.integration.clock import Deadline
from varflow.integration.domain import Bounds, Domain, finite_bounds
from varflow.integration.engine import Engine
from varflow.integration.estimates import MAX_VALUES
from varflow.integration.integrand import Integrand
from varflow.integration.iteration import Iteration, scaled
from varflow.integration.make_channels import channel_domain, make_channel_engine
from varflow.integration.make_engine import identity_of, make_engine, training_settings
from varflow.integration.plan import (
    N_CALLS,
    Agenda,
    Refine,
    described,
    extension,
    integration,
    survey,
    survey_of_each,
    survey_of_sample,
)
from varflow.integration.requests import Requests, in_words
from varflow.integration.result import Result
from varflow.integration.sampling import joined, sampling_generator, unweighted_points
from varflow.integration.settings import IterationSizes, SurveySettings
from varflow.integration.state import show_nobody
from varflow.integration.steps import MIN_POINTS
from varflow.integration.tables import with_relative_error
from varflow.integration.unweighting import FORMS
from varflow.kernels.compile import announcement
from varflow.runtime.archive import Kind, refused_as
from varflow.runtime.checkpoint import SECONDS, Checkpoint, CheckpointSettings, Saved
from varflow.runtime.communicator import ALONE
from varflow.runtime.progress import Progress, way_of_showing
from varflow.runtime.ranks import as_communicator
from varflow.validation import positive_int

__all__ = ["Integrator", "integrate"]

FILE = Kind("varflow integration checkpoint", version=9, oldest=7, sealed=7)
PART = 8192  # points evaluated together where there is a checkpoint, which may be written after each
FIRST_PART = 64  # points that tell how many components there are, where they are said to be many
ALL_CALLS = 10**15  # where the time alone is
GROWTH, PART_OF_TIME = 8, 0.25  # of parts where time is limited: against the last, and of what is left
LEAST_COMPILED = 0.01  # of the time, that is told


class Integrator:
    """Integrator of a function over a box, by importance sampling from a flow that it trains.

    Parameters
    ----------
    f : callable
        The integrand, (n, d) -> (n,); see `Integrand` for all that it may be and return. The flow learns |f|,
        or where f has several components the root of the sum of their squares.
    bounds : int or sequence of (lower, upper) or Discrete
        Number of dimensions of the unit cube, or for each dimension a pair, which may be infinite, or a
        `Discrete`, over whose states the integral is a sum: f gets their numbers.
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
        Kind of cell of a flow to be made, or a flow that training goes on with, such as `Result.flow` of a
        similar integral: on the unit cube, or on the box of the integral; it is copied.
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
        Whether rounds of the later half of a survey by "replay" count in the result, unless it is to a
        tolerance. Each round's flow was trained on earlier points alone, so that they are unbiased.
    covariance : bool, optional
        Whether to keep covariances of the components, which take memory and time as their number squared. If
        not given, they are kept for 500 components or fewer; `Result.sdev` is there anyway. Without them,
        memory grows as the number of components: f is called with some 17 million values at a time at most,
        and an iteration of a refinement holds those of one scramble of its points.
    latent_points : {"sobol", "random"}
        Latent points of the refinement: scrambled Sobol points, or pseudo-random ones.
    vectorized : bool
        Whether f takes many points at once; see `Integrand`.
    workers : int, executor, pool, client or callable
        What calls f; see `Integrand`.
    on_invalid : {"raise", "zero"}
        What is done about values that are not finite; see `Integrand`.
    log : bool
        Whether f returns the logarithm of a positive integrand, which may then underflow or overflow; -inf
        stands for 0. See `Result.log_mean`.
    seed : int, optional
        Seed of everything random; drawn from the system if not given.
    deterministic : bool, optional
        Whether the same seed gives the same bits where a tolerance is asked for. If not, training goes on as
        long as it saves seconds, as they are measured in the run; otherwise, as long as it saves calls of f.
        If not given, it is so with a checkpoint or a communicator, which need it. Without a tolerance, the
        same seed always gives the same bits.
    threads : int, optional
        Threads of the flow; see `Flow`.
    backend : {"cpu", "cuda", "auto"}, optional
        Backend of a flow to be made; "cpu" if not given. See `Flow`.
    progress : bool or None
        Whether to show a bar on stderr, with the estimate so far and its relative error; None shows it where
        that is a terminal.
    checkpoint : path, optional
        File that the state is written to every `checkpoint_seconds` and at the end, at once or not at all. A
        run that goes on from it calls the same methods again, and ends with the same bits as one that was
        never interrupted. f is then called for at most 8192 points at once.
    resume : bool
        Whether to go on from that file if it exists. If not, a file that exists is an error.
    checkpoint_seconds : float
        Time between two checkpoints.
    callback : callable, optional
        Called after each iteration with the `Result` so far; where it returns something true, the
        integration ends there.
    comm : mpi4py.MPI.Intracomm, optional
        Ranks that share the calls of f: all must make the same calls with the same arguments, and all get the
        result. It has the same bits for any number of ranks, as long as f treats each point separately. What
        f raises on one of them is raised on all. The first has files, bar and callback to itself.
    channels : sequence, optional
        Maps from the unit cube, each a `Channel`, a pair of its two functions, an object with both of them,
        or "flow" for the box as it is. Each has a flow of its own, or one with all of its group; the integral
        is the sum of what they bring, and `Result.channels` tells of each. Needs the survey by "replay".
    channel_weights : {"balance", "learned"} or callable, optional
        Channel weights a_k(x), (n, d) -> (n, m), from 0 and with the sum 1 at each x; or "balance": in
        proportion to the densities of the maps; or "learned": these times factors of a network that makes
        the stratified variance small. If not given, they are learnt where f has both signs or all maps are
        alike, and otherwise balanced.

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

    Examples
    --------
    A survey and a refinement, both with iterations of vegas's kind:

    >>> f = lambda x: np.exp(-5 * x.sum(axis=1))
    >>> options = {"n_iter": 2, "n_points": 20_000, "flow_options": {"n_bins": 8, "d_hidden": 16}}
    >>> with vf.Integrator(f, 2, seed=1, **options) as integrator:
    ...     integrator.survey()
    ...     integrator.refine()
    ...     result = integrator.result()
    >>> round(result.mean, 3), [one.stage for one in integrator.history][-2:]
    (0.039, ['refine', 'refine'])

    The same in one call, which finds all of it done already; and more points:

    >>> integrator.integrate().mean == result.mean
    True
    >>> integrator.extend(20_000).sdev < result.sdev
    True
    >>> x, weights = integrator.sample(1000, seed=2)
    >>> round(weights.mean().item(), 3)
    0.039
    >>> integrator.close()

    With the flow of this one, an integral that is similar needs no survey:

    >>> similar = vf.Integrator(lambda x: f(x) * x[:, 0], 2, n_points=1000, flow=integrator.flow, seed=1)
    >>> similar.refine()
    >>> round(similar.result().mean, 4)
    0.0076

    As far as a tolerance needs:

    >>> vf.Integrator(f, 2, seed=1).integrate_to(n_calls=300, rtol=0.5).n_calls < 300
    True
    """

    def __init__(
        self,
        f: Callable[..., Any],
        bounds: Bounds,
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
        use_survey: bool = True,
        covariance: bool | None = None,
        latent_points: str = "sobol",
        vectorized: bool = True,
        workers: Any = 1,
        on_invalid: str = "raise",
        log: bool = False,
        seed: int | None = None,
        deterministic: bool | None = None,
        threads: int | None = None,
        backend: str | None = None,
        progress: bool | type[Progress] | None = False,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
        checkpoint_seconds: float = SECONDS,
        callback: Callable[[Result], object] | None = None,
        comm: Any = None,
        channels: Sequence[Any] | None = None,
        channel_weights: str | Callable[..., Any] | None = None,
    ) -> None:
        self._comm = as_communicator(comm)
        with self._comm.running():
            if not isinstance(trainer_options, dict | None):
                raise TypeError(f"trainer_options must be a dict, got {trainer_options!r}")
            if callback is not None and not callable(callback):
                raise TypeError(f"callback must be callable, got {callback!r}")
            promises_bits = checkpoint is not None or comm not in (None, ALONE)
            if deterministic is None:
                deterministic = promises_bits
            settings = SurveySettings(
                survey_strategy, loss, latent_points, use_survey, covariance, seed, deterministic
            )
            if promises_bits and not deterministic:
                raise ValueError(
                    "deterministic=False needs an integration without checkpoint and comm, which promise the "
                    "same bits every time"
                )
            if (sample is not None) != (survey_strategy == "fixed_sample"):
                raise ValueError("sample is for survey_strategy='fixed_sample', which needs it")
            self.sizes = IterationSizes(
                n_iter if n_iter_survey is None else n_iter_survey,
                n_points if n_points_survey is None else n_points_survey,
                n_iter if n_iter_refine is None else n_iter_refine,
                n_points if n_points_refine is None else n_points_refine,
            )
            training = training_settings(survey_strategy, trainer_options)
            kept = CheckpointSettings(checkpoint, resume, checkpoint_seconds)
            self.survey_strategy, self.callback = survey_strategy, callback
            self._has_many = covariance is False  # components, as is to be expected
            self.progress = way_of_showing(progress) if self._comm.is_first else Progress
            box, self._is_log = Domain(bounds), bool(log)
            self.domain: Domain | ChannelDomain = box
            if channels is None and channel_weights is not None:
                raise ValueError("channel_weights needs channels")
            if channels is not None:
                self.domain = channel_domain(box, channels, channel_weights)
            self.integrand = Integrand(
                f,
                self.domain,
                vectorized=vectorized,
                workers=workers,
                on_invalid=on_invalid,
                log=self._is_log,
                comm=self._comm,
            )
            points = None if sample is None else self._comm.first(lambda: _on_cube(sample, box))
            self._engine: Engine | ChannelEngine
            makings = (threads, backend, self._is_log, self._comm)
            if isinstance(self.domain, ChannelDomain):
                self._engine = make_channel_engine(
                    self.domain, settings, training, flow, flow_options, *makings
                )
            else:
                self._engine = make_engine(box, settings, training, flow, flow_options, points, *makings)
            self._requests = Requests(self._engine)
            self._why_deterministic = (
                "checkpoint and comm promise" if promises_bits else "deterministic=True promises"
            )
            self._seconds, self._begin = 0.0, math.nan
            self._n_last = 0  # points that were evaluated together last, where time is limited
            self._is_surveyed = self._has_integrand_changed = False
            identity = {
                "bounds": self.domain.bounds.tolist(),
                **identity_of(self._engine.state, settings, training, flow_options),
                "vectorized": vectorized,
                "on_invalid": on_invalid,
                "log": self._is_log,
                **asdict(self.sizes),
            }
            if isinstance(self.domain, ChannelDomain):
                identity |= {"channels": self.domain.identity()}
            self._comm.check_same("arguments", {**identity, "has a checkpoint": checkpoint is not None})
            self._checkpoint = Checkpoint(kept, FILE, identity, self._comm)
            saved = self._checkpoint.read()
            if saved is not None:
                self._restore(*saved)

    @property
    def flow(self) -> Flow:
        """The flow as it is."""
        return self._engine.state.flow

    @property
    def history(self) -> list[Iteration]:
        """All iterations so far."""
        return [scaled(iteration, self._engine.state.exponent) for iteration in self._requests.history]

    def survey(self) -> None:
        """Train the flow, with `n_iter_survey` times `n_points_survey` points at most.

        A survey by replay that follows one whose result warned of a lost region trains on points from there,
        and what was estimated without that region does not count any more.

        Raises
        ------
        Exception
            What the integrand raises, with the estimate so far in its attribute `partial`. The same call
            goes on from there; any other begins anew.
        """
        n_iterations, n_points = self.sizes.n_iter_survey, self.sizes.n_points_survey
        if self.survey_strategy == "replay":
            agenda = survey(n_iterations * n_points)
        elif self.survey_strategy == "fixed_sample":
            agenda = survey_of_sample(n_iterations)
        else:
            agenda = survey_of_each(self.survey_strategy, n_iterations, n_points)
        self._run(agenda, n_iterations * n_points)
        self._is_surveyed = True

    def refine(self) -> None:
        """Estimate the integral with the current flow, in `n_iter_refine` iterations.

        Where there was no survey and there are 40960 points or more, up to 8192 of them tell first whether
        the flow has lost a region.

        Raises
        ------
        Exception
            What the integrand raises, with the estimate so far in its attribute `partial`. The same call
            goes on from there; any other begins anew.
        """
        n_iterations, n_points = self.sizes.n_iter_refine, self.sizes.n_points_refine
        self._run([Refine(n_iterations, n_points)], n_iterations * n_points)

    def integrate(self) -> Result:
        """Run the survey and the refinement, unless they have been run already.

        Returns
        -------
        Result
            The estimate and all that belongs to it.

        Raises
        ------
        Exception
            What the integrand raises, with the estimate so far in its attribute `partial`.
        """
        if not self._is_surveyed:
            self.survey()
        if not any(iteration.stage == "refine" for iteration in self.history):
            self.refine()
        return self.result()

    def integrate_to(
        self, n_calls: int | None = None, rtol: float = 0.0, atol: float = 0.0, seconds: float | None = None
    ) -> Result:
        """Survey and refine until a tolerance is reached, or the calls or the time are spent.

        With a tolerance, the survey goes through stages, each as long as all before, until what is left to be
        refined costs less than another would: in measured seconds, or in calls if `deterministic`. With
        `seconds`, it goes on as long as the next stage leaves half of the time.

        Parameters
        ----------
        n_calls : int, optional
            Largest number of calls of the integrand, at least 100, besides those of earlier integrations. If
            not given, 400 000, or as many as there is time for, with `seconds`.
        rtol, atol : float
            Stop when the error, and its own uncertainty besides, is at most atol or rtol times the estimate,
            for all components. Where both are 0, all calls or seconds are used.
        seconds : float, optional
            Time that this may take, by the clock on the wall, compilation and f included: see `integrate`.

        Returns
        -------
        Result
            The estimate; a warning is in it if the tolerance was not reached.

        Raises
        ------
        TypeError, ValueError
            If an argument is refused, or the survey is not by "replay"; or if `seconds` are over before f is
            known at 32 points.
        Exception
            What the integrand raises, with the estimate so far in its attribute `partial`.
        """
        return self._integrate_within(Deadline.after(seconds), n_calls, rtol, atol)

    def _integrate_within(self, deadline: Deadline, n_calls: int | None, rtol: float, atol: float) -> Result:
        """Do what `integrate_to` does, in a time that has begun already."""
        if n_calls is None:
            n_calls = ALL_CALLS if deadline else N_CALLS
        agenda = integration(n_calls, rtol, atol, bool(deadline))
        if isinstance(self.domain, ChannelDomain):
            if deadline:
                raise ValueError(
                    f"seconds={deadline.seconds:g} cannot be kept with channels, each of which has calls of "
                    "its own: give n_calls instead"
                )
            self.domain.check_calls(n_calls)
        if self.survey_strategy != "replay":
            raise ValueError(
                "a number of calls, a tolerance or a time needs survey_strategy='replay'; "
                f"for {self.survey_strategy!r} call Integrator(...).integrate()"
            )
        state = self._engine.state
        if deadline and not state.costs.is_measured:
            raise ValueError(
                f"seconds={deadline.seconds:g} ends by the clock, so that no two runs are alike, and "
                f"{self._why_deterministic} the same bits every time: give n_calls instead"
            )
        state.deadline, compiled = deadline, announcement.seconds
        try:
            self._run(agenda, n_calls)
            if deadline:
                state.notes.append(_spent(deadline, announcement.seconds - compiled))
            return self.result()
        finally:
            state.deadline = Deadline()

    def extend(self, n_calls: int) -> Result:
        """Refine further.

        Parameters
        ----------
        n_calls : int
            Number of points to add, at least 32; a few less where they do not make batches of equal size.

        Returns
        -------
        Result
            The estimate from all iterations of the refinement.

        Raises
        ------
        TypeError, ValueError
            If they are too few.
        Exception
            What the integrand raises, with the estimate so far in its attribute `partial`.
        """
        self._run(extension(n_calls), n_calls)
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
        history = self._requests.history
        if not history:
            raise RuntimeError("there is no estimate yet: call integrate() first")
        result = self._engine.result(history, self.domain, self.integrand.received, self)
        result.seconds = self._spent
        if self._has_integrand_changed:
            result.warnings += (CHANGED,)
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
            Weights f/q, whose mean is the integral, or their logarithms with ``log=True``; where unweighted:
            1, or what is left of an excess, with the sign of f (of its first component).

        Raises
        ------
        TypeError, ValueError
            If an argument is refused, or the points cannot be unweighted.
        Exception
            What the integrand raises.
        """
        try:
            with self._comm.running():
                n = positive_int("n", n)
                self._comm.check_same("arguments", {"n": n, "unweight": unweight, "seed": seed})
                generator = sampling_generator(self._comm.first(lambda: np.random.SeedSequence(seed).entropy))
                weighted = partial(self._engine.weighted_points, evaluate=self.integrand, generator=generator)
                if unweight:
                    u, weights, _ = joined(unweighted_points(n, weighted, FORMS[self._is_log], generator))
                else:
                    u, weights = weighted(n)
        finally:
            self.close()
        x, _ = self.domain.from_cube(u)
        return x, weights[:, 0] if weights.shape[1:] == (1,) else weights

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

    def _run(self, agenda: Agenda, n_calls: int) -> None:
        """Go through an agenda, as far as an earlier run has not, and with what it has left undone."""
        self._comm.check_same("arguments", {"what is to be done": in_words(described(agenda))})
        if not self._requests.begin(agenda):
            return
        with self._running(n_calls) as progress:
            self._engine.show_training(partial(self._show_training, progress))
            self._engine.advance()
            figure = self._estimate_in_words()
            while not self._engine.is_done:
                n_before = len(self._requests.history)
                self._evaluate(partial(self._show, progress, figure, self._engine.n_told))
                self._engine.advance()
                if len(self._requests.history) > n_before:
                    figure = self._estimate_in_words()
                    if self._is_enough():
                        self._engine.begin([])
                if self._engine.state.deadline.is_over:
                    self._end_in_time()
                self._show(progress, figure, self._engine.n_told)
                self._checkpoint.step(self._saved)
            self._requests.end()

    def _evaluate(self, told: Callable[[int], object]) -> None:
        """Evaluate the integrand at the next points; those that fail are left for another time.

        told: called with the number of those whose values are there.
        """
        self.integrand.watch(told)
        numbers, u = self._engine.ask(self._n_of_part())
        begin = clock.now()
        try:
            evaluated = self.integrand.evaluate(u)
            self._n_last = len(u)
            self._engine.state.costs.evaluation = (clock.now() - begin) / max(1, len(u))
            self._engine.tell(numbers[evaluated.rows], evaluated.values)
        except BaseException:
            self._engine.take_back(numbers)
            raise
        if evaluated.error is not None:
            self._engine.take_back(np.delete(numbers, evaluated.rows))
            raise evaluated.error

    def _n_of_part(self) -> int | None:
        """Number of points that are evaluated together at most.

        Where time is limited, parts grow as it turns out how long f takes, and take a part of what is left.
        Where components are many, parts are so small that copies of their values take little memory.
        """
        most = self._n_in_memory()
        deadline, seconds = self._engine.state.deadline, self._engine.state.costs.evaluation
        if not deadline:
            return most if self._checkpoint.path is None else min(PART, most or PART)
        n = GROWTH * self._n_last
        if seconds > 0:
            n = int(min(n, PART_OF_TIME * deadline.left / seconds))
        return max(n if most is None else min(n, most), self.integrand.n_at_once)

    def _n_in_memory(self) -> int | None:
        """Number of points that f is evaluated at together, at most; None where components are not known."""
        m = self.integrand.m
        if m is None:
            return FIRST_PART if self._has_many else None
        return max(1, MAX_VALUES // m)

    def _end_in_time(self) -> None:
        """End the integration, as the time is over, unless there is no estimate yet."""
        state = self._engine.state
        if any(not np.isnan(one.mean).any() for one in state.history):
            assert isinstance(self._engine, Engine)  # channels are given no time
            self._engine.stop()
        elif state.deadline.is_past_grace(state.costs.evaluation):
            deadline, n_told = state.deadline, self._engine.n_told
            raise ValueError(
                f"seconds={deadline.seconds:g} is too short: after {deadline.spent:.2g} s, f is known at "
                f"{n_told} points, and {MIN_POINTS} are the fewest that give an error; give more seconds, or "
                "n_calls"
            )

    def _show(self, progress: Progress, figure: str, n_before: int, n: int = 0) -> None:
        """Show progress, within the points that were asked for at once, too."""
        progress.update(self._how_far(n_before + n), self._engine.stage, figure)

    def _show_training(self, progress: Progress, share: float) -> None:
        """Show that the next calls wait for a training, and how far that is."""
        how_far, figure = self._how_far(self._engine.n_told), self._estimate_in_words()
        progress.update(how_far, f"training ({share:.0%} done)", figure)

    def _how_far(self, n_calls: int) -> float:
        """How much is done of what `_running` counts: calls, or seconds where these are limited."""
        deadline = self._engine.state.deadline
        return min(deadline.spent, deadline.seconds) if deadline else n_calls

    def _estimate_in_words(self) -> str:
        """Format the estimate so far, that of a survey where there is no other; empty before the first."""
        state = self._engine.state
        estimates = [one for one in state.history if not np.isnan(one.mean[0])]
        if not estimates:
            return ""
        estimate = state.estimate() or (estimates[-1].mean, estimates[-1].covariance)
        return with_relative_error(*estimate, state.exponent, state.is_log)

    def _is_enough(self) -> bool:
        """Ask the callback whether the result so far is enough."""
        return self._comm.first(lambda: self.callback is not None and bool(self.callback(self.result())))

    @contextmanager
    def _running(self, n_calls: int) -> Iterator[Progress]:
        """Show progress, keep the state at the end, and attach the result so far to any exception."""
        deadline = self._engine.state.deadline
        self._begin = deadline.begin or clock.now()
        self._n_last, total = 0, (self._requests.n_before + n_calls, "call")
        if deadline:
            total = math.ceil(deadline.seconds), "second"
        try:
            with self._comm.running(), self._checkpoint.running():
                with self.progress(*total, self._engine.stage) as progress:
                    self.integrand.open()  # by forks: what workers print goes above the bar, too
                    yield progress
                self._checkpoint.try_to_write(self._saved)
        except BaseException as error:
            with suppress(Exception):  # some exceptions take no attributes, and there may be nothing yet
                error.partial = self.result() if self.history else None  # type: ignore[attr-defined]
            raise
        finally:
            self.integrand.watch(tell_nobody)
            self._engine.show_training(show_nobody)
            self._seconds, self._begin = self._spent, math.nan
            self.close()

    @property
    def _spent(self) -> float:
        """Seconds that the calls of this object took, those of the present one included."""
        return self._seconds + (0.0 if math.isnan(self._begin) else clock.now() - self._begin)

    def _saved(self) -> Saved:
        header, arrays = self._engine.saved()
        received, requests = self.integrand.received.state(), self._requests.state()
        return {"engine": header, "received": received, "requests": requests}, arrays

    def _restore(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Go on from a file."""
        with refused_as(str(self._checkpoint.path), "checkpoint", (KeyError, TypeError, ValueError)):
            self._engine.restore(header["engine"], arrays)
            self._engine.take_back(self._engine.open_points()[0])
            self._requests.restore(header["requests"])
            self.integrand.received.restore(header["received"])
            self.integrand.n_calls = self._engine.n_told
        self._compare_integrand()

    def _compare_integrand(self) -> None:
        """Find out whether the integrand gives what it gave the earlier run; the call does not count."""
        received, n_calls = self.integrand.received, self.integrand.n_calls
        state = received.state()
        self._has_integrand_changed = self._engine.has_changed(self.integrand)
        received.restore(state)
        self.integrand.n_calls = n_calls


def _spent(deadline: Deadline, compiled: float) -> str:
    """Say how much of its time an integration took, and what of it compiled kernels."""
    text = f"it took {deadline.spent:.2f} of {deadline.seconds:g} s"
    if compiled > LEAST_COMPILED * deadline.seconds:
        text += f", {compiled:.1f} of them to compile kernels, which varflow warmup does ahead"
    return text


CHANGED = (
    "f has not the value that it had in the run that the checkpoint is of: it has changed, or is random, and "
    "the result mixes both"
)


def integrate(
    f: Callable[..., Any],
    bounds: Bounds,
    *,
    n_calls: int | None = None,
    rtol: float = 0.0,
    atol: float = 0.0,
    seconds: float | None = None,
    **options: Any,
) -> Result:
    """Integrate a function over a box.

    Parameters
    ----------
    f : callable
        The integrand, (n, d) -> (n,); see `Integrand` for all that it may be and return. With ``log=True``,
        its logarithm.
    bounds : int or sequence of (lower, upper) or Discrete
        Number of dimensions of the unit cube, or for each dimension a pair, which may be infinite, or a
        `Discrete`, over whose states the integral is a sum: f gets their numbers.
    n_calls : int, optional
        Largest number of calls of the integrand, at least 100. With fewer than 32768, as for an f that is
        dear, the flow is trained anew after each of a few rounds, which takes seconds. If not given, 400 000,
        or as many as there is time for, with `seconds`.
    rtol, atol : float
        Stop when the error is at most atol or rtol times the estimate; all calls or seconds are used where
        both are 0.
    seconds : float, optional
        Time that this may take, from the call on, by the clock on the wall: f and the compilation of kernels
        are included. The estimate is the best that varflow knows to make in that time: f is evaluated at 32
        points first, to see how long it takes, and training goes on as long as that pays. No call of f is
        ended early: the time is exceeded by what is left of one. The same seed does not give the same bits
        then, so that a checkpoint, a communicator and ``deterministic=True`` are refused.
    **options
        Arguments of `Integrator`. vegas's nitn and neval are `n_calls` here, which is their product.

    Returns
    -------
    Result
        The estimate: ``result.mean``, ``result.sdev``, and more; with ``log=True``, ``result.log_mean`` and
        ``result.log_sdev``.

    Raises
    ------
    TypeError, ValueError
        If an argument is refused, or `seconds` are over, by a tenth or by 0.3 s, before f is known at 32
        points, the fewest that give an error.
    Exception
        What the integrand raises, with the estimate so far in its attribute `partial`.

    Examples
    --------
    >>> f = lambda x: np.exp(-5 * x.sum(axis=1))  # (n, d) -> (n,)
    >>> result = vf.integrate(f, 2, n_calls=40_000, seed=1)
    >>> print(result)
    0.03946...

    Several integrands at once, and one over a plane that is given by its logarithm:

    >>> result = vf.integrate(lambda x: {"norm": f(x), "moments": (f(x) * x.T).T}, 2, n_calls=300, seed=1)
    >>> result.mean["moments"].shape
    (2,)
    >>> plane = [(-np.inf, np.inf), (-np.inf, np.inf)]
    >>> log_normal = lambda x: -0.5 * (x**2).sum(axis=1) - np.log(2 * np.pi)
    >>> print(vf.integrate(log_normal, plane, n_calls=300, log=True, seed=1))
    exp(0.011(30))

    What can be done in half a second:

    >>> result = vf.integrate(f, 2, seconds=0.5, seed=1)
    >>> result.sdev < 0.01 * result.mean, result.seconds > 0.4
    (True, True)
    """
    for name in ("nitn", "neval"):
        if name in options:
            raise TypeError(
                f"integrate has no {name}: give n_calls, which is nitn * neval in vegas, or call "
                "Integrator(f, bounds, n_iter=nitn, n_points=neval).integrate()"
            )
    deadline = Deadline.after(seconds)
    return Integrator(f, bounds, **options)._integrate_within(deadline, n_calls, rtol, atol)


def _on_cube(sample: Any, domain: Domain) -> Dataset:
    """Map weighted points from the coordinates of f to the unit cube."""
    bounds = finite_bounds(domain.bounds)
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

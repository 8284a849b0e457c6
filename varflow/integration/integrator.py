"""The integrator: a survey that trains a flow, and a refinement that estimates the integral with it."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from varflow.data.dataset import Dataset
from varflow.flow.flow import Flow
from varflow.integration.domain import Domain
from varflow.integration.integrand import Integrand
from varflow.integration.iteration import Iteration, scaled
from varflow.integration.make_engine import identity_of, make_engine, training_settings
from varflow.integration.outcome import outcome
from varflow.integration.plan import (
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
from varflow.integration.sampling import sampling_generator, unweighted_points, weighted_points
from varflow.integration.settings import IterationSizes, SurveySettings
from varflow.integration.state import DEFENSIVE_SHARE
from varflow.integration.tables import first_component
from varflow.runtime.archive import Kind, refused_as
from varflow.runtime.checkpoint import SECONDS, Checkpoint, CheckpointSettings, Saved
from varflow.runtime.progress import Progress
from varflow.runtime.ranks import as_communicator
from varflow.validation import positive_int

__all__ = ["Integrator", "integrate"]

FILE = Kind("varflow integration checkpoint", version=7, oldest=7, sealed=7)
PART = 8192  # points evaluated together where there is a checkpoint, which may be written after each
MAX_COORDINATE = 1e300  # coordinate of a given point where the bounds are infinite


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
        not given, they are kept for 500 components or fewer; `Result.sdev` is there anyway.
    latent_points : {"sobol", "random"}
        Latent points of the refinement: scrambled Sobol points, or pseudo-random ones.
    vectorized, workers, on_invalid
        See `Integrand`.
    log : bool
        Whether f returns the logarithm of a positive integrand, which may then underflow or overflow; -inf
        stands for 0. See `Result.log_mean`.
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
    callback : callable, optional
        Called after each iteration with the `Result` so far; where it returns something true, the
        integration ends there.
    comm : mpi4py.MPI.Intracomm, optional
        Ranks that share the calls of f: all must make the same calls with the same arguments, and all get the
        result. It has the same bits for any number of ranks, as long as f treats each point separately. What
        f raises on one of them is raised on all. The first has files, bar and callback to itself.

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
        use_survey: bool = True,
        covariance: bool | None = None,
        latent_points: str = "sobol",
        vectorized: bool = True,
        workers: Any = 1,
        on_invalid: str = "raise",
        log: bool = False,
        seed: int | None = None,
        threads: int | None = None,
        backend: str | None = None,
        progress: bool | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
        checkpoint_seconds: float = SECONDS,
        callback: Callable[[Result], object] | None = None,
        comm: Any = None,
    ) -> None:
        self._comm = as_communicator(comm)
        with self._comm.running():
            if not isinstance(trainer_options, dict | None):
                raise TypeError(f"trainer_options must be a dict, got {trainer_options!r}")
            if callback is not None and not callable(callback):
                raise TypeError(f"callback must be callable, got {callback!r}")
            settings = SurveySettings(survey_strategy, loss, latent_points, use_survey, covariance, seed)
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
            self.survey_strategy, self.progress, self.callback = survey_strategy, progress, callback
            self.domain, self._is_log = Domain(bounds), bool(log)
            self.integrand = Integrand(
                f,
                self.domain,
                vectorized=vectorized,
                workers=workers,
                on_invalid=on_invalid,
                log=self._is_log,
                comm=self._comm,
            )
            points = None if sample is None else self._comm.first(lambda: _on_cube(sample, self.domain))
            self._engine = make_engine(
                self.domain.bounds,
                settings,
                training,
                flow,
                flow_options,
                points,
                threads,
                backend,
                self._is_log,
                self._comm,
            )
            self._requests = Requests(self._engine)
            self._is_surveyed = self._has_integrand_changed = False
            identity = {
                "bounds": self.domain.bounds.tolist(),
                **identity_of(self._engine, settings, training, flow_options),
                "vectorized": vectorized,
                "on_invalid": on_invalid,
                "log": self._is_log,
                **asdict(self.sizes),
            }
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
            Largest number of calls of the integrand, at least 100, besides those of earlier integrations.
        rtol, atol : float
            Stop when the error, and its own uncertainty besides, is at most atol or rtol times the estimate,
            for all components. Where both are 0, all calls are used.

        Returns
        -------
        Result
            The estimate; a warning is in it if the tolerance was not reached.
        """
        agenda = integration(n_calls, rtol, atol)
        if self.survey_strategy != "replay":
            raise ValueError(
                "a number of calls or a tolerance needs survey_strategy='replay'; "
                f"for {self.survey_strategy!r} call Integrator(...).integrate()"
            )
        self._run(agenda, n_calls)
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
        result = outcome(self._engine.state, history, self.domain, self.integrand.received, self)
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
        """
        points = unweighted_points if unweight else weighted_points
        try:
            with self._comm.running():
                n = positive_int("n", n)
                self._comm.check_same("arguments", {"n": n, "unweight": unweight, "seed": seed})
                generator = sampling_generator(self._comm.first(lambda: np.random.SeedSequence(seed).entropy))
                u, weights = points(n, self.flow, DEFENSIVE_SHARE, self.integrand, generator, self._is_log)
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

    def _run(self, agenda: Agenda, n_calls: int) -> None:
        """Go through an agenda, as far as an earlier run has not, and with what it has left undone."""
        self._comm.check_same("arguments", {"what is to be done": in_words(described(agenda))})
        if not self._requests.begin(agenda):
            return
        with self._running(n_calls) as progress:
            self._engine.advance()
            while not self._engine.is_done:
                n_before = len(self._requests.history)
                self._evaluate()
                self._engine.advance()
                if len(self._requests.history) > n_before and self._is_enough(progress):
                    self._engine.begin([])
                self._checkpoint.step(self._saved)
            self._requests.end()

    def _evaluate(self) -> None:
        """Evaluate the integrand at the next points; those that fail are left for another time."""
        numbers, u = self._engine.ask(None if self._checkpoint.path is None else PART)
        try:
            evaluated = self.integrand.evaluate(u)
            self._engine.tell(numbers[evaluated.rows], evaluated.values)
        except BaseException:
            self._engine.take_back(numbers)
            raise
        if evaluated.error is not None:
            self._engine.take_back(np.delete(numbers, evaluated.rows))
            raise evaluated.error

    def _is_enough(self, progress: Progress) -> bool:
        """Show how far the integration has come, and ask the callback whether that is enough."""
        last, state = self._requests.history[-1], self._engine.state
        estimate = first_component(last.mean, last.covariance, state.exponent, state.is_log)
        progress.update(self._engine.n_told, last.stage, estimate)
        return self._comm.first(lambda: self.callback is not None and bool(self.callback(self.result())))

    @contextmanager
    def _running(self, n_calls: int) -> Iterator[Progress]:
        """Show progress, keep the state at the end, and attach the result so far to any exception."""
        is_shown = self.progress if self._comm.is_first else False
        try:
            with self._comm.running():
                self.integrand.open()
                with self._checkpoint.running():
                    with Progress(self._engine.n_told + n_calls, is_shown) as progress:
                        yield progress
                    self._checkpoint.try_to_write(self._saved)
        except BaseException as error:
            with suppress(Exception):  # some exceptions take no attributes, and there may be nothing yet
                error.partial = self.result() if self.history else None  # type: ignore[attr-defined]
            raise
        finally:
            self.close()

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
        memory, received = self._engine.state.memory, self.integrand.received
        if memory.n == 0:
            return
        state, n_calls, known = received.state(), self.integrand.n_calls, memory.arrays()
        found = self._engine.state.divided(self.integrand(known["u"][:1])).log_f
        received.restore(state)
        self.integrand.n_calls = n_calls
        self._has_integrand_changed = not np.allclose(found, known["log_f"][:1], rtol=0, atol=1e-6)


CHANGED = (
    "f has not the value that it had in the run that the checkpoint is of: it has changed, or is random, and "
    "the result mixes both"
)


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
        The integrand, (n, d) -> (n,); see `Integrand` for all that it may be and return. With ``log=True``,
        its logarithm.
    bounds : int or sequence of (lower, upper)
        Number of dimensions of the unit cube, or a pair for each dimension, which may be infinite.
    n_calls : int
        Largest number of calls of the integrand, at least 100. With fewer than 32768, as for an f that is
        dear, the flow is trained anew after each of a few rounds, which takes seconds.
    rtol, atol : float
        Stop when the error is at most atol or rtol times the estimate; all calls are used where both are 0.
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
        If an argument is refused.
    Exception
        What the integrand raises, with the estimate so far in its attribute `partial`.
    """
    for name in ("nitn", "neval"):
        if name in options:
            raise TypeError(
                f"integrate has no {name}: give n_calls, which is nitn * neval in vegas, or call "
                "Integrator(f, bounds, n_iter=nitn, n_points=neval).integrate()"
            )
    return Integrator(f, bounds, **options).integrate_to(n_calls, rtol, atol)


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

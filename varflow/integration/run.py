"""A run: an integration that whoever owns f drives, by asking for points and telling values."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from varflow.data.arrays import read_only
from varflow.flow.flow import Flow
from varflow.integration.calls import checked_values
from varflow.integration.domain import Bounds, Domain
from varflow.integration.iteration import Iteration, scaled
from varflow.integration.make_engine import make_engine, training_settings
from varflow.integration.open_points import OpenPoints
from varflow.integration.outcome import outcome
from varflow.integration.plan import N_CALLS, extension, integration
from varflow.integration.received import Received
from varflow.integration.result import Result
from varflow.integration.settings import SurveySettings
from varflow.markup import pairs
from varflow.runtime.archive import FilePath, Kind, read_archive, refused_as, write_archive
from varflow.validation import check_name, positive_int

__all__ = ["Run"]

FILE = Kind("varflow run", version=5, oldest=3, sealed=3)
PAUSE = 0.005  # seconds that `ask` takes where it has no points to give
TRAIN_IN = ("tell", "thread", "step")


class Run:
    """Integration that is driven from outside: `ask` for points, evaluate f there, `tell` the values.

    Parameters
    ----------
    bounds : int or sequence of (lower, upper)
        Number of dimensions of the unit cube, or a pair for each dimension, which may be infinite.
    n_calls : int, optional
        Largest number of values that the run uses, at least 100; see `integrate`. 400 000 if not given.
    rtol, atol : float
        Stop when the error is at most atol or rtol times the estimate; all calls are used where both are 0.
    seconds : None
        Refused: a run does not know when values come back. The caller, who does, ends it where time is over,
        and `result` has the estimate so far.
    loss : {"variance", "dkl"}
        As `Integrator` has it, and so are all that follow but the last.
    flow : str or Flow
        Kind of cell, or a flow that training goes on with.
    flow_options : dict, optional
        Arguments of `Flow` besides d and cell.
    use_survey : bool
        Whether rounds of the later half of the survey count in the result.
    covariance : bool, optional
        Whether to keep covariances of the components.
    latent_points : {"sobol", "random"}
        Latent points of the refinement.
    on_invalid : {"raise", "zero"}
        Whether values that are not finite are refused, or taken as 0.
    log : bool
        Whether logarithms of f are told.
    seed : int, optional
        Seed of everything random; drawn from the system if not given.
    threads : int, optional
        Threads of the flow.
    backend : {"cpu", "cuda", "auto"}, optional
        Backend of a flow to be made.
    train_in : {"tell", "thread", "step"}
        Where the flow is trained, which takes seconds: in the `tell` that completes what it learns from; in a
        thread that this `tell` starts, for which the next `ask`, `save` or `result` waits where it must; or
        in `step`, which the caller calls.

    Attributes
    ----------
    domain : Domain
        The box.
    n_calls : int
        Largest number of values.

    Raises
    ------
    TypeError, ValueError
        If an argument is refused.

    Notes
    -----
    To a tolerance, training goes on as long as it saves values, as in `Integrator` with `deterministic`.
    All methods may be called from several threads at once. `ask` hands each point out once. Where parts come
    back in another order, the result has the same bits, unless `ask` was called for more points than a round
    of training has: they are drawn before the flow has learnt from those that are not back yet.

    Examples
    --------
    >>> f = lambda x: np.exp(-5 * x.sum(axis=1))
    >>> run = vf.Run(2, n_calls=300, seed=1)
    >>> while (x := run.ask()) is not None:
    ...     run.tell(x, f(x))
    >>> run.is_done, run.n_told, run.has_result
    (True, 300, True)
    >>> print(run.result().mean == vf.integrate(f, 2, n_calls=300, seed=1).mean)
    True

    More points, which are handed out by their numbers. Some come back, others are lost, and the run goes
    through a file in between:

    >>> run.extend(300)
    >>> numbers = run.ask_numbers(100)
    >>> run.stage, run.n_open, len(run.history)
    ('refine', 100, 1)
    >>> run.tell(numbers[:90], f(run.points(numbers[:90])))
    >>> run.save("integral.run")
    >>> run = vf.Run.load("integral.run")
    >>> run.open_numbers()
    array([390, 391, 392, 393, 394, 395, 396, 397, 398, 399])
    >>> run.forget(run.open_numbers())
    >>> while (x := run.ask()) is not None:
    ...     run.tell(x, f(x))
    >>> run.result().n_calls == run.n_told
    True

    Where training is to be a step of its own:

    >>> run = vf.Run(2, n_calls=300, train_in="step", seed=1)
    >>> while (x := run.ask()) is not None:
    ...     run.tell(x, f(x))
    ...     while run.step():
    ...         pass
    >>> run.flow.d
    2
    """

    def __init__(
        self,
        bounds: Bounds,
        *,
        n_calls: int | None = None,
        rtol: float = 0.0,
        atol: float = 0.0,
        seconds: None = None,
        loss: str = "variance",
        flow: str | Flow = "pwquad",
        flow_options: dict[str, Any] | None = None,
        use_survey: bool = True,
        covariance: bool | None = None,
        latent_points: str = "sobol",
        on_invalid: str = "raise",
        log: bool = False,
        seed: int | None = None,
        threads: int | None = None,
        backend: str | None = None,
        train_in: str = "tell",
    ) -> None:
        check_name("train_in", train_in, TRAIN_IN)
        if seconds is not None:
            raise ValueError(
                f"seconds={seconds!r}: a run does not know when values come back; stop asking in time, and "
                "result() has the estimate so far; or let integrate(f, ..., seconds=) call f"
            )
        n_calls = N_CALLS if n_calls is None else n_calls
        agenda = integration(n_calls, rtol, atol)
        self.domain, self.n_calls = Domain(bounds), int(n_calls)
        if self.domain.discrete:
            raise ValueError(
                "a Run is for boxes of intervals, and these bounds have Discrete among them: take "
                "Integrator, which calls f, or sum over the states in f"
            )
        self._received = Received(on_invalid, bool(log))
        settings = SurveySettings("replay", loss, latent_points, use_survey, covariance, seed, True)
        self._engine = make_engine(
            self.domain,
            settings,
            training_settings("replay"),
            flow,
            flow_options,
            None,
            threads,
            backend,
            self._received.is_log,
        )
        self._open = OpenPoints(self.domain, self._engine)
        self._telling = threading.Lock()
        self._train_in = train_in
        self._settings = {  # that a file has to hold
            "loss": loss,
            "latent_points": latent_points,
            "use_survey": use_survey,
            "covariance": covariance,
            "on_invalid": on_invalid,
            "log": self._received.is_log,
            "train_in": train_in,
        }
        self._thread: ThreadPoolExecutor | None = None
        self._training: list[Future[bool]] = []
        self._engine.begin(agenda)
        self._engine.advance()  # to the first step that draws points

    # Points and values

    def ask(self, n: int | None = None) -> npt.NDArray[np.float64] | None:
        """Give points at which f is to be evaluated.

        Parameters
        ----------
        n : int, optional
            So many, or fewer where values must be told before there can be others. More than a round of
            training has are drawn from the flow as it is, which cannot learn from those before them; without
            n, there are as many as can be used without that.

        Returns
        -------
        ndarray, (m, d), or None
            Points in the coordinates of f, read-only, every one of them for the first time. None at the end
            of the run. With m = 0, all are out: values must be told first, or `step` is to be called.
        """
        asked = self._asked(n)
        return None if asked is None else read_only(self._open.in_box(asked[1])[0])

    def ask_numbers(self, n: int | None = None) -> npt.NDArray[np.int64] | None:
        """Do what `ask` does, but give the numbers of the points; see `points`.

        Parameters
        ----------
        n : int, optional
            How many; see `ask`.

        Returns
        -------
        ndarray of int, (m,), or None
            Their numbers, counted from 0 in the order in which points are drawn; None at the end of the run.
        """
        asked = self._asked(n)
        return None if asked is None else asked[0]

    def _asked(self, n: int | None) -> tuple[np.ndarray, np.ndarray] | None:
        """Give numbers and points on the unit cube; None at the end."""
        n = None if n is None else positive_int("n", n)
        numbers, u = self._engine.ask(n, ahead=True)
        if len(numbers) == 0 and self._train_in == "thread" and self.n_open == 0:
            self._wait()
            numbers, u = self._engine.ask(n, ahead=True)
        if len(numbers) == 0 and self.is_done:
            return None
        if len(numbers) == 0:
            time.sleep(PAUSE)  # callers in other threads, who have the points, go first
        return numbers, u

    def points(self, numbers: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Give the points of these numbers, which are open: asked for and not told.

        Parameters
        ----------
        numbers : array_like of int, (n,)
            Their numbers, counted from 0 in the order in which points are drawn.

        Returns
        -------
        ndarray, (n, d)
            The points, in the coordinates of f, read-only.

        Raises
        ------
        ValueError
            If a number is not that of an open point; the message names its row.
        """
        x, _ = self._open.locate(self._open.numbers(np.asarray(numbers, np.int64)))
        return read_only(x)

    def open_numbers(self) -> npt.NDArray[np.int64]:
        """Give the numbers of all points that were asked for and not told.

        Returns
        -------
        ndarray of int, (m,)
            The numbers; see `points`.
        """
        return self._engine.open_points()[0]

    def tell(self, points: npt.ArrayLike, values: Any) -> None:
        """Take the values of f at points that were asked for.

        Parameters
        ----------
        points : array_like, (n, d), or of int, (n,)
            The points, in any order and in parts of any size; coordinates are compared to nine digits. Or
            their numbers.
        values : array_like, (n,) or (n, ...), or dict of these
            The values of f, as a function for `integrate` would return them; with ``log=True``, their
            logarithms.

        Raises
        ------
        TypeError, ValueError
            If a point was never asked for, or told or forgotten already, or stands there twice; if values are
            not finite (`InvalidIntegrandError`) or of another shape than before. The message names the row.
            Nothing is taken then.
        """
        with self._telling:
            numbers, before = self._open.numbers(points), self._received.state()
            if len(numbers) == 0:
                return
            checked = checked_values(values, len(numbers))
            try:
                x, log_jacobian = self._open.locate(numbers)
                columns = self._received.columns([checked], "values must have the shape of those told before")
                self._engine.tell(numbers, self._received.on_cube(x, columns, log_jacobian, "values[{row}]"))
            except BaseException:
                self._received.restore(before)
                raise
            self._open.note(numbers, x)
        self._learn()

    def forget(self, points: npt.ArrayLike) -> None:
        """Give up points that will not come back: from jobs that have died, say.

        The estimate stays unbiased as long as it does not depend on f which points these are. Points that
        fail because f is large there, or slow, or raises, do depend on it: the estimate is then that of f
        without them, and no error tells how much is missing.

        Parameters
        ----------
        points : array_like, (n, d), or of int, (n,)
            The points, or their numbers; see `tell`.

        Raises
        ------
        TypeError, ValueError
            As for `tell`.
        """
        with self._telling:
            numbers = self._open.numbers(points)
            self._engine.forget(numbers)
            self._open.note(numbers, None)
        self._learn()

    def step(self) -> bool:
        """Train on what has been told, as far as that is complete.

        Returns
        -------
        bool
            Whether there was anything to do.
        """
        self._wait()
        return self._engine.advance()

    def _learn(self) -> None:
        """Train where the caller wants it."""
        if self._train_in == "tell":
            self._engine.advance()
        elif self._train_in == "thread" and self._engine.is_ready:
            self._thread = self._thread or ThreadPoolExecutor(1)
            self._training.append(self._thread.submit(self._engine.advance))

    def _wait(self) -> None:
        """Wait for the thread, and raise what it has raised."""
        training, self._training = self._training, []
        for future in training:
            future.result()

    # How far it is

    @property
    def is_done(self) -> bool:
        """Whether the run has come to its end."""
        return self._engine.is_done

    @property
    def n_told(self) -> int:
        """Number of values so far."""
        return self._engine.n_told

    @property
    def n_open(self) -> int:
        """Number of points that were asked for and not told."""
        return self._engine.n_open

    @property
    def stage(self) -> str:
        """What the points at hand are for: "survey", "scouts", "regain" or "refine"; "done" at the end."""
        return self._engine.stage

    @property
    def flow(self) -> Flow:
        """The flow on the unit cube, as it is."""
        return self._engine.state.flow

    @property
    def history(self) -> list[Iteration]:
        """All iterations so far."""
        state = self._engine.state
        return [scaled(iteration, state.exponent) for iteration in state.history]

    def _repr_html_(self) -> str:
        """Return how far the run is as HTML, for notebooks."""
        shown = {
            "stage": self.stage,
            "values told": f"{self.n_told:,} of {self.n_calls:,}",
            "points out": f"{self.n_open:,}",
            "iterations": len(self.history),
        }
        return pairs("Run", shown)

    @property
    def has_result(self) -> bool:
        """Whether there is an estimate yet."""
        return any(iteration.stage in ("survey", "refine") for iteration in self._engine.state.history)

    def result(self) -> Result:
        """Return the result so far; before any refinement it is that of the survey.

        Returns
        -------
        Result
            The result, without an integrand.

        Raises
        ------
        RuntimeError
            If there is nothing yet.
        """
        self._wait()
        state = self._engine.state
        return outcome(state, state.history, self.domain, self._received, None)

    def extend(self, n_calls: int) -> None:
        """Ask for more points, for a smaller error, once the run has come to its end.

        Parameters
        ----------
        n_calls : int
            Number of points to add, at least 32; a few less where they do not make batches of equal size.

        Raises
        ------
        TypeError, ValueError
            If they are too few.
        RuntimeError
            If the run has not ended yet.
        """
        agenda = extension(n_calls)
        if not self.is_done:
            raise RuntimeError(f"the run goes on: {self.n_told} of {self.n_calls} values are told")
        self.n_calls += int(n_calls)
        self._engine.begin(agenda)

    # Files

    def save(self, path: FilePath) -> None:
        """Write all of the run to a file, points that are out included.

        Parameters
        ----------
        path : str or path
            The file. One that exists is replaced once the new one is complete.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        self._wait()
        header, arrays = self._engine.saved()
        header = {
            "engine": header,
            "n_calls": self.n_calls,
            "settings": self._settings,
            "received": self._received.state(),
            "flow": self.flow.description(),
        }
        arrays |= {"bounds": self.domain.bounds} | self._open.arrays()
        write_archive(path, FILE, header, arrays)

    @classmethod
    def load(cls, path: FilePath, *, threads: int | None = None, backend: str = "cpu") -> "Run":
        """Read a run from a file.

        Parameters
        ----------
        path : str or path
            A file that `save` has written.
        threads : int, optional
            Threads of the flow; see `Flow`.
        backend : {"cpu", "cuda", "auto"}
            Backend of the flow; see `Flow`.

        Returns
        -------
        Run
            The run. Points that were out may still be told.

        Raises
        ------
        FileFormatError
            If the file does not hold a run, is cut short or damaged, or has an unknown version.
        OSError
            If the file cannot be opened.
        """
        header, arrays = read_archive(path, FILE)
        with refused_as(path, "run", (KeyError, TypeError, ValueError)):
            run = cls(
                arrays["bounds"],
                n_calls=header["n_calls"],
                flow=Flow.from_description(header["flow"], arrays["params"], threads, backend),
                **header["settings"],
            )
            run._engine.restore(header["engine"], arrays)
            run._received.restore(header["received"])
            run._open.restore(arrays)
        return run

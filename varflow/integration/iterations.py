"""Iterations of an integration: each draws points, evaluates the integrand at them, and adds an estimate."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from varflow.data.dataset import Dataset
from varflow.flow.elementwise import fit_elementwise
from varflow.flow.flow import Flow
from varflow.integration.estimates import Batches, magnitudes
from varflow.integration.integrand import Integrand
from varflow.integration.iteration import Iteration, pack_history, unpack_history
from varflow.integration.journal import Journal, Mark
from varflow.integration.proposal import draw
from varflow.integration.scout import MAX_STEPS, N_WALKERS, Walkers, draw_around, wander
from varflow.integration.survey import MIN_ROUNDS, Memory, Replay, choose_points, stage_optimiser
from varflow.integration.tables import format_estimate
from varflow.runtime.archive import refused_as
from varflow.runtime.checkpoint import Checkpoint, Saved
from varflow.runtime.progress import Progress
from varflow.training.adam import Adam, AdamState
from varflow.training.data_checks import has_enough
from varflow.training.stateful_trainers import BasicStatefulTrainer
from varflow.training.tempering import tempered_power

__all__ = ["DEFENSIVE_SHARE", "LOOK", "MANY_BATCHES", "MIN_POINTS", "SCOUT_SHARE", "Iterations"]

logger = logging.getLogger(__name__)

# Scrambles of an iteration: their scatter gives the error, good to a fifth or an eighth.
FEW_BATCHES, MANY_BATCHES = 16, 32
FEW_CALLS = 8192  # below which an iteration has few
MIN_POINTS = 2 * FEW_BATCHES
GROUP = 131_072  # points evaluated together, at least
LOOK = 4096  # points of an iteration that looks how good the flow is
MIN_FITTED = 64  # points where f is not zero, that an element-wise map is fitted to
DEFENSIVE_SHARE = 0.01  # of the points that estimate the integral
USUAL_RATE = 0.65  # power of n with which errors of Sobol points fall
SCOUT_SHARE = 0.05  # of the calls, at most, that look for regions the flow has lost
UNSEEN = 10  # a region is lost where fewer points would stand for all of the integral, were it there
MAX_MAGNITUDE = 1e140  # |f| beyond which squares overflow

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
    trainer : BasicStatefulTrainer
        Trainer of that flow, for strategies other than replay.
    checkpoint : Checkpoint
        Where the state is kept, and what an earlier run has left.

    Attributes
    ----------
    history : list of Iteration
        All of them; where an earlier run is gone through again, those of the operations so far.
    n_calls : int
        How many points the integrand has been evaluated at, likewise.
    memory : Memory
        Points of the survey.
    rate : float
        Power of n with which the error seems to fall.
    power : float
        How close the flow of the last look is to the integrand, up to 1; see `tempered_power`.
    heaviest : float
        Largest share of one point in the sum of the weights of an iteration that counts.
    walkers : Walkers
        The last that looked for regions the flow has lost.
    log_lost : ndarray
        Log of f/q, in units of the integral of |f|, where they ended.
    n_skipped : int
        Training steps that were left out because the gradient was not finite.
    has_integrand_changed : bool
        Whether the integrand gave another value than in the run that the checkpoint is of.
    """

    def __init__(
        self,
        integrand: Integrand,
        flow: Flow,
        generator: np.random.Generator,
        make_points: MakePoints,
        loss: str,
        counts_survey: bool,
        trainer: BasicStatefulTrainer,
        checkpoint: Checkpoint,
    ) -> None:
        self.integrand, self.flow, self.generator = integrand, flow, generator
        self.memory = Memory(flow.d)
        self.heaviest = 0.0
        self.walkers = Walkers(np.empty((0, flow.d)), np.empty(0), np.empty(0))
        self.log_lost = np.empty(0)
        self.has_integrand_changed = False
        self._make_points, self._counts_survey, self._trainer = make_points, counts_survey, trainer
        self._checkpoint = checkpoint
        start = Mark("start", 0, 0, USUAL_RATE)
        self._journal = Journal(integrand, start, self._keep_state, checkpoint.path is not None)
        self._replay = Replay(flow, self._evaluate, self.memory, generator, loss)
        self._history: list[Iteration] = []
        self._rate, self._power = USUAL_RATE, 1.0
        self._expected = np.zeros(1)  # the integrals, as far as they are known
        self._kept = flow.params.copy()  # parameters to go back to
        self._stage: _Stage | None = None  # the one at hand
        saved = checkpoint.read()
        if saved is not None:
            self._restore(*saved)
        self._note_place()

    @property
    def history(self) -> list[Iteration]:  # noqa: D102 - see the class
        last = self._journal.last
        return self._history if last is None else self._history[: last.n_history]

    @property
    def n_calls(self) -> int:  # noqa: D102 - see the class
        last = self._journal.last
        return self.integrand.n_calls if last is None else last.n_calls

    @property
    def rate(self) -> float:  # noqa: D102 - see the class
        last = self._journal.last
        return self._rate if last is None else last.rate

    @property
    def power(self) -> float:  # noqa: D102 - see the class
        last = self._journal.last
        return self._power if last is None else last.power

    def is_lost(self, n_points: int) -> np.ndarray:
        """Which walkers, (n,) bool, ended in a region that so many points of the flow would not see."""
        is_lost: np.ndarray = self.log_lost > _log_unseen(n_points)
        return is_lost

    def has_lost(self, n_points: int) -> bool:
        """Whether any walker did."""
        last = self._journal.last
        return (self._largest_lost() if last is None else last.log_lost) > _log_unseen(n_points)

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
        return _checked(self.integrand(u))

    def _evaluate(self, u: np.ndarray) -> np.ndarray:
        """Evaluate the integrand as part of an operation; see `Journal`."""
        return _checked(self._journal.evaluate(u))

    def look(self, progress: Progress) -> Iteration:
        """Estimate the integral with the flow as it is, to see how good that is.

        The estimate is not part of the result, as it decides which flow is kept; its points are trained on.
        """
        self._do("look", lambda: self._look(progress))
        return self.history[-1]

    def keep(self) -> None:
        """Remember the flow's parameters, for `go_back`."""
        self._do("keep", lambda: np.copyto(self._kept, self.flow.params))

    def go_back(self) -> None:
        """Give the flow the parameters that were remembered last."""
        self._do("go back", lambda: np.copyto(self.flow.params, self._kept))

    def fit_map(self) -> None:
        """Give a flow that was not trained yet an element-wise map, fitted to the points of the last look."""
        self._do("fit map", self._fit_map)

    def keep_map(self) -> None:
        """Remember the flow's parameters, and of all points those of the last look alone."""
        self._do("keep map", self._keep_map)

    def end_maps(self) -> None:
        """Go back to the parameters that were remembered last, and to the points of their look."""
        self._do("end maps", self._end_maps)

    def refine(self, n_calls: int, progress: Progress) -> None:
        """Estimate the integral from fresh points of the flow as it is, for the result."""
        self._do(f"refine {n_calls}", lambda: self._estimate(n_calls, "refine", progress))

    def stage(self, n_rounds: int, share_of_dkl: float, progress: Progress) -> None:
        """Train in rounds of replay; a tenth of them at a time is an iteration."""
        self._do(
            f"stage {n_rounds} {share_of_dkl}", lambda: self._go_through(n_rounds, share_of_dkl, progress)
        )

    def train(self, data: Dataset) -> None:
        """Train on given points."""
        self._do("train", lambda: self._trainer.train_on_dataset(data))

    def survey(self, strategy: str, k: int, n_points: int, progress: Progress) -> None:
        """Train on the points of iteration k, from 0, of a strategy that uses each in one iteration only."""
        self._do(f"{strategy} {k} {n_points}", lambda: self._survey_once(strategy, k, n_points, progress))

    def scout(self, n_calls: int) -> None:
        """Look for regions that the flow has lost, with a small share of n_calls; see `log_lost`."""
        self._do(f"scout {n_calls}", lambda: self._send_scouts(n_calls))

    def regain(self, n_points: int) -> None:
        """Draw points to be trained on, in regions that n_points of the flow would not see; see `is_lost`.

        Estimates so far are without these regions, and do not count any more.
        """
        self._do(f"regain {n_points}", lambda: self._draw_where_lost(n_points))

    def running(self) -> AbstractContextManager[None]:
        """Let signals stop the operations of the block; see `Checkpoint.running`."""
        return self._checkpoint.running()

    def save(self) -> None:
        """Write the checkpoint at the end of a call."""
        self._checkpoint.try_to_write(self._state)

    # What they do

    def _look(self, progress: Progress) -> None:
        self._estimate(LOOK, "survey", progress)
        self._power = tempered_power(self.memory.log_weights(self.memory.latest(LOOK)))

    def _fit_map(self) -> None:
        rows = self.memory.latest(LOOK)
        log_weights = self.memory.log_weights(rows)
        if np.count_nonzero(log_weights > -math.inf) >= MIN_FITTED:
            with np.errstate(under="ignore"):
                weights = np.exp(self._power * (log_weights - log_weights.max()))
            fit_elementwise(self.flow, self.memory.u[rows], weights)

    def _keep_map(self) -> None:
        np.copyto(self._kept, self.flow.params)
        self.memory.keep(self.memory.latest(LOOK))

    def _end_maps(self) -> None:
        np.copyto(self.flow.params, self._kept)
        # Other maps are far off where they miss a region, and the weights of their points are large there.
        self.memory.keep(slice(LOOK))

    def _go_through(self, n_rounds: int, share_of_dkl: float, progress: Progress) -> None:
        n_iterations = max(1, min(10, n_rounds // MIN_ROUNDS))
        ends = [k * n_rounds // n_iterations for k in range(1, n_iterations + 1)]
        stage = self._stage = self._stage or _Stage(0, stage_optimiser(), Batches(self._expected))
        begin = time.perf_counter()
        for points, values in self._replay.stage(n_rounds, share_of_dkl, stage.optim, stage.n_rounds):
            stage.n_rounds += 1
            stage.batches.add(points, values)
            if stage.n_rounds in ends:
                # Later flows are better: the square-root rule of Owen and Zhou, arXiv 1901.02976.
                weight = stage.batches.n * math.sqrt(stage.n_rounds / n_rounds)
                self._append("survey", stage.batches, begin, self._counts_survey, weight, progress)
                stage.batches, begin = Batches(self._expected), time.perf_counter()
            self._note_place()
        self._stage = None

    def _survey_once(self, strategy: str, k: int, n_points: int, progress: Progress) -> None:
        begin = time.perf_counter()
        n_points = n_points // FEW_BATCHES * FEW_BATCHES
        points = choose_points(strategy, k, self.flow, n_points, self.generator, self.memory)
        values = self._evaluate(points.u)
        size = magnitudes(values)
        self.memory.add(points.u, size, points.log_q)
        if has_enough(n_points, int(np.count_nonzero(size))):
            self._trainer.train_on_dataset(Dataset(points.u, logpx=points.log_q, fx=size))
        batches = Batches(self._expected)
        batches.add(points, values, FEW_BATCHES)
        self._append("survey", batches, begin, False, 0.0, progress)

    def _send_scouts(self, n_calls: int) -> None:
        begin, n_before = time.perf_counter(), self.integrand.n_calls
        n_steps = min(MAX_STEPS, int(SCOUT_SHARE * n_calls) // N_WALKERS - 1)
        log_mean = self.memory.log_mean(self.memory.n // 2)
        if n_steps < 1 or log_mean == -math.inf:
            return
        self.walkers = wander(self._log_magnitude, self.flow.d, n_steps, self.generator)
        log_q = np.logaddexp(self.flow.log_prob(self.walkers.u), math.log(DEFENSIVE_SHARE))
        self.log_lost = self.walkers.log_f - log_q - log_mean
        self._append_search("scouts", self.integrand.n_calls - n_before, begin)

    def _draw_where_lost(self, n_points: int) -> None:
        begin, is_lost = time.perf_counter(), self.is_lost(n_points)
        u, log_q = draw_around(Walkers(*(part[is_lost] for part in self.walkers)), LOOK, self.generator)
        magnitude = magnitudes(self._evaluate(u))
        # Of all points, so many are in regions known before that those in others would be chosen too rarely.
        self.memory.keep(self.memory.latest(LOOK))
        self.memory.add(u, magnitude, log_q)
        self._history = [replace(iteration, is_used=False) for iteration in self._history]
        self.heaviest = 0.0
        self._append_search("regain", LOOK, begin)
        logger.info("regain: the flow has lost regions where %d walkers ended", np.count_nonzero(is_lost))

    def _append_search(self, stage: str, n_calls: int, begin: float) -> None:
        """Append an iteration without an estimate."""
        m = len(self._history[-1].mean)
        nothing, seconds = (np.full(m, math.nan), np.full((m, m), math.nan)), time.perf_counter() - begin
        self._history.append(Iteration(stage, n_calls, *nothing, math.nan, seconds, False, 0.0))

    def _largest_lost(self) -> float:
        known = self.log_lost[: len(self.walkers.u)]  # none where it comes from a file of version 1
        return float(known.max(initial=0.0))

    def _log_magnitude(self, u: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            log_magnitude: np.ndarray = np.log(magnitudes(self._evaluate(u)))
        return log_magnitude

    def _estimate(self, n_calls: int, stage: str, progress: Progress) -> None:
        begin = time.perf_counter()
        n_batches = FEW_BATCHES if n_calls < FEW_CALLS else MANY_BATCHES
        n_each = n_calls // n_batches
        n_uniform = max(1, round(DEFENSIVE_SHARE * n_each))
        at_once = max(1, GROUP // n_each)
        batches = Batches(self._expected)
        try:
            for first in range(0, n_batches, at_once):
                n = min(at_once, n_batches - first)
                points = draw(self.flow, self._latent(n, n_each - n_uniform), self._latent(n, n_uniform))
                values = self._evaluate(points.u)
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
        self._history.append(
            Iteration(stage, batches.n, mean, covariance, batches.ess, seconds, counts, weight)
        )
        self._expected = mean
        self._rate = (batches.rate + USUAL_RATE) / 2  # some scrambles leave much noise in it
        if counts:
            self.heaviest = max(self.heaviest, batches.largest_share)
        text = format_estimate(float(mean[0]), math.sqrt(covariance[0, 0]))
        logger.info("%s: %s, %d calls", stage, text, self.integrand.n_calls)
        progress.update(self.integrand.n_calls, stage, text)

    # How they are kept

    def _do(self, name: str, operation: Callable[[], object]) -> None:
        """Do the next operation of the integration, unless an earlier run has done it."""
        if self._journal.is_done(name):
            return
        operation()
        n_calls = self.integrand.n_calls
        self._journal.marks.append(
            Mark(name, len(self._history), n_calls, self._rate, self._power, self._largest_lost())
        )
        self._note_place()

    def _note_place(self) -> None:
        """Note that a run can go on from here: only what the integrand gives is kept in between."""
        self._journal.forget_values()
        self._place = self.generator.bit_generator.state, self.memory.n
        self._keep_state()

    def _keep_state(self) -> None:
        """Write the checkpoint if it is time to: while values come in, all else is as at the place."""
        self._checkpoint.step(self._state)

    def _state(self) -> Saved:
        """State at the place that was noted last, and the values since, for a file."""
        generator_state, n_memory = self._place
        header, arrays = self._journal.state()
        header |= {
            "generator": _as_lists(generator_state),
            "stages": [iteration.stage for iteration in self._history],
            "rate": self._rate,
            "power": self._power,
            "heaviest": self.heaviest,
            "n_skipped": self._replay.n_skipped,
            "n_rounds": None if self._stage is None else self._stage.n_rounds,
        }
        arrays |= self.memory.arrays(n_memory) | pack_history(self._history, len(self._expected))
        arrays |= {"params": self.flow.params, "kept": self._kept, "expected": self._expected}
        arrays |= {f"walkers_{name}": part for name, part in self.walkers._asdict().items()}
        arrays |= {"log_lost": self.log_lost}
        if self._optim is not None:
            arrays |= self._optim.state().arrays("trainer")
        if self._stage is not None:
            arrays |= self._stage.optim.state().arrays("stage") | self._stage.batches.arrays("batches")
        return header, arrays

    def _restore(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Go on from a file."""
        with refused_as(str(self._checkpoint.path), "checkpoint", (KeyError, TypeError, ValueError)):
            self._journal.restore(header, arrays)
            self.generator.bit_generator.state = header["generator"]
            self._rate, self.heaviest = header["rate"], header["heaviest"]
            self._power = header.get("power", 1.0)  # without a map, where version 1 had none
            self._replay.n_skipped = header["n_skipped"]
            self._expected, self.log_lost = arrays["expected"], arrays["log_lost"]
            if "walkers_u" in arrays:  # version 1 has no more than log_lost
                self.walkers = Walkers(*(arrays[f"walkers_{name}"] for name in Walkers._fields))
            self._history = unpack_history(header["stages"], arrays, len(self._expected))
            self.memory.restore(arrays)
            np.copyto(self.flow.params, arrays["params"])
            np.copyto(self._kept, arrays["kept"])
            if self._optim is not None:
                self._optim.restore(AdamState.of("trainer", arrays))
                self._optim.claim(self.flow.params)
            if header["n_rounds"] is not None:
                optim = stage_optimiser()
                optim.restore(AdamState.of("stage", arrays))
                self._stage = _Stage(header["n_rounds"], optim, Batches.of("batches", arrays))
        self._compare_integrand()

    @property
    def _optim(self) -> Adam | None:
        """Optimiser of the trainer, where it goes on from one training to the next."""
        optim: Adam | None = self._trainer.get_config()["optim"]
        return optim

    def _compare_integrand(self) -> None:
        """Find out whether the integrand gives what it gave the earlier run; the call does not count."""
        if self.memory.n == 0:
            return
        state, known = self.integrand.state(), self.memory.arrays(1)
        with np.errstate(divide="ignore"):
            found = np.log(magnitudes(self.integrand(known["u"])))
        self.integrand.restore(state)
        self.has_integrand_changed = not np.allclose(found, known["log_f"], rtol=0, atol=1e-6)


@dataclass
class _Stage:
    """Where a stage stands."""

    n_rounds: int  # done
    optim: Adam
    batches: Batches  # of the iteration at hand


def _log_unseen(n_points: int) -> float:
    """Log of f/q, in units of the integral, beyond which n_points see nothing of a region."""
    return math.log(max(1.0, n_points / UNSEEN))


def _checked(values: np.ndarray) -> np.ndarray:
    largest = float(np.abs(values).max())
    if largest > MAX_MAGNITUDE:
        raise ValueError(f"|f| is up to {largest:.3g}, whose square overflows: use other units for f")
    return values


def _as_lists(state: Any) -> Any:
    """State of a generator in what JSON can hold; generators take lists for arrays."""
    if isinstance(state, Mapping):
        return {name: _as_lists(value) for name, value in state.items()}
    return state.tolist() if isinstance(state, np.ndarray) else state

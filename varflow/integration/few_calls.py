"""Integration with few calls of an f that is dear: training costs nothing beside it, points cost all.

A survey of a few rounds comes first. Round 0 draws from the flow as it is given, which is uniform where it is
new. After each round the flow is trained anew on all points so far, as a fixed set of points is learnt
(`varflow.training.recipe`); a new flow begins with an element-wise map fitted to them, so that separable and
singular integrands are followed like VEGAS follows them. The next round draws from it. The flow of the best
round estimates the integral with the calls that are left, about half of them. Where few points have all of
the weight, and others a little, small rounds from the map alone come before: they climb from the tails of a
narrow peak. Each map is fitted to weights that are tempered until ``EFFECTIVE_SHARE`` of the points of a
round count: a share of all points would be too much to ask, since those of round 0 hold the power down.

**Density of the points.** With q_k the density that the n_k points of round k were drawn from, all points get
the density of the mixture, sum_k n_k q_k / sum_k n_k (the balance heuristic of Veach and Guibas, SIGGRAPH
1995, section 3.2; for densities that are learnt from earlier points, Cornuet et al., Scand. J. Stat. 39
(2012) 798). A point of an early round that happened to hit a peak thus weighs no more than the others there.
The mixture is used for learning alone, so that its slight bias does no harm.

**Points.** A round is one scrambled Sobol set, and so accurate as a whole. The scatter of its consecutive
blocks gives the error. Blocks of such a set repel each other, so that the error is rather too large: with so
few points, independent scrambles would be of so few points each that nothing would be left of their accuracy.
There are 16 blocks or some less, or one for each 8 points where that is fewer. So few make their scatter
uncertain: the error is the standard deviation of Student's t with as many degrees of freedom as
blocks, less one, which is 1.07 times the scatter for 16.

**Which flow is best** is told by the error relative to the mean of |f|/q, scaled to equal numbers of points
by the power of n with which errors of Sobol points usually fall. That of so few points says little, and a
later flow has learnt from more of them: it is preferred unless its figure is larger by the factor
``PREFERENCE``, as where training has failed.

Below ``MIN_LEARNT`` calls, nothing is learnt that would pay: all of them are one Sobol set from the flow as
it is given. The constants are those of the best of several recipes on the cases of
`tests/benchmarks/few_calls.py`.
"""

import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from varflow.data.dataset import Dataset
from varflow.errors import TrainingInterruption
from varflow.integration import clock
from varflow.integration.state import State
from varflow.integration.steps import Blocks, Step
from varflow.training.data_checks import has_enough
from varflow.training.recipe import n_epochs_for, rows_a_step
from varflow.training.record import TrainingRecord
from varflow.training.stateful_trainers import BasicStatefulTrainer
from varflow.training.tempering import effective_size, tempered_power

__all__ = ["MIN_LEARNT", "STEPS", "USUAL_SHARE", "estimate_blocks", "survey_of_few"]

logger = logging.getLogger(__name__)

MIN_LEARNT = 400  # calls from which on a flow pays
FIRST_SHARE, ROUND_SHARE = 1 / 6, 1 / 15  # of the calls: those of round 0, and of each later one
N_ROUNDS = 5  # after round 0
DEFENSIVE_SHARE_OF_ROUNDS = 0.05  # of the points of a round: few points need more to find what is missing
DEFENSIVE_SHARE_OF_ESTIMATE = 0.03
PREFERENCE = 4.0  # for later flows
MIN_CLIMBING, MAX_CLIMBING = 32, 300  # points of a round that only climbs
MIN_FITTED = 2  # points where f is not zero, that an element-wise map is fitted to
MIN_EFFECTIVE = 20.0  # points by weight, from which on there is more to be learnt than the map
NEAR = 0.3  # power of the weights from which on a flow finds the rest of the way
CALLS_A_DIMENSION = 1000  # with which it does; with fewer, only a map that has come all the way will do
TAIL = 3.0  # points that are not zero, for each of them
CLIMB_SHARE, MAX_CLIMBING_SHARE = 1 / 40, 1 / 4  # of the calls: in each such round, and in all at most
EFFECTIVE_SHARE = 1 / 3  # of the points of such a round: by weight, so many make the map of the next one
SHARE_OF_LEARNING = 0.25  # of the time that is left, in a training: at most twice that where it takes longer
LEAST_EPOCHS = 0.25  # of a training in the usual ones: it does not pay with fewer
WATCHED_STEPS = 8  # after which it is known how long they take
USUAL_SHARE = FIRST_SHARE + N_ROUNDS * ROUND_SHARE  # of the calls, in a survey without climbing


def survey_of_few(n_calls: int, state: State, share: float = USUAL_SHARE + MAX_CLIMBING_SHARE) -> list[Step]:
    """Make the steps of a survey that belongs to so many calls in all, and ends with the best flow.

    share: of the calls that it takes at most.
    """
    state.rounds.clear()
    if n_calls < MIN_LEARNT:
        return []
    defensive = 0.0 if state.is_untouched else DEFENSIVE_SHARE_OF_ROUNDS
    near = NEAR if n_calls >= CALLS_A_DIMENSION * state.flow.d else 1.0
    n_climb = min(max(int(CLIMB_SHARE * n_calls), MIN_CLIMBING), MAX_CLIMBING)
    return [
        Blocks(int(FIRST_SHARE * n_calls), "survey", defensive, 0.0),
        Judge(True),
        Climb(n_climb, int(MAX_CLIMBING_SHARE * n_calls) // n_climb, near),
        NextRound(int(ROUND_SHARE * n_calls), state.n_calls + int(share * n_calls)),
    ]


def estimate_blocks(n_calls: int, state: State) -> Blocks:
    """Make the step that estimates the integral with so many points."""
    is_uniform = state.is_flow_new and not state.is_trained
    return Blocks(n_calls, "refine", 0.0 if is_uniform else DEFENSIVE_SHARE_OF_ESTIMATE)


@dataclass
class Climb(Step):
    """Draw a small round from an element-wise map, up to n_rounds times, while few points have all weight.

    From the tails of a narrow peak, the next round is closer to it. Flows, which also follow what coordinates
    have in common, take over once the map has come near.

    Attributes
    ----------
    n_calls : int
        Points of the round.
    n_rounds : int
        How many may still come.
    near : float
        Power of the weights from which on the map is near.
    """

    n_calls: int
    n_rounds: int
    near: float

    def then(self, state: State) -> list[Step]:
        """Decide on a round."""
        least = max(MIN_EFFECTIVE, EFFECTIVE_SHARE * self.n_calls)
        if self.n_rounds == 0 or not state.is_flow_new or not _is_far(state, least, self.near):
            return []
        blocks = Blocks(self.n_calls, "survey", DEFENSIVE_SHARE_OF_ROUNDS, 0.0)
        return [FitMapAlone(least), blocks, Judge(False), Climb(self.n_calls, self.n_rounds - 1, self.near)]


@dataclass
class FitMapAlone(Step):
    """Give a new flow nothing but an element-wise map, of points whose weights are tempered.

    Attributes
    ----------
    least : float or None
        Their effective number: with fewer, the map follows single points; with more, it climbs slowly. None
        where the map does not go on climbing.
    """

    least: float | None

    def then(self, state: State) -> list[Step]:
        """Fit it."""
        _begin_anew(state, self.least)
        return []


@dataclass
class NextRound(Step):
    """Learn, and draw a round from the flow; after the last one, go back to the best flow.

    Attributes
    ----------
    n_calls : int
        Points of the round, or fewer where climbing has left fewer until end_calls.
    end_calls : int
        Calls that are not to be exceeded.
    k : int
        Number of the round, from 0.
    """

    n_calls: int
    end_calls: int
    k: int = 0

    def then(self, state: State) -> list[Step]:
        """Decide on the round."""
        n_left = N_ROUNDS - self.k
        if n_left == 0:
            return [Return()]
        n_points = min(self.n_calls, (self.end_calls - state.n_calls) // n_left)
        blocks = Blocks(n_points, "survey", DEFENSIVE_SHARE_OF_ROUNDS, self.k / N_ROUNDS)
        if not _has_time(state):
            state.notes.append(_too_long(state))
            has_to_fit = state.is_flow_new and self.k == 0
            return [FitMapAlone(None), blocks, Judge(False), Return()] if has_to_fit else [Return()]
        return [Learn(), blocks, Judge(False), NextRound(self.n_calls, self.end_calls, self.k + 1)]


@dataclass
class Learn(Step):
    """Train the flow anew, on all points so far."""

    def then(self, state: State) -> list[Step]:
        """Train."""
        logger.info("the flow is trained anew on %d points", state.memory.n)
        points = state.memory.arrays()
        if state.is_flow_new:
            _begin_anew(state)
        seed = int(state.generator.integers(2**31))
        if has_enough(state.memory.n, int(np.count_nonzero(points["log_f"] > -math.inf))):
            data = Dataset(points["u"], logpx=points["log_q"], logfx=points["log_f"])
            is_done = False
            while not is_done and _has_time(state):  # it may turn out that fewer epochs fit into it
                is_done = _learn(data, seed, state)
        return []


def _learn(data: Dataset, seed: int, state: State) -> bool:
    """Train the flow on points, and tell whether there was time; if not, it is as before.

    Where time is limited, the steps so far tell how long all of them take.
    """
    trainer = _QuietTrainer(
        state.flow, loss=state.replay.loss, seed=seed, p_normalized=True, comm=state.trainer.comm
    )
    before, begin, deadline = state.flow.params.copy(), clock.work_done(), state.deadline
    most, n_epochs = 2 * SHARE_OF_LEARNING * deadline.left, _n_epochs(state)

    def watch(record: TrainingRecord) -> None:
        state.show_training(record.step / (record.planned_steps or 1))
        seconds_a_step = (clock.work_done() - begin) / max(record.step, 1)
        if record.step >= WATCHED_STEPS and n_epochs * _steps_an_epoch(data.n) * seconds_a_step > most:
            state.costs.note_steps(seconds_a_step, 1)
            raise _TooLongError

    limited: dict[str, Any] = {"n_epochs": n_epochs} if deadline else {}
    try:
        trainer.train_on_dataset(data, callback=watch, **limited)
    except TrainingInterruption:
        np.copyto(state.flow.params, before)
    except _TooLongError:
        np.copyto(state.flow.params, before)
        return False
    state.costs.note_steps(clock.work_done() - begin, n_epochs * _steps_an_epoch(data.n))
    return True


@dataclass
class Judge(Step):
    """Keep the flow of the last round if it is the best, or the first."""

    is_first: bool

    def then(self, state: State) -> list[Step]:
        """Compare."""
        if self.is_first or not state.figure > PREFERENCE * state.best_figure:
            state.keep()
            state.best_figure = state.figure
        return []


@dataclass
class Return(Step):
    """Go back to the best flow."""

    def then(self, state: State) -> list[Step]:
        """Go back."""
        logger.info("the flow of the best round is taken")
        state.go_back()
        state.is_surveyed = True
        return []


STEPS = (Climb, FitMapAlone, NextRound, Learn, Judge, Return)


class _TooLongError(Exception):
    """There is no time for a training that has begun."""


class _QuietTrainer(BasicStatefulTrainer):
    """Trainer that leaves it to the next round of points to tell how good the flow is."""

    def _warn(self, warnings: list[str]) -> None:
        pass


def _is_far(state: State, least: float, near: float) -> bool:
    """Tell whether few points have all of the weight, and others a little: where f is 0, nothing leads on.

    least: effective number of points that a map is made of; with so many, the power of the weights is below
    `near`.
    """
    log_weights = state.memory.log_weights(slice(0, state.memory.n))
    n_nonzero = int(np.count_nonzero(log_weights > -math.inf))
    if n_nonzero < MIN_FITTED:
        return False
    has_tails = effective_size(log_weights) < min(MIN_EFFECTIVE, n_nonzero / TAIL)
    return has_tails and tempered_power(log_weights, least) < near


def _steps_an_epoch(n: int) -> int:
    """Count the steps of an epoch on n points, at most."""
    return -(-n // rows_a_step(n))


def _n_epochs(state: State) -> int:
    """Choose the epochs of a training on all points so far: fewer than usual where time is short."""
    n = state.memory.n
    an_epoch = _steps_an_epoch(n) * state.costs.step
    seconds = SHARE_OF_LEARNING * state.deadline.left - state.costs.compiling
    return n_epochs_for(n) if an_epoch * n_epochs_for(n) <= seconds else max(0, int(seconds / an_epoch))


def _has_time(state: State) -> bool:
    """Tell whether there is time to train the flow anew, in epochs that are not too few."""
    return _n_epochs(state) >= LEAST_EPOCHS * n_epochs_for(state.memory.n)


def _too_long(state: State) -> str:
    """Say why the flow is not trained."""
    n = state.memory.n
    seconds = n_epochs_for(n) * _steps_an_epoch(n) * state.costs.step + state.costs.compiling
    return (
        f"to train the flow anew was expected to take {seconds:.2g} s, too much of the "
        f"{state.deadline.left:.2g} s that were left"
    )


def _begin_anew(state: State, least: float | None = None) -> None:
    """Give a new flow other initial parameters, with an element-wise map fitted to all points.

    Weights are tempered where few count; see `tempered_power`.
    """
    start = np.random.default_rng(int(state.generator.integers(2**31)))
    np.copyto(state.flow.params, state.flow.initial_params(start))
    state.is_trained = True
    every = slice(0, state.memory.n)
    state.fit_map(every, tempered_power(state.memory.log_weights(every), least), MIN_FITTED)

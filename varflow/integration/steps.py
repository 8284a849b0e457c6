"""Steps of an integration that draw points and take the values of the integrand there.

A step is a dataclass of numbers, so that a file can hold it. What it learns goes into the `State`. It draws
its points in pieces, and takes them in the same order, each as soon as all values of a piece are known or
given up. Which step comes next is decided in `varflow.integration.plan`.
"""

import logging
import math
from dataclasses import dataclass, field

import numpy as np

from varflow.data.dataset import Dataset
from varflow.integration import clock
from varflow.integration.averages import USUAL_RATE, weight_of
from varflow.integration.estimates import MAX_VALUES, Batches, Evaluated
from varflow.integration.proposal import Draw, draw, inside, log_mixture
from varflow.integration.scout import (
    MAX_STEPS,
    N_WALKERS,
    Walkers,
    draw_around,
    log_density_around,
    moved,
    propose,
    walkers_at,
)
from varflow.integration.state import DEFENSIVE_SHARE, State
from varflow.integration.survey import (
    EXPLORATION_SHARE,
    MIN_ROUNDS,
    MIN_STEPS,
    ROUND,
    STEPS,
    choose_points,
    stage_optimiser,
)
from varflow.training.data_checks import has_enough
from varflow.training.tempering import effective_size, tempered_power

__all__ = [
    "LOOK",
    "MANY_BATCHES",
    "MIN_POINTS",
    "SCOUT_SHARE",
    "Blocks",
    "Estimate",
    "Look",
    "Regain",
    "Scout",
    "Stage",
    "Step",
    "Train",
]

logger = logging.getLogger(__name__)

# Scrambles of an iteration: their scatter gives the error, good to a fifth or an eighth.
FEW_BATCHES, MANY_BATCHES = 16, 32
FEW_CALLS = 8192  # below which an iteration has few
MIN_POINTS = 2 * FEW_BATCHES
GROUP = 131_072  # points drawn together, if these are no more than one scramble
LOOK = 4096  # points of an iteration that looks how good the flow is
MIN_BLOCKS, POINTS_A_BLOCK = 4, 8  # of few points; blocks are larger where there are more than 128
SHARE_OF_STAGE = 0.67  # of the time that is left, at most, once a stage has begun
SHARE_OF_SCOUTS = 0.1  # of that time, at most, for walkers
LOSS_OF_ESS = 0.1  # effective sample size of a round, in that of the best one, below which much was lost
SLOWER = 0.5  # factor of the learning rate, then
RECALLED = 8  # rounds whose points tell whether a flow was better
SHARE_OF_OUTLIERS = 0.01  # points of a round whose weights do not tell
SCOUT_SHARE = 0.05  # of the calls, at most, that look for regions the flow has lost


@dataclass
class Step:
    """A step: what it draws, what it does with the values, and what follows.

    Attributes
    ----------
    n_drawn, n_taken : int
        Pieces drawn and taken so far.
    begin : float
        Time of the first, by a clock that starts anew with each process.
    work : float
        Seconds that the pieces have taken in proportion to their points, without what scrambles cost.
    """

    n_drawn: int = field(default=0, kw_only=True)
    n_taken: int = field(default=0, kw_only=True)
    begin: float = field(default=math.nan, init=False, repr=False)
    work: float = field(default=0.0, init=False, repr=False)

    stage = "survey"  # of the points, in the words of `Iteration`
    is_estimate = False  # whether it is of use with a part of its points
    is_sequential = False  # whether a piece depends on the values of the last one

    @property
    def n_pieces(self) -> int:
        """Number of pieces; none where the step only decides something, or trains."""
        return 0

    @property
    def is_done(self) -> bool:
        """Whether all pieces have been taken."""
        return self.n_taken == self.n_pieces

    def draw(self, state: State) -> Draw | None:
        """Draw the next piece; None if there is none, or values of the last one must be known first."""
        if self.n_drawn == self.n_pieces or (self.is_sequential and self.n_drawn > self.n_taken):
            return None
        if math.isnan(self.begin):
            self.begin, self.work = clock.now(), -clock.work_done()
        points = self.points(state)
        self.n_drawn += 1
        return points

    def take(self, state: State, points: Draw, values: Evaluated, is_known: np.ndarray) -> None:
        """Take the values of the next piece, of which those count that are known, (n,)."""
        self.learn(state, points, values, is_known)
        self.n_taken += 1
        if self.is_done:
            self.end(state)

    @property
    def seconds(self) -> float:
        """Time since the first piece was drawn."""
        return 0.0 if math.isnan(self.begin) else clock.now() - self.begin

    def points(self, state: State) -> Draw:
        """Draw a piece."""
        raise NotImplementedError

    def learn(self, state: State, points: Draw, values: Evaluated, is_known: np.ndarray) -> None:
        """Use the values of a piece."""

    def end(self, state: State) -> None:
        """Conclude, once all pieces have been taken, or no more are to be."""

    def then(self, state: State) -> "list[Step]":
        """Do what needs no values, once the step is done, and tell which steps come before all others."""
        return []


@dataclass
class Estimate(Step):
    """Estimate the integral with the flow as it is, from scrambles of latent points.

    Attributes
    ----------
    n_calls : int
        Points, up to less than the number of scrambles too many.
    stage : {"refine", "survey"}
        Whether the estimate is for the result, or tells how good the flow is: it decides on the flow then,
        and its points are trained on.
    group : int
        Points drawn together, if these are no more than one scramble: fewer where components are many.
    """

    n_calls: int
    stage: str = "refine"
    group: int = field(default=GROUP, kw_only=True)

    is_estimate = True

    @property
    def n_batches(self) -> int:
        """Number of scrambles."""
        return FEW_BATCHES if self.n_calls < FEW_CALLS else MANY_BATCHES

    @property
    def n_each(self) -> int:
        """Points of each."""
        return self.n_calls // self.n_batches

    @property
    def n_pieces(self) -> int:  # noqa: D102 - see the class above
        return -(-self.n_batches // self._at_once)

    @property
    def _at_once(self) -> int:
        return max(1, self.group // self.n_each)

    def _n_of_piece(self, k: int) -> int:
        return min(self._at_once, self.n_batches - k * self._at_once)

    def points(self, state: State) -> Draw:  # noqa: D102
        if self.n_drawn == 0:
            self.group = min(GROUP, MAX_VALUES // len(state.expected))
        n, n_uniform = self._n_of_piece(self.n_drawn), max(1, round(DEFENSIVE_SHARE * self.n_each))
        begin = clock.now()
        latent, uniform = state.latent(n, self.n_each - n_uniform), state.latent(n, n_uniform)
        seconds = clock.now() - begin
        self.work -= seconds
        state.costs.scramble = seconds / (2 * n)
        return draw(state.flow, latent, uniform)

    def learn(self, state: State, points: Draw, values: Evaluated, is_known: np.ndarray) -> None:  # noqa: D102
        if self.stage == "survey":
            state.remember(points, values, is_known)
        else:
            state.note_weights(points, values, is_known)
        state.batches = state.batches or state.new_batches(values.f.shape[1])
        state.batches.add_known(points, values.f, self._n_of_piece(self.n_taken), is_known)

    def end(self, state: State) -> None:  # noqa: D102
        if state.batches is None or state.batches.n_batches < 2:  # nearly no point came back
            self.n_drawn = self.n_taken = 0
        else:
            self.conclude(state, state.batches)

    def conclude(self, state: State, batches: Batches) -> None:
        """Append the iteration that the batches give."""
        state.costs.note_calls(self.work + clock.work_done(), batches.n)
        weight = weight_of(batches.n, self.n_each)
        state.append(self.stage, self.seconds, self.stage == "refine", weight)


@dataclass
class Look(Estimate):
    """Pilot run: estimate the integral with the flow as it is, to see how good that is."""

    n_calls: int = LOOK
    stage: str = "survey"

    def conclude(self, state: State, batches: Batches) -> None:  # noqa: D102
        super().conclude(state, batches)
        state.power = tempered_power(state.memory.log_weights(state.memory.latest(LOOK)))


@dataclass
class Blocks(Estimate):
    """Estimate the integral from a single scramble of few points, whose consecutive blocks give the error.

    Attributes
    ----------
    n_calls, stage
        As for `Estimate`, with blocks for scrambles.
    share : float
        Share of uniform points; where it is 0, all come from the flow.
    progress : float
        How much of the training is done before, from 0 to 1.
    """

    share: float = 0.0
    progress: float = 1.0

    @property
    def n_batches(self) -> int:
        """Number of blocks: as many as may be, or somewhat fewer where these leave out fewer points."""
        most = max(MIN_BLOCKS, min(FEW_BATCHES, self.n_calls // POINTS_A_BLOCK))
        numbers = range(max(MIN_BLOCKS, most // 2), most + 1)
        return max(numbers, key=lambda n: (self.n_calls // n * n, n))

    @property
    def _at_once(self) -> int:
        return self.n_batches

    def points(self, state: State) -> Draw:  # noqa: D102
        n_uniform = max(1, round(self.share * self.n_each)) if self.share > 0 else 0
        latent = state.latent(1, self.n_batches * (self.n_each - n_uniform))
        uniform = state.latent(1, self.n_batches * n_uniform) if n_uniform else latent[:0]
        return draw(state.flow, latent, uniform)

    def learn(self, state: State, points: Draw, values: Evaluated, is_known: np.ndarray) -> None:  # noqa: D102
        super().learn(state, points, values, is_known)
        if self.stage == "survey":
            state.add_round(points, is_known)

    def conclude(self, state: State, batches: Batches) -> None:  # noqa: D102
        state.costs.note_calls(self.work + clock.work_done(), batches.n)
        state.figure = batches.relative_error * batches.n**USUAL_RATE
        weight = weight_of(batches.n, batches.n, self.progress)
        counts = self.stage == "refine" or state.counts(self.progress)
        state.append(self.stage, self.seconds, counts, weight)


@dataclass
class Stage(Step):
    """Train in rounds of replay; a tenth of them at a time is an iteration.

    Attributes
    ----------
    n_rounds : int
        Number of rounds.
    share_of_dkl : float
        Share of them, the first ones, that use the DKL loss.
    min_steps : int
        Steps of all rounds together, at least.
    best : float
        Effective sample size of the best round so far, as a fraction; see `rewind`.
    pace : float
        Factor of the learning rate.
    """

    n_rounds: int
    share_of_dkl: float
    min_steps: int = MIN_STEPS
    best: float = field(default=0.0, kw_only=True)
    pace: float = field(default=1.0, kw_only=True)

    @property
    def n_steps(self) -> int:
        """Number of steps of each round."""
        return max(STEPS, -(-self.min_steps // self.n_rounds))

    @property
    def n_pieces(self) -> int:  # noqa: D102
        return self.n_rounds

    def points(self, state: State) -> Draw:  # noqa: D102
        return state.replay.draw()

    def learn(self, state: State, points: Draw, values: Evaluated, is_known: np.ndarray) -> None:  # noqa: D102
        state.remember(points, values, is_known)
        self.rewind(state, values.log_f[is_known] - points.log_q[is_known])
        state.optim = state.optim or stage_optimiser()
        n_new, begin = int(np.count_nonzero(is_known)), clock.work_done()
        state.replay.train(
            state.optim, self.n_taken, self.n_rounds, self.share_of_dkl, n_new, self.n_steps, self.pace
        )
        state.costs.note_steps(clock.work_done() - begin, self.n_steps)
        self.fit_into(state)
        state.batches = state.batches or state.new_batches(values.f.shape[1])
        state.batches.add_known(points, values.f, 1, is_known)
        n_done, n_iterations = self.n_taken + 1, max(1, min(10, self.n_rounds // MIN_ROUNDS))
        if n_done in [k * self.n_rounds // n_iterations for k in range(1, n_iterations + 1)]:
            progress = (n_done - state.batches.n_batches) / self.n_rounds
            weight = weight_of(state.batches.n, 1, progress)
            state.append("survey", self.seconds, state.counts(progress), weight)
            self.begin = clock.now()

    def rewind(self, state: State, log_weights: np.ndarray) -> None:
        """Go back to the flow of the best round, and on from there in smaller steps, where much was lost.

        Where bins in front of a narrow peak change little in width, it moves by more than its own. The
        effective sample size of the round tells, without the largest of the log_weights (n,): single points
        may be far off in any flow. It falls, too, where a region was found that no flow knew before: then the
        flow of the best round is no better.
        """
        weights = np.sort(log_weights)[: len(log_weights) - int(SHARE_OF_OUTLIERS * len(log_weights))]
        is_zero = len(weights) == 0 or weights[-1] == -math.inf
        ess = 0.0 if is_zero else effective_size(weights) / len(weights)
        has_lost = ess < LOSS_OF_ESS * self.best
        if has_lost and state.was_better(state.of_best_round, RECALLED * ROUND):
            logger.info("the training has lost what it had found: it goes back, and on in smaller steps")
            np.copyto(state.flow.params, state.of_best_round)
            state.optim, self.pace = None, SLOWER * self.pace
        elif has_lost or ess >= self.best:
            self.best, state.of_best_round = ess, state.flow.params.copy()

    def fit_into(self, state: State) -> None:
        """Leave out rounds at the end for which there is no time."""
        left, of_round = state.deadline.left, ROUND * state.costs.call + self.n_steps * state.costs.step
        n_left = self.n_rounds - self.n_taken - 1
        if n_left * of_round > SHARE_OF_STAGE * left:
            n_steps, n_left = self.n_steps, int(SHARE_OF_STAGE * left / of_round)
            self.n_rounds = self.n_taken + 1 + n_left
            self.min_steps = n_steps * self.n_rounds

    def end(self, state: State) -> None:  # noqa: D102
        state.batches = state.optim = None
        state.of_best_round = np.empty(0)
        state.n_stages += 1


@dataclass
class Train(Step):
    """Train on the points of iteration k, from 0, of a strategy that uses each in one iteration only."""

    strategy: str
    k: int
    n_calls: int

    @property
    def n_pieces(self) -> int:  # noqa: D102
        return 1

    def points(self, state: State) -> Draw:  # noqa: D102
        n_points = self.n_calls // FEW_BATCHES * FEW_BATCHES
        return choose_points(self.strategy, self.k, state.flow, n_points, state.generator, state.memory)

    def learn(self, state: State, points: Draw, values: Evaluated, is_known: np.ndarray) -> None:  # noqa: D102
        state.remember(points, values, is_known)
        known, log_f = points.only(is_known), values.log_f[is_known]
        if has_enough(len(log_f), int(np.count_nonzero(log_f > -math.inf))):
            state.trainer.train_on_dataset(Dataset(known.u, logpx=known.log_q, logfx=log_f))
        state.batches = state.new_batches(values.f.shape[1])
        state.batches.add_known(points, values.f, FEW_BATCHES, is_known)

    def end(self, state: State) -> None:  # noqa: D102
        state.append("survey", self.seconds, False, 0.0)


@dataclass
class Scout(Step):
    """Look for regions that the flow has lost, by MCMC walkers; see `varflow.integration.scout`."""

    n_steps: int
    n_known: int = 0  # values so far

    stage = "scouts"
    is_sequential = True

    @classmethod
    def within(cls, n_calls: int) -> "Scout":
        """Make a step that takes a small share of so many calls."""
        return cls(min(MAX_STEPS, int(SCOUT_SHARE * n_calls) // N_WALKERS - 1))

    @property
    def n_pieces(self) -> int:  # noqa: D102
        return 1 + self.n_steps if self.n_steps > 0 else 0

    def points(self, state: State) -> Draw:  # noqa: D102
        if self.n_drawn == 0:
            n_known = min(N_WALKERS // 2, state.explored.n)  # of values at points where walkers start
            u = inside(state.generator.random((N_WALKERS - n_known, state.flow.d)))
        else:
            u = propose(state.walkers, state.generator)
        return _without_density(u)

    def learn(self, state: State, points: Draw, values: Evaluated, is_known: np.ndarray) -> None:  # noqa: D102
        log_f = np.where(is_known, values.log_f, -math.inf)
        self.n_known += int(np.count_nonzero(is_known))
        if self.seconds > SHARE_OF_SCOUTS * state.deadline.left:
            self.n_steps = max(1, self.n_taken)
        if self.n_taken == 0:
            state.walkers = walkers_at(points.u, log_f).beside(state.most_lost(N_WALKERS - len(log_f)))
        else:
            state.walkers = moved(state.walkers, points.u, log_f, self.n_taken - 1, state.generator)

    def end(self, state: State) -> None:  # noqa: D102
        state.look_for_lost(state.memory.log_mean(state.memory.n // 2))
        state.append_search(self.stage, self.n_known, self.seconds)


@dataclass
class Regain(Step):
    """Draw points to be trained on, half of them in regions that n_points of the flow would not see.

    See `State.is_lost`. The other half come from the flow, and all take the place of those so far. Estimates
    so far are without these regions, and do not count any more.
    """

    n_points: int

    stage = "regain"

    @property
    def n_pieces(self) -> int:  # noqa: D102
        return 1

    def points(self, state: State) -> Draw:  # noqa: D102
        is_lost = state.is_lost(self.n_points)
        lost = Walkers(*(part[is_lost] for part in state.walkers))
        around = draw_around(lost, LOOK // 2, state.generator)
        n_uniform = round(EXPLORATION_SHARE * LOOK / 2)
        latent = state.generator.random((LOOK // 2 - n_uniform, state.flow.d))
        known = draw(state.flow, latent, state.generator.random((n_uniform, state.flow.d)))
        # In random order: what is replayed begins somewhere among them.
        u = state.generator.permutation(np.concatenate([around, known.u]))
        log_known = log_mixture(state.flow.log_prob(u), known.uniform_share)
        log_q = np.logaddexp(log_density_around(lost, u), log_known) - math.log(2)
        return _without_density(u)._replace(log_q=log_q)

    def learn(self, state: State, points: Draw, values: Evaluated, is_known: np.ndarray) -> None:  # noqa: D102
        # Where none was drawn around a walker, the weights of points in lost regions are so large that few
        # have nearly all of them.
        state.memory.keep(state.memory.latest(0))
        state.remember(points, values, is_known)
        state.discount()
        state.append_search(self.stage, int(np.count_nonzero(is_known)), self.seconds)


def _without_density(u: np.ndarray) -> Draw:
    """Make a draw of points whose density is not needed."""
    return Draw(u, np.zeros(len(u)), np.zeros(len(u)), 0)

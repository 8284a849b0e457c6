"""Survey by replay: many small rounds, each training the flow on new points and on earlier ones.

A survey has one or several stages, and a stage consists of rounds. All points lie in the unit cube, and f is
the integrand there, the Jacobian of the map onto the box included. Where f has several components, |f| is
the root of the sum of their squares.

**Points of a round.** A round draws ``ROUND`` points from the defensive mixture of the flow's density q_flow,
as it is at the beginning of the round, and the uniform density (see `varflow.integration.proposal`),

    p = (1 - s) q_flow + s,    s = round(EXPLORATION_SHARE * ROUND) / ROUND,

evaluates the integrand at them, and adds them to a `Memory`, which keeps log |f| and log p of each point.
Then it takes steps of Adam, each on a minibatch of ``MINIBATCH`` points: ``STEPS`` of them, or more where a
stage has so few rounds that there would be fewer than ``MIN_STEPS`` in all, unless steps are dear and calls
of the integrand are not (see `varflow.integration.costs`).

**Replay.** The first ``ROUND / MINIBATCH`` steps go through the new points once, in random order. The points
of all other steps are drawn, with replacement, from the latest share ``RECENT`` of all points in the memory,
the new ones included. Each point comes with the density p of its own round, not with that of the present
flow: over points from p, the mean of g/p estimates the integral of g, whatever the flow is by now.

**Tempering.** While the flow is far off, few points have nearly all of the weight |f|/p. The flow then learns
the integrand

    f_b = p (|f| / p)^b / Z,    Z = mean of (|f| / p)^b over the latest share ``RECENT`` of all points,

which lies between p and |f| and is in units of its integral. The power b, at most 1, is found in each round
from the weights of the points of its minibatches, see `varflow.training.tempering`; it rises to 1 by
itself as the flow comes closer to |f|.

**Losses.** With q the density of the flow at the step, the losses are the means over the minibatch

    L_dkl = mean(-(f_b / p) log q),    L_var = mean(f_b^2 / (p q)).

The DKL loss comes first, for a given share of the rounds, because it is robust while the flow is far off. The
other rounds minimise log L_var (or again L_dkl, with ``loss="dkl"``): at b = 1, L_var estimates one plus the
relative variance of |f|/q, which is what has to be small in the end. The gradient of log L_var is estimated
by that of L_var, divided by L_var on the same minibatch. Gradients of both losses have a control variate, so
that their noise falls as the flow comes closer to the integrand; see `varflow.training.objective`.

**Learning rate.** A stage begins with a new optimiser. In a stage of n rounds of m steps, step j of round k,
both counted from 0, has the learning rate

    LEARNING_RATE * min(1, (k + 1) / WARM_UP) * (1 + cos(pi t)) / 2,    t = (k + j / m) / n,

which rises in the first ``WARM_UP`` rounds and falls to zero at the end of the stage. Where the effective
sample size of a round falls far below that of the best one, the flow goes back to what it was there, and the
learning rate is halved for the rest of the stage (see `varflow.integration.steps.Stage.rewind`).

A step whose loss or gradient is not finite is skipped and counted in `Replay.n_skipped`. A step on log L_var
is also skipped where f is zero at all points of its minibatch, and a round takes no steps where f is zero at
all of the latest points.
"""

from collections.abc import Mapping

import numpy as np

from varflow.data.arrays import log_mean_exp
from varflow.flow.discrete_flow import DiscreteFlow
from varflow.flow.flow import Flow
from varflow.integration.iteration import LOG_OF_2
from varflow.integration.proposal import Draw, draw, inside
from varflow.runtime.communicator import ALONE, Communicator
from varflow.training.adam import Adam
from varflow.training.losses import LOSSES
from varflow.training.make_steps import make_steps
from varflow.training.objective import Objective
from varflow.training.tempering import tempered_power

__all__ = [
    "EXPLORATION_SHARE",
    "MIN_ROUNDS",
    "MIN_STEPS",
    "ROUND",
    "STEPS",
    "STRATEGIES",
    "Memory",
    "Replay",
    "choose_points",
    "stage_optimiser",
]

STRATEGIES = (
    "replay",
    "flat",
    "forward",
    "forward_flat_init",
    "adaptive_dkl",
    "adaptive_variance",
    "fixed_sample",
)
ADAPTIVE = {"adaptive_dkl": "dkl", "adaptive_variance": "variance"}  # by the loss that decides
LEARNING_RATE = 7e-3
BETAS = 0.9, 0.98  # gradients shrink along with their noise: the second moments have to follow
MIN_ROUNDS = 8  # per stage
ROUND = 1024  # new points per round
STEPS = 12  # per round, at least
MIN_STEPS = 1000  # per stage: fewer leave much of what few rounds can teach
MINIBATCH = 512  # points per step
EXPLORATION_SHARE = 0.03  # of the new points
WARM_UP = 20  # rounds in which the learning rate rises
RECENT = 0.75  # share of all points, the latest, that are replayed


class Memory:
    """Points of the survey, with log |f| and the log of the density p that they were drawn from.

    The latter is `log_q` in the code, as in `Draw`.

    Parameters
    ----------
    d : int
        Number of dimensions.
    """

    def __init__(self, d: int) -> None:
        self.n = 0
        self._u, self._log_f, self._log_q = np.empty((ROUND, d)), np.empty(ROUND), np.empty(ROUND)

    def add(self, u: np.ndarray, log_f: np.ndarray, log_q: np.ndarray) -> None:
        """Add points (n, d) with log |f| (n,) and log p (n,)."""
        end = self.n + len(u)
        while end > len(self._u):
            more = max(len(self._u), ROUND)
            self._u, self._log_f, self._log_q = (
                np.concatenate([array, np.empty((more, *array.shape[1:]))])
                for array in (self._u, self._log_f, self._log_q)
            )
        rows = slice(self.n, end)
        self._u[rows], self._log_f[rows], self._log_q[rows] = u, log_f, log_q
        self.n = end

    @property
    def u(self) -> np.ndarray:
        """The points, (n, d)."""
        return self._u[: self.n]

    @property
    def log_q(self) -> np.ndarray:
        """Logs of the density that they were drawn from, (n,)."""
        return self._log_q[: self.n]

    def latest(self, n: int) -> slice:
        """Return the rows of the n points that were added last."""
        return slice(self.n - n, self.n)

    def keep(self, rows: slice) -> None:
        """Discard all points except these."""
        kept = self._u[rows], self._log_f[rows], self._log_q[rows]
        self._u, self._log_f, self._log_q = (array.copy() for array in kept)
        self.n = len(self._u)

    def scale(self, exponent: int) -> None:
        """Multiply the integrand by 2^exponent."""
        log_f = self._log_f.copy()  # what `arrays` has returned stays as it is
        log_f[: self.n] += exponent * LOG_OF_2
        self._log_f = log_f

    def set_density(self, rows: slice, log_q: np.ndarray) -> None:
        """Replace the log of the density p of some of the points, (n,)."""
        changed = self._log_q.copy()  # what `arrays` has returned stays as it is
        changed[rows] = log_q
        self._log_q = changed

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the points as arrays to be saved, which further points do not change; see `restore`."""
        return {"u": self._u[: self.n], "log_f": self._log_f[: self.n], "log_q": self._log_q[: self.n]}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Replace the points by those that `arrays` returned."""
        self._u, self._log_f, self._log_q = arrays["u"], arrays["log_f"], arrays["log_q"]
        self.n = len(self._u)

    def log_weights(self, rows: slice | np.ndarray) -> np.ndarray:
        """Compute log(|f|/p) at some of the points; -inf where f is zero."""
        log_weights: np.ndarray = self._log_f[rows] - self._log_q[rows]
        return log_weights

    def log_mean(self, first: int, power: float = 1.0) -> float:
        """Compute the log of the mean of (|f|/p)^power over the points from row `first` on.

        It is -inf where f is zero at all of them.
        """
        return log_mean_exp(power * self.log_weights(slice(first, self.n)))

    def objective(
        self, flow: Flow, rows: np.ndarray, loss: str, log_mean: float, power: float = 1.0
    ) -> Objective:
        """Make the objective on some of the points, for p (|f|/p)^power in units of its integral.

        That integral is exp(log_mean).
        """
        log_weights = power * self.log_weights(rows) - log_mean
        log_p = self._log_q[rows]
        with np.errstate(under="ignore"):
            weights = np.exp(log_weights) if loss == "dkl" else 2 * log_weights + log_p
        return Objective.with_control_variate(flow, self._u[rows], weights, log_p, LOSSES[loss])

    def fit_table(self, flow: DiscreteFlow, first: int, power: float) -> None:
        """Fit the probabilities of a flow to the points from row `first` on, if they are a table."""
        rows = slice(first, self.n)
        flow.fit_table(self._u[rows], self._log_f[rows], self._log_q[rows], power)

    def is_uniform_better(self, flow: Flow, n: int, loss: str) -> bool:
        """Return whether the flow has no smaller loss than the uniform density on the last n points.

        That is so too where the loss of the flow is NaN, or f is zero at all of the points.
        """
        rows = np.arange(max(0, self.n - n), self.n)
        log_mean = self.log_mean(int(rows[0]))
        if log_mean == -np.inf:
            return True
        uniform = Flow(flow.d, seed=0, n_bins=1, d_hidden=1, n_hidden=1)
        every = np.arange(len(rows))
        of_flow, of_uniform = (
            self.objective(one, rows, loss, log_mean).value(every) for one in (flow, uniform)
        )
        return not of_flow < of_uniform


def is_power_of_2(n: int) -> bool:
    """Tell whether n, from 1, is a power of two."""
    return n & (n - 1) == 0


def stage_optimiser() -> Adam:
    """Make the optimiser of a new stage."""
    return Adam(lr=LEARNING_RATE, schedule="cosine", betas=BETAS)


class Replay:
    """Rounds of a survey by replay; see the module's docstring.

    Parameters
    ----------
    flow : Flow
        The flow on the unit cube, trained in place.
    memory : Memory
        Points that the flow is trained on; rounds are added to it before they are trained on.
    generator : Generator
        Source of all random numbers.
    loss : {"variance", "dkl"}
        Loss of the second part of a stage.
    comm : Communicator
        Ranks that take the same steps.
    """

    def __init__(
        self,
        flow: Flow,
        memory: Memory,
        generator: np.random.Generator,
        loss: str,
        comm: Communicator = ALONE,
    ) -> None:
        self.flow, self.memory, self.generator = flow, memory, generator
        self.loss = loss
        self.n_skipped = 0  # steps whose loss or gradient was not finite
        self.steps = make_steps(flow, MINIBATCH, comm)

    def draw(self) -> Draw:
        """Draw the points of a round from the flow as it is."""
        n_uniform = round(EXPLORATION_SHARE * ROUND)
        latent = self.generator.random((ROUND - n_uniform, self.flow.d))
        return draw(self.flow, latent, self.generator.random((n_uniform, self.flow.d)))

    def train(
        self,
        optim: Adam,
        k: int,
        n_rounds: int,
        share_of_dkl: float,
        n_new: int,
        n_steps: int,
        pace: float = 1.0,
    ) -> None:
        """Take the steps of round k of a stage, counted from 0, whose points are the last in the memory.

        Parameters
        ----------
        optim : Adam
            Optimiser of the stage, see `stage_optimiser`.
        k, n_rounds : int
            Number of the round, and how many the stage has.
        share_of_dkl : float
            Share of the rounds, the first ones, that use the DKL loss.
        n_new : int
            Points of the round; fewer than were drawn where some did not come back.
        n_steps : int
            Steps of the round, at least ``ROUND / MINIBATCH``.
        pace : float
            Factor of the learning rate.
        """
        loss = "dkl" if k < share_of_dkl * n_rounds else self.loss
        n = self.memory.n
        first_recent = int((1 - RECENT) * n)
        new = n - 1 - self.generator.permutation(n_new)  # or one minibatch would get all uniform points
        rows = np.concatenate([new, self.generator.integers(first_recent, n, n_steps * MINIBATCH - n_new)])
        power = tempered_power(self.memory.log_weights(rows))
        log_mean = self.memory.log_mean(first_recent, power)
        if log_mean == -np.inf:
            return  # f is zero at all these points: there is nothing to learn yet
        if isinstance(self.flow, DiscreteFlow) and loss == "dkl" and is_power_of_2(k + 1):
            self.memory.fit_table(self.flow, first_recent, power)
        objective = self.memory.objective(self.flow, rows, loss, log_mean, power)
        minibatches = np.split(np.arange(len(rows)), n_steps)
        progress = [(k + step / n_steps) / n_rounds for step in range(n_steps)]
        warmth = pace * min(1.0, (k + 1) / WARM_UP)
        is_variance = objective.loss.power == 2  # its logarithm has a gradient free of units
        step = 0
        while step < n_steps:
            taken = self.steps.take(
                objective, minibatches[step:], optim, progress[step:], warmth, is_of_log=is_variance
            )
            step += len(taken.steps) + 1  # the step at which the call ended early is skipped
            self.n_skipped += taken.error is not None


def choose_points(
    strategy: str, k: int, flow: Flow, n: int, generator: np.random.Generator, memory: Memory
) -> Draw:
    """Draw the points of iteration k, from 0, for strategies other than "replay" and "fixed_sample"."""
    if strategy in ADAPTIVE:
        is_flat = k == 0 or memory.is_uniform_better(flow, n, ADAPTIVE[strategy])
    else:
        is_flat = strategy == "flat" or (strategy == "forward_flat_init" and k == 0)
    points = inside(generator.random((n, flow.d)))
    if is_flat:
        return Draw(points, flow.log_prob(points), np.zeros(n), 0)
    return draw(flow, points, np.empty((0, flow.d)))

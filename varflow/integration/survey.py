"""The survey by replay: many small rounds of new points, each training on them and on earlier ones.

**A round.** ROUND points are drawn from the mixture q_k = (1 - e) q + e of the flow as it is and the
uniform density, e being EXPLORATION_SHARE, and f is evaluated on them. Then STEPS steps of Adam follow,
each on MINIBATCH points: the first ones go through the new points, the others through points chosen at
random from the latest share RECENT of all points so far. Each point keeps the log of the density q_k that
it was drawn from, so that a mean of g / q_k over points of any rounds estimates the integral of g without
bias (experience replay with importance weights).

**The losses.** With f in units of its integral, estimated from the same points, the DKL loss -E[f log q /
q_k] comes first: it is robust while the flow is far off. The logarithm of the variance loss, log E[f^2 / (q
q_k)], comes later: it is what determines the error, and its gradient has no units. The gradient of each has
a control variate, which `varflow.training.objective` explains: its noise vanishes as q approaches f.

**Tempering.** While the flow is far off, a few points would have all the weight. Then f is replaced by q_k
(f / q_k)^b, which lies between q_k and f, with the largest power b at which the effective sample size of
the weights is large enough; see `varflow.integration.tempering`. b rises to 1 by itself.

**A stage** is a number of rounds with a learning-rate schedule of its own, a cosine that falls to zero
after WARM_UP rounds in which the rate rises. Adam's second moments have a short memory (BETAS), as
gradients become smaller.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from varflow.flow.flow import Flow
from varflow.integration.estimates import magnitudes
from varflow.integration.proposal import Draw, draw
from varflow.integration.tempering import tempered_power
from varflow.training.adam import Adam
from varflow.training.losses import LOSSES
from varflow.training.make_steps import make_steps
from varflow.training.objective import Objective

__all__ = ["MIN_ROUNDS", "STRATEGIES", "Memory", "Replay", "Round", "choose_points", "stage_optimiser"]

STRATEGIES = (
    "replay",
    "flat",
    "forward",
    "forward_flat_init",
    "adaptive_dkl",
    "adaptive_variance",
    "fixed_sample",
)
LEARNING_RATE = 7e-3
BETAS = 0.9, 0.98  # gradients become smaller as their noise does: the second moments have to follow
MIN_ROUNDS = 8  # of a stage
ROUND = 1024  # new points a round
STEPS = 12  # a round
MINIBATCH = 512  # points a step
EXPLORATION_SHARE = 0.03  # of the new points
WARM_UP = 20  # rounds in which the learning rate rises
RECENT = 0.75  # share of all points, the latest, that earlier ones are chosen from


class Memory:
    """Points of the survey, with log |f| and the log of the density that they were drawn from.

    Parameters
    ----------
    d : int
        Number of dimensions.
    """

    def __init__(self, d: int) -> None:
        self.n = 0
        self._u, self._log_f, self._log_q = np.empty((ROUND, d)), np.empty(ROUND), np.empty(ROUND)

    def add(self, u: np.ndarray, magnitude: np.ndarray, log_q: np.ndarray) -> None:
        """Add points (n, d) with |f| (n,) and log q (n,)."""
        end = self.n + len(u)
        while end > len(self._u):
            more = max(len(self._u), ROUND)
            self._u, self._log_f, self._log_q = (
                np.concatenate([array, np.empty((more, *array.shape[1:]))])
                for array in (self._u, self._log_f, self._log_q)
            )
        rows = slice(self.n, end)
        with np.errstate(divide="ignore"):
            self._u[rows], self._log_f[rows], self._log_q[rows] = u, np.log(magnitude), log_q
        self.n = end

    @property
    def u(self) -> np.ndarray:
        """The points, (n, d)."""
        return self._u[: self.n]

    def latest(self, n: int) -> slice:
        """Return the rows of the n points that were added last."""
        return slice(self.n - n, self.n)

    def keep(self, rows: slice) -> None:
        """Discard all points but these."""
        kept = self._u[rows], self._log_f[rows], self._log_q[rows]
        self._u, self._log_f, self._log_q = (array.copy() for array in kept)
        self.n = len(self._u)

    def arrays(self, n: int) -> dict[str, np.ndarray]:
        """Return the first n points as arrays for a file; see `restore`."""
        return {"u": self._u[:n], "log_f": self._log_f[:n], "log_q": self._log_q[:n]}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Restore the points that `arrays` returned."""
        self._u, self._log_f, self._log_q = arrays["u"], arrays["log_f"], arrays["log_q"]
        self.n = len(self._u)

    def log_weights(self, rows: slice | np.ndarray) -> np.ndarray:
        """Compute log(|f|/q) at some of the points; -inf where f is zero."""
        log_weights: np.ndarray = self._log_f[rows] - self._log_q[rows]
        return log_weights

    def log_mean(self, first: int, power: float = 1.0) -> float:
        """Compute the log of the mean of (|f|/q)^power over the points from `first` on."""
        log_weights = power * self.log_weights(slice(first, self.n))
        top = float(log_weights.max(initial=-np.inf))
        if top == -np.inf:
            return top
        with np.errstate(under="ignore"):
            return top + float(np.log(np.mean(np.exp(log_weights - top))))

    def objective(
        self, flow: Flow, rows: np.ndarray, loss: str, log_mean: float, power: float = 1.0
    ) -> Objective:
        """Make the loss on some of the points, of q (|f|/q)^power in units of its integral, exp(log_mean)."""
        log_weights = power * self.log_weights(rows) - log_mean
        log_p = self._log_q[rows]
        with np.errstate(under="ignore"):
            weights = np.exp(log_weights) if loss == "dkl" else 2 * log_weights + log_p
        return Objective.with_control_variate(flow, self._u[rows], weights, log_p, LOSSES[loss])

    def is_uniform_better(self, flow: Flow, n: int, loss: str) -> bool:
        """Tell whether the uniform density has a smaller loss than the flow on the last n points."""
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


class Round(NamedTuple):
    """Points of a round, and the integrand (n, m) at them."""

    points: Draw
    values: np.ndarray


def stage_optimiser() -> Adam:
    """Make the optimiser of a new stage."""
    return Adam(lr=LEARNING_RATE, schedule="cosine", betas=BETAS)


class Replay:
    """A survey by replay, which may go through several stages.

    Parameters
    ----------
    flow : Flow
        The flow on the unit cube, trained in place.
    evaluate : callable
        (n, d) -> (n, m), the integrand on the unit cube.
    memory : Memory
        Where the points go; those that are in it already are used.
    generator : Generator
        Source of all random numbers.
    loss : {"variance", "dkl"}
        What the second part of a stage makes small.
    """

    def __init__(
        self,
        flow: Flow,
        evaluate: Callable[[np.ndarray], np.ndarray],
        memory: Memory,
        generator: np.random.Generator,
        loss: str,
    ) -> None:
        self.flow, self.evaluate, self.memory, self.generator = flow, evaluate, memory, generator
        self.loss = loss
        self.n_skipped = 0  # steps without a finite gradient
        self.steps = make_steps(flow, MINIBATCH)

    def stage(self, n_rounds: int, share_of_dkl: float, optim: Adam, first: int) -> Iterator[Round]:
        """Run rounds; yield each after its steps.

        Parameters
        ----------
        n_rounds : int
            How many.
        share_of_dkl : float
            Share of the rounds that have the DKL loss.
        optim : Adam
            Optimiser of the stage, see `stage_optimiser`.
        first : int
            Round to begin with, from 0.

        Yields
        ------
        Round
            The points of the round and the integrand at them.
        """
        n_uniform = round(EXPLORATION_SHARE * ROUND)
        for k in range(first, n_rounds):
            latent = self.generator.random((ROUND - n_uniform, self.flow.d))
            points = draw(self.flow, latent, self.generator.random((n_uniform, self.flow.d)))
            values = self.evaluate(points.u)
            self.memory.add(points.u, magnitudes(values), points.log_q)
            loss = "dkl" if k < share_of_dkl * n_rounds else self.loss
            self._train(optim, loss, k, n_rounds)
            yield Round(points, values)

    def _train(self, optim: Adam, loss: str, k: int, n_rounds: int) -> None:
        n = self.memory.n
        first_recent = int((1 - RECENT) * n)
        new = n - 1 - self.generator.permutation(ROUND)  # else the uniform points would be in one minibatch
        rows = np.concatenate([new, self.generator.integers(first_recent, n, STEPS * MINIBATCH - ROUND)])
        power = tempered_power(self.memory.log_weights(rows))
        log_mean = self.memory.log_mean(first_recent, power)
        if log_mean == -np.inf:
            return  # f was zero everywhere: there is nothing to learn yet
        objective = self.memory.objective(self.flow, rows, loss, log_mean, power)
        minibatches = np.split(np.arange(len(rows)), STEPS)
        progress = [(k + step / STEPS) / n_rounds for step in range(STEPS)]
        warmth = min(1.0, (k + 1) / WARM_UP)
        is_variance = objective.loss.power == 2  # its logarithm has a gradient without units
        step = 0
        while step < STEPS:
            taken = self.steps.take(
                objective, minibatches[step:], optim, progress[step:], warmth, is_of_log=is_variance
            )
            step += len(taken.losses) + 1  # left out is one that is refused, or with f zero at all points
            self.n_skipped += taken.error is not None


def choose_points(
    strategy: str, k: int, flow: Flow, n: int, generator: np.random.Generator, memory: Memory
) -> Draw:
    """Draw the points of iteration k, from 0, of a strategy other than "replay" and "fixed_sample"."""
    is_flat = {
        "flat": True,
        "forward": False,
        "forward_flat_init": k == 0,
        "adaptive_dkl": k == 0 or memory.is_uniform_better(flow, n, "dkl"),
        "adaptive_variance": k == 0 or memory.is_uniform_better(flow, n, "variance"),
    }[strategy]
    points = generator.random((n, flow.d))
    if is_flat:
        return Draw(points, flow.log_prob(points), np.zeros(n), 0)
    return draw(flow, points, np.empty((0, flow.d)))

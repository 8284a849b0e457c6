"""Survey of a family of integrands: one flow with conditions learns f(x, theta) for a table of theta.

Rounds are those of `varflow.integration.survey`, with the theta of each point besides: a round has each theta
of the table equally often, or nearly. Of each theta, the flow learns

    f_b = p (|f| / p)^b / Z(theta),

with Z the mean of (|f|/p)^b over the latest points of the same theta: all of them count alike, however much
the integral varies. As long as there are few points of each, Z is that of theta and its neighbours, in groups
that are halved as points come in.
"""

import numpy as np

from varflow.flow.flow import Flow
from varflow.integration.proposal import Draw, draw_given
from varflow.integration.survey import (
    EXPLORATION_SHARE,
    MINIBATCH,
    RECENT,
    ROUND,
    WARM_UP,
)
from varflow.training.adam import Adam
from varflow.training.losses import LOSSES
from varflow.training.make_steps import make_steps
from varflow.training.objective import Objective
from varflow.training.tempering import tempered_power

__all__ = ["FamilySurvey", "neighbours_in_order"]

SHARE = round(EXPLORATION_SHARE * ROUND) / ROUND  # of uniform points in a round
POINTS_A_GROUP = 64  # of the latest, that tell the integral of a group of neighbouring theta


class FamilySurvey:
    """Rounds of a survey that trains a flow on all theta together; see the module's docstring.

    Parameters
    ----------
    flow : Flow
        The flow on the unit cube, whose conditions are theta; trained in place.
    table : ndarray, (n_theta, c)
        The values of theta.
    generator : Generator
        Source of all random numbers.

    Attributes
    ----------
    n : int
        Number of points so far.
    n_skipped : int
        Number of steps whose loss or gradient was not finite.
    neighbours : ndarray of int, (n_theta,)
        Rows of the table, in an order in which neighbours follow each other.
    """

    def __init__(self, flow: Flow, table: np.ndarray, generator: np.random.Generator) -> None:
        self.flow, self.table, self.generator = flow, table, generator
        self.n = self.n_skipped = 0
        self._columns = np.empty((0, flow.d + flow.n_conditions))
        self._theta = np.empty(0, np.int64)
        self._log_f, self._log_q = np.empty(0), np.empty(0)
        self._place = np.empty(len(table), np.int64)  # of each theta among its neighbours
        self.neighbours = neighbours_in_order(flow.condition_map.to_unit(table))
        self._place[self.neighbours] = np.arange(len(table))
        self._steps = make_steps(flow, MINIBATCH)

    def draw(self) -> tuple[Draw, np.ndarray]:
        """Draw the points of a round, and give the row of the table that each has, (n,)."""
        n_uniform = round(EXPLORATION_SHARE * ROUND)
        n_theta = len(self.table)
        rows = np.concatenate([self.generator.permutation(n_theta) for _ in range(-(-ROUND // n_theta))])[
            :ROUND
        ]
        latent = self.generator.random((ROUND - n_uniform, self.flow.d))
        uniform = self.generator.random((n_uniform, self.flow.d))
        return draw_given(self.flow, latent, uniform, self.table[rows]), rows

    def add(self, points: Draw, rows: np.ndarray, log_f: np.ndarray) -> None:
        """Add the points of a round, with rows of the table and log |f|, (n,)."""
        columns = self.flow.condition_map.columns(points.u, self.table[rows])
        self._columns = np.concatenate([self._columns, columns])
        self._theta = np.concatenate([self._theta, rows])
        self._log_f = np.concatenate([self._log_f, log_f])
        self._log_q = np.concatenate([self._log_q, points.log_q])
        self.n += len(rows)

    def train(self, optim: Adam, k: int, n_rounds: int, share_of_dkl: float, n_steps: int) -> None:
        """Take the steps of round k of a stage, counted from 0, whose points were added last."""
        loss = "dkl" if k < share_of_dkl * n_rounds else "variance"
        first_recent = int((1 - RECENT) * self.n)
        new = self.n - 1 - self.generator.permutation(ROUND)
        replayed = self.generator.integers(first_recent, self.n, n_steps * MINIBATCH - ROUND)
        rows = np.concatenate([new, replayed])
        log_weights = self._log_f - self._log_q
        with np.errstate(invalid="ignore"):  # of theta whose f was zero at all points so far
            log_units = self._log_units(log_weights, first_recent, 1.0)
            power = tempered_power(np.nan_to_num((log_weights - log_units)[rows], nan=-np.inf))
            if power < 1:
                log_units = self._log_units(log_weights, first_recent, power)
            log_ratios = power * log_weights[rows] - log_units[rows]
        log_ratios = np.where(np.isnan(log_ratios), -np.inf, log_ratios)
        if log_ratios.max() == -np.inf:
            return  # f is zero at all these points: there is nothing to learn yet
        log_p = self._log_q[rows]
        with np.errstate(under="ignore"):
            weights = np.exp(log_ratios) if loss == "dkl" else 2 * log_ratios + log_p
        columns = self._columns[rows]
        objective = Objective.with_control_variate(self.flow, columns, weights, log_p, LOSSES[loss])
        minibatches = np.split(np.arange(len(rows)), n_steps)
        progress = [(k + step / n_steps) / n_rounds for step in range(n_steps)]
        warmth, step = min(1.0, (k + 1) / WARM_UP), 0
        while step < n_steps:
            taken = self._steps.take(
                objective, minibatches[step:], optim, progress[step:], warmth, is_of_log=loss == "variance"
            )
            step += len(taken.steps) + 1  # the step at which the call ended early is skipped
            self.n_skipped += taken.error is not None

    def _log_units(self, log_weights: np.ndarray, first: int, power: float) -> np.ndarray:
        """Compute log Z for each point, (n,), from the points from row `first` on."""
        n_groups = max(1, min(len(self.table), (self.n - first) // POINTS_A_GROUP))
        group = self._place[self._theta] * n_groups // len(self.table)
        return log_means(power * log_weights[first:], group[first:], n_groups)[group]

    def relative_variances(self, n: int) -> np.ndarray:
        """Estimate the relative variance of |f|/q of each theta, (n_theta,), from the last n points.

        What the uniform share adds to it, the control variate of the estimates takes away again.
        """
        rows, n_theta = slice(max(0, self.n - n), self.n), len(self.table)
        log_weights, theta = (self._log_f - self._log_q)[rows], self._theta[rows]
        with np.errstate(invalid="ignore", over="ignore", under="ignore"):
            weights = np.exp(log_weights - log_means(log_weights, theta, n_theta)[theta])
            inverse, share = np.exp(-self._log_q[rows]), SHARE
            of_flow = (1 - share * inverse) / (1 - share)  # q_flow / q
            deviations = weights - share * (of_flow - inverse) - 1
            sums = np.bincount(theta, np.square(deviations), n_theta)
            return np.nan_to_num(sums / np.bincount(theta, minlength=n_theta), nan=np.inf)

    def log_integrals(self) -> np.ndarray:
        """Estimate the log of the integral of |f| for each theta, (n_theta,), from the later half."""
        rows = slice(self.n // 2, self.n)
        return log_means((self._log_f - self._log_q)[rows], self._theta[rows], len(self.table))

    def log_largest(self) -> np.ndarray:
        """Give the log of the largest |f| of each theta, (n_theta,), -inf where it was zero."""
        largest = np.full(len(self.table), -np.inf)
        np.maximum.at(largest, self._theta, self._log_f)
        return largest


def log_means(logs: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """Compute the log of the mean of exp(logs) in each group, (n_groups,); -inf where there is nothing."""
    top = np.full(n_groups, -np.inf)
    np.maximum.at(top, group, logs)
    shift = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(under="ignore", divide="ignore", invalid="ignore"):
        sums = np.bincount(group, np.exp(logs - shift[group]), n_groups)
        return shift + np.log(sums / np.bincount(group, minlength=n_groups).clip(min=1))


def neighbours_in_order(table: np.ndarray) -> np.ndarray:
    """Order the rows of a table, (n, c), such that those which follow each other are neighbours.

    The rows are halved across the axis along which they extend farthest, and each half again.
    """

    def ordered(rows: np.ndarray) -> np.ndarray:
        if len(rows) < 2:
            return rows
        axis = int(np.argmax(np.ptp(table[rows], axis=0)))
        rows = rows[np.argsort(table[rows, axis], kind="stable")]
        half = len(rows) // 2
        return np.concatenate([ordered(rows[:half]), ordered(rows[half:])])

    return ordered(np.arange(len(table)))

"""Importance weights of weighted points before and after a training, from the same points."""

from typing import NamedTuple

import numpy as np

from varflow.data.arrays import log_mean_exp
from varflow.data.dataset import Dataset
from varflow.flow.flow import Flow
from varflow.flow.mixture import Mixture
from varflow.training.evaluation import check_measurable, log_prob_of
from varflow.training.objective import check_same_box

__all__ = ["LogWeights", "drawn_like", "without_overflow"]

LARGEST = 300.0  # log of a weight that is as good as any larger one


def without_overflow(log_weights: np.ndarray) -> np.ndarray:
    """Compute exponentials of logs (n,); those beyond e^300 become e^300, so that squares do not overflow."""
    with np.errstate(under="ignore"):
        weights: np.ndarray = np.exp(np.minimum(log_weights, LARGEST))
    return weights


def drawn_like(flow: Flow | Mixture, data: Dataset, n: int, seed: int | None) -> np.ndarray:
    """Draw points (n, d) of a flow, with conditions distributed as those of f in the data are."""
    if data.n_conditions == 0:
        return flow.sample(n, seed)[0]
    log_weights = data.log_weight(1)
    weights = without_overflow(log_weights - log_weights.max())
    rows = np.random.default_rng(seed).choice(data.n, n, p=weights / weights.sum())
    return flow.sample(n, seed, conditions=data.conditions[rows])[0]


class LogWeights(NamedTuple):
    """Natural logs of the weights of n points x ~ p, each over its mean, for |f|.

    Attributes
    ----------
    before : ndarray, (n,)
        Of f/p.
    after : ndarray, (n,)
        Of f/q, over its mean for x ~ q.
    counts : ndarray, (n,)
        Of q/p over its mean: how many points from q each stands for.
    q : ndarray, (n,)
        Of q.
    """

    before: np.ndarray
    after: np.ndarray
    counts: np.ndarray
    q: np.ndarray

    @classmethod
    def of(cls, flow: Flow | Mixture, data: Dataset) -> "LogWeights":
        """Compute them.

        Raises
        ------
        ValueError
            If there are fewer than two points, f is zero at all of them, or they do not have the dimension
            and the bounds of the flow.
        """
        check_same_box(flow, data)
        check_measurable(data)
        q = log_prob_of(flow, data)
        before, counts = data.log_weight(1), q - data.logpx
        counts = counts - log_mean_exp(counts)
        return cls(before, before - counts, counts, q)

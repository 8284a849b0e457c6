"""Importance weights of weighted points before and after a training, from the same points."""

from typing import NamedTuple

import numpy as np

from varflow.data.arrays import log_mean_exp
from varflow.data.dataset import Dataset
from varflow.flow.flow import Flow
from varflow.flow.mixture import Mixture
from varflow.training.evaluation import check_measurable
from varflow.training.objective import check_same_box

__all__ = ["LogWeights", "without_overflow"]

LARGEST = 300.0  # log of a weight that is as good as any larger one


def without_overflow(log_weights: np.ndarray) -> np.ndarray:
    """Compute exponentials of logs (n,); those beyond e^300 become e^300, so that squares do not overflow."""
    with np.errstate(under="ignore"):
        weights: np.ndarray = np.exp(np.minimum(log_weights, LARGEST))
    return weights


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
        q = flow.log_prob(data.x)
        before, counts = data.log_weight(1), q - data.logpx
        counts = counts - log_mean_exp(counts)
        return cls(before, before - counts, counts, q)

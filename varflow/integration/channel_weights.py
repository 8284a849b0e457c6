"""Channel weights a_k(x), which share out an integrand to the channels: their sum is 1 at each point."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from varflow.integration.channel import Channel, log_density
from varflow.integration.components import FloatArray

__all__ = ["Balance", "ChannelWeights", "Given", "renormalised"]

SUM_ERROR = 1e-6  # of the sum of weights, at most


class ChannelWeights(Protocol):
    """Logs of channel weights at points of the box."""

    def __call__(self, x: FloatArray) -> FloatArray:
        """Compute the logs (n, m), at points x (n, d); -inf where a weight is 0."""


class Balance:
    """The balance heuristic: weights in proportion to the densities of the channels.

    a_k = g_k / sum_j g_j, the maps' densities being g_k (Veach and Guibas, SIGGRAPH 1995, section 3.2).
    a_k f / g_k is then the same function in all channels, bounded wherever one of the densities is large.

    Parameters
    ----------
    channels : sequence of Channel
        The m channels.
    """

    def __init__(self, channels: Sequence[Channel]) -> None:
        self._channels = channels

    def __call__(self, x: FloatArray) -> FloatArray:  # noqa: D102 - see the protocol
        return renormalised(np.stack([log_density(one, x) for one in self._channels], axis=1))


class Given:
    """Weights that a user gives, checked at each call.

    Parameters
    ----------
    function : callable
        (n, d) -> (n, m).
    m : int
        Number of channels.
    """

    def __init__(self, function: Callable[[FloatArray], Any], m: int) -> None:
        self._function, self._m = function, m

    def __call__(self, x: FloatArray) -> FloatArray:  # noqa: D102 - see the protocol
        weights = np.asarray(self._function(x))
        if weights.dtype.kind not in "biuf":
            raise TypeError(f"channel_weights must return real numbers, got dtype {weights.dtype}")
        if weights.shape != (len(x), self._m):
            raise ValueError(
                f"channel_weights must return an array ({len(x)}, {self._m}), a column for each channel, got "
                f"{weights.shape}"
            )
        sums = weights.sum(axis=1)
        for is_wrong, what in (
            (~(weights >= 0).all(axis=1), "be numbers from 0"),
            (~(np.abs(sums - 1) <= SUM_ERROR), "sum to 1"),
        ):
            if is_wrong.any():
                row = int(np.argmax(is_wrong))
                raise ValueError(
                    f"channel_weights must {what}, found {weights[row].tolist()}, of sum {sums[row]:g}, "
                    f"at x = {x[row].tolist()}"
                )
        with np.errstate(divide="ignore"):
            log_weights: FloatArray = np.log(weights / sums[:, None])
        return log_weights


def renormalised(logs: FloatArray) -> FloatArray:
    """Subtract log sum exp of each row (n, m), unless all of it is -inf."""
    largest = logs.max(axis=1, keepdims=True)
    shifted = logs - np.where(largest == -np.inf, 0.0, largest)
    with np.errstate(divide="ignore", under="ignore"):
        total = np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted - np.where(total == -np.inf, 0.0, total)

"""The box of an integral as the image of the unit cube by several channels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from varflow.integration.channel import Channel, check_map, log_density, points_of, probe_points
from varflow.integration.channel_learning import Learned, are_alike
from varflow.integration.channel_weights import ChannelWeights, renormalised
from varflow.integration.components import FloatArray
from varflow.integration.domain import Domain
from varflow.runtime.fingerprint import digest

__all__ = ["ChannelDomain"]

MIN_CALLS_A_CHANNEL = 200

LOG_OF_NOTHING = -1e4  # for the log of a factor 0: any float64 times its exponential is 0


class ChannelDomain(Domain):
    """Box with the maps of m channels onto it, and with the weights that share out an integrand to them.

    Points of the unit cube have the number of their channel, from 0, before their d coordinates. What stands
    for the Jacobian has the weight of the channel in it.

    Parameters
    ----------
    domain : Domain
        The box.
    channels : sequence of Channel
        The channels, with names.
    weights : ChannelWeights
        Their weights.

    Attributes
    ----------
    network : WeightNetwork or None
        What weights are learnt by, if they are to be.
    is_learning_wanted : bool
        Whether they are to be in any case, or only where that promises something.
    is_active : ndarray of bool, (m,)
        Which channels take part; the weights of these alone are made to sum to 1.

    Raises
    ------
    TypeError, ValueError
        If a map, a density or the weights are wrong at one of the points at which they are looked at.
    """

    def __init__(self, domain: Domain, channels: Sequence[Channel], weights: ChannelWeights) -> None:
        super().__init__(domain.bounds)
        self.channels, self._weights = channels, weights
        self.network = weights.network if isinstance(weights, Learned) else None
        self.is_learning_wanted = isinstance(weights, Learned) and weights.is_wanted
        self.is_active = np.ones(len(channels), np.bool_)
        for channel in channels:
            check_map(channel, self.bounds)
        self._probes = np.concatenate([self._probed(k)[0] for k in range(len(channels))])
        self.fingerprint = digest(*(part for k in range(len(channels)) for part in self._probed(k)))

    def _probed(self, k: int) -> tuple[FloatArray, FloatArray]:
        """Points of a channel and what stands for the Jacobian there, by which the maps are known again."""
        z = probe_points(self.d)
        return self.from_cube(np.column_stack([np.full(len(z), k), z]))

    def from_cube(self, u: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Map points (n, 1 + d) to the box.

        Returns
        -------
        x : ndarray, (n, d)
            Points of the box.
        log_factor : ndarray, (n,)
            Log of a_k(x) / g_k(x), with the weight and the density of the channel.
        """
        points = np.asarray(u, np.float64)
        channel, z = points[:, 0].astype(np.int64), points[:, 1:]
        x, log_factor = np.empty_like(z), np.empty(len(z))
        for k in np.unique(channel):
            rows = np.flatnonzero(channel == k)
            x[rows] = points_of(self.channels[k], z[rows], self.bounds)
            log_factor[rows] = -log_density(self.channels[k], x[rows], is_own=True)
        log_weights = self.log_weights(x)[np.arange(len(x)), channel]
        return x, np.maximum(log_factor + log_weights, LOG_OF_NOTHING)

    def log_weights(self, x: FloatArray) -> FloatArray:
        """Compute logs of the channel weights (n, m) at points x (n, d) of the box."""
        logs = self._weights(x)
        return logs if self.is_active.all() else renormalised(np.where(self.is_active, logs, -np.inf))

    def are_alike(self) -> bool:
        """Tell whether all channels that take part have the same weights."""
        return are_alike(self.log_weights(self._probes))

    def identity(self) -> list[Any]:
        """Give what the channels of two runs must have in common for one to go on from the other's file."""
        learning = [self.network is not None, self.is_learning_wanted]
        return [*([one.name, one.group] for one in self.channels), learning, self.fingerprint]

    def check_calls(self, n_calls: int) -> None:
        """Raise ValueError where there are too few calls for so many channels."""
        least = MIN_CALLS_A_CHANNEL * len(self.channels)
        if n_calls < least:
            raise ValueError(
                f"n_calls must be at least {least} with {len(self.channels)} channels, "
                f"{MIN_CALLS_A_CHANNEL} for each, got {n_calls}"
            )

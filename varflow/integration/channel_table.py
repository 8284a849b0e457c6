"""What each channel of an integral has brought: rows of a table, which results show and files hold."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from varflow.flow.flow import Flow
from varflow.integration.iteration import Array, times_power
from varflow.integration.tables import first_component

__all__ = ["CHANNEL_TITLES", "ChannelEstimate", "channel_cells", "channels_of_file", "channels_to_file"]

CHANNEL_TITLES = ("channel", "integral", "share", "weight", "calls", "ess")


@dataclass(frozen=True, eq=False)
class ChannelEstimate:
    """What a channel of an integral has brought, or a group of channels with one flow: a row of a table.

    Parameters
    ----------
    name : str
        Name of the channel, or names of those of the group, with commas in between.
    share : float
        Its integral over the sum of the absolute values of those of all channels, of the first component.
    weight : float
        Mean of its channel weight over |f|: the shares of the integral of |f| sum to 1.
    n_calls : int
        Calls of f, those of the survey included.
    ess : float
        Effective sample size as a fraction of the points; NaN where it was dropped.
    is_dropped : bool
        Whether it brought nothing, so that the others have its share.
    flow : Flow
        Its flow, on the unit cube before its map.
    scaled_mean, scaled_variance : ndarray, (m,)
        Its integral and the variance of that, in units of 2^exponent and of its square.
    exponent : int
        That unit.
    chi2 : float
        Of its iterations, with `dof` degrees of freedom.
    dof : int
        These.

    Examples
    --------
    >>> f = lambda x: np.exp(-5 * x.sum(axis=1))
    >>> square = vf.Channel(lambda z: z**2, lambda x: -np.log(4 * np.sqrt(x.prod(axis=1))), name="square")
    >>> result = vf.integrate(f, 2, n_calls=2000, channels=[square, "flow"], seed=1)
    >>> first, second = result.channels
    >>> first.name, second.name, first.is_dropped
    ('square', 'channel 2', False)
    >>> bool(np.isclose(first.mean + second.mean, result.mean).all())
    True
    >>> bool(0 < first.sdev[0] <= result.sdev), first.flow.d, round(first.share + second.share, 6)
    (True, 2, 1.0)
    >>> round(first.weight + second.weight, 6), first.n_calls + second.n_calls == result.n_calls
    (1.0, True)
    """

    name: str
    share: float
    weight: float
    n_calls: int
    ess: float
    is_dropped: bool
    flow: Flow = field(repr=False)
    scaled_mean: Array = field(repr=False)
    scaled_variance: Array = field(repr=False)
    exponent: int = field(repr=False)
    chi2: float = field(repr=False)
    dof: int = field(repr=False)

    @property
    def mean(self) -> Array:
        """Its integral, (m,); it may underflow or overflow."""
        return times_power(self.scaled_mean, self.exponent)

    @property
    def sdev(self) -> Array:
        """Standard deviation of that, (m,)."""
        return times_power(np.sqrt(self.scaled_variance), self.exponent)


def channel_cells(channels: Sequence[ChannelEstimate], is_log: bool) -> list[tuple[str, ...]]:
    """Make the cells of the table, below its titles."""
    return [
        (
            one.name,
            "dropped"
            if one.is_dropped
            else first_component(one.scaled_mean, np.diag(one.scaled_variance), one.exponent, is_log),
            f"{one.share:.1%}",
            f"{one.weight:.1%}",
            f"{one.n_calls:,}",
            "-" if math.isnan(one.ess) else f"{one.ess:.1%}",
        )
        for one in channels
    ]


_NUMBERS = ("name", "share", "weight", "n_calls", "is_dropped", "exponent", "chi2", "dof")


def channels_to_file(channels: Sequence[ChannelEstimate]) -> tuple[list[dict[str, Any]], dict[str, Array]]:
    """Give what a file holds of the channels: a header, and arrays."""
    header = [
        {name: getattr(one, name) for name in _NUMBERS}
        | {"ess": None if math.isnan(one.ess) else one.ess, "flow": one.flow.description()}
        for one in channels
    ]
    arrays = {}
    for k, one in enumerate(channels):
        arrays[f"channel{k}_params"] = one.flow.params
        arrays[f"channel{k}_mean"] = one.scaled_mean
        arrays[f"channel{k}_variance"] = one.scaled_variance
    return header, arrays


def channels_of_file(
    header: Sequence[Mapping[str, Any]], arrays: Mapping[str, Array], m: int
) -> list[ChannelEstimate]:
    """Make the channels that a file holds; of m components."""
    made = []
    for k, told in enumerate(header):
        mean, variance = arrays[f"channel{k}_mean"], arrays[f"channel{k}_variance"]
        if mean.shape != (m,) or variance.shape != (m,):
            raise ValueError(f"channels must have {m} components, found {mean.shape} and {variance.shape}")
        made.append(
            ChannelEstimate(
                **{name: told[name] for name in _NUMBERS},
                ess=math.nan if told["ess"] is None else told["ess"],
                flow=Flow.from_description(told["flow"], arrays[f"channel{k}_params"]),
                scaled_mean=mean,
                scaled_variance=variance,
            )
        )
    return made

"""Channels of an integral: maps from the unit cube, with the densities that their points have."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from varflow.integration.components import FloatArray
from varflow.integration.domain import Domain

__all__ = ["Channel", "channels_of", "check_map", "probe_points"]

Map = Callable[[FloatArray], Any]

FLOW = "flow"  # a channel that is a flow of the whole box
N_PROBES = 16  # points at which a map is held against its density
STEPS = 1e-4, 1e-5  # of the derivatives, whose difference tells how good they are
DISAGREEMENT = 1e-4  # of logarithms of densities, beyond what the derivatives leave open
UNRESOLVED = 0.01  # difference of the two derivatives beyond which they tell nothing


class Channel:
    """A map from the unit cube into the box of an integral, with the density of the points that it makes.

    A flow of its own, on the unit cube, goes before each map: the map brings what is known of a peak, and the
    flow learns the rest. The map is to be one to one, and need not reach all of the box: where it does not,
    its density is 0.

    Parameters
    ----------
    forward : callable
        Takes points z of the unit cube, (n, d), and returns points x of the box, (n, d).
    log_prob : callable
        Takes any points x of the box, (n, d), and returns the log of the density that uniform z lead to
        there, (n,): -log |det dx/dz|, in 1 / volume; -inf where the map does not reach.
    name : str, optional
        What the channel is called in tables and messages; "channel k", counted from 1, if not given.
    group : str, optional
        Channels of the same group share one flow: their integrands are to look alike on the unit cube, as
        those of maps that a symmetry of f takes into each other. They are evaluated at the same points z, so
        that what a symmetry cancels cancels point by point.

    Raises
    ------
    TypeError
        If `forward` or `log_prob` is not callable, or `name` or `group` is not a string.

    Notes
    -----
    The integral is the sum over the channels k of the integrals of a_k f, with channel weights a_k(x) whose
    sum is 1 at each x (Kleiss and Pittau, hep-ph/9405257; with a flow for each channel, Heimel et al., arXiv
    2212.06172 and 2311.01548). With z from the flow's density q_k and x = forward(z), the mean of

        a_k(x) f(x) / (q_k(z) prob_k(x))

    estimates the part of channel k without bias.

    Examples
    --------
    A resonance at x = 0.3 on a flat background, with a map that flattens it:

    >>> width, mass = 1e-4, 0.3
    >>> low, high = np.arctan(-mass / width), np.arctan((1 - mass) / width)
    >>> peak = vf.Channel(
    ...     lambda z: mass + width * np.tan(low + (high - low) * z),
    ...     lambda x: np.log(width / (high - low) / ((x[:, 0] - mass) ** 2 + width**2)),
    ...     name="peak",
    ... )
    >>> peak.name, peak.group
    ('peak', None)
    >>> x = peak.forward(np.array([[0.5]]))
    >>> bool(abs(x[0, 0] - 0.3) < 1e-3), bool(peak.log_prob(x)[0] > 0)
    (True, True)
    >>> def f(x):
    ...     return 1 + width / ((x[:, 0] - mass) ** 2 + width**2)
    >>> result = vf.integrate(f, 1, n_calls=4000, channels=[peak, "flow"], seed=1)
    >>> bool(abs(result.mean - (1 + high - low)) < 5 * result.sdev)
    True
    """

    def __init__(
        self, forward: Map, log_prob: Map, *, name: str | None = None, group: str | None = None
    ) -> None:
        for argument, function in (("forward", forward), ("log_prob", log_prob)):
            if not callable(function):
                raise TypeError(f"{argument} of a channel must be callable, got {function!r}")
        for argument, text in (("name", name), ("group", group)):
            if not isinstance(text, str | None):
                raise TypeError(f"{argument} of a channel must be a string, got {text!r}")
        self.forward, self.log_prob, self.name, self.group = forward, log_prob, name, group

    def __repr__(self) -> str:
        return f"Channel(name={self.name!r}, group={self.group!r})"


def channels_of(given: object, domain: Domain) -> list[Channel]:
    """Make the channels that a user has given: channels, "flow", objects or pairs with the two functions.

    All get names.

    Raises
    ------
    TypeError, ValueError
        If there is none, one is something else, or two have the same name.
    """
    if isinstance(given, str | Channel) or not isinstance(given, Sequence):
        raise TypeError(f"channels must be a list of channels, got {given!r}")
    if not given:
        raise ValueError("channels must hold one channel at least; leave it out for an integral without them")
    made = [_named(_channel_of(one, k, domain), k) for k, one in enumerate(given)]
    names = [one.name for one in made]
    for k, name in enumerate(names):
        if name in names[:k]:
            raise ValueError(f"channels[{names.index(name)}] and channels[{k}] have the same name, {name!r}")
    return made


def _named(channel: Channel, k: int) -> Channel:
    name = channel.name or f"channel {k + 1}"
    return Channel(channel.forward, channel.log_prob, name=name, group=channel.group)


def _channel_of(one: Any, k: int, domain: Domain) -> Channel:
    if isinstance(one, Channel):
        return one
    if isinstance(one, str) and one == FLOW:
        return _of_box(domain)
    if isinstance(one, tuple) and len(one) == 2 and all(map(callable, one)):
        return Channel(*one)
    if callable(getattr(one, "forward", None)) and callable(getattr(one, "log_prob", None)):
        name, group = (getattr(one, part, None) for part in ("name", "group"))
        return Channel(one.forward, one.log_prob, name=name, group=group)
    raise TypeError(
        f'channels[{k}] must be a Channel, "{FLOW}", a pair (forward, log_prob) or an object with these two '
        f"methods, got {one!r}"
    )


def _of_box(domain: Domain) -> Channel:
    """Make the channel whose map is that of the box itself, so that its flow is on its own."""
    return Channel(lambda z: domain.from_cube(z)[0], lambda x: -domain.to_cube(x)[1])


def points_of(channel: Channel, z: FloatArray, bounds: FloatArray) -> FloatArray:
    """Map points z (n, d) of the unit cube to the box, and see to it that they get there.

    Raises
    ------
    TypeError, ValueError
        If what comes back are no such points; the message names the channel and the first wrong one.
    """
    x = _floats(channel, "forward", channel.forward(z))
    if x.shape != z.shape:
        raise ValueError(f"{_of(channel, 'forward')} must return an array {z.shape}, got {x.shape}")
    inside = np.clip(x, np.nextafter(bounds[:, 0], np.inf), np.nextafter(bounds[:, 1], -np.inf))
    with np.errstate(invalid="ignore"):
        size = np.minimum(bounds[:, 1] - bounds[:, 0], 1 + np.abs(inside))
        is_wrong = ~(np.isfinite(x) & (np.abs(x - inside) <= 1e-9 * size)).all(axis=1)
    if is_wrong.any():
        row = int(np.argmax(is_wrong))
        raise ValueError(
            f"{_of(channel, 'forward')} leaves the box {bounds.tolist()}: it maps z = {z[row].tolist()} to "
            f"x = {x[row].tolist()}"
        )
    return inside


def log_density(channel: Channel, x: FloatArray, is_own: bool = False) -> FloatArray:
    """Compute the log density (n,) of a channel at points x (n, d) of the box; `is_own`: its own points.

    Raises
    ------
    TypeError, ValueError
        If what comes back is no such density; the message names the channel and the first wrong point.
    """
    with np.errstate(divide="ignore"):  # of a density of 0, whose log users take
        log_prob = _floats(channel, "log_prob", channel.log_prob(x))
    if log_prob.shape != (len(x),):
        raise ValueError(f"{_of(channel, 'log_prob')} must return an array ({len(x)},), got {log_prob.shape}")
    is_wrong = np.isnan(log_prob) | (log_prob == np.inf) | (is_own & (log_prob == -np.inf))
    if is_wrong.any():
        row = int(np.argmax(is_wrong))
        what = "at a point of its own map" if is_own else "at a point of the box"
        raise ValueError(f"{_of(channel, 'log_prob')} is {log_prob[row]} {what}, x = {x[row].tolist()}")
    return log_prob


def _floats(channel: Channel, function: str, values: npt.ArrayLike) -> FloatArray:
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{_of(channel, function)} must return real numbers, got dtype {array.dtype}")
    return array.astype(np.float64)


def _of(channel: Channel, function: str) -> str:
    return f"{function} of {channel.name!r}"


def probe_points(d: int) -> FloatArray:
    """Make the points (n, d) of the unit cube at which maps are looked at: always the same."""
    generator = np.random.Generator(np.random.Philox(d))
    return 0.02 + 0.96 * generator.random((N_PROBES, d))


def check_map(channel: Channel, bounds: FloatArray) -> None:
    """Hold the density of a channel against the Jacobian of its map, by differences, at a few points.

    Points at which the differences of two steps are not alike tell nothing.

    Raises
    ------
    TypeError, ValueError
        If they disagree, or one is no map or no density.
    """
    z = probe_points(len(bounds))
    x = points_of(channel, z, bounds)
    log_prob = log_density(channel, x, is_own=True)
    coarse, fine = (-_log_determinant(channel, z, step, bounds) for step in STEPS)
    with np.errstate(invalid="ignore"):
        unknown = np.abs(coarse - fine)
        is_wrong = (unknown < UNRESOLVED) & ~(np.abs(fine - log_prob) <= DISAGREEMENT + unknown)
    if is_wrong.any():
        row = int(np.argmax(is_wrong))
        raise ValueError(
            f"log_prob of {channel.name!r} disagrees with its map: at x = {x[row].tolist()} it is "
            f"{log_prob[row]:.6g}, while -log |det dx/dz| of forward is {fine[row]:.6g}, by differences, at "
            f"z = {z[row].tolist()}"
        )


def _log_determinant(channel: Channel, z: FloatArray, step: float, bounds: FloatArray) -> FloatArray:
    """Compute log |det dx/dz| at points z (n, d) by central differences."""
    columns = []
    for axis in np.eye(z.shape[1]) * step:
        above, below = (points_of(channel, z + way * axis, bounds) for way in (1, -1))
        columns.append((above - below) / (2 * step))
    sign, log_determinant = np.linalg.slogdet(np.stack(columns, axis=-1))
    return np.where(sign == 0, math.nan, log_determinant)

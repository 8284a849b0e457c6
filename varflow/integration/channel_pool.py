"""Points of surveys that channel weights are learnt from."""

from collections.abc import Mapping, Sequence

import numpy as np

from varflow.integration.channel import log_density
from varflow.integration.channel_domain import ChannelDomain
from varflow.integration.channel_learning import MAX_RATIO, Seen
from varflow.integration.engine import Engine
from varflow.integration.estimates import magnitudes

__all__ = ["Pool"]

MAX_POINTS = 200_000


class Pool:
    """Points with values of the integrand, and with the densities that they were drawn from.

    Parameters
    ----------
    d : int
        Number of dimensions.
    n_parts : int
        Number of flows.

    Attributes
    ----------
    is_open : bool
        Whether points are to be added.
    """

    def __init__(self, d: int, n_parts: int) -> None:
        self._d, self.is_open = d, False
        self._n_of_part = np.zeros(n_parts, np.int64)
        self.clear()

    def clear(self) -> None:
        """Forget all points."""
        self._rows = [np.empty((0, 1 + self._d + 3))]  # channel, u, log |f|, sign of f, log q
        self._n_of_part[:] = 0

    @property
    def n(self) -> int:
        """Number of points."""
        return sum(map(len, self._rows))

    def add(
        self,
        k: int,
        engine: Engine,
        channel: np.ndarray,
        numbers: np.ndarray,
        values: np.ndarray,
        is_log: bool,
    ) -> None:
        """Add values (n, m) of part k at points of its engine, unless they are no draws from its flow."""
        if not self.is_open or self.n > MAX_POINTS or engine.stage != "survey":
            return
        for piece in engine.pieces:
            is_here = (numbers >= piece.first) & (numbers < piece.first + len(piece.status))
            rows, found = numbers[is_here] - piece.first, values[is_here]
            with np.errstate(divide="ignore"):
                log_size = found[:, 0] if is_log else np.log(magnitudes(found))
            sign = np.sign(found[:, 0]) if not is_log and found.shape[1] == 1 else np.ones(len(found))
            columns = channel[is_here], piece.points.u[rows], log_size, sign, piece.points.log_q[rows]
            self._rows.append(np.column_stack(columns))
            self._n_of_part[k] += len(np.unique(rows))

    def seen(self, domain: ChannelDomain, channels_of_parts: Sequence[Sequence[int]]) -> Seen:
        """Make of them what a network learns from."""
        table = np.concatenate(self._rows)
        table = table[table[:, -3] > -np.inf]
        channel, u = table[:, 0].astype(np.int64), table[:, 1 : 1 + self._d]
        log_size, sign, log_q = table[:, -3:].T
        n_of_channel = np.zeros(len(domain.channels))
        for n, channels in zip(self._n_of_part, channels_of_parts, strict=True):
            n_of_channel[list(channels)] = n
        log_w = log_size - log_q - np.log(n_of_channel[channel])
        log_total = np.logaddexp.reduce(log_w)
        x, log_factor = domain.from_cube(np.column_stack([channel, u]))
        log_f = log_size - log_factor - log_total  # in units of the integral of |f|
        densities = np.stack([log_density(one, x) for one in domain.channels], axis=1)
        with np.errstate(over="ignore"):
            ratios = np.exp(np.minimum(log_f[:, None] - densities, np.log(MAX_RATIO)))
        place = domain.to_cube(x)[0]
        return Seen(place, domain.log_weights(x), sign * np.exp(log_w - log_total), ratios)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the points as arrays to be saved; see `restore`."""
        return {"pool": np.concatenate(self._rows), "pool_n": self._n_of_part.copy()}

    def restore(self, arrays: Mapping[str, np.ndarray], is_open: bool) -> None:
        """Go on from what `arrays` returned."""
        self._rows, self._n_of_part = [arrays["pool"]], arrays["pool_n"].copy()
        self.is_open = is_open

"""The engine of an integration with channels: one engine for each flow, and phases that all go through.

It stands in for an `Engine`: it hands out points, is told values, and learns. Its points have the number of
their channel before their coordinates. Channels of a group have the same flow; they are evaluated at the same
points, and the sum of their values is that of the group.

Its steps are those of the parts' own engines, which know nothing of each other. What they do is decided
phase by phase in `varflow.integration.channel_plan`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from varflow.integration.channel_domain import ChannelDomain
from varflow.integration.channel_outcome import channel_outcome
from varflow.integration.channel_plan import Phase, phases_for, phases_of, phases_told
from varflow.integration.channel_state import ChannelState, Part
from varflow.integration.iteration import Iteration
from varflow.integration.plan import Agenda
from varflow.integration.received import Received
from varflow.integration.result import Result, Source
from varflow.integration.sampling import proposed_points
from varflow.integration.state import DEFENSIVE_SHARE
from varflow.integration.unweighting import FORMS
from varflow.runtime.checkpoint import Saved

__all__ = ["ChannelEngine"]

FLAT_SHARE = 0.05  # of the points of a sample, that all channels have alike


class ChannelEngine:
    """Engine of an integration with channels; see the module's docstring.

    Parameters
    ----------
    parts : sequence of Part
        The flows, with the numbers of their channels.
    domain : ChannelDomain
        The box, with maps and weights of the channels.

    Attributes
    ----------
    phases : list of Phase
        What is to be done once the agendas of all parts are.
    """

    def __init__(self, parts: Sequence[Part], domain: ChannelDomain) -> None:
        self.parts, self.domain = parts, domain
        self.state = ChannelState(parts, domain)
        self.phases: list[Phase] = []
        self._part_of = {k: part for part in parts for k in part.channels}
        self._n_channels = len(self._part_of)

    # What an engine does

    def begin(self, agenda: Agenda) -> None:
        """Begin with what an agenda would do without channels."""
        for part in self.parts:
            part.engine.begin([])
        self.phases = phases_for(agenda)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to be done."""
        return not self.phases and all(part.engine.is_done for part in self.parts)

    def show_training(self, show: Callable[[float], object]) -> None:
        """Call `show` with the share that is done, within steps of which training takes all of the time."""
        for part in self.parts:
            part.engine.show_training(show)

    def ask(self, n: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Hand out points: all of the pieces at hand, or n of them, or fewer.

        Returns
        -------
        numbers : ndarray of int, (n,)
            Their numbers.
        u : ndarray, (n, 1 + d)
            Number of the channel, and point of the unit cube.
        """
        asked = []
        n_left = n
        for part in self.state.active:
            if n_left is None:
                asked.append((part, *part.engine.ask()))
            elif n_left >= part.cost:
                asked.append((part, *part.engine.ask(n_left // part.cost)))
                n_left -= part.cost * len(asked[-1][1])
        return self._numbered(asked)

    def _numbered(self, asked: list[tuple[Part, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        """Give numbers and coordinates that tell the channels, for points of parts."""
        numbers, points = [np.empty(0, np.int64)], [np.empty((0, 1 + self.domain.d))]
        for part, of_part, u in asked:
            for k in part.channels:
                numbers.append(of_part * self._n_channels + k)
                points.append(np.column_stack([np.full(len(u), float(k)), u]))
        return np.concatenate(numbers), np.concatenate(points)

    def tell(self, numbers: np.ndarray, values: np.ndarray) -> None:
        """Take values (n, m) of the integrand on the unit cube, at points of these numbers, all open.

        A point of a group of which a channel is missing is handed out again.
        """
        for part, rows in self._shared(numbers):
            points, which, count = np.unique(
                numbers[rows] // self._n_channels, return_inverse=True, return_counts=True
            )
            nothing = -np.inf if self.state.is_log else 0.0
            part.is_hit |= bool((values[rows] != nothing).any())
            sums = self._summed(values[rows], which, len(points))
            is_whole = count == part.cost
            if self.state.pool is not None:
                kept = rows[is_whole[which]]
                self.state.pool.add(
                    self.parts.index(part),
                    part.engine,
                    numbers[kept] % self._n_channels,
                    numbers[kept] // self._n_channels,
                    values[kept],
                    self.state.is_log,
                )
            part.engine.tell(points[is_whole], sums[is_whole])
            part.engine.take_back(points[~is_whole])

    def _summed(self, values: np.ndarray, which: np.ndarray, n: int) -> np.ndarray:
        """Add values (k, m) of the same point, of which there are n, or their exponentials."""
        if self.state.is_log:
            sums = np.full((n, values.shape[1]), -np.inf)
            np.logaddexp.at(sums, which, values)
        else:
            sums = np.zeros((n, values.shape[1]))
            np.add.at(sums, which, values)
        return sums

    def take_back(self, numbers: np.ndarray) -> None:
        """Hand out points of these numbers, all open, again."""
        for part, rows in self._shared(numbers):
            part.engine.take_back(np.unique(numbers[rows] // self._n_channels))

    def _shared(self, numbers: np.ndarray) -> list[tuple[Part, np.ndarray]]:
        """Find the rows of the numbers of each part that has any."""
        channel = numbers % self._n_channels
        found = [(part, np.flatnonzero(np.isin(channel, part.channels))) for part in self.parts]
        return [(part, rows) for part, rows in found if len(rows)]

    def open_points(self) -> tuple[np.ndarray, np.ndarray]:
        """Give numbers (n,) and points (n, 1 + d) that were asked for and not told."""
        return self._numbered([(part, *part.engine.open_points()) for part in self.parts])

    @property
    def stage(self) -> str:
        """What the points at hand are for; "done" where there are no more."""
        return next((one.engine.stage for one in self.parts if not one.engine.is_done), "done")

    @property
    def n_told(self) -> int:
        """Number of points whose values are known."""
        return self.state.n_told

    def advance(self) -> bool:
        """Learn from complete pieces, and begin the next phase where all is done."""
        has_acted = False
        while True:
            for part in self.state.active:
                has_acted |= part.engine.advance()
            self.state.note_iterations()
            if not self.phases or not all(part.engine.is_done for part in self.parts):
                return has_acted
            self.phases[:1] = self.phases[0].begin(self.state)
            has_acted = True

    def has_changed(self, evaluate: Callable[[np.ndarray], np.ndarray]) -> bool:
        """Tell whether the integrand has another value than before at a point that is known."""
        for part in self.parts:
            memory = part.state.memory.arrays()
            if len(memory["u"]):
                numbers, u = self._numbered([(part, np.zeros(1, np.int64), memory["u"][:1])])
                sums = self._summed(evaluate(u), np.zeros(len(numbers), np.int64), 1)
                return not np.allclose(part.state.divided(sums).log_f, memory["log_f"][:1], rtol=0, atol=1e-6)
        return False

    def weighted_points(
        self, n: int, evaluate: Callable[[np.ndarray], np.ndarray], generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw points (n, 1 + d) with weights (n, m), whose mean is the integral, or with their logarithms.

        Each comes from a channel that is drawn by its share in the integral of |f|, but for a share
        ``FLAT_SHARE`` that all have alike.
        """
        active = self.state.active
        sizes = self.state.sizes()[[part.is_active for part in self.parts]]
        of_parts = (1 - FLAT_SHARE) * sizes / sizes.sum() + FLAT_SHARE / len(active)
        channels = np.concatenate([part.channels for part in active])
        shares = np.concatenate(
            [np.full(part.cost, of_part / part.cost) for part, of_part in zip(active, of_parts, strict=True)]
        )
        chosen = generator.choice(len(channels), n, p=shares / shares.sum())
        points, log_q = np.empty((n, 1 + self.domain.d)), np.empty(n)
        for k in np.unique(chosen):
            rows, flow = np.flatnonzero(chosen == k), self._part_of[channels[k]].state.flow
            u, of_flow = proposed_points(len(rows), flow, DEFENSIVE_SHARE, generator)
            points[rows] = np.column_stack([np.full(len(u), float(channels[k])), u])
            log_q[rows] = of_flow + np.log(shares[k])
        return points, FORMS[self.state.is_log].weights(log_q, evaluate(points))

    def result(
        self, history: list[Iteration], domain: object, received: Received, source: Source | None
    ) -> Result:
        """Make the result of the iterations in a history; see `channel_outcome`."""
        return channel_outcome(self.state, history, self.domain, received, source)

    # How it is kept

    def saved(self) -> Saved:
        """Header and arrays, for a file."""
        header: dict[str, Any] = {
            "phases": phases_told(self.phases),
            **self.state.header(),
            "engines": [],
        }
        arrays: dict[str, np.ndarray] = {}
        for k, part in enumerate(self.parts):
            of_part, its_arrays = part.engine.saved()
            header["engines"].append(of_part)
            arrays |= {f"part{k}_{name}": array for name, array in its_arrays.items()}
            arrays |= part.pilot_arrays(f"pilot{k}")
        if self.state.pool is not None and self.domain.network is not None:
            arrays |= self.state.pool.arrays() | {"network": self.domain.network.params.copy()}
        return header, arrays

    def restore(self, header: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Go on from what `saved` returned."""
        self.phases = phases_of(header["phases"])
        for k, part in enumerate(self.parts):
            start = f"part{k}_"
            own = {name.removeprefix(start): one for name, one in arrays.items() if name.startswith(start)}
            part.engine.restore(header["engines"][k], own)
            part.restore_pilot(f"pilot{k}", arrays)
        self.state.restore(header)
        if self.state.pool is not None and self.domain.network is not None:
            self.state.pool.restore(arrays, header["pool"])
            self.domain.network.params[:] = arrays["network"]

"""What an integration with channels knows of all of them together."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from varflow.flow.flow import Flow
from varflow.integration.averages import USUAL_RATE, estimate, variances_of
from varflow.integration.channel_domain import ChannelDomain
from varflow.integration.channel_learning import learn
from varflow.integration.channel_pool import Pool
from varflow.integration.clock import Deadline
from varflow.integration.costs import Costs
from varflow.integration.engine import Engine
from varflow.integration.iteration import (
    LOG_OF_2,
    Iteration,
    pack_history,
    scaled,
    times_power,
    unpack_history,
)
from varflow.integration.scout import no_walkers
from varflow.integration.state import State
from varflow.integration.steps import LOOK
from varflow.integration.tolerance import Tolerance

__all__ = ["ChannelState", "Part", "scales_of"]

logger = logging.getLogger(__name__)

BOTH_SIGNS = 0.1  # share of the integral of |f| that cancels, from which on f counts as of both signs
MIN_POOL = 1000  # points from which channel weights are learnt


class Part:
    """A flow of an integration with channels: the one of a channel, or of a group of them.

    Parameters
    ----------
    engine : Engine
        What integrates the sum of these channels over the unit cube.
    channels : sequence of int
        Their numbers.

    Attributes
    ----------
    is_active : bool
        Whether it takes part.
    size : float
        Integral of |f| times its weights, relative to that of all; NaN before it is known.
    is_hit : bool
        Whether the integrand of one of its channels was not zero anywhere; their sum may be.
    n_before : int
        Points of iterations that are forgotten: they were for other weights.
    pilot : Iteration or None
        What told what it brings, in units of 2^pilot_exponent.
    pilot_exponent : int
        That unit.
    """

    def __init__(self, engine: Engine, channels: Sequence[int]) -> None:
        self.engine, self.channels = engine, list(channels)
        self.is_active, self.size, self.n_before = True, float("nan"), 0
        self.is_hit = False
        self.pilot: Iteration | None = None
        self.pilot_exponent = 0

    @property
    def state(self) -> State:
        """What its engine knows."""
        return self.engine.state

    def forget(self) -> None:
        """Forget what is known of the integrand, but not the flow, as that of other weights begins."""
        state = self.state
        self.n_before += sum(one.n_calls for one in state.history)
        state.history.clear()
        state.memory.keep(state.memory.latest(0))
        state.explored.keep(state.explored.latest(0))
        state.walkers, state.log_lost = no_walkers(state.flow.d), np.empty(0)
        state.rounds.clear()
        state.expected = np.zeros_like(state.expected)
        state.is_flow_new = state.is_surveyed = False

    def pilot_arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """Return the pilot run as arrays to be saved; see `restore_pilot`."""
        if self.pilot is None:
            return {}
        packed = pack_history([self.pilot], len(self.pilot.mean))
        packed |= {"exponent": np.array([self.pilot_exponent])}
        return {f"{prefix}_{name}": array for name, array in packed.items()}

    def restore_pilot(self, prefix: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Go on from what `pilot_arrays` returned."""
        own = {
            name.removeprefix(f"{prefix}_"): one for name, one in arrays.items() if name.startswith(prefix)
        }
        self.pilot, self.pilot_exponent = None, 0
        if own:
            self.pilot_exponent = int(own.pop("exponent")[0])
            (self.pilot,) = unpack_history(["survey"], own, own["mean"].shape[1])

    @property
    def cost(self) -> int:
        """Calls of f at each point of its unit cube."""
        return len(self.channels)


class ChannelState:
    """Stands in for the `State` of an integration without channels, as far as all together can.

    Parameters
    ----------
    parts : sequence of Part
        The flows.
    domain : ChannelDomain
        The box, with maps and weights of the channels.

    Attributes
    ----------
    tolerance : Tolerance
        That was asked for last.
    deadline, costs, notes
        As a `State` has them: no deadline, costs in calls, and nothing decided by them.
    has_both_signs : bool
        Whether f had, in the pilot runs.
    pool : Pool or None
        Points that channel weights are learnt from, if they are to be.
    order : list of int
        Numbers of the parts in the order in which their iterations came.
    """

    def __init__(self, parts: Sequence[Part], domain: ChannelDomain) -> None:
        self.parts, self.domain, self.order = parts, domain, list[int]()
        self.tolerance, self.deadline, self.costs = Tolerance(), Deadline(), Costs()
        self.notes: list[str] = []
        self.has_both_signs = False
        self.pool = None if domain.network is None else Pool(domain.d, len(parts))

    @property
    def active(self) -> list[Part]:
        """The parts that take part."""
        return [part for part in self.parts if part.is_active]

    @property
    def n_told(self) -> int:
        """Number of calls of f whose values are known."""
        return sum(part.cost * part.engine.n_told for part in self.parts)

    @property
    def is_log(self) -> bool:
        """Whether values of the integrand are told by their logarithms."""
        return self.parts[0].state.is_log

    @property
    def is_flow_new(self) -> bool:
        """Whether the flows were made for this integral."""
        return self.parts[0].state.is_flow_new

    @property
    def sample(self) -> None:
        """Points of the survey that are given: none, as surveys are by replay."""

    @property
    def flow(self) -> Flow:
        """The flow of the part with most of the integral of |f|, before that is known the first."""
        sizes = np.nan_to_num([part.size for part in self.parts])
        return self.parts[int(np.argmax(sizes))].state.flow

    @property
    def exponent(self) -> int:
        """All together is in units of 2^exponent."""
        known = [part.state.exponent for part in self.parts if part.is_active and part.state.has_unit]
        return max(known, default=0)

    @property
    def history(self) -> list[Iteration]:
        """The iterations of all parts, in the order in which they came, in one unit."""
        left = [iter(histories) for histories in self.histories()]
        return [next(left[k]) for k in self.order]

    def histories(self, n: int | None = None) -> list[list[Iteration]]:
        """Give the iterations of each part, of the first n of all, in one unit."""
        order = self.order if n is None else self.order[:n]
        return [
            [scaled(one, part.state.exponent - self.exponent) for one in part.state.history[: order.count(k)]]
            for k, part in enumerate(self.parts)
        ]

    def note_iterations(self) -> None:
        """Note which parts have had further ones."""
        for k, part in enumerate(self.parts):
            self.order += [k] * (len(part.state.history) - self.order.count(k))

    def estimate(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Mean and covariance of the sum; None where a part that takes part has none."""
        found = []
        for part in self.parts:
            if part.is_active:
                used = [one for one in part.state.history if one.is_used]
                if not used:
                    return None
                mean, covariance = estimate(used, part.state.tail.heavier)
                shift = part.state.exponent - self.exponent
                found.append((times_power(mean, shift), times_power(covariance, 2 * shift)))
        means, covariances = zip(*found, strict=True)
        return np.sum(means, axis=0), np.sum(covariances, axis=0)

    def sizes(self) -> np.ndarray:
        """Shares of the parts, (n_parts,), in the integral of |f|: by their surveys, or by their pilot runs.

        They are 0 where a part was dropped.
        """
        logs = [
            self._log_size(part) if part.is_active and part.state.memory.n else -math.inf
            for part in self.parts
        ]
        if all(size == -math.inf for size in logs):
            return np.array([part.size if part.is_active else 0.0 for part in self.parts])
        sizes: np.ndarray = np.exp(np.array(logs) - np.logaddexp.reduce(logs))
        return sizes

    # What phases ask for

    def take_pilots(self, nothing: float) -> None:
        """Take note of the pilot runs, drop the parts that bring nothing, and forget their points.

        nothing: share of the integral of |f| below which a part is dropped where others reach its points.
        """
        sizes = np.array([self._log_size(part) for part in self.parts])
        is_hit = sizes > -math.inf
        shares = np.exp(sizes - np.logaddexp.reduce(sizes)) if is_hit.any() else np.zeros(len(sizes))
        for part, share in zip(self.parts, shares, strict=True):
            part.size = float(share)
        for k in np.argsort(sizes, kind="stable"):
            part = self.parts[k]
            is_last = len(self.active) == 1
            if not is_last and shares[k] < nothing and (not is_hit[k] or self._is_covered(part)):
                part.is_active = False
                self.domain.is_active[part.channels] = False
                logger.info(
                    "channels %s bring %.1g of the integral: they are dropped", part.channels, shares[k]
                )
        self.has_both_signs = self._cancelled() > BOTH_SIGNS
        for part in self.parts:
            state = part.state
            part.pilot, part.pilot_exponent = state.history[-1], state.exponent
            state.history.clear()
            state.memory.keep(state.memory.latest(0))
        self.order.clear()

    def _cancelled(self) -> float:
        """Share of the integral of |f| that cancels within parts in their pilot runs, for one component."""
        cancelled = 0.0
        for part in self.active:
            state = part.state
            if len(state.expected) == 1 and not state.is_log and part.size > 0:
                of_size = math.exp(state.memory.log_mean(0))
                cancelled += part.size * max(0.0, 1 - abs(float(state.expected[0])) / of_size)
        return cancelled

    def _log_size(self, part: Part) -> float:
        """Log of the integral of |f| times the weights of a part."""
        return part.state.memory.log_mean(part.state.memory.n // 2) + part.state.exponent * LOG_OF_2

    def _is_covered(self, part: Part) -> bool:
        """Tell whether other parts reach the points of a part's pilot run where f is not zero."""
        memory, others = part.state.memory, [one.channels for one in self.active if one is not part]
        u = memory.u[memory.log_weights(slice(None)) > -math.inf]
        for k in part.channels:
            x, _ = self.domain.from_cube(np.column_stack([np.full(len(u), float(k)), u]))
            if (self.domain.log_weights(x)[:, np.concatenate(others)].max(axis=1) == -math.inf).any():
                return False
        return True

    def estimate_of_surveys(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Sum of the latest estimates of all parts, with the variances of a point; None if one has none."""
        found = []
        for part in self.active:
            known = [one for one in part.state.history if np.isfinite(one.covariance).all()]
            if not known:
                return None
            shift = part.state.exponent - self.exponent
            variances = variances_of(known[-1].covariance) * known[-1].n_calls * part.cost
            found.append((times_power(known[-1].mean, shift), times_power(variances, 2 * shift)))
        return np.sum([mean for mean, _ in found], axis=0), np.array([one for _, one in found])

    def calls_missing(self) -> float:
        """Estimate the calls that a refinement needs to reach the tolerance, besides those it has had."""
        estimate = self.estimate()
        if estimate is not None:
            shortfall = self.tolerance.shortfall(*estimate, self.exponent)
            n = sum(one.n_calls for one in self.history if one.is_used)
            return 0.0 if shortfall <= 1 else n * ((1.05 * shortfall) ** (1 / USUAL_RATE) - 1) + 1
        found = self.estimate_of_surveys()
        if found is None:
            return math.inf
        mean, variances = found  # of a point
        n = LOOK * len(variances)
        of_all = np.square(np.sqrt(variances).sum(axis=0)) / n
        return float(n * self.tolerance.shortfall(mean, of_all, self.exponent) ** (1 / USUAL_RATE))

    def learn_weights(self) -> None:
        """Learn the channel weights from the pool, and forget what was known of those before."""
        pool, network = self.pool, self.domain.network
        assert pool is not None
        assert network is not None
        pool.is_open = False
        if len(self.active) > 1 and pool.n >= MIN_POOL:
            seen = pool.seen(self.domain, [part.channels for part in self.parts])
            seed = self.parts[0].state.generator.integers(2**63)
            if learn(network, seen, np.random.Generator(np.random.Philox(seed))):
                for part in self.parts:
                    part.forget()
                self.order.clear()
        pool.clear()

    # How it is kept

    def header(self) -> dict[str, Any]:
        """Describe it in what JSON can hold; see `restore`."""
        return {
            "order": list(self.order),
            "has_both_signs": self.has_both_signs,
            "tolerance": asdict(self.tolerance),
            "is_active": [part.is_active for part in self.parts],
            "is_hit": [part.is_hit for part in self.parts],
            "n_before": [part.n_before for part in self.parts],
            "pool": None if self.pool is None else self.pool.is_open,
            "sizes": [part.size for part in self.parts],
        }

    def restore(self, header: Mapping[str, Any]) -> None:
        """Go on from what `header` returned, once the parts have gone on."""
        self.has_both_signs = header["has_both_signs"]
        self.order, self.tolerance = list(header["order"]), Tolerance(**header["tolerance"])
        for part, is_active, size in zip(self.parts, header["is_active"], header["sizes"], strict=True):
            part.is_active, part.size = is_active, size
            self.domain.is_active[part.channels] = is_active
        for part, is_hit, n_before in zip(self.parts, header["is_hit"], header["n_before"], strict=True):
            part.is_hit, part.n_before = is_hit, n_before


def scales_of(parts: Sequence[Part], exponent: int) -> np.ndarray:
    """Standard deviation of a point of each part, of the component that counts most, relative to the total.

    It is that of the latest iteration that has an error.
    """
    variances = np.array([_variances(part, exponent) for part in parts])  # (n_parts, m)
    total = variances.sum(axis=0)
    shares = variances[:, total > 0] / total[total > 0]
    scales: np.ndarray = np.sqrt(shares.max(axis=1, initial=0.0))
    return scales


def _variances(part: Part, exponent: int) -> np.ndarray:
    """Variances (m,) of one point of the latest iteration of a part, in units of 2^(2 exponent)."""
    for one in reversed(part.state.history):
        if np.isfinite(one.covariance).all():
            return _of_a_point(one, part.state.exponent - exponent)
    assert part.pilot is not None
    return _of_a_point(part.pilot, part.pilot_exponent - exponent)


def _of_a_point(one: Iteration, shift: int) -> np.ndarray:
    return times_power(variances_of(one.covariance) * one.n_calls, 2 * shift)

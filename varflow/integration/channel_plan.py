"""What an integration with channels does next: phases, each of which gives agendas to the parts.

A phase begins once all parts have gone through their agendas. It decides by what is known then, and puts
further phases before those that are left.

**Pilot.** Each part draws a few points of its map, without a flow. Where a w f = 0 at all of them, or all but
``NOTHING`` of the integral of |f| is in the others and these reach all its points, a part is dropped: the
weights of the others are made to sum to 1 without it, so that nothing is lost.

**Channel weights**, where they are to be learnt, come next, from the points of a first survey; flows go on
from there, and all else begins anew. See `varflow.integration.channel_learning`.

**Survey.** The calls are shared out in proportion to the standard deviations of a point, but for a share
``FLOOR_OF_SURVEY`` that all parts get alike. Each part then surveys as an integration without channels does.

**Refinement.** So again, with the errors that the surveys have left: s_k n_k^(-r) in part k with n_k calls,
r being the usual power. The sum of their squares is least where n_k is in proportion to s_k^(1 / (r + 1/2)).
Only the refinement counts in the result: budgets depend on values of the survey.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from varflow.integration.averages import USUAL_RATE
from varflow.integration.channel_state import ChannelState, Part, scales_of
from varflow.integration.plan import (
    MAX_FEW,
    SURVEY_SHARE,
    Agenda,
    ByCalls,
    Refine,
    RefineFew,
    RefineRest,
    Survey,
    SurveyOfFew,
    ToTolerance,
    survey,
)
from varflow.integration.steps import LOOK, MIN_POINTS, Estimate
from varflow.integration.tolerance import Tolerance

__all__ = ["Phase", "phases_for", "phases_of", "phases_told"]

PILOT_SHARE = 0.05  # of the calls, at most
NOTHING = 1e-4  # share of the integral of |f| below which a part is dropped where others reach its points
FLOOR_OF_SURVEY, FLOOR = 0.3, 0.05  # shares of the calls that all parts get alike
MIN_SURVEYED = 200  # points below which nothing is learnt
LEARNING_SHARE = 0.2  # of the calls, in a survey that channel weights are learnt from
FIRST_STAGES = 4  # looks of each part in that, where calls follow from a tolerance
SHARE_OF_LOST = 0.125  # of the calls, for a further survey of parts that have lost a region


@dataclass
class Phase:
    """A phase; see the module's docstring."""

    def begin(self, state: ChannelState) -> "list[Phase]":
        """Give agendas to the parts, and tell what comes before all other phases."""
        raise NotImplementedError


@dataclass
class Spend(Phase):
    """Spend so many calls."""

    n_calls: int

    def begin(self, state: ChannelState) -> list[Phase]:
        state.tolerance, end = Tolerance(), state.n_told + self.n_calls
        surveys = [
            SurveyWithin(int(SURVEY_SHARE * self.n_calls)),
            SurveyLost(int(SHARE_OF_LOST * self.n_calls)),
        ]
        return [*_pilot(state, self.n_calls), *_learning(state, self.n_calls), *surveys, RefineUntil(end)]


@dataclass
class SpendTo(Phase):
    """Reach a tolerance, in so many calls at most."""

    n_calls: int
    rtol: float
    atol: float

    def begin(self, state: ChannelState) -> list[Phase]:
        state.tolerance = Tolerance(self.rtol, self.atol)
        first, end = (
            min(self.n_calls, int(FIRST_STAGES * LOOK * len(state.parts) / LEARNING_SHARE)),
            state.n_told,
        )
        return [*_pilot(state, first), *_learning(state, first), NextStage(end + self.n_calls)]


@dataclass
class SurveyOnly(Phase):
    """Survey with so many calls."""

    n_calls: int

    def begin(self, state: ChannelState) -> list[Phase]:
        return [*_pilot(state, self.n_calls), *_learning(state, self.n_calls), SurveyWithin(self.n_calls)]


@dataclass
class RefineOnly(Phase):
    """Refine with so many calls."""

    n_calls: int

    def begin(self, state: ChannelState) -> list[Phase]:
        return [*_pilot(state, self.n_calls), RefineUntil(state.n_told + self.n_calls)]


def _pilot(state: ChannelState, n_calls: int) -> list[Phase]:
    """Make the phases that tell what each part brings, unless that is known."""
    if all(part.pilot is not None for part in state.parts):
        return []
    n_each = int(PILOT_SHARE * n_calls) // sum(part.cost for part in state.parts)
    return [Pilot(min(max(n_each, MIN_POINTS), LOOK)), Drop()]


def _learning(state: ChannelState, n_calls: int) -> list[Phase]:
    """Make the phases that learn the channel weights, if they are to be learnt and are not yet."""
    network = state.domain.network
    is_done = network is None or network.params.any()
    return [] if is_done else [BeginLearning(state.n_told + int(LEARNING_SHARE * n_calls))]


@dataclass
class BeginLearning(Phase):
    """Survey for channel weights, with so many calls in all, where learning them promises something.

    That is so where all maps are alike, or f has both signs, unless it is asked for in any case.
    """

    n_calls: int

    def begin(self, state: ChannelState) -> list[Phase]:
        domain = state.domain
        if not (domain.is_learning_wanted or state.has_both_signs or domain.are_alike()):
            return []
        return [SurveyWithin(self.n_calls, True), LearnWeights()]


@dataclass
class LearnWeights(Phase):
    """Learn the channel weights from the points of a survey."""

    def begin(self, state: ChannelState) -> list[Phase]:
        state.learn_weights()
        return []


@dataclass
class Pilot(Phase):
    """Draw so many points for each part."""

    n_each: int

    def begin(self, state: ChannelState) -> list[Phase]:
        for part in state.parts:
            part.engine.begin([Estimate(self.n_each, "survey")])
        return []


@dataclass
class Drop(Phase):
    """Take note of what the pilot runs have found, and drop the parts that bring nothing."""

    def begin(self, state: ChannelState) -> list[Phase]:
        state.take_pilots(NOTHING)
        return []


@dataclass
class SurveyWithin(Phase):
    """Survey all parts, within so many calls with all that came before.

    is_for_weights: whether channel weights are to be learnt from its points.
    """

    n_calls: int
    is_for_weights: bool = False

    def begin(self, state: ChannelState) -> list[Phase]:
        parts, n_left = state.active, self.n_calls - state.n_told
        if state.pool is not None:
            state.pool.is_open = self.is_for_weights
        scales = scales_of(parts, state.exponent)
        for part, n in zip(parts, shared_out(n_left, scales, parts, FLOOR_OF_SURVEY), strict=True):
            part.engine.begin(_survey(n, part.state.flow.d))
        return []


@dataclass
class SurveyLost(Phase):
    """Survey parts again that have lost a region, with so many calls in all, if there are such."""

    n_calls: int

    def begin(self, state: ChannelState) -> list[Phase]:
        lost = [part for part in state.active if part.state.has_lost(part.state.n_calls)]
        for part in lost:
            part.engine.begin(_survey(self.n_calls // len(lost) // part.cost, part.state.flow.d))
        return []


@dataclass
class RefineUntil(Phase):
    """Refine all parts, until so many calls are told."""

    end_calls: int

    def begin(self, state: ChannelState) -> list[Phase]:
        parts, n_left = state.active, self.end_calls - state.n_told
        scales = scales_of(parts, state.exponent) ** (1 / (USUAL_RATE + 0.5))
        for part, n in zip(parts, shared_out(n_left, scales, parts, FLOOR), strict=True):
            part.engine.begin(_refinement(n, part))
        return []


@dataclass
class NextStage(Phase):
    """Survey with as many calls as before, until a refinement to the tolerance takes fewer; then refine.

    n_before: calls when the last stage began, which may be too few for a survey.
    """

    end_calls: int
    n_before: int = -1

    def begin(self, state: ChannelState) -> list[Phase]:
        n_told = state.n_told
        n_stage = max(n_told, 2 * LOOK * len(state.active))
        is_last = n_told + n_stage > SURVEY_SHARE * self.end_calls
        if n_told == self.n_before or is_last or state.calls_missing() <= n_stage:
            return [RefineTo(self.end_calls)]
        return [SurveyWithin(n_told + n_stage), NextStage(self.end_calls, n_told)]


@dataclass
class RefineTo(Phase):
    """Refine until the tolerance is reached, or the calls are spent."""

    end_calls: int

    def begin(self, state: ChannelState) -> list[Phase]:
        n_left, n_parts = self.end_calls - state.n_told, len(state.active)
        missing = state.calls_missing()
        if missing == 0 or n_left < 2 * MIN_POINTS * sum(one.cost for one in state.active):
            return []
        n = n_parts * LOOK if missing == math.inf else max(missing, n_parts * LOOK)
        return [RefineUntil(state.n_told + int(min(n, n_left))), RefineTo(self.end_calls)]


def shared_out(n: int, scales: np.ndarray, parts: Sequence[Part], floor: float) -> list[int]:
    """Share out n calls as points of the parts: in proportion to the scales, but for an equal share."""
    costs = np.array([part.cost for part in parts])
    least = np.maximum(int(floor * n / costs.sum()), MIN_POINTS)
    weighted = scales * np.sqrt(costs)
    shares = weighted / weighted.sum() if weighted.any() else costs / costs.sum()
    n_left = max(0, n - int(least * costs.sum()))
    return [int(least + share * n_left / cost) for share, cost in zip(shares, costs, strict=True)]


def _survey(n_points: int, d: int) -> Agenda:
    """Make the agenda of a survey of a part, with so many points."""
    if n_points < MIN_SURVEYED:
        return []
    return [SurveyOfFew(min(n_points, MAX_FEW))] if d == 1 else survey(n_points)


def _refinement(n_points: int, part: Part) -> Agenda:
    """Make the agenda of a refinement of a part, with so many points: as one scramble where they are few."""
    end = part.state.n_calls + n_points
    return [RefineFew(end)] if n_points < 2 * LOOK or part.state.flow.d == 1 else [RefineRest(end)]


# How they are asked for, and kept in files


def phases_for(agenda: Agenda) -> list[Phase]:
    """Make the phases that do with channels what an agenda does without."""
    if not agenda:
        return []
    first = agenda[0]
    if isinstance(first, ByCalls):
        return [Spend(first.n_calls)]
    if isinstance(first, ToTolerance):
        return [SpendTo(first.n_calls, first.rtol, first.atol)]
    if isinstance(first, Survey | SurveyOfFew):
        return [SurveyOnly(first.n_calls)]
    if isinstance(first, Refine):
        return [RefineOnly(first.n_iterations * first.n_points)]
    return [RefineOnly(sum(step.n_calls for step in agenda if isinstance(step, Estimate)))]


_PHASES: Mapping[str, type[Phase]] = {
    one.__name__: one
    for one in (
        *(Spend, SpendTo, SurveyOnly, RefineOnly, Pilot, Drop, BeginLearning, LearnWeights),
        *(SurveyWithin, SurveyLost, RefineUntil, NextStage, RefineTo),
    )
}


def phases_told(phases: Sequence[Phase]) -> list[list[Any]]:
    """Describe phases in what JSON can hold; see `phases_of`."""
    return [[type(phase).__name__, asdict(phase)] for phase in phases]


def phases_of(told: Sequence[Sequence[Any]]) -> list[Phase]:
    """Make the phases that `phases_told` has described."""
    return [_PHASES[name](**values) for name, values in told]

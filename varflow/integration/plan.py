"""What an integration does next: steps that decide on others, by what is known so far.

`integration` makes the agenda of a whole integration; `survey`, `Refine` and `extension` those of its parts,
for users who take them one by one. The steps in this module draw no points: their `then` decides,
and puts further steps before the rest of the agenda.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from varflow.flow.elementwise import FLAT_SHARE
from varflow.integration import few_calls
from varflow.integration.averages import variances_of
from varflow.integration.few_calls import USUAL_SHARE, estimate_blocks, survey_of_few
from varflow.integration.iteration import Iteration
from varflow.integration.scout import N_WALKERS
from varflow.integration.state import State
from varflow.integration.steps import (
    LOOK,
    MANY_BATCHES,
    MIN_POINTS,
    SCOUT_SHARE,
    Blocks,
    Estimate,
    Look,
    Regain,
    Scout,
    Stage,
    Step,
    Train,
)
from varflow.integration.survey import MIN_ROUNDS, ROUND
from varflow.integration.tolerance import Tolerance
from varflow.validation import positive_int

__all__ = [
    "MIN_CALLS",
    "Agenda",
    "Refine",
    "agenda_of",
    "described",
    "extension",
    "integration",
    "survey",
    "survey_of_each",
    "survey_of_sample",
]

MIN_SURVEYED = math.ceil((2 * LOOK + 2 * ROUND) / (1 - SCOUT_SHARE))  # one round has no scatter
MIN_CALLS = 100
# Calls below which training anew in few rounds has the smaller error, in 5 to 10 times the seconds:
FEW_CALLS = 32_768
MAX_FEW = 65_536  # calls that a single coordinate is surveyed with: its map has learnt enough by then
MIN_STAGED = 4 * LOOK  # calls of a survey in stages to a tolerance, its looks and its refinement
MIN_REFINED = 64  # points of an iteration of a refinement to a tolerance, with few calls
MIN_PROBED = 10 * LOOK  # calls of a refinement without a survey, or to a tolerance, that a probe belongs to
SURVEY_SHARE = 0.75  # of the calls, at most
MAP_SHARE = 0.25  # of the calls of a survey, at most, that an element-wise map is fitted to
MAP_SHARE_OF_MANY = 0.5  # the same in many dimensions
MIN_FITTED = 2  # points where f is not zero, that an element-wise map is fitted to
STEP_OF_MAP, GAIN_OF_MAP = 1.1, 2.0  # factors by which maps have to raise `State.power`: each, all
FLAT_SHARE_OF_MANY = 0.2  # uniform share of the density of a map, of many coordinates together
MANY_DIMENSIONS, CLOSE_ESS = 16, 0.75  # effective sample size from which on so many are not trained in
MAX_ROUNDS = 4096  # of a stage: more points are not kept in memory
MAX_CALLS = 1 << 21  # an iteration, for the sake of memory
DISAGREEMENT = 4.0  # standard deviations between two estimates that do not belong together

Agenda = list[Step]


@dataclass
class ByCalls(Step):
    """Spend so many calls: a survey, another where that has lost a region, and a refinement."""

    n_calls: int

    def then(self, state: State) -> Agenda:
        state.tolerance, end = Tolerance(), state.n_calls + self.n_calls
        if self.n_calls < FEW_CALLS or state.flow.d == 1:
            return [*survey_of_few(min(self.n_calls, MAX_FEW), state), RefineFew(end)]
        return [Survey(int(SURVEY_SHARE * self.n_calls)), SurveyOfLost(end), RefineRest(end)]


@dataclass
class ToTolerance(Step):
    """Reach a tolerance, in so many calls at most.

    The survey goes through stages, each as long as all before, until what is left to be refined costs less
    than another would.
    """

    n_calls: int
    rtol: float
    atol: float

    def then(self, state: State) -> Agenda:
        state.tolerance, begin = Tolerance(self.rtol, self.atol), state.n_calls
        if self.n_calls < MIN_STAGED:
            return [*survey_of_few(self.n_calls, state), RefineFewTo(begin + self.n_calls)]
        return [SurveyInStages(begin + int(SURVEY_SHARE * self.n_calls)), RefineTo(begin + self.n_calls)]


def integration(n_calls: int, rtol: float, atol: float) -> Agenda:
    """Integrate in so many calls at most, until a tolerance is reached where one of rtol and atol is not 0.

    Raises
    ------
    TypeError, ValueError
        If the calls are too few, or a tolerance makes no sense.
    """
    n_calls = positive_int("n_calls", n_calls)
    if n_calls < MIN_CALLS:
        raise ValueError(f"n_calls must be at least {MIN_CALLS}, got {n_calls}")
    return [ToTolerance(n_calls, rtol, atol) if Tolerance(rtol, atol) else ByCalls(n_calls)]


def survey(n_calls: int) -> Agenda:
    """Train by replay, or anew in few rounds where the calls are few.

    Raises
    ------
    ValueError
        If they are too few.
    """
    least = math.ceil(few_calls.MIN_LEARNT * USUAL_SHARE)
    if n_calls < least:
        raise ValueError(f"a survey by replay needs {least} calls at least, got {n_calls}")
    return [Survey(n_calls) if n_calls >= USUAL_SHARE * FEW_CALLS else SurveyOfFew(n_calls)]


def survey_of_each(strategy: str, n_iterations: int, n_points: int) -> Agenda:
    """Train in iterations that use their own points only, and look for lost regions, within all the calls."""
    scout = Scout.within(n_iterations * n_points)
    n_each = (n_iterations * n_points - N_WALKERS * scout.n_pieces) // n_iterations
    trained: Agenda = [Train(strategy, k, n_each) for k in range(n_iterations)]
    return [*trained, ScoutWithin(n_iterations * n_points), EndSurvey()]


def survey_of_sample(n_iterations: int) -> Agenda:
    """Train on given points."""
    return [*(TrainOnSample() for _ in range(n_iterations)), EndSurvey()]


@dataclass
class Refine(Step):
    """Estimate the integral in iterations of equal size, within all the calls.

    Where there was no survey and the calls suffice, a part of them tells first whether the flow has lost a
    region.
    """

    n_iterations: int
    n_points: int

    def then(self, state: State) -> Agenda:  # noqa: D102
        n_calls = self.n_iterations * self.n_points
        if state.is_surveyed or n_calls < MIN_PROBED:
            return [Estimate(self.n_points) for _ in range(self.n_iterations)]
        return [Look(), ScoutWithin(n_calls), RefineRest(state.n_calls + n_calls, self.n_iterations)]


def extension(n_calls: int) -> Agenda:
    """Estimate the integral with so many points more.

    Raises
    ------
    TypeError, ValueError
        If they are too few.
    """
    n_calls = positive_int("n_calls", n_calls)
    if n_calls < MIN_POINTS:
        raise ValueError(f"n_calls must be at least {MIN_POINTS}, got {n_calls}")
    return [*_refined(n_calls, 1)]


def _refined(n_calls: int, n_parts: int) -> Agenda:
    """Refine in so many iterations, but none of them too large or too small."""
    n_parts = min(max(n_parts, -(-n_calls // MAX_CALLS)), n_calls // MIN_POINTS)
    return [Estimate(n) for n in _shared_out(n_calls, n_parts)]


def _shared_out(n_calls: int, n_parts: int) -> list[int]:
    """Share out calls as evenly as may be."""
    return [(k + 1) * n_calls // n_parts - k * n_calls // n_parts for k in range(n_parts)]


# The survey by replay


@dataclass
class Survey(Step):
    """Train for one stage between two pilot runs, and keep the better flow.

    Walkers go before, too: a region that maps have lost is cheaper to regain by that training than by another
    survey.
    """

    n_calls: int

    def then(self, state: State) -> Agenda:
        state.warnings.clear()  # an earlier survey's are of no more interest
        look, n_before = _first_look(state, self.n_calls), state.n_calls
        if _can_regain(state, self.n_calls, n_before):  # as the walkers of the last survey tell
            return [*look, RegainFirst(self.n_calls, n_before, n_before)]
        return [*look, ScoutWithin(self.n_calls), RegainFirst(self.n_calls, n_before, self.n_calls)]


@dataclass
class SurveyOfFew(Step):
    """Train with few calls; see `varflow.integration.few_calls`."""

    n_calls: int

    def then(self, state: State) -> Agenda:
        state.warnings.clear()
        return survey_of_few(int(self.n_calls / USUAL_SHARE), state, USUAL_SHARE)


@dataclass
class SurveyOfLost(Step):
    """Survey again, with half of the calls that are left until `end`, where a region is lost."""

    end_calls: int

    def then(self, state: State) -> Agenda:
        n_more = (self.end_calls - state.n_calls) // 2
        return [Survey(n_more)] if _can_regain(state, n_more, state.n_calls) else []


@dataclass
class RegainFirst(Step):
    """Begin the training of a survey with points from regions that are lost to n_points, if there are any.

    The flow of that training is kept: the errors of the two would not tell.
    """

    n_calls: int
    n_before: int
    n_points: int

    def then(self, state: State) -> Agenda:
        is_regaining = _can_regain(state, self.n_calls, self.n_points)
        regain: Agenda = [Regain(self.n_points)] if is_regaining else []
        return [*regain, MainStage(self.n_calls, self.n_before, is_regaining)]


@dataclass
class MainStage(Step):
    """Train with what is left of the calls of a survey that has begun after `n_before`.

    In many dimensions, where training takes minutes, it leaves no less error than those calls do in the
    refinement where the flow is close to the integrand already.
    """

    n_calls: int
    n_before: int
    is_regaining: bool

    def then(self, state: State) -> Agenda:
        if is_close(state) and not self.is_regaining:
            return [EndSurvey()]
        n_left = int((1 - SCOUT_SHARE) * self.n_calls) - (state.n_calls - self.n_before) - LOOK
        stage = Stage(min(n_left // ROUND, MAX_ROUNDS), 0.5)
        return [stage, Look(), Compare(self.is_regaining), ScoutWithin(self.n_calls), EndSurvey()]


@dataclass
class Compare(Step):
    """Go back to the flow that was kept if the last pilot run is no better, unless a region was regained."""

    is_regaining: bool

    def then(self, state: State) -> Agenda:
        if is_better(state.history[state.best], state.history[-1]) and not self.is_regaining:
            state.go_back()
            state.warnings.append("training made the flow no better: the first one is used")
        return []


@dataclass
class ScoutWithin(Step):
    """Send walkers, with a small share of so many calls, unless f was zero wherever it was evaluated."""

    n_calls: int

    def then(self, state: State) -> Agenda:
        is_zero = state.memory.log_mean(state.memory.n // 2) == -math.inf
        return [] if is_zero else [Scout.within(self.n_calls)]


@dataclass
class EndSurvey(Step):
    """Note that there was a survey."""

    def then(self, state: State) -> Agenda:
        state.is_surveyed = True
        return []


@dataclass
class TrainOnSample(Step):
    """Train on the points that are given."""

    def then(self, state: State) -> Agenda:
        assert state.sample is not None
        state.trainer.train_on_dataset(state.sample)
        return []


def _can_regain(state: State, n_calls: int, n_points: int) -> bool:
    """Tell whether the flow has lost a region to n_points that the calls of a survey suffice to regain."""
    return n_calls >= 2 * MIN_SURVEYED and state.has_lost(n_points)


# The element-wise map


def _first_look(state: State, n_calls: int) -> Agenda:
    """Make the first pilot run of a survey; a new flow that is far off may get an element-wise map."""
    is_new = state.is_flow_new and not state.history
    share = MAP_SHARE_OF_MANY if has_many(state.flow.d) else MAP_SHARE
    return [Look(), BeginMaps(int(share * n_calls) // LOOK if is_new else 0)]


@dataclass
class BeginMaps(Step):
    """Alternate fits of an element-wise map with pilot runs, up to `n_fits`, where the flow is far off.

    Fresh points tell how close the flow has come to the integrand. Where that is not much closer, as where
    coordinates depend on each other, the flow stays without a map.
    """

    n_fits: int

    def then(self, state: State) -> Agenda:
        state.keep()
        enough, d = GAIN_OF_MAP * state.power, state.flow.d
        n_refined = self.n_fits // (1 if d == 1 else 2) if is_map_refined(d) else 0
        n_fits = self.n_fits - n_refined
        fit: Agenda = [FitMap(n_fits, enough)] if n_fits and enough <= 1 else []
        return [*fit, RefineMap(n_refined)] if n_refined else fit


@dataclass
class FitMap(Step):
    """Give the flow an element-wise map, fitted to the last pilot run, up to `n_fits` times."""

    n_fits: int
    enough: float

    def then(self, state: State) -> Agenda:
        if self.n_fits == 0 or state.power == 1:
            return [EndMaps()]
        before = state.power
        _fit_map(state)
        return [Look(), JudgeMap(self.n_fits - 1, self.enough, before)]


@dataclass
class JudgeMap(Step):
    """Keep a map that brings the flow `enough` closer, and fit another where it brought it closer at all."""

    n_fits: int
    enough: float
    before: float

    def then(self, state: State) -> Agenda:
        if state.power < STEP_OF_MAP * self.before:
            return [EndMaps()]
        if state.power >= self.enough:
            state.keep()
            state.memory.keep(state.memory.latest(LOOK))
        return [FitMap(self.n_fits, self.enough)]


@dataclass
class RefineMap(Step):
    """Fit the map to the pilot run of the one that was kept last, up to `n_fits` times while errors fall.

    With a single coordinate, the map is all that the flow has; with many, it is often all that is needed.
    """

    n_fits: int

    def then(self, state: State) -> Agenda:
        if self.n_fits == 0:
            return [EndMaps()]
        _fit_map(state)
        return [Look(), JudgeRefined(self.n_fits - 1)]


@dataclass
class JudgeRefined(Step):
    """Keep a map with a smaller error, and refine it further."""

    n_fits: int

    def then(self, state: State) -> Agenda:
        if is_better(state.history[state.best], state.history[-1]):
            return [EndMaps()]
        state.keep()
        state.memory.keep(state.memory.latest(LOOK))
        return [RefineMap(self.n_fits)]


@dataclass
class EndMaps(Step):
    """Go back to the map that was kept last, or to none, and to the points of its pilot run."""

    def then(self, state: State) -> Agenda:
        state.go_back()
        # Other maps are far off where they miss a region, and the weights of their points are large there.
        state.memory.keep(slice(LOOK))
        return []


def has_many(d: int) -> bool:
    """Tell whether there are so many dimensions that training takes minutes."""
    return d >= MANY_DIMENSIONS


def is_close(state: State) -> bool:
    """Tell whether a flow of many coordinates is so close to the integrand that training does not pay.

    The more there are, the more it takes, and the less it brings.
    """
    d = state.flow.d
    return has_many(d) and state.history[state.best].ess >= CLOSE_ESS * MANY_DIMENSIONS / d


def is_map_refined(d: int) -> bool:
    """Tell whether a map of d coordinates is worth more than training."""
    return d == 1 or has_many(d)


def _fit_map(state: State) -> None:
    d = state.flow.d
    # A uniform share costs so much of the points in each coordinate, where no training takes it away again.
    flat_share = FLAT_SHARE_OF_MANY / d if has_many(d) else FLAT_SHARE
    state.fit_map(state.memory.latest(LOOK), state.power, MIN_FITTED, flat_share)


# The survey to a tolerance


@dataclass
class SurveyInStages(Step):
    """Look, go through stages with a look after each, and keep the best flow; see `ToTolerance`.

    Attributes
    ----------
    end_calls : int
        Calls that are not to be exceeded.
    """

    end_calls: int

    def then(self, state: State) -> Agenda:
        state.warnings.clear()
        return [*_first_look(state, self.end_calls - state.n_calls), FirstStage(self.end_calls)]


@dataclass
class FirstStage(Step):
    """Decide on a stage after the first look."""

    end_calls: int

    def then(self, state: State) -> Agenda:
        return [NextStage(self.end_calls, 0, _calls_missing(state))]


@dataclass
class NextStage(Step):
    """Train for another stage if that pays; else look for lost regions.

    Attributes
    ----------
    end_calls : int
        Calls that are not to be exceeded.
    n_failures : int
        Stages, the last ones, that made the flow no better.
    missing : float
        Points of the best flow that a refinement seems to need.
    """

    end_calls: int
    n_failures: int
    missing: float

    def then(self, state: State) -> Agenda:
        used, n_rounds = state.n_calls, _affordable_rounds(state, self.end_calls)
        if self.missing <= used or self.n_failures == 2 or n_rounds == 0 or is_close(state):
            state.go_back()
            # A flow that seems good at once may be so where it knows f only.
            return [ScoutWithin(max(used, MIN_PROBED)), StageOfLost(self.end_calls, used), EndSurvey()]
        stage = Stage(n_rounds, 0.5 if used < 10 * LOOK else 0.25)
        return [stage, Look(), JudgeStage(self.end_calls, self.n_failures, self.missing)]


@dataclass
class JudgeStage(Step):
    """Keep the flow of the last stage if its pilot run is better than the best before."""

    end_calls: int
    n_failures: int
    missing: float

    def then(self, state: State) -> Agenda:
        if is_better(state.history[state.best], state.history[-1]):
            return [NextStage(self.end_calls, self.n_failures + 1, self.missing)]
        state.keep()
        return [NextStage(self.end_calls, 0, _calls_missing(state))]


@dataclass
class StageOfLost(Step):
    """Go through stages again, with points from regions that are lost to so many calls, if there are such."""

    end_calls: int
    used: int

    def then(self, state: State) -> Agenda:
        n_rounds = _affordable_rounds(state, self.end_calls)
        if n_rounds == 0 or not state.has_lost(self.used):
            return []
        return [Regain(self.used), Stage(n_rounds, 0.5), SurveyInStages(self.end_calls)]


def _calls_missing(state: State) -> float:
    """Estimate the points that a refinement needs to reach the tolerance, from the look of the best flow."""
    look = state.history[state.best]
    return LOOK * state.shortfall(look.mean, look.covariance) ** (1 / state.rate)


def _affordable_rounds(state: State, end_calls: int) -> int:
    """Count the rounds of another stage; 0 if that would exceed the calls.

    It costs as much as all before and saves about half of what is missing, or more where that was taken for
    too little: a refinement much too long costs more than a stage too many.
    """
    used = state.n_calls
    n_rounds = min(max(MIN_ROUNDS, used // ROUND), MAX_ROUNDS)
    return n_rounds if used + n_rounds * ROUND + 2 * LOOK <= end_calls else 0


def is_better(before: Iteration, after: Iteration) -> bool:
    """Tell whether the flow was better before further training than after it.

    Its error alone does not tell: a flow that has lost a peak has a small one. Where the estimates disagree,
    the flow that was trained on more points is believed.
    """
    variances = variances_of(before.covariance), variances_of(after.covariance)
    agree = np.abs(before.mean - after.mean) <= DISAGREEMENT * np.sqrt(sum(variances))
    return bool(agree.all() and (variances[0] <= variances[1]).all())


# The refinement


@dataclass
class RefineRest(Step):
    """Refine with all calls that are left, in so many iterations: two can be compared."""

    end_calls: int
    n_parts: int = 2

    def then(self, state: State) -> Agenda:
        return _refined(self.end_calls - state.n_calls, self.n_parts)


@dataclass
class RefineTo(Step):
    """Refine until the tolerance is reached, or the calls are spent."""

    end_calls: int
    is_begun: bool = False

    def then(self, state: State) -> Agenda:
        n = 2 * LOOK
        if self.is_begun:
            shortfall = _shortfall(state)
            if shortfall <= 1:
                return []
            n = _next_size(state, shortfall)
        n = min(n, self.end_calls - state.n_calls)
        return [Estimate(n), RefineTo(self.end_calls, True)] if n >= MIN_POINTS else []


def _shortfall(state: State) -> float:
    """Compute how many times too large the error is, for all that counts."""
    used = [one for one in state.history if one.is_used]
    # Errors are themselves uncertain: those that are too small by chance are not to end runs.
    uncertainty = 1 / math.sqrt(2 * len(used) * (MANY_BATCHES - 1))
    estimate = state.estimate()
    assert estimate is not None
    return (1 + uncertainty) * state.shortfall(*estimate)


def _next_size(state: State, shortfall: float) -> int:
    """Choose the points of the next iteration: those missing, but not many more than there are."""
    n = sum(one.n_calls for one in state.history if one.is_used)
    missing = n * (1.05 * shortfall) ** (1 / state.rate)
    return int(min(max(missing, n / 4, LOOK), 8 * n, MAX_CALLS)) // MANY_BATCHES * MANY_BATCHES


@dataclass
class RefineFew(Step):
    """Refine with all of the calls that are left, as a single iteration unless they are too many."""

    end_calls: int

    def then(self, state: State) -> Agenda:
        n_left = self.end_calls - state.n_calls
        return [estimate_blocks(n, state) for n in _shared_out(n_left, -(-n_left // MAX_CALLS))]


@dataclass
class RefineFewTo(Step):
    """Refine until the tolerance is reached, a quarter of the few calls that are left after the other."""

    end_calls: int

    def then(self, state: State) -> Agenda:
        n_left, is_begun = self.end_calls - state.n_calls, state.estimate() is not None
        if n_left < MIN_POINTS or (is_begun and _shortfall(state) <= 1):
            return []
        n = min(n_left, max(n_left // 4, MIN_REFINED))
        return [estimate_blocks(n, state), RefineFewTo(self.end_calls)]


# How steps are kept in files

_STEPS: Mapping[str, type[Step]] = {
    one.__name__: one
    for one in (
        *(Estimate, Look, Stage, Train, Scout, Regain),
        *(ByCalls, ToTolerance, Refine),
        *(
            Survey,
            SurveyOfFew,
            SurveyOfLost,
            RegainFirst,
            MainStage,
            Compare,
            ScoutWithin,
            EndSurvey,
            TrainOnSample,
        ),
        *(BeginMaps, FitMap, JudgeMap, RefineMap, JudgeRefined, EndMaps),
        *few_calls.STEPS,
        *(Blocks, RefineFew, RefineFewTo),
        *(SurveyInStages, FirstStage, NextStage, JudgeStage, StageOfLost, RefineRest, RefineTo),
    )
}


def described(agenda: Agenda) -> list[list[Any]]:
    """Describe the steps of an agenda in what JSON can hold; see `agenda_of`."""
    return [
        [type(step).__name__, {one.name: getattr(step, one.name) for one in fields(step) if one.init}]
        for step in agenda
    ]


def agenda_of(description: list[list[Any]]) -> Agenda:
    """Make the steps that `described` has described."""
    return [_STEPS[name](**values) for name, values in description]

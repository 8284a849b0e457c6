"""What an integration does next: steps that decide on others, by what is known so far.

`integration` makes the agenda of a whole integration; `survey`, `Refine` and `extension` those of its parts,
for users who take them one by one. The steps in this module draw no points: their `then` decides,
and puts further steps before the rest of the agenda.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from varflow.flow.elementwise import FLAT_SHARE, biases_of
from varflow.integration import few_calls
from varflow.integration.averages import variances_of
from varflow.integration.estimates import MAX_VALUES, Batches
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
from varflow.integration.survey import MIN_ROUNDS, MIN_STEPS, ROUND, STEPS
from varflow.integration.tolerance import Tolerance
from varflow.validation import positive_int

__all__ = [
    "MIN_CALLS",
    "N_CALLS",
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

logger = logging.getLogger(__name__)

MIN_SURVEYED = math.ceil((2 * LOOK + 2 * ROUND) / (1 - SCOUT_SHARE))  # one round has no scatter
MIN_CALLS = 100
N_CALLS = 400_000  # where nothing else is said
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
LEAST_ESS_OF_MAP = 0.75  # effective sample size with a map, at least, in that of the best one before
FLAT_SHARE_OF_MANY = 0.2  # uniform share of the density of a map, of many coordinates together
MANY_DIMENSIONS, CLOSE_ESS = 16, 0.75  # effective sample size from which on so many are not trained in
MAX_ROUNDS = 4096  # of a stage: more points are not kept in memory
GROUPS_OF_BLOCKS = 8  # points of an iteration, in those whose values are worked on together
MAX_CALLS = 1 << 21  # an iteration, for the sake of memory
TOO_LONG = 2.0  # cost of what is left to be refined, in that of a stage, where costs are measured
TRIAL_SHARE_OF_TIME = 0.02  # of the time that is left, at most, for f in a further trial
GROWTH_OF_TRIALS = 8
STAGE_SHARE_OF_TIME = 0.5  # of the time that is left, at most, for a stage
LEAST_MORE = 0.03  # points of an iteration, at least, in those so far, where time is about to end
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
    than another would: in seconds, or in calls alone (see `varflow.integration.costs`).
    """

    n_calls: int
    rtol: float
    atol: float

    def then(self, state: State) -> Agenda:
        state.tolerance, begin = Tolerance(self.rtol, self.atol), state.n_calls
        if self.n_calls < MIN_STAGED:
            return [*survey_of_few(self.n_calls, state), RefineFewTo(begin + self.n_calls)]
        return [SurveyInStages(begin + int(SURVEY_SHARE * self.n_calls)), RefineTo(begin + self.n_calls)]


@dataclass
class InTime(Step):
    """Make the best of the time that there is, in so many calls at most, until a tolerance is reached.

    The fewest points that give an error come first: they tell how long f takes.
    """

    n_calls: int
    rtol: float
    atol: float

    def then(self, state: State) -> Agenda:
        state.tolerance = Tolerance(self.rtol, self.atol)
        return [Trial(share=share_of_trial(state)), InTimeOf(state.n_calls + self.n_calls)]


def share_of_trial(state: State) -> float:
    """Choose the uniform share of the points that are evaluated first."""
    return 0.0 if state.is_untouched else few_calls.DEFENSIVE_SHARE_OF_ESTIMATE


@dataclass
class Trial(Blocks):
    """Evaluate f at the fewest points that give an error, from the flow as it is."""

    n_calls: int = MIN_POINTS
    stage: str = "survey"
    progress: float = 0.0

    def conclude(self, state: State, batches: Batches) -> None:
        is_untouched = state.is_untouched
        super().conclude(state, batches)
        state.n_trials += is_untouched


@dataclass
class InTimeOf(Step):
    """Go on as the time that f takes allows, until `end_calls`.

    Where f is so dear that there is time for few calls only, the flow is trained anew in few rounds. Where
    there is time for fewer than training takes, the points of the trial count, too.
    """

    end_calls: int

    def then(self, state: State) -> Agenda:
        if state.costs.evaluation > 0:
            state.costs.call = state.costs.evaluation
        n_left, n_tried, costs = self.end_calls - state.n_calls, state.history[-1].n_calls, state.costs
        n_calls, n_more = int(min(n_left, state.n_affordable)), GROWTH_OF_TRIALS * n_tried
        is_cheap = n_more * costs.evaluation <= TRIAL_SHARE_OF_TIME * state.deadline.left
        if n_left > n_calls and n_calls < MAX_FEW and is_cheap and n_more <= LOOK:
            return [Trial(n_more, share=share_of_trial(state)), self]  # tells better how cheap f is
        end: Agenda = [RefineFewTo(self.end_calls)]
        if n_calls >= FEW_CALLS and state.flow.d > 1:
            return [SurveyInStages(self.end_calls), RefineTo(self.end_calls)]
        if n_calls < few_calls.MIN_LEARNT:
            state.count_last()
            return end
        return [*survey_of_few(min(n_calls, MAX_FEW), state), *end]


def integration(n_calls: int, rtol: float, atol: float, is_timed: bool = False) -> Agenda:
    """Integrate in so many calls at most, until a tolerance is reached where one of rtol and atol is not 0.

    Parameters
    ----------
    n_calls : int
        Largest number of calls.
    rtol, atol : float
        The tolerance.
    is_timed : bool
        Whether there is a deadline.

    Raises
    ------
    TypeError, ValueError
        If the calls are too few, or a tolerance makes no sense.
    """
    n_calls = positive_int("n_calls", n_calls)
    if n_calls < MIN_CALLS:
        raise ValueError(f"n_calls must be at least {MIN_CALLS}, got {n_calls}")
    if is_timed:
        Tolerance(rtol, atol)  # is checked before anything is done
        return [InTime(n_calls, rtol, atol)]
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
        state.notes.clear()
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
        if is_regaining:
            logger.info("walkers have found a region that the flow has lost: it is trained on points there")
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
            logger.info("the flow is so close to f that training would not pay")
            return [EndSurvey()]
        n_left = int((1 - SCOUT_SHARE) * self.n_calls) - (state.n_calls - self.n_before) - LOOK
        stage = Stage(min(n_left // ROUND, MAX_ROUNDS), 0.5)
        logger.info("training begins, of %d rounds", stage.n_rounds)
        return [stage, Look(), Compare(self.is_regaining), ScoutWithin(self.n_calls), EndSurvey()]


@dataclass
class Compare(Step):
    """Go back to the flow that was kept if the last pilot run is no better, unless a region was regained."""

    is_regaining: bool

    def then(self, state: State) -> Agenda:
        is_no_better = is_better(state.history[state.best], state.history[-1])
        logger.info("training has made the flow %s", "no better" if is_no_better else "better")
        if is_no_better and not self.is_regaining:
            state.go_back()
            state.warnings.append("training made the flow no better: the first one is used")
        return []


@dataclass
class ScoutWithin(Step):
    """Send walkers, with a small share of so many calls, unless f was zero wherever it was evaluated."""

    n_calls: int

    def then(self, state: State) -> Agenda:
        is_zero = state.memory.log_mean(state.memory.n // 2) == -math.inf
        return [] if is_zero else [Scout.within(int(min(self.n_calls, state.n_affordable)))]


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
    is_new = state.is_untouched
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
        if fit:
            logger.info("the flow is far from f: an element-wise map goes before it, if that brings it near")
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
    """Keep a map that brings the flow `enough` closer, and fit another where it brought it closer at all.

    Where enough points count, no map may lose many of them: so do those that follow the projections of a peak
    along a diagonal, further into corners where f is nothing.
    """

    n_fits: int
    enough: float
    before: float

    def then(self, state: State) -> Agenda:
        ess, best = state.history[-1].ess, state.history[state.best].ess
        has_lost = best * LOOK >= few_calls.MIN_EFFECTIVE and ess < LEAST_ESS_OF_MAP * best
        if state.power < STEP_OF_MAP * self.before or has_lost:
            return [EndMaps()]
        if state.power >= self.enough:
            logger.info("this map has brought the flow near: it is kept")
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
        state.notes.clear()
        is_new, state.n_stages = state.is_untouched, 0
        look = _first_look(state, int(min(self.end_calls - state.n_calls, state.n_affordable)))
        tried: Agenda = [TryMap(self.end_calls)] if is_new and not has_many(state.flow.d) else []
        return [*look, *tried, FirstStage(self.end_calls)]


@dataclass
class TryMap(Step):
    """Fit an element-wise map, twice, where costs are measured and refining the flow as it is costs more.

    Training costs the more, the larger the flow, and the map nothing. But training does not begin with it,
    unless it has brought the flow much closer: see `BeginMaps`.
    """

    end_calls: int

    def then(self, state: State) -> Agenda:
        stage, look = _stage_after(state, self.end_calls), state.history[state.best]
        if not state.costs.is_measured or stage is None or _is_refined_sooner(look, stage, state):
            return []
        if 2 * LOOK * state.costs.call > _cost_of(stage, state) / 2:
            return []  # f is so dear that two looks cost nearly as much as training
        return [FitToLook(), Look(), FitToLook(), Look(), JudgeTried(self.end_calls)]


@dataclass
class FitToLook(Step):
    """Fit the map to the last pilot run."""

    def then(self, state: State) -> Agenda:
        _fit_map(state)
        return []


@dataclass
class JudgeTried(Step):
    """Keep the map if it is good enough to be refined; else go back."""

    end_calls: int

    def then(self, state: State) -> Agenda:
        stage = _stage_after(state, self.end_calls)
        if stage is not None and not _is_refined_sooner(state.history[-1], stage, state):
            return [EndMaps()]
        state.keep()
        state.memory.keep(state.memory.latest(LOOK))
        return []


@dataclass
class FirstStage(Step):
    """Decide on a stage after the first look."""

    end_calls: int

    def then(self, state: State) -> Agenda:
        return [NextStage(self.end_calls, 0, _calls_missing(state.history[state.best], state))]


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
        used, stage = state.n_calls, _stage_after(state, self.end_calls)
        reason = _why_not(stage, self.missing, self.n_failures, state)
        if stage is None or reason:
            state.go_back()
            state.notes.append(f"{_trained(state)}: {reason}")
            logger.info("no further stage of the survey pays: the best flow so far is taken")
            # A flow that seems good at once may be so where it knows f only.
            return [ScoutWithin(max(used, MIN_PROBED)), StageOfLost(self.end_calls, used), EndSurvey()]
        logger.info("a stage of the survey begins, of %d rounds", stage.n_rounds)
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
        return [NextStage(self.end_calls, 0, _calls_missing(state.history[state.best], state))]


@dataclass
class StageOfLost(Step):
    """Go through stages again, with points from regions that are lost to so many calls, if there are such."""

    end_calls: int
    used: int

    def then(self, state: State) -> Agenda:
        stage = _stage_after(state, self.end_calls)
        if stage is None or not state.has_lost(self.used):
            return []
        return [Regain(self.used), replace(stage, share_of_dkl=0.5), SurveyInStages(self.end_calls)]


def _why_not(stage: Stage | None, missing: float, n_failures: int, state: State) -> str:
    """Say why no stage is to follow; nothing where it is."""
    if is_close(state):
        return "it is so close to f that training would not pay"
    if n_failures == 2:
        return "the last two stages have made it no better"
    if stage is None:
        left = f"the {state.deadline.left:.2g} s that were left" if state.deadline else "the calls"
        return f"{left} had no room for another stage and the refinement"
    refined, cost = missing * state.costs.call, _cost_of(stage, state)
    if refined > cost:
        return ""
    in_words = state.costs.in_words
    return f"refining it to the tolerance was expected to take {in_words(refined)}, training {in_words(cost)}"


def _trained(state: State) -> str:
    """Say how the flow was trained that a survey has ended with."""
    if state.n_stages == 0 and state.is_flow_new:
        kept = np.any(biases_of(state.flow))
        return "an element-wise map alone was taken" if kept else "the flow was left as it is, uniform"
    n = state.n_stages
    return f"the flow was trained in {n} stage{'s' if n != 1 else ''}" if n else "the flow was taken as it is"


def _calls_missing(look: Iteration, state: State) -> float:
    """Estimate the points that a refinement needs to reach the tolerance, from a look at the flow."""
    return LOOK * state.shortfall(look.mean, look.covariance) ** (1 / state.rate)


def _stage_after(state: State, end_calls: int) -> Stage | None:
    """Make another stage; None if that would exceed the calls.

    It costs as much as all before and saves about half of what is missing, or more where that was taken for
    too little: a refinement much too long costs more than a stage too many. Where steps cost more than calls,
    there are no more of them than a round needs.
    """
    costs, used, most = state.costs, state.n_calls, MIN_STEPS // MIN_ROUNDS
    of_calls = ROUND * costs.call
    n_steps = most if costs.step * most <= of_calls else max(STEPS, int(of_calls / costs.step))
    spent = state.seconds_of_survey if costs.is_measured else used
    n_rounds = min(max(MIN_ROUNDS, int(spent / (of_calls + n_steps * costs.step))), MAX_ROUNDS)
    if used + n_rounds * ROUND + 2 * LOOK > end_calls:
        return None
    share_of_dkl = 0.5 if used < 10 * LOOK else 0.25
    stage = Stage(n_rounds, share_of_dkl, min(MIN_STEPS, n_rounds * n_steps))
    # It is to pay for itself where it halves what is missing, and a look follows.
    seconds = _cost_of(stage, state) + LOOK * costs.call
    return stage if seconds <= STAGE_SHARE_OF_TIME * state.deadline.left else None


def _cost_of(stage: Stage, state: State) -> float:
    """What a stage costs."""
    return state.costs.compiling + stage.n_rounds * (
        ROUND * state.costs.call + stage.n_steps * state.costs.step
    )


def _is_refined_sooner(look: Iteration, stage: Stage, state: State) -> bool:
    """Tell whether refining the flow of a look costs less than a stage of training alone."""
    return _calls_missing(look, state) * state.costs.call <= _cost_of(stage, state)


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
            can_train = state.costs.is_measured and not is_close(state)
            stage = _stage_after(state, self.end_calls) if can_train else None
            if stage is not None and n * state.costs.call > TOO_LONG * _cost_of(stage, state):
                return [NextStage(self.end_calls, 1, n), RefineTo(self.end_calls, True)]
        n = int(min(n, self.end_calls - state.n_calls, state.n_affordable))
        if n < MIN_POINTS or _is_too_late(n, state):
            return []
        logger.info("the refinement takes %d points", n)
        return [Estimate(n), RefineTo(self.end_calls, True)]


def _is_too_late(n: int, state: State) -> bool:
    """Tell whether the points that there is still time for would hardly change the estimate."""
    n_used = sum(one.n_calls for one in state.history if one.is_used)
    return bool(state.deadline) and n < LEAST_MORE * n_used


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
    """Refine with all of the calls that are left, as a single iteration unless they are too many.

    Blocks of a set of points are drawn together: with many components, iterations have fewer of them.
    """

    end_calls: int

    def then(self, state: State) -> Agenda:
        n_left, most = self.end_calls - state.n_calls, GROUPS_OF_BLOCKS * MAX_VALUES // len(state.expected)
        n_parts = -(-n_left // min(MAX_CALLS, max(most, MIN_POINTS)))
        return [estimate_blocks(n, state) for n in _shared_out(n_left, n_parts)]


@dataclass
class RefineFewTo(Step):
    """Refine until the tolerance is reached, a quarter of the few calls that are left after the other."""

    end_calls: int

    def then(self, state: State) -> Agenda:
        n_left = int(min(self.end_calls - state.n_calls, state.n_affordable, MAX_CALLS))
        is_reached = state.estimate() is not None and _shortfall(state) <= 1
        if n_left < MIN_POINTS or is_reached or _is_too_late(n_left, state):
            return []
        n = min(n_left, max(n_left // 4, MIN_REFINED)) if state.tolerance else n_left
        return [estimate_blocks(n, state), RefineFewTo(self.end_calls)]


# How steps are kept in files

_STEPS: Mapping[str, type[Step]] = {
    one.__name__: one
    for one in (
        *(Estimate, Look, Stage, Train, Scout, Regain),
        *(ByCalls, ToTolerance, InTime, Trial, InTimeOf, Refine),
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
        *(SurveyInStages, TryMap, FitToLook, JudgeTried),
        *(FirstStage, NextStage, JudgeStage, StageOfLost, RefineRest, RefineTo),
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

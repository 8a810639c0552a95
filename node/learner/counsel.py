"""What to run now, given what runs, what was measured here and what a restart costs: one question, answered in full.

Knows the brain, own measurements and the rules of choosing, and puts them together; knows no process, engine or clock.
The guard stays `select.choose`'s: a candidate must be unlikely to be worse than the default. On top of it a switch must
pay, by the lower bound of its gain over what runs now: a difference of its own, with an uncertainty of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from node.learner.brain import Brain
from node.learner.evidence import Weighed, weigh
from node.learner.failure import memory_share
from node.learner.objective import Objective
from node.learner.physics import MEMORY_SHARE
from node.learner.select import (
    NORMAL_90,
    UNCHECKED,
    Choice,
    Forecast,
    Limits,
    Mask,
    Switch,
    Trial,
    choose,
    feasible,
    harm_probability,
    least_gain,
    trials,
    worth_switching,
)
from node.learner.table import Floats, Table

TRIAL_S: Final = 45.0  # seconds of one candidate's trials on one load, three repetitions (`node.core.trial_plan`)
PROBES: Final = 8  # named at most; a node tries a handful in a day
LEAST_SAVED: Final = 1e-3  # log-cost: a trial that is expected to save less teaches nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Where the question comes from.

    Attributes:
        current: what runs now; None where nothing does, or nothing of the candidates.
        horizon_s: for how long the workload is expected to last. busy_share: of the time with work at the engine.
        restart_s: until an engine serves again. lost_share: of its work that is lost meanwhile.
        evidence: own measurements, outcomes included. now_s: seconds since 1970, which ages them.
        banned: candidates that are out of question, shape (candidates,).
        memory_bytes: that the engine may take; None: what the machine has.
    """

    current: int | None = None
    horizon_s: float = 0.0
    busy_share: float = 1.0
    restart_s: float = 0.0
    lost_share: float = 1.0
    evidence: Table | None = None
    now_s: float = float("nan")
    banned: Mask | None = None
    memory_bytes: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Log-cost saved against one candidate, by each, shape (candidates,), and half of the 90 % interval of that."""

    mean: Floats
    half_width: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Counsel:
    """What to run, and all that speaks for it.

    Attributes:
        choice: what would be best to run; whether it pays to go over to it, `switch` says.
        over_default, over_current: gains; None where there is no such candidate.
        switch: whether going over to the choice pays; None where it runs already, or nothing fits.
        unfit: what runs now is not to be run: to switch is right whatever it costs.
        probes: what to try next, best first.
        estimated: energy in it is estimated: for the choice and what it is compared with no meter speaks.
    """

    choice: Choice
    weighed: Weighed
    over_default: Gain | None = None
    over_current: Gain | None = None
    switch: Switch | None = None
    unfit: bool = False
    probes: Sequence[Trial] = field(default=())
    learnt: bool
    estimated: bool

    @property
    def worth(self) -> bool:
        """Whether to switch."""
        return self.unfit or (self.switch is not None and self.switch.worth)


def advise(
    brain: Brain, candidates: Table, goal: Objective, default: int | None, situation: Situation, limits: Limits
) -> Counsel:
    """Answer for the rows of one context."""
    told = brain.foretell(candidates, goal)
    weighed = weigh(
        told.forecast, told.level, candidates, situation.evidence, goal, default=default, now_s=situation.now_s
    )
    limits = _limited(brain.limits(candidates, limits), candidates, weighed, situation, default)
    fits = feasible(limits, candidates.rows, default) & np.isfinite(weighed.forecast.cost)
    current = situation.current
    reference = next((at for at in (default, current) if at is not None and fits[at]), None)
    over = {at: _over(weighed, at) for at in {default, current, reference} if at is not None}
    forecast = weighed.forecast
    if reference is not None and reference != default:
        forecast = replace(forecast, half_width=over[reference].half_width)
    forecast, chosen_by = _audible(forecast, limits, weighed, {reference, current})
    choice = choose(forecast, reference, chosen_by)
    unfit = current is not None and not fits[current] and choice.index not in (None, current)
    switch = None
    if current is not None and not unfit:
        choice, switch = _paying(choice, forecast, chosen_by, reference, over[current], current, situation)
    compared = [at for at in (choice.index, default, current) if at is not None]
    metered = weighed.by_joules is True and bool((weighed.measured[compared] > 0).all())
    return Counsel(
        choice=choice,
        weighed=weighed,
        over_default=None if default is None else over[default],
        over_current=None if current is None else over[current],
        switch=switch,
        unfit=unfit,
        probes=_probes(weighed, limits, situation, reference, choice.index),
        learnt=told.learnt,
        estimated=told.estimated and not metered,
    )


def _over(weighed: Weighed, reference: int) -> Gain:
    mean, sigma = weighed.joint.gains_over(reference)
    return Gain(mean=mean, half_width=NORMAL_90 * sigma)


def _limited(limits: Limits, candidates: Table, weighed: Weighed, situation: Situation, default: int | None) -> Limits:
    """Return limits with what is banned, what failed here and what the operator's memory does not hold."""
    out = weighed.failed.copy()
    if default is not None:
        out[default] = False  # it is what everything falls back to, and has to be tried again
    if situation.banned is not None:
        out |= situation.banned
    share = limits.memory_share
    if situation.memory_bytes is not None:
        room = np.full(candidates.rows, situation.memory_bytes / MEMORY_SHARE)  # the limit is the engine's alone
        asked = memory_share(candidates.with_columns({"hardware.memory_bytes": room}))
        share = asked if share is None else np.fmax(share, asked)
    return replace(limits, banned=out if limits.banned is None else out | limits.banned, memory_share=share)


def _audible(forecast: Forecast, limits: Limits, weighed: Weighed, always: set[int | None]) -> tuple[Forecast, Limits]:
    """Return what may be chosen by: where the forecast has nothing to say, what was measured still does."""
    if not forecast.abstains or not (weighed.measured > 0).any():
        return forecast, limits
    unheard = weighed.measured == 0
    unheard[[at for at in always if at is not None]] = False
    banned = unheard if limits.banned is None else limits.banned | unheard
    return replace(forecast, abstains=False), replace(limits, banned=banned)


def _paying(  # noqa: PLR0913 -- one decision's inputs
    choice: Choice,
    forecast: Forecast,
    limits: Limits,
    reference: int | None,
    over: Gain,
    current: int,
    situation: Situation,
) -> tuple[Choice, Switch | None]:
    """Return the choice and whether it pays to go over to it; where it does not, another that does."""
    if choice.index is None or choice.index == current:
        return choice, None
    low = over.mean - over.half_width

    def weigh_switch(at: int) -> Switch:
        return worth_switching(
            float(low[at]),
            busy_s=situation.horizon_s * situation.busy_share,
            restart_s=situation.restart_s,
            lost_share=situation.lost_share,
        )

    first = weigh_switch(choice.index)
    if first.worth or reference is None or forecast.abstains:
        return choice, first
    gain = forecast.cost[reference] - forecast.cost
    sure = (gain >= least_gain(forecast.half_width)) & (gain > 0) & feasible(limits, len(gain), reference)
    sure &= np.isfinite(forecast.cost)
    if not sure.any():
        return choice, first
    other = int(np.argmax(np.where(sure, low, -np.inf)))
    if not (second := weigh_switch(other)).worth or other == current:
        return choice, first
    kept = replace(
        choice,
        index=other,
        why="best",
        gain=float(gain[other]),
        gain_low=float(gain[other] - forecast.half_width[other]),
        harm_probability=harm_probability(float(gain[other]), float(forecast.half_width[other])),
        considered=choice.index,
    )
    return kept, second


def _probes(
    weighed: Weighed, limits: Limits, situation: Situation, reference: int | None, choice: int | None
) -> tuple[Trial, ...]:
    """Return what is worth trying, by what a trial would teach for each second that it takes.

    What would be chosen and was never tried here comes first, however sure the forecast is of it: forecasts are as good
    as the records of strangers. What nobody tried is taken for no surer than physics.
    """
    current = situation.current if situation.current is not None else reference
    if current is None:
        return ()
    forecast = weighed.forecast
    width = np.where(weighed.measured == 0, np.fmax(forecast.half_width, UNCHECKED), forecast.half_width)
    seconds = np.full(len(forecast.cost), TRIAL_S + situation.restart_s)
    seconds[current] = TRIAL_S
    untried = choice if choice not in (None, reference) and weighed.measured[choice] == 0 else None
    found = trials(replace(forecast, half_width=width), current, seconds, limits)
    kept = (trial for trial in found if trial.saves >= LEAST_SAVED or trial.index == untried)
    return tuple(sorted(kept, key=lambda trial: trial.index != untried))[:PROBES]

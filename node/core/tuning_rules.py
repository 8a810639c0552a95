"""When a tuner asks for advice, and what it makes of it: go, stay, or try first.

Knows advice, a ledger and plain figures; knows no learner, engine or clock. Log-costs are natural logarithms.

The learner says what is likely to be best and whether the switch pays. What is added here is what a volunteer's machine
asks for beside: nothing that was banned; nothing too often; and nothing untried while people wait for answers, if it
could be tried while nobody does. A strategy that was never measured on this machine stands on others' word.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import log
from typing import Final

from node.core.learning import Advice, Gain
from node.core.strategy import Strategy
from node.core.workload import Description

EVERY: Final = 60.0  # s between decisions: an answer of the learner costs it tenths of a second
DWELL: Final = 600.0  # s that a switch is given before the next, unless the traffic changes or somebody wishes it
LOOK_AT_TRAFFIC: Final = 60.0  # s between looks at whether it changed
QUIET: Final = 600.0  # s without a prompt after which a restart is taken to cost nobody anything
UNASKED: Final = 120.0  # s since it came up after which a node that nobody ever asked is taken to be quiet
EXPECTED_BUSY: Final = 0.1  # share of the time, of a node that nobody has asked anything yet
LEAST_BUSY: Final = 0.02  # and of one that was hardly asked: what it is tuned for is to come
USUAL_START: Final = 60.0  # s, where none was seen
PROBES: Final = 4  # tried in idle time, beside the default
# Trials of one strategy under one workload, of three repetitions each. What two could not part differs by little, and
# the next workload wants its share of the day's idle minutes.
TRIED_ENOUGH: Final = 2
# s between trials under one workload, unless the best is still untried, or much is open: idle minutes are few, and the
# first hours of a quiet night must not use up what the workload of the day wants.
EXPLORED_AGAIN: Final = 6 * 3600.0
# Log-cost that a trial is expected to save, from which much is open: more than of any forecast that the learner holds
# for as sure as it ever is of what nobody measured here (`node.learner.select.UNCHECKED`).
OPEN: Final = 0.065
# Log-cost over an hour that trying something on people's prompts may cost, if it proves to be SLOWER: what a node may
# lose to tuning, with a margin to the 2 % that count as harm.
EXPOSURE: Final = 0.012
SLOWER: Final = 3.0  # times as slow as now: as bad as strategies that come up at all usually are
FOUND_OUT: Final = 6  # answers until that is noticed (node.core.verification)
HOUR: Final = 3600.0
# A node that is never idle would never try anything. After so long without a trial it may lose this much, once a day.
PATIENCE: Final = 6 * HOUR
DARING: Final = 0.10
DARED_AGAIN: Final = 24 * HOUR
AGAIN: Final = 1800.0  # s until a switch that did not come about by nobody's fault is thought of again


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What is known when something is decided. Times are seconds of one clock.

    Attributes:
        quiet_s: since a prompt was last seen for the engine, or since it serves, whatever is later.
        unasked: no prompt ever came.
        peers: whether others serve the model.
        start_s: that a start takes; None where none was seen.
        description: of the traffic.
    """

    now: float
    quiet_s: float
    unasked: bool
    peers: bool
    start_s: float | None
    description: Description | None

    @property
    def quiet(self) -> bool:
        """Whether nobody is likely to ask while the engine is away."""
        return self.quiet_s >= QUIET

    def nobody_asks(self, *, gap: bool) -> bool:
        """Tell whether something may be applied on others' word.

        Who comes meanwhile waits for the gap, if there is one, twice. So a node that was ever asked takes none for
        others' word: it has idle trials, and of its hours each prompt is a large part.
        """
        if gap:
            return self.unasked and self.quiet
        return self.quiet or (self.unasked and self.quiet_s >= UNASKED)

    @property
    def lost_share(self) -> float:
        """The share of a restart's work that is lost."""
        return 0.0 if self.quiet or self.peers else 1.0

    @property
    def busy_share(self) -> float:
        """The share of the time to come in which there is work."""
        return EXPECTED_BUSY if self.description is None else max(self.description.busy_share, LEAST_BUSY)

    @property
    def restart_s(self) -> float:
        """The seconds that a start takes."""
        return USUAL_START if self.start_s is None else self.start_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What of the past counts for a decision. Times are seconds of the same clock; None where it never was.

    Attributes:
        first: nothing was ever switched since the node came up.
        put_off_since: since when something untried looks best.
        dared_at: when something untried was last applied for want of a trial.
        switches: within a day.
    """

    first: bool = False
    put_off_since: float | None = None
    dared_at: float | None = None
    switches: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What came of one question, as `explain` tells it.

    Attributes:
        chosen: to switch to; None: what runs goes on.
        why: in words.
        best: that the learner would take. untried: it was never measured here, and is not applied for that.
        untried_taken: it is applied all the same, on others' word. dared: for want of a trial in a long time.
        foretold: of `chosen` against what runs.
        probes: to be tried in idle time, the default among them.
        regret: log-cost by which what runs is foretold to be worse than the best; None where unknown.
    """

    why: str
    chosen: Strategy | None = None
    best: Strategy | None = None
    untried: bool = False
    dared: bool = False
    untried_taken: bool = False
    foretold: Gain | None = None
    probes: tuple[Strategy, ...] = ()
    regret: float | None = None
    exposure: float | None = None
    advice: Advice | None = field(default=None, repr=False)
    candidates: tuple[Strategy, ...] = ()


def decide(  # noqa: PLR0913 -- one decision's inputs
    advice: Advice,
    candidates: Sequence[Strategy],
    *,
    current: int,
    moment: Moment,
    past: Past,
    gapless: bool,
    most_a_day: int,
) -> Decision:
    """Make a decision of advice. `candidates` begin with the engine's default.

    Args:
        current: which of them runs.
        gapless: whether the switch to `advice.index` leaves no gap.
    """
    best = current if advice.index is None else advice.index
    kept = Decision(
        why=advice.why.replace("_", " "),
        best=candidates[best],
        probes=_probes(advice, candidates, best, current),
        regret=_regret(advice, current),
        advice=advice,
        candidates=tuple(candidates),
    )
    if best == current:
        return kept
    if not advice.worth:
        return _with(kept, why=f"{kept.why}: the switch would not pay")
    if past.switches >= most_a_day:
        return _with(kept, why=f"{past.switches} switches within a day are enough")
    foretold = advice.over_current
    if advice.measured[best] > 0 or best == 0:
        return _with(kept, chosen=candidates[best], foretold=foretold)
    return _untried(kept, foretold, moment, past, gapless=gapless)


def _untried(kept: Decision, foretold: Gain | None, moment: Moment, past: Past, *, gapless: bool) -> Decision:
    """Decide on what was never measured on this machine."""
    go = _with(kept, chosen=kept.best, foretold=foretold, untried_taken=True)
    if past.first and moment.nobody_asks(gap=not gapless and not moment.peers):
        return _with(go, why=f"{kept.why}, on others' word, while nobody asks")
    risk = exposure(moment, gapless=gapless)
    if risk <= EXPOSURE and not moment.quiet:
        return _with(go, why=f"{kept.why}, on others' word: at worst {risk:.1%} of an hour", exposure=risk)
    waited = past.put_off_since is not None and moment.now - past.put_off_since >= PATIENCE
    again = past.dared_at is None or moment.now - past.dared_at >= DARED_AGAIN
    if waited and again and risk <= DARING:
        return _with(
            go, why=f"{kept.why}, on others' word: there was no idle time to try it", dared=True, exposure=risk
        )
    return _with(kept, why="never measured here: it is tried in idle time first", untried=True, exposure=risk)


def exposure(moment: Moment, *, gapless: bool) -> float:
    """Return the mean log-cost over an hour of trying what proves to be SLOWER times as slow, and going back.

    Two restarts make prompts wait, unless they leave no gap or others answer; until it is found out, and the old
    one is up again, answers are slow.
    """
    shape = moment.description
    if shape is None or not shape.requests_per_s or not shape.latency_s:
        return DARING  # nobody knows what prompts there will be
    usual = shape.latency_s
    away = 0.0 if gapless or moment.peers else 2 * moment.restart_s / HOUR * waiting(moment.restart_s, usual)
    rate = max(shape.requests_per_s * max(shape.busy_share, LEAST_BUSY), 1 / HOUR)
    slow_s = SLOWER * usual + FOUND_OUT / rate + (moment.restart_s if gapless else 0.0)
    return away + min(slow_s / HOUR, 1.0) * log(SLOWER)


def waiting(away_s: float, latency_s: float) -> float:
    """Return the mean log-cost of answers that are held while the engine is away, asked for at any moment of it."""
    longest = away_s + latency_s
    return 0.0 if away_s <= 0 else longest / away_s * log(longest / latency_s) - 1.0


def worth_trials(decision: Decision, *, since_s: float) -> bool:
    """Tell whether trials are to be run now.

    Args:
        since_s: since there were some under this workload; infinite where there were none.
    """
    advice = decision.advice
    if advice is None or not decision.probes:
        return False
    wide = any(probe.saves > OPEN and not advice.measured[probe.index] for probe in advice.probes)
    return decision.untried or wide or since_s >= EXPLORED_AGAIN


def _probes(advice: Advice, candidates: Sequence[Strategy], best: int, current: int) -> tuple[Strategy, ...]:
    """Return what to try: the best if it was never tried, the most telling, what runs, and the default to compare."""
    first = [best] if best and not advice.measured[best] else []
    wanted = [*first, *(probe.index for probe in advice.probes if probe.index not in (0, best))]
    open_yet = (at for at in wanted if at not in advice.failed and advice.measured[at] < TRIED_ENOUGH)
    chosen = list(dict.fromkeys(open_yet))[:PROBES]
    if not chosen:
        return ()
    places = {0: None, **dict.fromkeys(chosen), **({current: None} if current in wanted else {})}
    return tuple(candidates[at] for at in places)


def _regret(advice: Advice, current: int) -> float | None:
    known = [cost for at, cost in enumerate(advice.cost) if cost is not None and at not in advice.failed]
    here = advice.cost[current]
    return None if here is None or not known else max(here - min(known), 0.0)


def _with(decision: Decision, **changes: object) -> Decision:
    return replace(decision, **changes)

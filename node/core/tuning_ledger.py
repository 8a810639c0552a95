"""What a tuner remembers over restarts: what runs, what was good, what was no good, and how it all came about.

A frozen value with pure changes; knows no file and no clock. Times are seconds since 1970: what is kept outlives every
loop. A ban counts for one `key` only, which names model, engine version and hardware: another engine version may have
mended what failed.
"""

from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from node.core.strategy import Strategy
from node.core.workload import Description

VERSION: Final = 1
DAY: Final = 86_400.0  # s
HISTORY: Final = 1000  # entries kept: months of tuning, .3 MB
BANS: Final = 256  # kept; a space of strategies has some sixty. The first to end goes first
FIRST_BAN: Final = (
    DAY  # after the first contradiction; it doubles with each: what was bad once may have been the moment
)
LONGEST_BAN: Final = 60 * DAY
SPAN_WEIGHT: Final = 0.3  # of the latest one in the running mean: the last five say most
SHORTEST_SPAN: Final = 600.0  # s; what changes faster cannot be followed by restarts
LONGEST_SPAN: Final = 2 * DAY

Mode: TypeAlias = Literal["auto", "fixed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ban:
    """A strategy that is not to be chosen for a while.

    Attributes:
        count: how often it was banned under this key.
        here: only while the workload is what it was.
    """

    key: str
    strategy: Strategy
    until: float
    reason: str
    count: int = 1
    here: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One step of the tuner, as history tells of it."""

    at: float
    before: str
    event: str
    after: str
    strategy: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Foretold:
    """What was promised of a switch: log-cost saved against what ran before, and its 90 % interval."""

    gain: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """A verification under way: since when the strategy serves, and what ran before it."""

    strategy: Strategy
    before: Strategy
    since: float
    foretold: Foretold | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Everything that a tuner keeps.

    Attributes:
        key: model, engine version and hardware that `present`, `good` and `trust` are of.
        fixed: what the owner said; None in mode "auto". configured: it stood in the settings, and holds while it does.
        present: what ran last. None before the first start under this key.
        good: the last one that was confirmed, or that ran before all.
        since: when `present` began to serve.
        switches, rollbacks, failed_starts: how many there were, ever.
        lost_s: seconds in which nobody was served for tuning's sake, ever.
        span_s: how long a workload lasts here, a running mean; None until one was seen to end.
        baseline: the traffic that the last decision was made for. workload_since: when it began to be like that.
        switched_at: of the last switches within a day, for the limit of a day.
        put_off_since: since when an untried strategy looks best and was not applied for want of a trial.
        dared_at: when one was last applied for all that.
    """

    version: int = VERSION
    key: str = ""
    mode: Mode = "auto"
    fixed: Strategy | None = None
    configured: bool = False
    present: Strategy | None = None
    good: Strategy | None = None
    since: float | None = None
    trust: Trust | None = None
    bans: tuple[Ban, ...] = ()
    history: tuple[Entry, ...] = ()
    switches: int = 0
    rollbacks: int = 0
    failed_starts: int = 0
    lost_s: float = 0.0
    span_s: float | None = None
    baseline: Description | None = None
    workload_since: float | None = None
    switched_at: tuple[float, ...] = ()
    put_off_since: float | None = None
    dared_at: float | None = None


# --- the start


def initial(ledger: Ledger | None, key: str, configured: Strategy | None, default: Strategy) -> Strategy:
    """Return what the engine is to be started with.

    Args:
        ledger: as it was kept; None where nothing was.
        key: of the engine that is about to start.
        configured: what the owner's settings say; None where they leave it open.
        default: what runs where nobody knows better.
    """
    if configured is not None:
        return configured
    if ledger is None:
        return default
    if ledger.mode == "fixed" and ledger.fixed is not None and not ledger.configured:
        return ledger.fixed
    return ledger.good if ledger.key == key and ledger.good is not None else default


def opened(ledger: Ledger | None, key: str, configured: Strategy | None) -> Ledger:
    """Return the ledger to go on with: what is of another model, engine or machine is forgotten, the rest is kept."""
    ledger = Ledger() if ledger is None else ledger
    if ledger.key != key:
        ledger = replace(
            ledger,
            key=key,
            present=None,
            good=None,
            since=None,
            trust=None,
            baseline=None,
            workload_since=None,
            put_off_since=None,
        )
    if configured is not None:
        return replace(ledger, mode="fixed", fixed=configured, configured=True)
    # What stood in the settings and does no more is no wish any more.
    return replace(ledger, mode="auto", fixed=None, configured=False) if ledger.configured else ledger


# --- steps


def noted(ledger: Ledger, entry: Entry) -> Ledger:
    """Add a step to the history; the oldest goes."""
    return replace(ledger, history=(*ledger.history, entry)[-HISTORY:])


def serving(ledger: Ledger, strategy: Strategy, now: float) -> Ledger:
    """Note that the engine serves under this strategy, whoever brought that about."""
    trust = ledger.trust if ledger.trust is not None and ledger.trust.strategy == strategy else None
    since = ledger.since if ledger.present == strategy else None
    return replace(
        ledger,
        present=strategy,
        since=now if since is None else since,
        good=ledger.good or strategy,
        trust=trust,  # of one that runs no more, nothing more will be seen
    )


def switched(ledger: Ledger, trust: Trust, *, down_s: float, now: float) -> Ledger:
    """Note a switch that came to its end; it is to be verified."""
    return replace(
        ledger,
        present=trust.strategy,
        since=now,
        trust=trust,
        switches=ledger.switches + 1,
        lost_s=ledger.lost_s + down_s,
        switched_at=(*(at for at in ledger.switched_at if now - at < DAY), now),
        put_off_since=None,
    )


def confirmed(ledger: Ledger, *, good: bool) -> Ledger:
    """Note that a verification is over. `good`: the strategy was found no worse, not only not found out."""
    return replace(ledger, trust=None, good=ledger.present if good else ledger.good)


def returned(ledger: Ledger, strategy: Strategy, *, down_s: float, now: float) -> Ledger:
    """Note that a strategy was taken back for another, which serves now."""
    return replace(
        ledger,
        present=strategy,
        since=now,
        good=strategy,
        trust=None,
        rollbacks=ledger.rollbacks + 1,
        lost_s=ledger.lost_s + down_s,
    )


def target(ledger: Ledger, default: Strategy, *, without: Strategy | None = None) -> Strategy | None:
    """Return what to go back to from what runs: the last good one, else the default; None where it is that already.

    `without`: is not gone back to, unless it is the default.
    """
    for strategy in (ledger.good if ledger.good != without else None, default):
        if strategy is not None and strategy != ledger.present:
            return strategy
    return None


# --- bans


def banned(ledger: Ledger, strategy: Strategy, *, reason: str, now: float, here: bool = False) -> Ledger:
    """Forbid a strategy for a day, and for twice as long as the last time if there was one.

    Args:
        here: at most until the workload changes.
    """
    old = next((ban for ban in ledger.bans if ban.key == ledger.key and ban.strategy == strategy), None)
    count = 1 if old is None else old.count + 1
    length = min(FIRST_BAN * 2.0 ** min(count - 1, 16), LONGEST_BAN)
    new = Ban(key=ledger.key, strategy=strategy, until=now + length, reason=reason, count=count, here=here)
    # Ended ones are kept for as long as their number counts; they go when there are too many.
    others = sorted((ban for ban in ledger.bans if ban is not old), key=lambda ban: -ban.until)[: BANS - 1]
    return replace(ledger, bans=(new, *others))


def bans_at(ledger: Ledger, now: float) -> tuple[Ban, ...]:
    """Return the bans that hold now, for this model, engine and machine."""
    return tuple(ban for ban in ledger.bans if ban.key == ledger.key and now < ban.until)


# --- the workload's life


def workload_ended(ledger: Ledger, now: float, *, usual: float) -> Ledger:
    """Note that the workload has changed: how long it had lasted moves what is expected of the next.

    What was forbidden for it alone no longer is.

    Args:
        usual: seconds that one is taken to last until some were seen to end.
    """
    span = usual if ledger.span_s is None else ledger.span_s
    if ledger.workload_since is not None:
        lasted = min(max(now - ledger.workload_since, SHORTEST_SPAN), LONGEST_SPAN)
        span += SPAN_WEIGHT * (lasted - span)
    bans = tuple(replace(ban, until=min(ban.until, now)) if ban.here else ban for ban in ledger.bans)
    return replace(ledger, span_s=span, workload_since=now, bans=bans)


def horizon(ledger: Ledger, now: float, *, usual: float) -> float:
    """Return the seconds that the present workload is expected to last yet.

    At least the usual: what has lasted longer than that already is expected to last as long again (as of a thing
    whose life is not known).
    """
    lasted = 0.0 if ledger.workload_since is None else now - ledger.workload_since
    return min(max(usual if ledger.span_s is None else ledger.span_s, lasted), LONGEST_SPAN)

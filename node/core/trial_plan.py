"""Which trial comes next, which are thrown away, and what the rest say together.

Knows strategies, the names of loads and what was tried so far; knows no engine, clock or file. The plan keeps no
state: everything follows from the list of what was done, so that a run that was broken off goes on where it was.

Rounds are interleaved: every cell (a strategy under a load) is tried once before any is tried twice, in an order
that differs from round to round, so that a machine that slows down, slows all of them down. Trials of one load in
one round are a pair: they saw the same weather, and comparisons are made within it.
"""

import hashlib
import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from node.core.strategy import Strategy, to_plain
from node.core.trial_outcome import Figure, Outcome, repeated

LASTING = frozenset({"start_failed", "out_of_memory"})  # failures that another attempt would only repeat
PATIENCE = 2  # failures of other kinds until a cell is given up
HEADROOM = 1.25  # on how long a session is expected to take: the budget is kept rather than filled
FOREIGN_LIMIT = 200_000  # ppm of all cores used by others; beyond it latencies moved by more than a tenth here
MARK_CHARS = 32  # of a digest's hexadecimal digits: no two cells of a book share a name by chance
WAITED_LIMIT = 100_000  # ppm of the time that the engine stood ready without a core: latency grows by as much


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a strategy has no outcome. `load` is None where the engine did not even start.

    `kind` is a word of records: out_of_memory, start_failed, crashed, timed_out.
    """

    kind: str
    reason: str
    load: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One trial that was made: its outcome or its failure, and why it does not count, if it does not.

    Attributes:
        load: None of a failure to start, which is a failure under every load.
        attempt: the round, from 0.
    """

    strategy: Strategy
    load: str | None
    attempt: int
    outcome: Outcome | None = None
    failure: Failure | None = None
    discarded: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a trial does not count, in ppm (see Outcome)."""

    foreign: int = FOREIGN_LIMIT
    waited: int = WAITED_LIMIT


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be tried.

    Attributes:
        repetitions: trials that must count, of each cell.
        retries: further trials of a cell, in place of those that do not count.
        run: names the whole run; decides orders and the names of pairs.
    """

    run: str
    strategies: tuple[Strategy, ...]
    loads: tuple[str, ...]
    repetitions: int = 3
    retries: int = 2
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What one engine is started for: a strategy, and the loads in the order that they are tried in."""

    strategy: Strategy
    loads: tuple[str, ...]
    attempt: int


def discarded(limits: Limits, outcome: Outcome) -> str:
    """Why a trial does not count, in words; empty where it does."""
    if outcome.strangers:
        return f"{outcome.strangers} foreign processes on the GPU"
    if outcome.foreign_load is not None and outcome.foreign_load > limits.foreign:
        return f"others used {outcome.foreign_load / 10_000:.0f} % of the machine"
    if outcome.waited is not None and outcome.waited > limits.waited:
        return f"the engine waited for a core {outcome.waited / 10_000:.0f} % of the time"
    return ""


def judged(limits: Limits, entry: Entry) -> Entry:
    """Return the entry as these limits have it."""
    return entry if entry.outcome is None else replace(entry, discarded=discarded(limits, entry.outcome))


def pair(plan: Plan, load: str) -> bytes:
    """Return what names the trials of one load, interleaved on one machine: 16 bytes, for the records."""
    return hashlib.sha256(f"{plan.run}/{load}".encode()).digest()[:16]


def next_session(plan: Plan, done: Sequence[Entry]) -> Session | None:
    """Return what to try next; None when every cell has what it needs or will never have it."""
    wanting = {strategy: needed for strategy in plan.strategies if (needed := _needed(plan, strategy, done))}
    if not wanting:
        return None
    attempt = min(tried for needed in wanting.values() for tried in needed.values())
    for strategy in _shuffled(plan, attempt):
        due = [load for load, tried in wanting.get(strategy, {}).items() if tried == attempt]
        if due:
            turn = attempt % len(due)
            return Session(strategy=strategy, loads=(*due[turn:], *due[:turn]), attempt=attempt)
    raise AssertionError("the least tried cell belongs to no strategy")


def _needed(plan: Plan, strategy: Strategy, done: Iterable[Entry]) -> dict[str, int]:
    """Return how often each load was tried that is still to be tried."""
    own = [entry for entry in done if entry.strategy == strategy]
    if _hopeless(own, None):
        return {}
    return {
        load: tried
        for load in plan.loads
        if not _hopeless(own, load)
        and sum(entry.load == load and counts(entry) for entry in own) < plan.repetitions
        and (tried := sum(entry.load == load for entry in own)) < plan.repetitions + plan.retries
    }


def _hopeless(own: Sequence[Entry], load: str | None) -> bool:
    failures = [entry.failure for entry in own if entry.failure is not None and entry.load == load]
    return any(failure.kind in LASTING for failure in failures) or len(failures) >= PATIENCE


def counts(entry: Entry) -> bool:
    """Whether it is a trial that succeeded on a quiet machine."""
    return entry.outcome is not None and not entry.discarded


def _shuffled(plan: Plan, attempt: int) -> list[Strategy]:
    """Return the strategies in the order of this round."""

    def place(strategy: Strategy) -> bytes:
        return hashlib.sha256(f"{plan.run}/{attempt}/{strategy.name}".encode()).digest()

    return sorted(plan.strategies, key=place)


def expected_seconds(session: Session, took: Sequence[tuple[Session, float]], *, guess: float) -> float:
    """Return how long the session will take: by this strategy's last one, else by the slowest of the others.

    Args:
        took: sessions that were made and their seconds.
        guess: for the first of all.
    """
    per_load = [(made.strategy, seconds / max(len(made.loads), 1)) for made, seconds in took]
    same = [seconds for strategy, seconds in per_load if strategy == session.strategy]
    likely = same[-1] if same else max((seconds for _, seconds in per_load), default=None)
    return guess if likely is None else likely * len(session.loads) * HEADROOM


# --- what it came to


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A strategy under a load: the figures of the trials that count, and what became of the others.

    Attributes:
        ratio: median over pairs of this strategy's mean latency by the baseline's in the same round; None without.
    """

    strategy: Strategy
    load: str
    count: int
    discarded: int
    figures: Mapping[str, Figure]
    failure: Failure | None = None
    ratio: float | None = None


def cells(plan: Plan, done: Sequence[Entry], *, metric: str = "latency") -> tuple[Cell, ...]:
    """Return every cell of the plan. The baseline of `ratio` is the plan's first strategy."""
    return tuple(_cell(plan, done, strategy, load, metric) for strategy in plan.strategies for load in plan.loads)


def settled(plan: Plan, done: Sequence[Entry]) -> tuple[Cell, ...]:
    """Return the cells that no further trial is planned for: what is known of them is all that will be."""
    wanting = {(strategy, load) for strategy in plan.strategies for load in _needed(plan, strategy, done)}
    return tuple(cell for cell in cells(plan, done) if (cell.strategy, cell.load) not in wanting)


def mark(plan: Plan, cell: Cell) -> str:
    """Return what names a cell in its present state: equal as long as the same would be said of it."""
    figures = sorted((name, figure.median, figure.mad) for name, figure in cell.figures.items())
    kind = None if cell.failure is None else cell.failure.kind
    said = json.dumps([plan.run, to_plain(cell.strategy), cell.load, cell.count, kind, figures], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:MARK_CHARS]


def _cell(plan: Plan, done: Sequence[Entry], strategy: Strategy, load: str, metric: str) -> Cell:
    own = [entry for entry in done if entry.strategy == strategy and entry.load in (load, None)]
    good = [entry for entry in own if counts(entry)]
    failures = [entry.failure for entry in own if entry.failure is not None]
    return Cell(
        strategy=strategy,
        load=load,
        count=len(good),
        discarded=sum(bool(entry.discarded) for entry in own),
        figures=repeated([entry.outcome for entry in good if entry.outcome is not None]),
        failure=failures[-1] if failures and not good else None,
        ratio=_ratio(done, good, plan.strategies[0], metric),
    )


def _ratio(done: Sequence[Entry], good: Sequence[Entry], baseline: Strategy, metric: str) -> float | None:
    base = {
        (entry.load, entry.attempt): _mean(entry, metric)
        for entry in done
        if entry.strategy == baseline and counts(entry)
    }
    ratios = [
        mine / other
        for entry in good
        if (mine := _mean(entry, metric)) and (other := base.get((entry.load, entry.attempt)))
    ]
    return statistics.median(ratios) if ratios else None


def _mean(entry: Entry, metric: str) -> int | None:
    spread = getattr(entry.outcome, metric)
    return None if spread is None else spread.mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """A run in figures. `discarded_share` of all trials that had an outcome; None before the first."""

    trials: int
    discarded: int
    reasons: Mapping[str, int]
    failed: Mapping[str, int]
    cells: int
    complete: int

    @property
    def discarded_share(self) -> float | None:
        """Share of the trials that were thrown away."""
        return self.discarded / self.trials if self.trials else None


def tally(plan: Plan, done: Sequence[Entry]) -> Tally:
    """Return how far the run is."""
    tried = [entry for entry in done if entry.outcome is not None]
    gone = [entry for entry in tried if entry.discarded]
    full = sum(cell.count >= plan.repetitions for cell in cells(plan, done))
    return Tally(
        trials=len(tried),
        discarded=len(gone),
        reasons=Counter(entry.discarded.translate(_NO_DIGITS) for entry in gone),
        failed=Counter(entry.failure.kind for entry in done if entry.failure is not None),
        cells=len(plan.strategies) * len(plan.loads),
        complete=full,
    )


_NO_DIGITS = str.maketrans("", "", "0123456789")


def disagreement(one: Sequence[Cell], other: Sequence[Cell], metric: str) -> dict[tuple[str, str], float]:
    """Return by how much two runs' medians differ, relative to their mean, by (strategy's name, load)."""
    second = {(cell.strategy.name, cell.load): cell.figures for cell in other}
    found: dict[tuple[str, str], float] = {}
    for cell in one:
        key = (cell.strategy.name, cell.load)
        figure, twin = cell.figures.get(metric), second.get(key, {}).get(metric)
        if figure is not None and twin is not None and figure.median + twin.median > 0:
            found[key] = abs(figure.median - twin.median) / ((figure.median + twin.median) / 2)
    return found

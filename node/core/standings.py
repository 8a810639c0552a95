"""What a node knows of how busy each replica is, and what lately spoke against asking it.

Knows no network: readings, beginnings and endings go in with the time, standings come out. A replica is named by
its node's peer id, this node's own engine included.

A reading counts everybody's prompts, ours among them; from the moment of the reading on we know better of our own.
So the estimate is what others had then, plus what we have now. The tokens of prompts are counted likewise: those that
were sent since the reading and wait for a first byte stand in a queue that no reading has told yet.

A fault bars a replica for a while. When that is over ONE prompt goes there (`probing`), and the next only once it was
answered: a circuit breaker with a half-open state. Its table:

    closed (asked)      a fault                      -> barred, for twice as long as the last time
    barred              the time is over             -> half open
    barred as hung      a reading                    -> half open: it lives again
    half open           a prompt of ours begins      -> probing
    probing             a first byte                 -> asked
    probing             a fault                      -> barred
    probing             it ended and said nothing    -> half open

What is known lies in objects for whoever asks about one replica, and the same figures in columns (`Standings.columns`)
for whoever compares many at once: a row of its own for each replica, row 0 for those of whom nothing is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from math import exp2, inf
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocol.ids import PeerId
from protocol.load import FRESH_FOR, Load, Serving

Floats: TypeAlias = NDArray[np.float64]
Rows: TypeAlias = NDArray[np.intp]

TOKENS_PER_PROMPT = 512  # queued tokens that weigh as one more prompt: what a chat's prompt commonly has
BELIEVED_FOR = 15.0  # s a reading counts at all: half a dozen polls have failed by then
UNKNOWN_WORK = 1.0  # prompts that a replica without a reading is taken to have: neither idle nor busy
SHORTEST_BAR = 1.0  # s
LONGEST_BAR = 60.0  # s that a refusal bars a replica, whatever it asks for: its word must not remove it for a day
FIRST_FAULT_BAR = 5.0  # s after an answer that never came
FIRST_HUNG_BAR = 30.0  # s after it fell silent altogether: it is asked whether it lives, by no prompt of anybody's
LONGEST_FAULT_BAR = 300.0  # s; doubling stops here
REPLICAS = 4096  # kept; beyond it those without prompts of ours are forgotten, longest unheard first
PROBING = "probing"
FAILED, HUNG = "failed", "hung"
FAULTS = frozenset({FAILED, HUNG})  # bars of those whom nobody asks
REFUSED = "refused"
GONE = frozenset({Serving.LOADING, Serving.AWAY})  # who says so is not merely full
HALF_LIFE = 600.0  # s in which what is known of reliability counts half: machines are restarted, links mended
LATE = 2.0  # times what was foretold, from which on a first byte is late: one honest answer in twenty is
LEAST_DUE = 1e-3  # s
UNKNOWN_ROW = 0


class Column(IntEnum):
    """The columns of `Standings.columns`. Times are the loop's, in seconds."""

    OTHERS = 0  # prompts of others at the last reading
    QUEUED = 1  # prompt tokens in the queue then, beyond what its prompts commonly have
    READ_AT = 2  # -inf: never
    IN_FLIGHT = 3  # prompts of ours
    SLOTS = 4  # inf where not known
    CLOSED_UNTIL = 5  # by a bar, a probe or its own word; -inf where open
    GOOD = 6  # answers begun, each counting half after HALF_LIFE, as of JUDGED_AT
    BAD = 7  # faults, likewise
    JUDGED_AT = 8
    SENT_AT = 9  # when the oldest of our prompts was sent that wait there for a first byte
    DUE = 10  # how many seconds had been foretold for that one
    LATE_AT = 11  # when that one is late, which is LATE times as long; inf: none waits
    SINCE = 12  # prompts of ours that came on top since the last reading
    SENT = 13  # tokens of our prompts that were sent since then and wait there for a first byte
    RUN = 14  # a number of its own for each run of each node: what was learnt of another run is void


_UNKNOWN: Final = (UNKNOWN_WORK, 0.0, -inf, 0.0, inf, -inf, 0.0, 0.0, 0.0, 0.0, 1.0, inf, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is known of one replica at one moment.

    Attributes:
        work: prompts outstanding as far as we can tell, in prompts; queued tokens weighed in.
        in_flight: those of ours among them.
        slots: prompts that it runs together; 0 where it is not known.
        known: whether a reading counts.
        fresh: whether it is recent enough to be relied on without asking again.
        closed: why it would not take a prompt now; "" where it would.
        closed_until: when that is worth doubting.
        returning: whether it said last that it takes nothing for the moment, which is what a node says whose engine
            changes its strategy (docs/protocol/load.md): worth waiting for where nobody else serves.
    """

    work: float
    in_flight: int
    slots: int
    known: bool
    fresh: bool
    closed: str
    closed_until: float
    returning: bool = False

    @property
    def full(self) -> bool:
        """Whether one more prompt would have to wait there."""
        return self.slots > 0 and self.work >= self.slots


class _Due(NamedTuple):
    """A first byte that we wait for: when its prompt was sent, how many seconds were foretold, the prompt's tokens."""

    sent_at: float
    seconds: float
    tokens: float


@dataclass(slots=True, kw_only=True)
class _Facts:
    run: int
    row: int = UNKNOWN_ROW
    load: Load | None = None
    read_at: float = 0.0
    ours_then: int = 0
    in_flight: int = 0
    barred_until: float = 0.0
    bar: str = ""
    faults: int = 0
    probing: bool = False
    heard_at: float = 0.0
    good: float = 0.0
    bad: float = 0.0
    judged_at: float = 0.0
    expected: dict[int, "_Due"] = field(default_factory=dict[int, "_Due"])  # by ticket, the oldest first
    sent: float = 0.0  # their tokens, of those since the reading
    ticket_then: int = 0  # the last one before the reading

    def believed(self, now: float) -> Load | None:
        return self.load if now - self.read_at <= BELIEVED_FOR else None

    def closed(self, load: Load | None, now: float) -> tuple[str, float]:
        """Return why it takes no prompt and until when, "" where it does; `load` as `believed`."""
        if self.barred_until > now:
            if self.bar == REFUSED and load is not None and load.serving in GONE:
                return load.serving.name.lower(), self.barred_until  # which is why it refused
            return self.bar, self.barred_until
        if self.probing:
            return PROBING, now + SHORTEST_BAR
        if load is not None and not load.open:
            closed = "not_accepting" if load.serving is Serving.READY else load.serving.name.lower()
            return closed, self.read_at + FRESH_FOR
        return "", 0.0

    def half_open(self, now: float) -> bool:
        return self.faults > 0 and self.barred_until <= now

    def judged(self, now: float, *, good: float = 0.0, bad: float = 0.0) -> None:
        """Count an answer or a fault."""
        decay = exp2(-max(now - self.judged_at, 0.0) / HALF_LIFE)
        self.good, self.bad, self.judged_at = self.good * decay + good, self.bad * decay + bad, now


_NOTHING_DUE: Final = _Due(inf, 1.0, 0.0)


class Standings:
    """What is known of every replica."""

    def __init__(self) -> None:
        self._facts: dict[PeerId, _Facts] = {}
        self._helpers: dict[PeerId, None] = {}  # the latest last
        self._runs = 0
        self._tickets = 0
        self._free: list[int] = []
        self._changed: dict[int, _Facts] = {}  # by row: what the table does not say yet; most is never asked for
        self._table: Floats = np.empty((len(Column), 1))
        self._table[:, UNKNOWN_ROW] = _UNKNOWN
        self.version = 0  # changes whenever a replica may be in another row than before

    def __len__(self) -> int:
        return len(self._facts)

    def read(self, replica: PeerId, load: Load, now: float) -> None:
        """Take in a reading. Of one that rides on an answer's end, note the ending first."""
        facts = self._kept(replica, now)
        facts.load, facts.read_at, facts.ours_then = load, now, facts.in_flight
        if facts.bar == HUNG:
            facts.barred_until = min(facts.barred_until, now)
        facts.sent, facts.ticket_then = 0.0, self._tickets
        self._note(facts)

    def began(self, replica: PeerId, now: float) -> None:
        """Note that a prompt of ours was sent. Each is ended once, with `ended`."""
        facts = self._kept(replica, now)
        facts.probing = facts.probing or facts.half_open(now)
        facts.in_flight += 1
        self._note(facts)

    def ended(self, replica: PeerId) -> None:
        """Note that a prompt of ours is over, however it ended."""
        facts = self._facts.get(replica)
        if facts is not None and facts.in_flight:
            facts.in_flight -= 1
            facts.probing = False
            self._note(facts)

    def answered(self, replica: PeerId, now: float) -> None:
        """Note a first byte: what spoke against the replica is over."""
        facts = self._kept(replica, now)
        facts.faults, facts.barred_until, facts.bar, facts.probing = 0, 0.0, "", False
        facts.judged(now, good=1.0)
        self._note(facts)

    def helped(self, replica: PeerId) -> None:
        """Note that it answered a prompt of ours to the end. That is remembered though it goes away."""
        self._helpers.pop(replica, None)
        self._helpers[replica] = None
        if len(self._helpers) > REPLICAS:
            del self._helpers[next(iter(self._helpers))]

    def helpers(self) -> tuple[PeerId, ...]:
        """Return who did."""
        return tuple(self._helpers)

    def refused(self, replica: PeerId, now: float, retry_after: float | None) -> None:
        """Note a polite no: it is asked again when it said, within bounds."""
        wait = min(max(retry_after or SHORTEST_BAR, SHORTEST_BAR), LONGEST_BAR)
        self._bar(self._of(replica), now + wait, REFUSED)

    def failed(self, replica: PeerId, now: float, *, hung: bool = False) -> bool:
        """Note an answer that did not come (`hung`: not even an error); each in a row bars for twice as long.

        What breaks off together is one fault: a node that dies with ten prompts has not failed ten times. Returns
        whether it is a new one.
        """
        facts = self._of(replica)
        if facts.barred_until > now and facts.bar in FAULTS:
            return False
        first = FIRST_HUNG_BAR if hung else FIRST_FAULT_BAR
        wait = min(first * 2.0 ** min(facts.faults, 16), LONGEST_FAULT_BAR)
        facts.faults += 1
        facts.probing = False
        facts.judged(now, bad=1.0)
        self._bar(facts, now + wait, HUNG if hung else FAILED)
        return True

    def renewed(self, replica: PeerId) -> None:
        """Note that the node began a new run: nothing of the former one holds, but for what we wait for."""
        facts = self._of(replica)
        self._runs += 1
        fresh = _Facts(run=self._runs, row=facts.row, in_flight=facts.in_flight)
        self._facts[replica] = fresh
        self._note(fresh)

    def forget(self, replica: PeerId) -> None:
        """Forget a replica whose node is gone."""
        facts = self._facts.pop(replica, None)
        if facts is not None:
            self._table[:, facts.row] = _UNKNOWN
            self._changed.pop(facts.row, None)
            self._free.append(facts.row)
            self.version += 1

    def expect(self, replica: PeerId, now: float, due: float, tokens: float = 0.0) -> int:
        """Note that a first byte was foretold in `due` seconds; return a ticket for `heard`. After `began`.

        `tokens`: of the prompt, those that the replica has to read before.
        """
        facts = self._of(replica)
        self._tickets += 1
        facts.expected[self._tickets] = _Due(now, max(due, LEAST_DUE), tokens)
        facts.sent += tokens
        self._note(facts)
        return self._tickets

    def heard(self, replica: PeerId, ticket: int) -> None:
        """Note that nobody waits for that first byte any more: it is here, or never comes. Safe to repeat."""
        facts = self._facts.get(replica)
        due = facts.expected.pop(ticket, None) if facts is not None else None
        if facts is not None and due is not None:
            if ticket > facts.ticket_then:
                facts.sent = max(facts.sent - due.tokens, 0.0)
            self._note(facts)

    def run(self, replica: PeerId) -> int:
        """Return the number of the replica's run, which no other run has; 0 where nothing is known of it."""
        facts = self._facts.get(replica)
        return facts.run if facts is not None else 0

    def rows(self, replicas: Sequence[PeerId]) -> Rows:
        """Return the row of each in `columns`, shape (n,). A caller keeps them while `version` stays."""
        found = self._facts
        return np.array(
            [UNKNOWN_ROW if (facts := found.get(each)) is None else facts.row for each in replicas], dtype=np.intp
        )

    def columns(self, rows: Rows) -> Floats:
        """Return what is known of so many, shape (columns, n): a copy."""
        while self._changed:
            self._write(self._changed.popitem()[1])
        return self._table.take(rows, axis=1)

    def closed(self, replica: PeerId, now: float) -> bool:
        """Tell whether it takes no prompt now: `Standing.closed` without the rest."""
        facts = self._facts.get(replica)
        return facts is not None and bool(facts.closed(facts.believed(now), now)[0])

    def returning(self, replica: PeerId, now: float) -> bool:
        """Tell whether it takes none for the moment, and will again: `Standing.returning` without the rest."""
        facts = self._facts.get(replica)
        load = None if facts is None else facts.believed(now)
        return load is not None and load.serving is Serving.DRAINING

    def standing(self, replica: PeerId, now: float) -> Standing:
        """Return what is known now."""
        facts = self._facts.get(replica) or _Facts(run=0)
        age = now - facts.read_at
        load = facts.believed(now)
        closed, until = facts.closed(load, now)
        others = UNKNOWN_WORK
        if load is not None:
            others = max(load.outstanding - facts.ours_then, 0) + load.queued_tokens / TOKENS_PER_PROMPT
        return Standing(
            work=others + facts.in_flight,
            in_flight=facts.in_flight,
            slots=load.slots if load is not None else 0,
            known=load is not None,
            fresh=load is not None and age <= FRESH_FOR,
            closed=closed,
            closed_until=until,
            returning=load is not None and load.serving is Serving.DRAINING,
        )

    def _bar(self, facts: _Facts, until: float, bar: str) -> None:
        if until > facts.barred_until:
            facts.barred_until, facts.bar = until, bar
        self._note(facts)

    def _kept(self, replica: PeerId, now: float) -> _Facts:
        facts = self._of(replica)
        facts.heard_at = now
        return facts

    def _of(self, replica: PeerId) -> _Facts:
        """Return what is known of it, from now on in a row of its own."""
        facts = self._facts.get(replica)
        if facts is not None:
            return facts
        if len(self._facts) >= REPLICAS:
            idle = [(known.heard_at, name) for name, known in self._facts.items() if not known.in_flight]
            if idle:
                self.forget(min(idle)[1])
        if not self._free:
            size = self._table.shape[1]
            more = np.repeat(self._table[:, :1], max(size, 15), axis=1)
            self._table = np.concatenate([self._table, more], axis=1)
            self._free += reversed(range(size, size + more.shape[1]))
        self._runs += 1
        facts = self._facts[replica] = _Facts(run=self._runs, row=self._free.pop())
        self.version += 1
        return facts

    def _note(self, facts: _Facts) -> None:
        self._changed[facts.row] = facts

    def _write(self, facts: _Facts) -> None:
        """Have the columns say what the facts do."""
        load, closed_until = facts.load, facts.barred_until or -inf
        others, queued, slots, read_at = UNKNOWN_WORK, 0.0, inf, -inf
        if load is not None:
            read_at = facts.read_at
            others = max(load.outstanding - facts.ours_then, 0)
            queued = max(load.queued_tokens - TOKENS_PER_PROMPT * load.waiting, 0)
            slots = load.slots or inf
            if not load.open:
                closed_until = max(closed_until, read_at + BELIEVED_FOR)
        sent_at, due, _ = next(iter(facts.expected.values())) if facts.expected else _NOTHING_DUE
        self._table[:, facts.row] = (
            others, queued, read_at, facts.in_flight, slots, inf if facts.probing else closed_until,
            facts.good, facts.bad, facts.judged_at, sent_at, due, sent_at + LATE * due,
            max(facts.in_flight - facts.ours_then, 0), facts.sent, facts.run,
        )  # fmt: skip

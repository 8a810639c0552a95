"""Who may use the engine now, who waits for a turn and who is sent away: slots, a bounded queue, fair turns.

Knows no engine, task or clock: arrivals and endings go in with the time, decisions come out. Whoever holds a
ticket gives it back with `release`, whether it ran, waited or had already been dropped; that is the whole contract.

Turns are taken by: the owner first; then whoever has waited for half of the longest wait (so that a stream of
newcomers with nothing running cannot starve anybody); then whoever has least running; then first come, first
served. When the queue is full, a lighter requester displaces the youngest ticket of the heaviest, so that one
client cannot close the door on the others by filling the queue.

The owner may keep some slots from the swarm: peers together never hold more than `running - reserved`. Who is kept out
only by that is passed over, not waited for: the owner and the holders of keys take the free slots past them.
"""

import math
from collections import deque
from dataclasses import dataclass
from enum import Enum

from node.core.prompt import Requester, RequesterKind

# Retry-After, seconds. Below one there is nothing to write; a client told more than a minute rather goes away.
SHORTEST_RETRY = 1
LONGEST_RETRY = 60
UNKNOWN_RETRY = 5  # before two answers have ended there is no rate to tell the truth from
RATE_MEMORY = 32  # endings that the rate is taken over: enough to be steady, few enough to follow a change


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionLimits:
    """How much at once.

    Attributes:
        running: prompts at the engine together; vLLM queues beyond its `max_num_seqs`, unfairly, so keep to it.
        waiting: tickets in the queue.
        longest_wait: seconds in the queue after which a client is told to come back.
        longest_hold: seconds from a prompt's coming that it waits for an engine that is away for a moment. A large
            model loads for minutes, but few clients wait for more than two.
        reserved: of `running`, those that peers never take. With all of them reserved, peers are declined at once.
    """

    running: int = 64
    waiting: int = 256
    longest_wait: float = 60.0
    longest_hold: float = 120.0
    reserved: int = 0

    @property
    def for_peers(self) -> int:
        """Prompts of peers at the engine together."""
        return self.running - self.reserved


class Decline(Enum):
    """Why a prompt gets no turn."""

    QUEUE_FULL = "queue_full"
    QUEUE_TIMEOUT = "queue_timeout"
    DISPLACED = "displaced"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """A claim to a turn. `until` is the time at which waiting for it ends."""

    number: int
    requester: Requester
    arrived: float
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """Go ahead."""

    ticket: Ticket


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """Wait until the ticket is admitted, or its time has come. `displaced` lost its place for it."""

    ticket: Ticket
    displaced: Ticket | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Declined:
    """No turn, and when (whole seconds) it is worth asking again."""

    reason: Decline
    retry_after: int


class Admission:
    """The state of the slots and of the queue."""

    def __init__(self, limits: AdmissionLimits) -> None:
        self._limits = limits
        self._next_number = 1
        self._running: dict[int, Ticket] = {}
        self._waiting: dict[int, Ticket] = {}
        self._running_of: dict[Requester, int] = {}
        self._peers_running = 0
        self._waiting_of: dict[Requester, int] = {}
        self._endings: deque[float] = deque(maxlen=RATE_MEMORY)

    @property
    def running(self) -> int:
        """Tickets that hold a slot."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Tickets in the queue."""
        return len(self._waiting)

    @property
    def slots(self) -> int:
        """Tickets that hold a slot together at most."""
        return self._limits.running

    @property
    def limits(self) -> AdmissionLimits:
        """What holds now."""
        return self._limits

    def takes(self, requester: Requester) -> bool:
        """Tell whether a prompt that came now would be admitted or queued, not declined."""
        if self._never(requester):
            return False
        return self._may_start(requester) or self._has_place() or self._heaviest(requester) is not None

    def holds_slot(self, ticket: Ticket) -> bool:
        """Tell whether a ticket has been admitted and not yet given back."""
        return ticket.number in self._running

    def running_of(self, requester: Requester) -> int:
        """Slots that one requester holds."""
        return self._running_of.get(requester, 0)

    def arrive(self, requester: Requester, now: float) -> Admitted | Queued | Declined:
        """Decide over a prompt that has come."""
        ticket = Ticket(
            number=self._next_number,
            requester=requester,
            arrived=now,
            until=now + self._limits.longest_wait,
        )
        # Nobody is overtaken who could start: whoever waits beside a free slot is a peer at the owner's reserve, and
        # then this is none.
        if self._may_start(requester):
            self._next_number += 1
            self._start(ticket)
            return Admitted(ticket=ticket)
        if self._never(requester):
            return Declined(reason=Decline.QUEUE_FULL, retry_after=LONGEST_RETRY)
        displaced = None
        if not self._has_place():
            displaced = self._heaviest(requester)
            if displaced is None:
                return Declined(reason=Decline.QUEUE_FULL, retry_after=self.retry_after(now))
            self._forget_waiting(displaced)
        self._next_number += 1
        self._waiting[ticket.number] = ticket
        _more(self._waiting_of, requester)
        return Queued(ticket=ticket, displaced=displaced)

    def release(self, ticket: Ticket, now: float) -> tuple[Ticket, ...]:
        """Give a ticket back; returns those that are admitted in its place, in the order of their turns."""
        if ticket.number in self._running:
            del self._running[ticket.number]
            self._peers_running -= _is_peer(ticket.requester)
            _less(self._running_of, ticket.requester)
            self._endings.append(now)
        elif ticket.number in self._waiting:
            self._forget_waiting(ticket)
        return self._fill(now) if self._waiting else ()

    def expire(self, now: float) -> tuple[Ticket, ...]:
        """Drop and return those that have waited as long as anybody may, oldest first."""
        late = tuple(ticket for ticket in self._waiting.values() if ticket.until <= now)
        for ticket in late:
            self._forget_waiting(ticket)
        return late

    def resize(self, limits: AdmissionLimits, now: float) -> tuple[Ticket, ...]:
        """Change the limits (another strategy batches otherwise). Nobody loses a place already given."""
        self._limits = limits
        return self._fill(now)

    def retry_after(self, now: float) -> int:
        """Whole seconds after which the queue as it stands will have been served, by the rate seen of late."""
        if len(self._endings) < 2:
            return UNKNOWN_RETRY
        # To `now`, not to the last ending: while nothing ends, the estimate grows as it should.
        seconds = max(now - self._endings[0], 1e-3)
        rate = len(self._endings) / seconds
        return min(max(math.ceil((len(self._waiting) + 1) / rate), SHORTEST_RETRY), LONGEST_RETRY)

    def _may_start(self, requester: Requester) -> bool:
        if len(self._running) >= self._limits.running:
            return False
        return not _is_peer(requester) or self._peers_running < self._limits.for_peers

    def _never(self, requester: Requester) -> bool:
        """Whether waiting would be in vain, because the owner has reserved every slot."""
        return _is_peer(requester) and self._limits.reserved > 0 and self._limits.for_peers <= 0

    def _has_place(self) -> bool:
        return len(self._waiting) < self._limits.waiting

    def _start(self, ticket: Ticket) -> None:
        self._running[ticket.number] = ticket
        self._peers_running += _is_peer(ticket.requester)
        _more(self._running_of, ticket.requester)

    def _forget_waiting(self, ticket: Ticket) -> None:
        del self._waiting[ticket.number]
        _less(self._waiting_of, ticket.requester)

    def _fill(self, now: float) -> tuple[Ticket, ...]:
        admitted: list[Ticket] = []
        while self._waiting and len(self._running) < self._limits.running:
            able = [ticket for ticket in self._waiting.values() if self._may_start(ticket.requester)]
            if not able:
                break
            ticket = min(able, key=lambda waiting: self._turn(waiting, now))
            self._forget_waiting(ticket)
            self._start(ticket)
            admitted.append(ticket)
        return tuple(admitted)

    def _turn(self, ticket: Ticket, now: float) -> tuple[bool, bool, int, int]:
        """Sorts the queue; least is next. A scan of 256 tickets costs less than the token it waits for."""
        stranger = ticket.requester.kind is not RequesterKind.OWNER
        fresh = now - ticket.arrived < (ticket.until - ticket.arrived) / 2
        load = self._running_of.get(ticket.requester, 0) if fresh else 0
        return stranger, fresh, load, ticket.number

    def _heaviest(self, newcomer: Requester) -> Ticket | None:
        """Whom a newcomer may displace: the youngest ticket of whoever waits with most, if that is fairer."""
        owner = newcomer.kind is RequesterKind.OWNER
        youngest: Ticket | None = None
        most = 0 if owner else self._waiting_of.get(newcomer, 0) + 1
        for ticket in self._waiting.values():
            count = self._waiting_of.get(ticket.requester, 0)
            if ticket.requester.kind is RequesterKind.OWNER or ticket.requester == newcomer:
                continue
            if count > most or (youngest is not None and count == most):
                youngest, most = ticket, count
        return youngest


def _is_peer(requester: Requester) -> bool:
    return requester.kind is RequesterKind.PEER


def _more(counts: dict[Requester, int], requester: Requester) -> None:
    counts[requester] = counts.get(requester, 0) + 1


def _less(counts: dict[Requester, int], requester: Requester) -> None:
    """Count one down and forget zeros: requesters are many, and strangers choose their names."""
    left = counts[requester] - 1
    if left > 0:
        counts[requester] = left
    else:
        del counts[requester]

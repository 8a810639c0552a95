"""What a node knows of how busy each replica is, and what lately spoke against asking it.

Knows no network: readings, beginnings and endings go in with the time, standings come out. A replica is named by
its node's peer id, this node's own engine included.

A reading counts everybody's prompts, ours among them; from the moment of the reading on we know better of our own.
So the estimate is what others had then, plus what we have now.
"""

from dataclasses import dataclass, replace

from protocol.ids import PeerId
from protocol.load import FRESH_FOR, Load, Serving

TOKENS_PER_PROMPT = 512  # queued tokens that weigh as one more prompt: what a chat's prompt commonly has
BELIEVED_FOR = 15.0  # s a reading counts at all: half a dozen polls have failed by then
UNKNOWN_WORK = 1.0  # prompts that a replica without a reading is taken to have: neither idle nor busy
SHORTEST_BAR = 1.0  # s
LONGEST_BAR = 60.0  # s that a refusal bars a replica, whatever it asks for: its word must not remove it for a day
FIRST_FAULT_BAR = 5.0  # s after an answer that never came
LONGEST_FAULT_BAR = 300.0  # s; doubling stops here
REPLICAS = 4096  # kept; beyond it those without prompts of ours are forgotten, longest unheard first


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


@dataclass(frozen=True, slots=True)
class _Facts:
    load: Load | None = None
    read_at: float = 0.0
    ours_then: int = 0
    in_flight: int = 0
    barred_until: float = 0.0
    bar: str = ""
    faults: int = 0
    heard_at: float = 0.0


class Standings:
    """What is known of every replica."""

    def __init__(self) -> None:
        self._facts: dict[PeerId, _Facts] = {}
        self._helpers: dict[PeerId, None] = {}  # the latest last

    def __len__(self) -> int:
        return len(self._facts)

    def read(self, replica: PeerId, load: Load, now: float) -> None:
        """Take in a reading. Of one that rides on an answer's end, note the ending first."""
        facts = self._of(replica)
        self._keep(replica, replace(facts, load=load, read_at=now, ours_then=facts.in_flight, heard_at=now))

    def began(self, replica: PeerId, now: float) -> None:
        """Note that a prompt of ours was sent. Each is ended once, with `ended`."""
        facts = self._of(replica)
        self._keep(replica, replace(facts, in_flight=facts.in_flight + 1, heard_at=now))

    def ended(self, replica: PeerId) -> None:
        """Note that a prompt of ours is over, however it ended."""
        facts = self._of(replica)
        if facts.in_flight:
            self._keep(replica, replace(facts, in_flight=facts.in_flight - 1))

    def answered(self, replica: PeerId, now: float) -> None:
        """Note a first byte: what spoke against the replica is over."""
        self._keep(replica, replace(self._of(replica), faults=0, barred_until=0.0, bar="", heard_at=now))

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
        self._bar(replica, now + wait, "refused")

    def failed(self, replica: PeerId, now: float, *, hung: bool = False) -> None:
        """Note an answer that did not come (`hung`: not even an error); each in a row bars for twice as long."""
        facts = self._of(replica)
        wait = min(FIRST_FAULT_BAR * 2.0 ** min(facts.faults, 16), LONGEST_FAULT_BAR)
        self._keep(replica, replace(facts, faults=facts.faults + 1))
        self._bar(replica, now + wait, "hung" if hung else "failed")

    def renewed(self, replica: PeerId) -> None:
        """Note that the node began a new run: nothing of the former one holds, but for what we wait for."""
        self._keep(replica, _Facts(in_flight=self._of(replica).in_flight))

    def forget(self, replica: PeerId) -> None:
        """Forget a replica whose node is gone."""
        self._facts.pop(replica, None)

    def standing(self, replica: PeerId, now: float) -> Standing:
        """Return what is known now."""
        facts = self._of(replica)
        age = now - facts.read_at
        load = facts.load if age <= BELIEVED_FOR else None
        closed, until = "", 0.0
        if facts.barred_until > now:
            closed, until = facts.bar, facts.barred_until
        elif load is not None and not load.open:
            closed = "not_accepting" if load.serving is Serving.READY else load.serving.name.lower()
            until = facts.read_at + FRESH_FOR
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

    def _bar(self, replica: PeerId, until: float, bar: str) -> None:
        facts = self._of(replica)
        if until > facts.barred_until:
            self._keep(replica, replace(facts, barred_until=until, bar=bar))

    def _of(self, replica: PeerId) -> _Facts:
        return self._facts.get(replica, _Facts())

    def _keep(self, replica: PeerId, facts: _Facts) -> None:
        if replica not in self._facts and len(self._facts) >= REPLICAS:
            idle = [(known.heard_at, name) for name, known in self._facts.items() if not known.in_flight]
            if idle:
                del self._facts[min(idle)[1]]
        self._facts[replica] = facts

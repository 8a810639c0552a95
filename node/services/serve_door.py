"""The door to this node's engine: who may go in now, who waits for a turn, who waits for the engine to be back.

Knows the board and `Admission`; what is done inside is `node.services.serve`'s. Whoever is let in gives its ticket
back.

Theory. A prompt passes when the engine is ready and it has a turn, both in one moment. While the engine is away for
a moment (`EngineSnapshot.returning`), prompts are held: those that come, and those whose turn comes meanwhile. They
hold no slot. Once the engine is back all of them ask for their turns in one go, the owner's first, then in the order
in which they came, before anybody who comes later. A held prompt has a place of the queue; it is turned away when the
engine turns out to stay away, and when its time is over.

Peers' prompts are never held: a node has others to ask, and one that has not waits on its own side, where its client
is seen to leave.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import trio

from node.core.admission import Admission, AdmissionLimits, Admitted, Decline, Declined, Queued, Ticket
from node.core.engine_state import LENT, EngineState
from node.core.prompt import Prompt, RequesterKind
from node.errors import Refused
from node.ports import EngineBoard
from node.services.serve_words import declined, refusal


@dataclass(slots=True, eq=False)
class _Visit:
    """One prompt at the door. `decision`: what came of its asking for a turn, until it is acted on."""

    prompt: Prompt
    number: int
    arrived: float
    generates: bool
    wants_turn: bool
    decision: Admitted | Queued | Declined | None = None


@dataclass(slots=True, eq=False)
class Door:
    """See the module. `clock` is the loop's time, seconds."""

    board: EngineBoard
    admission: Admission
    clock: Callable[[], float]
    _turns: dict[int, trio.Event] = field(default_factory=dict)  # of the tickets in the queue
    _held: dict[int, _Visit] = field(default_factory=dict)  # by number
    _numbers: "count[int]" = field(default_factory=count)

    @property
    def waiting(self) -> int:
        """Count those who wait, for a turn or for the engine."""
        return self.admission.waiting + len(self._held)

    @property
    def held(self) -> int:
        """Count those who wait for the engine."""
        return len(self._held)

    async def let_in(self, prompt: Prompt, *, generates: bool, wants_turn: bool) -> Ticket | None:
        """Return once the engine is ready and, where the prompt wants a turn, with its ticket.

        Cancelled, it leaves queue and hold.

        Raises:
            Refused: 503 where the engine is away and will not be back in time, 429 where there is no turn.
        """
        decision: Admitted | Queued | Declined | None = None
        if not self._held and self._ready():  # nearly always
            decision = self._ask(prompt) if wants_turn else None
            if decision is None:
                return None
            if isinstance(decision, Admitted):
                return decision.ticket
        return await self._through(_Visit(prompt, next(self._numbers), self.clock(), generates, wants_turn, decision))

    async def _through(self, visit: _Visit) -> Ticket | None:
        """Have a visitor wait for what it has to wait for: the engine, its turn, or one after the other."""
        ticket: Ticket | None = None
        try:
            while True:
                # Before the queue, so that nobody waits there for an engine that is away.
                if not self._ready():
                    await self._hold(visit, been_in=ticket is not None)
                elif visit.decision is None:
                    self._let_held_ask()
                    visit.decision = self._ask(visit.prompt) if visit.wants_turn else None
                decision, visit.decision = visit.decision, None
                if decision is not None:
                    ticket = await self._turn(visit.prompt, decision)
                if self._ready():
                    admitted, ticket = ticket, None
                    return admitted
                # It left while this one waited for its turn.
                if ticket is not None:
                    self.give_back(ticket)
        finally:
            if ticket is not None:
                self.give_back(ticket)

    def give_back(self, ticket: Ticket) -> None:
        """Take a ticket back, any number of times; whoever gets a turn by it is woken."""
        self._turns.pop(ticket.number, None)
        self._wake(self.admission.release(ticket, self.clock()))

    def resize(self, limits: AdmissionLimits) -> None:
        """Change the limits. Nobody loses a place already given."""
        self._wake(self.admission.resize(limits, self.clock()))

    def _ready(self) -> bool:
        return self.board.snapshot().state is EngineState.READY

    # -- while the engine is away

    async def _hold(self, visit: _Visit, *, been_in: bool) -> None:
        """Wait until the engine is back; then `visit` has asked for its turn."""
        if not self._worth_waiting(visit):
            raise Refused(refusal(self.board.snapshot()))
        now = self.clock()
        if not been_in and self.waiting >= self.admission.limits.waiting:
            reason = Decline.QUEUE_FULL
            raise declined(Declined(reason=reason, retry_after=self.admission.retry_after(now)))
        until = visit.arrived + self.admission.limits.longest_hold
        if visit.prompt.deadline is not None:
            until = min(until, visit.prompt.deadline)
        self._held[visit.number] = visit
        done = False
        try:
            with trio.move_on_at(until):
                await self._until_back(visit)
            self._let_held_ask()
            if visit.number in self._held:  # late, or the engine stays away
                raise Refused(refusal(self.board.snapshot()))
            done = True
        finally:
            self._held.pop(visit.number, None)
            if not done and isinstance(visit.decision, Admitted | Queued):
                self.give_back(visit.decision.ticket)

    async def _until_back(self, visit: _Visit) -> None:
        """Wait until the engine is ready, or not worth waiting for."""
        snapshot = self.board.snapshot()
        while visit.number in self._held and not self._ready() and self._worth_waiting(visit):
            snapshot = await self.board.changed(snapshot)

    def _let_held_ask(self) -> None:
        """Have all who are held ask for their turns, once the engine is ready; nobody is held any more."""
        if not self._ready():
            return
        order = sorted(self._held.values(), key=_order)
        self._held.clear()
        for each in order:
            if each.wants_turn:
                each.decision = self._ask(each.prompt)

    def _worth_waiting(self, visit: _Visit) -> bool:
        snapshot = self.board.snapshot()
        if not snapshot.returning or visit.prompt.requester.kind is RequesterKind.PEER:
            return False
        # Trials end for a prompt that the engine generates for, not for a count of tokens.
        return visit.generates or snapshot.reason != LENT

    # -- the queue

    def _ask(self, prompt: Prompt) -> Admitted | Queued | Declined:
        decision = self.admission.arrive(prompt.requester, self.clock())
        if isinstance(decision, Queued):
            self._turns[decision.ticket.number] = trio.Event()
            if decision.displaced is not None:
                self._wake((decision.displaced,))
        return decision

    async def _turn(self, prompt: Prompt, decision: Admitted | Queued | Declined) -> Ticket:
        """Wait for the turn that was asked for."""
        if isinstance(decision, Declined):
            raise declined(decision)
        ticket = decision.ticket
        if isinstance(decision, Admitted):
            return ticket
        turn = self._turns[ticket.number]
        until = ticket.until if prompt.deadline is None else min(ticket.until, prompt.deadline)
        admitted = False
        try:
            with trio.move_on_at(until):
                await turn.wait()
            admitted = self.admission.holds_slot(ticket)
        finally:
            self._turns.pop(ticket.number, None)
            if not admitted:
                self.give_back(ticket)
        if admitted:
            return ticket
        now = self.clock()
        reason = Decline.QUEUE_TIMEOUT if now >= until else Decline.DISPLACED
        raise declined(Declined(reason=reason, retry_after=self.admission.retry_after(now)))

    def _wake(self, tickets: tuple[Ticket, ...]) -> None:
        for ticket in tickets:
            turn = self._turns.get(ticket.number)
            if turn is not None:
                turn.set()


def _order(visit: _Visit) -> tuple[bool, int]:
    return visit.prompt.requester.kind is not RequesterKind.OWNER, visit.number

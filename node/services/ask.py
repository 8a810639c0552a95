"""Having a prompt answered by whichever replica is best: this node's own engine or a peer, and the next if one fails.

Knows neither HTTP nor what peers say on the wire. The order is the router's. Until the first byte of an answer's body
is here, nothing has been told to anybody, so an attempt that fails is followed by the next choice and the client
never hears of it. From the first byte on the answer is this replica's, and if it breaks off, that is told.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from secrets import token_bytes

import trio

from node.core.access import Access
from node.core.candidates import Offering
from node.core.endpoints import generates
from node.core.experience import Experience
from node.core.explanation import Account, Accounts
from node.core.peerbook import Change, Peerbook
from node.core.prompt import Prompt, RequesterKind
from node.core.router import Choice, Route, Router
from node.core.standings import Standings
from node.core.stored import StoredAnswers
from node.core.wanted import Wish
from node.errors import Broken, Refusal, Refused, Unreachable
from node.ports import Replica, Served, ServedAnswer, Streams, Swarm
from node.services.ask_note import End, Noted, Notes
from node.services.ask_peer import AskPatience, EngineLost, Flight, PeerAnswer, PeerAsker, Watch
from node.services.ask_verdict import Tried, away
from node.services.ask_whom import Whom, unpinned
from protocol.ids import ContentDigest, ModelName, PeerId
from protocol.limits import ATTEMPT_MAX
from protocol.load import Load

SOON = 5  # s of Retry-After where nobody said when
AGAIN = 1.0  # s between decisions about a prompt that waits for a peer to take prompts again


@dataclass(frozen=True, slots=True, kw_only=True)
class AskHold:
    """How prompts wait for a peer that takes nothing for the moment, where nobody else may answer.

    Attributes:
        longest: seconds from their coming.
        prompts: that wait so together; beyond that they are refused.
    """

    longest: float = 120.0
    prompts: int = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class AskCounts:
    """What became of the prompts that were asked here since the node came up, whoever answered.

    Attributes:
        running: being answered, or looking for who will.
        served: answered whole, whatever the status.
        failed: broken off, before or after the first byte.
        refused: nobody would.
        abandoned: the client left before the end.
        retried: attempts that were followed by another one elsewhere.
    """

    running: int
    served: int
    failed: int
    refused: int
    abandoned: int
    retried: int


class SwarmReplica:
    """`node.ports.Replica` over this node's engine and its peers."""

    def __init__(  # noqa: PLR0913 -- what a decision is made of, each by itself
        self,
        *,
        me: PeerId,
        local: Replica,
        own_load: Callable[[], Load],
        own_model: Callable[[], str | None],
        streams: Streams,
        swarm: Swarm,
        book: Peerbook,
        standings: Standings,
        access: Access,
        router: Router,
        watch: Watch,
        luck: Callable[[], float],
        on_change: Callable[[tuple[Change, ...]], None],
        own_digest: Callable[[], ContentDigest | None] = lambda: None,
        patience: AskPatience | None = None,
        hold: AskHold | None = None,
        clock: Callable[[], float] = trio.current_time,
        experience: Experience | None = None,
        edition: Callable[[], int] | None = None,
        own_offering: Callable[[], Offering] | None = None,
        sent: Callable[[PeerId, int, float], None] = lambda _peer, _bytes, _seconds: None,
    ) -> None:
        """Prepare.

        Args:
            local: answers with this node's engine; refuses where there is none.
            own_load: how busy that is.
            own_model: the name that it serves; None on a node without an engine.
            own_digest: of that model's content, for who pins it; None where it is not known.
            luck: uniform in [0, 1).
            on_change: gets what setting a peer aside has changed in the book.
            hold: how prompts wait where those who might answer change their strategies.
            experience: what the router decides by and answers teach; None: one of its own, which nobody else reads.
            edition: changes whenever the book does (`node.services.ask_whom.Whom`).
            own_offering: what this node's own engine costs.
            sent: gets how many bytes of a prompt went to a peer, and in how many seconds.
        """
        self._me = me
        self._local = local
        self._standings = standings
        self._hold = hold or AskHold()
        self._clock = clock
        self._stored = StoredAnswers()
        self.experience = experience or Experience(key=token_bytes(32))
        self.accounts = Accounts()
        self._whom = Whom(
            me=me,
            own_load=own_load,
            own_model=own_model,
            own_digest=own_digest,
            book=book,
            standings=standings,
            stored=self._stored,
            access=access,
            router=router,
            watch=watch,
            luck=luck,
            experience=self.experience,
            edition=edition,
            own_offering=own_offering,
        )
        self._peers = PeerAsker(
            streams=streams,
            swarm=swarm,
            book=book,
            standings=standings,
            watch=watch,
            on_change=on_change,
            patience=patience or AskPatience(),
            clock=clock,
            sent=sent,
        )
        self._holding = 0
        self._running = self._served = self._failed = self._refused = self._abandoned = self._retried = 0
        self._generating = self._generating_seen = 0

    def generating_running(self) -> int:
        """Count the prompts for endpoints that generate which are owed an answer now, whoever gives it."""
        return self._generating

    def generating_seen(self) -> int:
        """Count those that ever came, whatever became of them."""
        return self._generating_seen

    def counts(self) -> AskCounts:
        """Count what was done."""
        return AskCounts(
            running=self._running,
            served=self._served,
            failed=self._failed,
            refused=self._refused,
            abandoned=self._abandoned,
            retried=self._retried,
        )

    def serves(self) -> bool:
        """Tell whether a peer that this node may ask serves any model now."""
        return self._whom.serves(self._clock())

    def others_serve(self, model: ModelName) -> bool:
        """Tell whether a peer that this node may ask would take a prompt for that model now."""
        return self._whom.others_serve(model, self._clock())

    @asynccontextmanager
    async def answer(self, prompt: Prompt) -> AsyncIterator[ServedAnswer]:
        """See `node.ports.Replica.answer`; entered once the first bytes of the body are here as well.

        Raises:
            Refused: the most helpful of the refusals; or there is nobody to ask: 404 where the model is known to
                nobody (or `via` names nobody), 403 where no list lets the prompt go, 429 or 503 where all are busy
                or away, 400 where its headers ask for what there is not.
            Broken: everybody who took the prompt broke off.
        """
        assert prompt.requester.kind is not RequesterKind.PEER  # noqa: S101 -- what peers ask goes to our engine alone
        works = generates(prompt.path)
        self._running += 1
        self._generating += works
        self._generating_seen += works
        end = End()
        account = self.accounts.open(prompt.request_id, self._clock())
        try:
            async with AsyncExitStack() as stack:
                answer = await self._first_good(prompt, stack, end, account)
                end.interrupted = True
                yield answer
                end.interrupted = False
        except Refused:
            end.refused = True
            raise
        except Broken:
            end.broken = True
            raise
        finally:
            self._running -= 1
            self._generating -= works
            self._count(end)
            account.close()

    def _count(self, end: End) -> None:
        if end.refused:
            self._refused += 1
        elif end.broken:
            self._failed += 1
        elif end.whole and not end.interrupted:
            self._served += 1
        else:
            self._abandoned += 1

    async def _first_good(self, prompt: Prompt, stack: AsyncExitStack, end: End, account: Account) -> Noted:
        """Enter, on the stack, the first attempt that brings a byte."""
        tried, until = Tried(), self._clock() + self._hold.longest
        if prompt.deadline is not None:
            until = min(until, prompt.deadline)
        wish = self._whom.wish(prompt)
        while True:
            route, gone = self._route(prompt, wish)
            if gone is not None and not tried.attempts:
                route = Route(choices=self._whom.knock(prompt, self._clock()))
            self.accounts.decided(account, route)
            if not (tried.attempts and self._away(route.choices)):
                answer = await self._first_of(route, prompt, tried, stack, end, account)
                if answer is not None:
                    return answer
            if not self._worth_waiting(prompt, tried, until):
                raise tried.after(gone)
            self._holding += 1
            try:
                await trio.sleep(AGAIN)
            finally:
                self._holding -= 1

    def _route(self, prompt: Prompt, wish: Wish) -> tuple[Route, Refusal | None]:
        """Return whom to try, or why there is nobody."""
        try:
            return self._whom.route(prompt, wish, self._clock()), None
        except Refused as refused:
            return Route(choices=(), reason=refused.refusal.code or ""), refused.refusal

    def _worth_waiting(self, prompt: Prompt, tried: Tried, until: float) -> bool:
        """Whether to decide anew in a moment: a peer that may answer takes nothing now, and will again."""
        now = self._clock()
        if now + AGAIN >= until or tried.hopeless or tried.attempts >= ATTEMPT_MAX:
            return False
        return self._holding < self._hold.prompts and self._whom.awaited(prompt, now)

    def _away(self, choices: tuple[Choice, ...]) -> bool:
        """Whether there is nobody but peers that take nothing for the moment: named ones, or a stored answer's."""
        now = self._clock()
        return all(
            each.replica != self._me and self._standings.standing(each.replica, now).returning for each in choices
        )

    async def _first_of(
        self, route: Route, prompt: Prompt, tried: Tried, stack: AsyncExitStack, end: End, account: Account
    ) -> Noted | None:
        """Try them in order; None where all refused or broke off, which is noted."""
        for choice in route.choices:
            self._retried += tried.attempts > 0
            tried.attempts += 1
            # In one go with the decision: the next prompt's is made with this one counted.
            flight = Flight(self._standings, choice.replica, self._clock())
            notes = Notes(self.experience, self._standings, route, choice, prompt, account, self._clock)
            try:
                attempt = self._attempt(prompt, choice, tried.attempts, flight, notes, end)
                return await stack.enter_async_context(attempt)
            except Refused as refused:
                notes.outcome("refused")
                tried.refusals.append(refused.refusal)
            except Unreachable:
                notes.outcome("unreachable")
                tried.refusals.append(away("unreachable", SOON))
            except Broken as broken:
                notes.outcome("broken")
                tried.broken.append(broken)
                tried.lost += choice.replica == self._me or isinstance(broken, EngineLost)
            late = prompt.deadline is not None and self._clock() >= prompt.deadline
            if late or tried.hopeless or tried.attempts >= ATTEMPT_MAX:
                break
        return None

    @asynccontextmanager
    async def _attempt(
        self, prompt: Prompt, choice: Choice, attempts: int, flight: Flight, notes: Notes, end: End
    ) -> AsyncIterator[Noted]:
        try:
            if choice.replica == self._me:
                async with self._local.answer(self._whom.for_us(prompt)) as answer:
                    first = await notes.first(answer, answer.receive)
                    self._stored.note(prompt, first, self._me)
                    served = replace(answer.served, reason=choice.reason, attempts=attempts, foretold=notes.foretold)
                    yield Noted(answer, first, served, end, notes)
            else:
                sent = unpinned(prompt)
                async with self._peers.answer(choice.replica, sent, attempt=attempts, flight=flight) as answer:
                    first = await notes.first(answer, answer.begin)
                    self._stored.note(prompt, first, choice.replica)
                    served = _served(choice, attempts, answer, prompt, notes)
                    yield Noted(answer, first, served, end, notes)
        finally:
            notes.over(end)
            flight.end()


def _served(choice: Choice, attempts: int, answer: PeerAnswer, prompt: Prompt, notes: Notes) -> Served:
    return Served(
        node=str(choice.replica),
        reason=choice.reason,
        attempts=attempts,
        model=answer.model or prompt.model,
        strategy=answer.strategy,
        foretold=notes.foretold,
    )

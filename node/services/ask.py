"""Having a prompt answered by whichever replica is best: this node's own engine or a peer, and the next if one fails.

Knows neither HTTP nor what peers say on the wire. The order is the router's. Until the first byte of an answer's body
is here, nothing has been told to anybody, so an attempt that fails is followed by the next choice and the client
never hears of it. From the first byte on the answer is this replica's, and if it breaks off, that is told.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import trio

from node.core.access import Access
from node.core.endpoints import generates
from node.core.peerbook import Change, Peerbook
from node.core.prompt import Headers, Prompt, RequesterKind
from node.core.router import Choice, Router
from node.core.standings import Standings
from node.core.stored import StoredAnswers
from node.errors import Broken, Refusal, Refused, Unreachable
from node.ports import Answer, Replica, Served, ServedAnswer, Streams, Swarm
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
        """
        self._me = me
        self._local = local
        self._standings = standings
        self._hold = hold or AskHold()
        self._clock = clock
        self._stored = StoredAnswers()
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
                or away.
            Broken: everybody who took the prompt broke off.
        """
        assert prompt.requester.kind is not RequesterKind.PEER  # noqa: S101 -- what peers ask goes to our engine alone
        works = generates(prompt.path)
        self._running += 1
        self._generating += works
        self._generating_seen += works
        end = _End()
        try:
            async with AsyncExitStack() as stack:
                answer = await self._first_good(prompt, stack, end)
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

    def _count(self, end: "_End") -> None:
        if end.refused:
            self._refused += 1
        elif end.broken:
            self._failed += 1
        elif end.whole and not end.interrupted:
            self._served += 1
        else:
            self._abandoned += 1

    async def _first_good(self, prompt: Prompt, stack: AsyncExitStack, end: "_End") -> "_FromSomebody":
        """Enter, on the stack, the first attempt that brings a byte."""
        tried, until = Tried(), self._clock() + self._hold.longest
        if prompt.deadline is not None:
            until = min(until, prompt.deadline)
        while True:
            choices, gone = self._choices(prompt)
            if gone is not None and not tried.attempts:
                choices = self._whom.knock(prompt, self._clock())
            if not (tried.attempts and self._away(choices)):
                answer = await self._first_of(choices, prompt, tried, stack, end)
                if answer is not None:
                    return answer
            if not self._worth_waiting(prompt, tried, until):
                raise tried.after(gone)
            self._holding += 1
            try:
                await trio.sleep(AGAIN)
            finally:
                self._holding -= 1

    def _choices(self, prompt: Prompt) -> tuple[tuple[Choice, ...], Refusal | None]:
        """Return whom to try, or why there is nobody."""
        try:
            return self._whom.choices(prompt, self._clock()), None
        except Refused as refused:
            return (), refused.refusal

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
        self, choices: tuple[Choice, ...], prompt: Prompt, tried: Tried, stack: AsyncExitStack, end: "_End"
    ) -> "_FromSomebody | None":
        """Try them in order; None where all refused or broke off, which is noted."""
        for choice in choices:
            self._retried += tried.attempts > 0
            tried.attempts += 1
            # In one go with the decision: the next prompt's is made with this one counted.
            flight = Flight(self._standings, choice.replica, self._clock())
            try:
                return await stack.enter_async_context(self._attempt(prompt, choice, tried.attempts, flight, end))
            except Refused as refused:
                tried.refusals.append(refused.refusal)
            except Unreachable:
                tried.refusals.append(away("unreachable", SOON))
            except Broken as broken:
                tried.broken.append(broken)
                tried.lost += choice.replica == self._me or isinstance(broken, EngineLost)
            late = prompt.deadline is not None and self._clock() >= prompt.deadline
            if late or tried.hopeless or tried.attempts >= ATTEMPT_MAX:
                break
        return None

    @asynccontextmanager
    async def _attempt(
        self, prompt: Prompt, choice: Choice, attempts: int, flight: Flight, end: "_End"
    ) -> AsyncIterator["_FromSomebody"]:
        try:
            if choice.replica == self._me:
                async with self._local.answer(self._whom.for_us(prompt)) as answer:
                    first = await answer.receive()
                    self._stored.note(prompt, first, self._me)
                    served = replace(answer.served, reason=choice.reason, attempts=attempts)
                    yield _FromSomebody(answer, first, served, end)
            else:
                sent = unpinned(prompt)
                async with self._peers.answer(choice.replica, sent, attempt=attempts, flight=flight) as answer:
                    first = await answer.begin()
                    self._stored.note(prompt, first, choice.replica)
                    yield _FromSomebody(answer, first, _served(choice, attempts, answer, prompt), end)
        finally:
            flight.end()


@dataclass(slots=True)
class _End:
    """How a prompt ended."""

    whole: bool = False
    broken: bool = False
    refused: bool = False
    interrupted: bool = False  # left by an exception that is not about the answer, cancellation above all


class _FromSomebody:
    """An answer whose first bytes are here already, and which notes how it ended."""

    def __init__(self, answer: Answer, first: bytes, served: Served, end: _End) -> None:
        self.served = served
        self._answer = answer
        self._first: bytes | None = first
        self._end = end

    @property
    def status(self) -> int:
        return self._answer.status

    @property
    def headers(self) -> Headers:
        return self._answer.headers

    async def receive(self) -> bytes:
        if self._first is not None:
            data, self._first = self._first, None
            await trio.lowlevel.checkpoint()
        else:
            try:
                data = await self._answer.receive()
            except Broken:
                self._end.broken = True
                raise
        self._end.whole = not data
        return data


def _served(choice: Choice, attempts: int, answer: PeerAnswer, prompt: Prompt) -> Served:
    return Served(
        node=str(choice.replica),
        reason=choice.reason,
        attempts=attempts,
        model=answer.model or prompt.model,
        strategy=answer.strategy,
    )

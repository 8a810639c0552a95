"""Having a prompt answered by whichever replica is best: this node's own engine or a peer, and the next if one fails.

Knows neither HTTP nor what peers say on the wire. The order is the router's. Until the first byte of an answer's body
is here, nothing has been told to anybody, so an attempt that fails is followed by the next choice and the client
never hears of it. From the first byte on the answer is this replica's, and if it breaks off, that is told.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import trio

from node.core.access import Access
from node.core.endpoints import generates
from node.core.peerbook import SHORTLIST, Candidate, Change, Peerbook
from node.core.prompt import Headers, Prompt, RequesterKind
from node.core.router import CHOICES, Choice, Option, Route, Router
from node.core.standings import Standings
from node.core.stored import StoredAnswers, not_stored, stored_answer
from node.errors import Broken, Refusal, Refused, Unreachable, unknown_model
from node.ports import Answer, Replica, Served, ServedAnswer, Streams, Swarm
from node.services.ask_peer import AskPatience, EngineLost, Flight, PeerAnswer, PeerAsker, Watch
from node.services.ask_verdict import NOT_ASKED, NOTHING_SERVED, UNKNOWN_PEER, Tried, all_closed, away
from node.services.ask_words import without_pin
from protocol.advert import model_name
from protocol.ids import ContentDigest, InvalidId, ModelName, PeerId
from protocol.load import Load

SOON = 5  # s of Retry-After where nobody said when


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
        """
        self._me = me
        self._local = local
        self._own_load = own_load
        self._own_model = own_model
        self._own_digest = own_digest
        self._book = book
        self._standings = standings
        self._access = access
        self._router = router
        self._watch = watch
        self._luck = luck
        self._clock = clock
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
        self._stored = StoredAnswers()
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
        now = self._clock()
        names = (ModelName(offer.name) for offer in self._book.models(now))
        return any(self._allowed(self._book.candidates(name, now)) for name in names)

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
        tried = Tried()
        for choice in self._choices(prompt, self._clock()):
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
            if tried.hopeless or (prompt.deadline is not None and self._clock() >= prompt.deadline):
                break
        raise tried.verdict()

    @asynccontextmanager
    async def _attempt(
        self, prompt: Prompt, choice: Choice, attempts: int, flight: Flight, end: "_End"
    ) -> AsyncIterator["_FromSomebody"]:
        try:
            if choice.replica == self._me:
                async with self._local.answer(self._for_us(prompt)) as answer:
                    first = await answer.receive()
                    self._stored.note(prompt, first, self._me)
                    served = replace(answer.served, reason=choice.reason, attempts=attempts)
                    yield _FromSomebody(answer, first, served, end)
            else:
                sent = _unpinned(prompt)
                async with self._peers.answer(choice.replica, sent, attempt=attempts, flight=flight) as answer:
                    first = await answer.begin()
                    self._stored.note(prompt, first, choice.replica)
                    yield _FromSomebody(answer, first, _served(choice, attempts, answer, prompt), end)
        finally:
            flight.end()

    # -- whom to ask

    def _choices(self, prompt: Prompt, now: float) -> tuple[Choice, ...]:
        """Return whom to try, in order, at least one; `Refused` where there is nobody."""
        ours = self._own_model()
        if prompt.via is not None:
            return (self._via(prompt.via, now),)
        if (answer := stored_answer(prompt)) is not None:
            return (self._keeper(answer, ours),)
        return self._for_model(prompt, ours, now)

    def _for_model(self, prompt: Prompt, ours: str | None, now: float) -> tuple[Choice, ...]:
        wanted = model_name(prompt.model) if prompt.model is not None else None
        if wanted is None and ours is None:
            wanted = self._any_model(now)  # for its engine's own words about a body without a model, or a bad one
        if wanted is None:
            if ours is None and prompt.model is not None:
                raise Refused(self._not_served(prompt.model, now))
            return (Choice(self._me, "local"),)
        here = ours == wanted.name and (wanted.pin is None or wanted.pin == self._own_digest())
        candidates = self._candidates(wanted, now)
        if not here and not candidates:
            return self._elsewhere(prompt, wanted, ours, now)
        route = self._route(here, candidates, now)
        if route.choices:
            return route.choices
        if here:
            return (Choice(self._me, "local"),)  # it says why not: loading, and how far; full, and until when
        raise Refused(all_closed(route))

    def _not_served(self, model: str, now: float) -> Refusal:
        """Refuse a model, on a node without an engine; where nobody serves anything yet, that may change soon."""
        offers = self._book.models(now)
        return unknown_model(model, (offer.name for offer in offers)) if offers else NOTHING_SERVED

    def _route(self, here: bool, candidates: tuple[Candidate, ...], now: float) -> Route:
        options = [
            Option(replica=each.peer, standing=self._standings.standing(each.peer, now), connected=each.connected)
            for each in candidates
        ]
        if here:
            self._standings.read(self._me, self._own_load(), now)  # exact, and free
            options.append(Option(replica=self._me, standing=self._standings.standing(self._me, now), local=True))
        self._watch.want(each.peer for each in candidates)
        return self._familiar_first(options, now)

    def _familiar_first(self, options: list[Option], now: float) -> Route:
        """Order those we know to be there before those of whom we only have an advert, which costs nothing to make up.

        Of the latter one is tried first where everybody else's slots are taken: an honest one would serve at once.
        """
        familiar = [each for each in options if each.connected or each.standing.known]
        route = self._router.order(familiar, now=now, luck=self._luck)
        if len(familiar) == len(options):
            return route
        if not route.choices:
            return self._router.order(options, now=now, luck=self._luck)
        unknown = [each for each in options if not (each.connected or each.standing.known)]
        strangers = self._router.order(unknown, now=now, luck=self._luck).choices
        first = route.choices[0].replica
        dared = int(first != self._me and self._standings.standing(first, now).full)
        return Route(choices=(*strangers[:dared], *route.choices, *strangers[dared:])[:CHOICES])

    def _candidates(self, wanted: ModelName, now: float) -> tuple[Candidate, ...]:
        if self._access.ask.everybody:
            return self._allowed(self._book.shortlist(wanted, now, self._luck))
        # A draw from all would seldom hit the few who are on the list.
        return self._allowed(self._book.candidates(wanted, now))[:SHORTLIST]

    def _allowed(self, candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
        return tuple(each for each in candidates if self._access.may_ask(each.peer))

    def _any_model(self, now: float) -> ModelName | None:
        offers = self._book.models(now)
        return ModelName(offers[0].name) if offers else None

    def _elsewhere(self, prompt: Prompt, wanted: ModelName, ours: str | None, now: float) -> tuple[Choice, ...]:
        """Decide about a model that nobody we may ask serves."""
        if self._book.candidates(wanted, now):
            raise Refused(NOT_ASKED)
        if ours is None:
            raise Refused(self._not_served(prompt.model or str(wanted), now))
        return (Choice(self._me, "local"),)  # it may know the name as an alias or an adapter; else it says no itself

    def _keeper(self, answer: str, ours: str | None) -> Choice:
        """Return who keeps a stored answer: nobody else has it."""
        keeper = self._stored.keeper(answer)
        if keeper is not None and keeper != self._me:
            return Choice(keeper, "stored")
        if keeper is None and ours is None:
            raise Refused(not_stored(answer))
        return Choice(self._me, "local")

    def _via(self, named: str, now: float) -> Choice:
        try:
            peer = PeerId.from_string(named)
        except InvalidId:
            raise Refused(UNKNOWN_PEER) from None
        if peer != self._me:
            if peer not in self._book.connections() and self._book.advert_of(peer, now) is None:
                raise Refused(UNKNOWN_PEER)
            if not self._access.may_ask(peer):
                raise Refused(NOT_ASKED)
        return Choice(peer, "via")

    def _for_us(self, prompt: Prompt) -> Prompt:
        """Return the prompt as our engine knows the model; a pin of other content is for the engine to refuse."""
        wanted = model_name(prompt.model) if prompt.model is not None else None
        return _unpinned(prompt) if wanted is not None and wanted.pin == self._own_digest() else prompt


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


def _unpinned(prompt: Prompt) -> Prompt:
    """Return the prompt with the model's plain name, which is all that an engine knows."""
    wanted = model_name(prompt.model) if prompt.model is not None else None
    if wanted is None or wanted.pin is None:
        return prompt
    return replace(prompt, body=without_pin(prompt.body, wanted))

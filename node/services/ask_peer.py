"""One prompt at one peer: said over a stream, its answer taken as it comes, and what that tells of the peer noted.

Knows nothing of choosing: which peer, and which next, is `node.services.ask`'s. A peer is somebody else's program: it
may say anything, at any time or never, and the worst that comes of it is an attempt that failed.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import Protocol, TypeVar

import structlog
import trio

from node.core.peerbook import Change, Peerbook
from node.core.prompt import Headers, Prompt
from node.core.standings import Standings
from node.errors import Broken, NotSpoken, Refused, Unreachable
from node.ports import PeerStream, Streams, Swarm
from node.services.ask_words import ask_of, refusal_of
from protocol import limits
from protocol.errors import RemoteProtocolError
from protocol.ids import PeerId
from protocol.inference import PROTOCOL_ID, Exchange, Role
from protocol.inference_events import Ask, AskerEvent, Body, Data, End, Event, Fail, Head, Refuse
from protocol.load import Figures, read_figures

REOPENINGS = 3  # kept streams that may turn out dead one after another; a pool holds a few
SMALL = 256 * 1024  # bytes of an answer that is no stream and is waited for whole
EVENT_STREAM = b"text/event-stream"
TOLD_MODEL, TOLD_STRATEGY = b"x-metainf-model", b"x-metainf-strategy"
FAULTS = frozenset({"failed", "hung"})
T = TypeVar("T")

log = structlog.get_logger(__name__)


class EngineLost(Broken):
    """The peer's engine broke off; the peer itself is well."""


class OutOfTime(Broken):
    """The prompt's own time was over."""


class Breach(Broken):
    """The peer broke the protocol."""


class Vigil(Protocol):
    """Waits for a peer, and finds out whether it lives."""

    @property
    def hung(self) -> bool:
        """Whether the last wait was given up because the peer is silent altogether."""
        ...

    async def wait(self, work: Callable[[], Awaitable[T]], deadline: float = inf) -> T:
        """Do `work`; raises `Broken` where the peer hangs, `trio.TooSlowError` at the deadline, on the loop's clock."""
        ...


class Watch(Protocol):
    """Keeps an eye on peers (`node.services.watch_load`)."""

    def want(self, peers: Iterable[PeerId]) -> None:
        """Note that these are weighed for prompts."""
        ...

    def attend(self, peer: PeerId) -> AbstractContextManager[Vigil]:
        """Enter with a vigil over a peer that is to answer."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AskPatience:
    """Deadlines in seconds. How long an answer may take is the prompt's own; whether a peer hangs is the watch's.

    Attributes:
        opening: for a stream to a peer that is connected: a few round trips.
        dialling: for one to a peer that must be dialled first.
    """

    opening: float = 3.0
    dialling: float = 6.0


class Flight:
    """A prompt of ours at one replica: made at the moment of the decision, ended once, however it ends."""

    def __init__(self, standings: Standings, replica: PeerId, now: float) -> None:
        standings.began(replica, now)
        self._standings = standings
        self._replica = replica
        self._over = False

    def end(self) -> None:
        """Note that it is over. Safe to repeat."""
        if not self._over:
            self._over = True
            self._standings.ended(self._replica)


class PeerAnswer:
    """`node.ports.Answer` from a peer. `model` and `strategy` are what it says that it runs; None where it does not."""

    def __init__(self, talk: "_Talk", head: Head) -> None:
        told = dict(head.headers)
        self.status = head.status
        self.headers: Headers = tuple(each for each in head.headers if each[0] not in {TOLD_MODEL, TOLD_STRATEGY})
        self.model = _text(told.get(TOLD_MODEL))
        self.strategy = _text(told.get(TOLD_STRATEGY))
        self._talk = talk
        self._over = False

    async def begin(self) -> bytes:
        """Return the first bytes; of a small answer that is no stream all of them, and then say how many.

        What a peer's engine gave in one piece goes on in one piece, and if it breaks off, nobody has seen of it yet.
        """
        pieces = [await self.receive()]
        if dict(self.headers).get(b"content-type", b"").lower().startswith(EVENT_STREAM):
            return pieces[0]
        size = len(pieces[0])
        while not self._over and size < SMALL:
            pieces.append(await self.receive())
            size += len(pieces[-1])
        if self._over:
            self.headers = (*self.headers, (b"content-length", b"%d" % size))
        return b"".join(pieces)

    async def receive(self) -> bytes:
        """See `node.ports.Answer`."""
        if self._over:
            return b""
        piece = await self._talk.piece()
        self._over = not piece
        return piece


class PeerAsker:
    """Asks peers."""

    def __init__(  # noqa: PLR0913 -- what an attempt touches, each by itself
        self,
        *,
        streams: Streams,
        swarm: Swarm,
        book: Peerbook,
        standings: Standings,
        watch: Watch,
        on_change: Callable[[tuple[Change, ...]], None],
        patience: AskPatience,
        clock: Callable[[], float],
        sent: Callable[[PeerId, int, float], None] = lambda _peer, _bytes, _seconds: None,
    ) -> None:
        """Prepare. `sent`: gets how many bytes of a prompt went to a peer, and in how many seconds."""
        self._sent = sent
        self._streams = streams
        self._swarm = swarm
        self._book = book
        self._standings = standings
        self._watch = watch
        self._on_change = on_change
        self._patience = patience
        self._clock = clock

    @asynccontextmanager
    async def answer(self, peer: PeerId, prompt: Prompt, *, attempt: int, flight: Flight) -> AsyncIterator[PeerAnswer]:
        """Enter once the peer's head is here; leaving early resets the stream, by which the peer cancels.

        The standings, and the book where the peer is not to be reached, are told what became of it.

        Args:
            attempt: how many replicas were tried with the prompt, this one included.
            flight: ended with the answer; whoever made it ends it on every other way.

        Raises:
            Refused: the peer will not.
            Unreachable: nothing was asked.
            Broken: it did not answer; `EngineLost`, `OutOfTime` and `Breach` say more.
        """
        refusal: Refuse | None = None
        ask = ask_of(prompt, attempt)
        with self._watch.attend(peer) as vigil:
            for reopening in range(REOPENINGS + 1):
                async with self._open(peer, prompt) as stream:
                    talk = _Talk(stream, vigil, prompt, flight, self._notes(peer))
                    again = partial(self._may_reopen, peer, reopening)
                    said = await talk.begin(self._timed(ask, prompt), prompt.body, again=again)
                    if isinstance(said, Head):
                        yield PeerAnswer(talk, said)
                        return
                if isinstance(said, Refuse):
                    refusal = said
                    break
        assert refusal is not None  # noqa: S101 -- the last stream either breaks or is answered
        self._standings.refused(peer, self._clock(), refusal.retry_after)
        raise Refused(refusal_of(refusal))

    def _may_reopen(self, peer: PeerId, reopening: int) -> bool:
        # Where the whole connection died just now the peer did too, most likely: others first, rather than a dial.
        return reopening < REOPENINGS and peer in self._swarm.connected()

    @asynccontextmanager
    async def _open(self, peer: PeerId, prompt: Prompt) -> AsyncIterator[PeerStream]:
        near = peer in self._swarm.connected()
        patience = self._patience.opening if near else self._patience.dialling
        left = inf if prompt.deadline is None else prompt.deadline - self._clock()
        if left <= 0:
            raise _out_of_time()
        opened = False
        try:
            async with self._streams.open(peer, PROTOCOL_ID, patience=min(patience, left)) as stream:
                opened = True
                yield stream
        except Unreachable as error:
            if not opened and left > patience:
                self._missed(peer, error)
            raise

    def _missed(self, peer: PeerId, error: Unreachable) -> None:
        now = self._clock()
        log.info("peer.unreachable", peer=str(peer), reason=error.message)
        if peer in self._swarm.connected():
            self._notes(peer).fault(hung=not isinstance(error, NotSpoken))
            return
        changes = self._book.set_aside(peer, now)
        if changes:
            self._on_change(changes)

    def _timed(self, ask: Ask, prompt: Prompt) -> Ask:
        if prompt.deadline is None:
            return ask
        left = int((prompt.deadline - self._clock()) * limits.SECOND_US)
        return replace(ask, time_left_us=min(max(left, 1), limits.TIME_LEFT_MAX_US))

    def _notes(self, peer: PeerId) -> "_Notes":
        return _Notes(peer, self._standings, self._book, self._clock, self._sent)


class _Notes:
    """What is noted of one peer while it is asked."""

    def __init__(
        self,
        peer: PeerId,
        standings: Standings,
        book: Peerbook,
        clock: Callable[[], float],
        sent: Callable[[PeerId, int, float], None],
    ) -> None:
        self._sent = sent
        self._peer = peer
        self._standings = standings
        self._book = book
        self._clock = clock

    def load(self, figures: Figures) -> None:
        try:
            load = read_figures(figures)
        except RemoteProtocolError:
            return  # figures that make no sense are none; the answer that they ride on may still be good
        self._standings.read(self._peer, load, self._clock())

    def now(self) -> float:
        return self._clock()

    def sent(self, size: int, began: float) -> None:
        self._sent(self._peer, size, self._clock() - began)

    def answered(self) -> None:
        self._standings.answered(self._peer, self._clock())

    def proven(self) -> None:
        self._book.proven(self._peer, self._clock())
        self._standings.helped(self._peer)

    def fault(self, *, hung: bool) -> None:
        now = self._clock()
        # What breaks off together is one fault: a node that dies with ten prompts has not failed ten times.
        if self._standings.standing(self._peer, now).closed not in FAULTS:
            self._standings.failed(self._peer, now, hung=hung)


class _Talk:
    """One exchange on a stream."""

    def __init__(self, stream: PeerStream, vigil: Vigil, prompt: Prompt, flight: Flight, notes: _Notes) -> None:
        self._stream = stream
        self._vigil = vigil
        self._deadline = inf if prompt.deadline is None else prompt.deadline
        self._flight = flight
        self._notes = notes
        self._exchange = Exchange(Role.ASKER)
        self._first = True

    async def begin(self, ask: Ask, body: bytes, *, again: Callable[[], bool]) -> Head | Refuse | None:
        """Say the prompt and return the first word.

        None where a kept stream had died while it was idle and `again` lets another be opened.
        """
        try:
            began, first = self._notes.now(), body[: limits.PART_BYTES]
            await self._say(ask, *([Body(data=first)] if first else []))
            for at in range(len(first), len(body), limits.PART_BYTES):
                await self._say(Body(data=body[at : at + limits.PART_BYTES]))
            self._notes.sent(len(body), began)
            event = await self._hear()
        except Broken as error:
            idle = not self._stream.fresh and not self._vigil.hung and not isinstance(error, OutOfTime | Breach)
            if idle and again():
                return None
            self._blame(error)
            raise
        if isinstance(event, Refuse):
            self._over(event)
            return event
        if isinstance(event, Head):
            self._take(event)
            return event
        raise self._failed(event)

    async def piece(self) -> bytes:
        """Return the next bytes; b"" at the end, after which the stream may serve another prompt."""
        try:
            event = await self._hear()
        except Broken as error:
            self._blame(error)
            raise
        if isinstance(event, Data | End) and self._first:
            self._first = False
            self._notes.answered()
        if isinstance(event, Data):
            return event.data
        if isinstance(event, End):
            self._over(event)
            self._notes.proven()
            return b""
        raise self._failed(event)

    async def _say(self, *events: AskerEvent) -> None:
        payloads = [self._exchange.say(event) for event in events]
        await self._wait(lambda: self._stream.send(*payloads))

    async def _hear(self) -> Event:
        try:
            payload = await self._wait(self._stream.receive)
            if payload is None:
                raise Broken("The peer ended the stream in the middle of an answer.")
            return self._exchange.hear(payload)
        except RemoteProtocolError as error:
            log.info("peer.breach", peer=str(self._stream.peer), reason=error.reason.value, detail=error.detail)
            raise Breach(f"The peer broke the protocol ({error.reason.value}).") from error

    async def _wait(self, work: Callable[[], Awaitable[T]]) -> T:
        try:
            return await self._vigil.wait(work, self._deadline)
        except trio.TooSlowError:
            raise _out_of_time() from None

    def _failed(self, event: Event) -> EngineLost:
        """Return the error that a `Fail` is; nothing else is left for a server to say."""
        assert isinstance(event, Fail)  # noqa: S101 -- the exchange lets nothing else through
        self._over(event)
        error = EngineLost(event.message or "The peer's engine broke off.")
        self._blame(error)
        return error

    def _over(self, event: Refuse | End | Fail) -> None:
        self._flight.end()  # before the reading, which does not count this prompt any more
        self._take(event)
        self._stream.keep()

    def _take(self, event: Refuse | Head | End | Fail) -> None:
        if event.load is not None:
            self._notes.load(event.load)

    def _blame(self, error: Broken) -> None:
        if not isinstance(error, OutOfTime):
            self._notes.fault(hung=self._vigil.hung)


def _out_of_time() -> OutOfTime:
    return OutOfTime("No answer came in the time that the prompt had.")


def _text(value: bytes | None) -> str | None:
    return value.decode("latin-1") if value else None

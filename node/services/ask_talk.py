"""One exchange with a peer on one stream: what is said, what is heard, and what that tells of the peer.

Knows neither how the stream came about nor who chose the peer. A peer is somebody else's program: it may say anything,
at any time or never, and the worst that comes of it is an attempt that failed.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from math import inf
from typing import Protocol, TypeVar

import structlog
import trio

from node.core.peerbook import Peerbook
from node.core.prompt import Prompt
from node.core.sse_events import is_event_stream
from node.core.standings import Standings
from node.errors import Broken
from node.ports import PeerStream
from protocol import limits
from protocol.errors import RemoteProtocolError
from protocol.ids import PeerId
from protocol.inference import Exchange, Role
from protocol.inference_events import Ask, Body, Data, End, Event, Fail, Head, Refuse
from protocol.load import Figures, read_figures

SMALL = 256 * 1024  # bytes of an answer that is no stream and is waited for whole
HELD = 1024  # bytes that a message counts for besides, so that a flood of tiny ones is not held together
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


class PeerNotes:
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
        """Note how busy it says that it is."""
        try:
            load = read_figures(figures)
        except RemoteProtocolError:
            return  # figures that make no sense are none; the answer that they ride on may still be good
        self._standings.read(self._peer, load, self._clock())

    def now(self) -> float:
        """Return the loop's time."""
        return self._clock()

    def sent(self, size: int, began: float) -> None:
        """Note that a prompt's bytes are on their way, since when."""
        self._sent(self._peer, size, self._clock() - began)

    def answered(self) -> None:
        """Note the first byte of an answer."""
        self._standings.answered(self._peer, self._clock())

    def proven(self) -> None:
        """Note a whole answer."""
        self._book.proven(self._peer, self._clock())
        self._standings.helped(self._peer)

    def fault(self, *, hung: bool) -> None:
        """Note that it broke off, or fell silent."""
        self._standings.failed(self._peer, self._clock(), hung=hung)


class Talk:
    """One exchange on a stream."""

    def __init__(self, stream: PeerStream, vigil: Vigil, prompt: Prompt, flight: Flight, notes: PeerNotes) -> None:
        self._stream = stream
        self._vigil = vigil
        self._deadline = inf if prompt.deadline is None else prompt.deadline
        self._flight = flight
        self._notes = notes
        self._exchange = Exchange(Role.ASKER)
        self._heard: deque[Event] = deque()  # and not told of yet
        self._gathering = 0  # bytes that are still waited for together
        self._first = True

    async def begin(self, ask: Ask, body: bytes, *, again: Callable[[], bool]) -> Head | Refuse | None:
        """Say the prompt and return the first word; after a head what follows it has been heard as well.

        None where a kept stream had died while it was idle and `again` lets another be opened.
        """
        try:
            await self._say(ask, body)
            event = await self._hear()
        except Broken as error:
            idle = not (self._stream.fresh or self._heard or self._vigil.hung or isinstance(error, OutOfTime | Breach))
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

    async def _say(self, ask: Ask, body: bytes) -> None:
        """Say the prompt. Where that is one write, the answer is waited for in the same breath: waits have a price."""
        began, first = self._notes.now(), body[: limits.PART_BYTES]
        payloads = [self._exchange.say(ask), *([self._exchange.say(Body(data=first))] if first else [])]

        async def say_and_listen() -> None:
            await self._stream.send(*payloads)
            self._notes.sent(len(body), began)
            await self._listen()

        if len(first) == len(body):
            await self._wait(say_and_listen)
            return
        await self._wait(partial(self._stream.send, *payloads))
        for at in range(len(first), len(body), limits.PART_BYTES):
            payload = self._exchange.say(Body(data=body[at : at + limits.PART_BYTES]))
            await self._wait(partial(self._stream.send, payload))
        self._notes.sent(len(body), began)

    async def _hear(self) -> Event:
        if not self._heard:
            await self._wait(self._listen)
        return self._heard.popleft()

    async def _listen(self) -> None:
        """Take in what the peer says next: a head with what follows it, and what is small and no stream, whole."""
        while True:
            payload = await self._stream.receive()
            if payload is None:
                raise Broken("The peer ended the stream in the middle of an answer.")
            event = self._exchange.hear(payload)
            self._heard.append(event)
            if isinstance(event, Head):
                self._gathering = 0 if is_event_stream(event.headers) else SMALL
            elif isinstance(event, Data) and self._gathering > len(event.data) + HELD:
                self._gathering -= len(event.data) + HELD
            else:
                return

    async def _wait(self, work: Callable[[], Awaitable[T]]) -> T:
        try:
            return await self._vigil.wait(work, self._deadline)
        except trio.TooSlowError:
            raise out_of_time() from None
        except RemoteProtocolError as error:
            log.info("peer.breach", peer=str(self._stream.peer), reason=error.reason.value, detail=error.detail)
            raise Breach(f"The peer broke the protocol ({error.reason.value}).") from error

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


def out_of_time() -> OutOfTime:
    """Return the error of a prompt whose time is over."""
    return OutOfTime("No answer came in the time that the prompt had.")

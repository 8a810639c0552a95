"""One prompt at one peer: a stream to it, the prompt said over it, and its answer as the client may have it.

Knows nothing of choosing: which peer, and which next, is `node.services.ask`'s; nor what is said on the wire, which is
`node.services.ask_talk`'s.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import Protocol

import structlog
import trio

from node.core.peerbook import Change, Peerbook
from node.core.prompt import Headers, Prompt
from node.core.sse_events import is_event_stream
from node.core.standings import Standings
from node.errors import NotSpoken, Refused, Unreachable
from node.ports import PeerStream, Streams, Swarm
from node.services.ask_lanes import Lanes
from node.services.ask_talk import SMALL, EngineLost, Flight, PeerNotes, Talk, Vigil, out_of_time
from node.services.ask_words import ask_of, refusal_of
from protocol import limits
from protocol.ids import PeerId
from protocol.inference import PROTOCOL_ID
from protocol.inference_events import Ask, Head, Refuse

__all__ = ["AskPatience", "EngineLost", "Flight", "PeerAnswer", "PeerAsker", "Watch"]

REOPENINGS = 3  # kept streams that may turn out dead one after another; where a connection died, all of them are
TOLD_MODEL, TOLD_STRATEGY = b"x-metainf-model", b"x-metainf-strategy"

log = structlog.get_logger(__name__)


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


class PeerAnswer:
    """`node.ports.Answer` from a peer. `model` and `strategy` are what it says that it runs; None where it does not."""

    def __init__(self, talk: Talk, head: Head) -> None:
        told = dict(head.headers)
        self.status = head.status
        self.headers: Headers = tuple(each for each in head.headers if each[0] not in {TOLD_MODEL, TOLD_STRATEGY})
        self.model = _text(told.get(TOLD_MODEL))
        self.strategy = _text(told.get(TOLD_STRATEGY))
        self._streams = is_event_stream(head.headers)
        self._talk = talk
        self._over = False

    async def begin(self) -> bytes:
        """Return the first bytes; of a small answer that is no stream all of them, and then say how many.

        What a peer's engine gave in one piece goes on in one piece, and if it breaks off, nobody has seen of it yet.
        """
        pieces = [await self.receive()]
        if self._streams:
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
        lanes: Lanes | None = None,
    ) -> None:
        """Prepare.

        Args:
            sent: gets how many bytes of a prompt went to a peer, and in how many seconds.
            lanes: how many prompts go to one peer at once.
        """
        self._sent = sent
        self._lanes = lanes or Lanes()
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
        """Enter once the peer's head is here, and what follows it; leaving early resets the stream: the peer cancels.

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
                    talk = Talk(stream, vigil, prompt, flight, self._notes(peer))
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
        try:
            await self._lanes.enter(peer, until=inf if prompt.deadline is None else prompt.deadline)
        except trio.TooSlowError:
            raise out_of_time() from None
        opened, left = False, self._left(prompt)
        patience = self._patience.opening if peer in self._swarm.connected() else self._patience.dialling
        try:
            if left <= 0:
                raise out_of_time()
            async with self._streams.open(peer, PROTOCOL_ID, patience=min(patience, left)) as stream:
                opened = True
                yield stream
        except Unreachable as error:
            if not opened and left > patience:
                self._missed(peer, error)
            raise
        finally:
            self._lanes.leave(peer)

    def _left(self, prompt: Prompt) -> float:
        return inf if prompt.deadline is None else prompt.deadline - self._clock()

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
        left = int(self._left(prompt) * limits.SECOND_US)
        return replace(ask, time_left_us=min(max(left, 1), limits.TIME_LEFT_MAX_US))

    def _notes(self, peer: PeerId) -> PeerNotes:
        return PeerNotes(peer, self._standings, self._book, self._clock, self._sent)


def _text(value: bytes | None) -> str | None:
    return value.decode("latin-1") if value else None

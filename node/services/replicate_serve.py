"""Answering neighbours that compare their history with ours.

Knows no gossip and no table, and takes nothing in. A neighbour costs a bounded number of answers at a time and a
bounded number of bytes in a second; one that reads too slowly is let go.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog
import trio

from node.core.pace import Allowance, Pace
from node.core.paging import Paging, listing
from node.errors import Broken, Unavailable
from node.ports import PeerStream
from node.record_ports import History
from node.services.replicate_intake import Intake
from protocol import limits
from protocol.dialogue import Dialogue, Role
from protocol.errors import RemoteProtocolError
from protocol.history import (
    SCRIPT,
    Alike,
    Answer,
    Buckets,
    Busy,
    Compare,
    Fetch,
    Holdings,
    List,
    Message,
    Page,
    Question,
    State,
)
from protocol.ids import PeerId
from protocol.records import Kind, open_unverified

log = structlog.get_logger(__name__)

AT_ONCE: Final = 8  # answers being made or read: each is a megabyte at most
IDLE: Final = 60.0  # s that a stream waits for its next question
SEND: Final = 15.0  # s for an answer to be taken: a megabyte at 70 KB/s
MAKE: Final = 30.0  # s for an answer to be made: the disk may have others to serve
BUSY_MS: Final = 2_000
NOT_SO_FAST: Final = 0.25  # s before a neighbour is told so: asking without pause must cost it more than us
PATIENCE: Final = 2.0  # s that an answer is put off; beyond it the neighbour is told to come again
# Bytes of answers to one neighbour, and to all. Verifying keeps up with 5 to 20 MB/s.
EACH: Final = Allowance(rate=16 * limits.MIB, burst=32 * limits.MIB)
ALL: Final = Allowance(rate=32 * limits.MIB, burst=64 * limits.MIB)
# What a question costs besides its answer, in the same coin: a comparison 0.2 ms of the loop, a listing 10 ms, a
# range that is looked for 10 µs of the store's one thread and as much again of getting there.
COMPARISON: Final = 64 * limits.KIB
LISTING: Final = limits.MIB
RANGE: Final = 4 * limits.KIB


class HistoryServer:
    """Answers streams of `/metainf/history/1`."""

    def __init__(
        self,
        history: History,
        intake: Intake,
        *,
        met: Callable[[PeerId], Awaitable[bool]],
        kind: Kind[Any],
        blame: Callable[[PeerId, str], None],
    ) -> None:
        """Prepare.

        Args:
            kind: of the records that the history holds.
        """
        self._history = history
        self._intake = intake
        self._met = met
        self._kind = kind
        self._blame = blame
        self._answering: set[PeerId] = set()
        self._each, self._all = Pace(EACH), Pace(ALL)
        self.answers = self.records = self.bytes = self.busy = 0

    async def handle(self, stream: PeerStream) -> None:
        """Answer what comes on a stream, until its end."""
        if not await self._met(stream.peer):
            return
        dialogue: Dialogue[State, Message] = Dialogue(SCRIPT, Role.ANSWERER)
        try:
            while (payload := await _next(stream)) is not None:
                question = dialogue.hear(payload)
                assert isinstance(question, Compare | List | Fetch)  # noqa: S101 -- the script lets nothing else through
                await self._reply(stream, dialogue, question)
        except RemoteProtocolError as error:
            self._blame(stream.peer, error.reason.value)
            raise

    async def _reply(self, stream: PeerStream, dialogue: Dialogue[State, Message], question: Question) -> None:
        peer = stream.peer
        wait = self._wait(peer)
        if peer in self._answering or len(self._answering) >= AT_ONCE or wait > PATIENCE:
            await trio.sleep(NOT_SO_FAST)
            await self._send(stream, dialogue.say(self._put_off(wait)))
            return
        self._answering.add(peer)
        try:
            await trio.sleep(wait)
            answer: Answer | None = None
            with trio.move_on_after(MAKE):
                answer = await self._answer(question)
            payload = dialogue.say(answer or self._put_off(MAKE))
            now = trio.current_time()
            for pace, who in ((self._each, peer), (self._all, None)):
                pace.charge(who, _cost(question) + len(payload), now)
            self.answers += 1
            self.bytes += len(payload)
            await self._send(stream, payload)
        finally:
            self._answering.discard(peer)

    def _put_off(self, wait: float) -> Busy:
        self.busy += 1
        return Busy(wait_ms=max(BUSY_MS, min(int(wait * 1000), limits.HISTORY_WAIT_MAX_MS)))

    def _wait(self, peer: PeerId) -> float:
        now = trio.current_time()
        return max(self._each.wait(peer, now), self._all.wait(None, now))

    async def _send(self, stream: PeerStream, payload: bytes) -> None:
        with trio.move_on_after(SEND) as sending:
            await stream.send(payload)
        if sending.cancelled_caught:
            raise Broken("the neighbour takes nothing")

    async def _answer(self, question: Question) -> Answer:
        try:
            return await self._say(question)
        except Unavailable as error:
            log.warning("history.not_readable", reason=error.message)
            return self._put_off(MAKE)

    async def _say(self, question: Question) -> Answer:
        if isinstance(question, Compare):
            ledger = await self._intake.ledger()
            digests = ledger.digests()
            return Alike() if question.digest == ledger.root() else Buckets(digests=digests)
        if isinstance(question, List):
            return await self._list(question)
        return await self._page(question)

    async def _list(self, question: List) -> Holdings:
        ledger = await self._intake.ledger()
        after = question.after
        most = limits.HISTORY_HOLDINGS + 2  # the author of `after` may be done, and one tells whether there are more
        authors = ledger.listed(question.buckets, after, most=most)
        some = authors if len(authors) < most else authors[:-1]
        return listing(question, await self._intake.held(some), more=len(some) < len(authors))

    async def _page(self, question: Fetch) -> Page:
        paging = Paging(question)
        while (want := paging.want()) is not None:
            found = await self._history.page(
                want.author, want.epoch, want.ranges, records=paging.records, size=paging.size
            )
            self.records += len(found)
            paging.found(found, open_unverified(found[-1], self._kind).stamp.seq if found else None)
        return paging.page()


def _cost(question: Question) -> int:
    if isinstance(question, Compare):
        return COMPARISON
    if isinstance(question, List):
        return LISTING
    return RANGE * sum(len(want.ranges) for want in question.wants)


async def _next(stream: PeerStream) -> bytes | None:
    with trio.move_on_after(IDLE):
        return await stream.receive()
    return None

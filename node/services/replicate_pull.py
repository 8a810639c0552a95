"""One exchange with one neighbour: comparing histories with it, and pulling what it has and this node lacks.

Knows no gossip and no table, and chooses nobody. What to ask is `node.core.pull`'s; here are the stream, the
deadlines, and what of an exchange is remembered.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

import trio

from node.core.pull import Pull
from node.errors import Broken, NotSpoken, Unavailable, Unreachable
from node.ports import PeerStream, Streams
from node.services.replicate_intake import Intake
from protocol.dialogue import Dialogue, Role
from protocol.errors import RemoteProtocolError
from protocol.history import PROTOCOL_ID, SCRIPT, Alike, Buckets, Busy, Held, Holdings, Message, Page, State
from protocol.ids import Epoch, PeerId

OPEN: Final = 5.0  # s for a stream
TURN: Final = 15.0  # s for an answer: a page of half a megabyte at 50 KB/s, and two in front of it in a queue
EXCHANGE: Final = 60.0  # s for all of it: then another neighbour has its turn
UNASKED: Final = "unasked"
FORGET: Final = 600.0  # s until what brought nothing is asked for again
REMEMBERED: Final = 65_536


class End(Enum):
    """How an exchange ended."""

    WHOLE = "whole"  # nothing more is to be had of that neighbour
    CUT_SHORT = "cut_short"  # there is more
    BUSY = "busy"
    SILENT = "silent"  # it cannot be reached, or stopped answering
    NOT_SPOKEN = "not_spoken"
    IN_VAIN = "in_vain"  # it had nothing of what it promised
    FAULT = "fault"  # it broke a rule, or brought what is to be blamed for
    NO_ROOM = "no_room"  # our own disk refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of an exchange. `wait`: seconds after which a busy neighbour may be asked again."""

    end: End
    news: int = 0
    reason: str = ""
    wait: float = 0.0


class _Offence(Exception):
    """The neighbour brought what no honest one does; the intake has blamed it."""


class Puller:
    """Pulls from neighbours, one at a time."""

    def __init__(self, streams: Streams, intake: Intake, *, blame: Callable[[PeerId, str], None]) -> None:
        self._streams = streams
        self._intake = intake
        self._blame = blame
        self._fruitless: OrderedDict[tuple[PeerId, PeerId, Epoch], tuple[bytes, float]] = OrderedDict()
        self._news = self._answers = 0  # of the exchange under way
        self.bytes = 0

    async def exchange(self, peer: PeerId) -> Outcome:
        """Compare with a peer and pull; takes `EXCHANGE` seconds at most. What was pulled stays, however it ends."""
        self._news = self._answers = 0
        try:
            with trio.move_on_after(EXCHANGE):
                pull = Pull((await self._intake.ledger()).digests(), skip=lambda held: self._skip(peer, held))
                busy = await self._converse(peer, pull)
                if busy is not None:
                    return self._ended(End.BUSY, wait=busy.wait_ms / 1000)
                self._remember(peer, pull)
                return self._ended(End.IN_VAIN if pull.in_vain else End.CUT_SHORT if pull.cut_short else End.WHOLE)
        except NotSpoken:
            return self._ended(End.NOT_SPOKEN)
        except (Unreachable, Broken) as error:
            return self._ended(End.SILENT, error.message)
        except RemoteProtocolError as error:
            self._blame(peer, error.reason.value)
            return self._ended(End.FAULT, str(error))
        except _Offence as error:
            return self._ended(End.FAULT, str(error))
        except Unavailable as error:
            return self._ended(End.NO_ROOM, error.message)
        return self._ended(End.CUT_SHORT)

    def _ended(self, end: End, reason: str = "", *, wait: float = 0.0) -> Outcome:
        return Outcome(end=end, news=self._news, reason=reason, wait=wait)

    def _skip(self, peer: PeerId, held: Held) -> bool:
        # By peer: whoever could say for others what is not worth asking for could keep it from us.
        known, until = self._fruitless.get((peer, held.author, held.epoch), (b"", 0.0))
        return known == held.digest and trio.current_time() < until

    def _remember(self, peer: PeerId, pull: Pull) -> None:
        until = trio.current_time() + FORGET
        for (author, epoch), digest in pull.fruitless():
            self._fruitless[peer, author, epoch] = digest, until
            self._fruitless.move_to_end((peer, author, epoch))
            if len(self._fruitless) > REMEMBERED:
                self._fruitless.popitem(last=False)

    async def _converse(self, peer: PeerId, pull: Pull) -> Busy | None:
        while True:
            async with self._streams.open(peer, PROTOCOL_ID, patience=OPEN, frame_bytes=SCRIPT.limit) as stream:
                try:
                    busy = await self._ask_all(stream, pull)
                except Broken:
                    if stream.fresh or self._answers:
                        raise
                    continue  # it was kept from an earlier exchange, and had died while it was idle
                stream.keep()
                return busy

    async def _ask_all(self, stream: PeerStream, pull: Pull) -> Busy | None:
        """Ask until there is nothing more to ask. A page is taken in while the next one is on its way."""
        dialogue: Dialogue[State, Message] = Dialogue(SCRIPT, Role.OPENER)
        page: Page | None = None
        while True:
            question = pull.question()
            if question is not None:
                await _send(stream, dialogue.say(question))
            if page is not None:
                await self._take(stream.peer, pull, page)
            if question is None:
                return None
            answer = dialogue.hear(await self._receive(stream))
            if isinstance(answer, Busy):
                return answer
            page = await self._digest(pull, answer)

    async def _digest(self, pull: Pull, answer: Message) -> Page | None:
        if isinstance(answer, Alike | Buckets):
            pull.compared(answer)
        elif isinstance(answer, Holdings):
            ours = await self._intake.held({each.author for each in answer.held})
            pull.listed(answer, {(each.author, each.epoch): each for each in ours})
        elif isinstance(answer, Page):
            pull.paged(answer)
            return answer
        return None

    async def _take(self, peer: PeerId, pull: Pull, page: Page) -> None:
        taken = await self._intake.take(page.records, via=peer)
        self._news += len(taken.news)
        asked = pull.brought(taken.news)
        if taken.offence is not None:
            raise _Offence(taken.offence)
        if not asked:  # they are as good as any, but whoever sends what it likes is not to choose what we take in
            self._blame(peer, UNASKED)
            raise _Offence(UNASKED)

    async def _receive(self, stream: PeerStream) -> bytes:
        payload: bytes | None = None
        with trio.move_on_after(TURN) as waiting:
            payload = await stream.receive()
        if waiting.cancelled_caught:
            raise Broken("the neighbour does not answer")
        if payload is None:
            raise Broken("the neighbour ended the exchange")
        self._answers += 1
        self.bytes += len(payload)
        return payload


async def _send(stream: PeerStream, payload: bytes) -> None:
    with trio.move_on_after(TURN) as sending:
        await stream.send(payload)
    if sending.cancelled_caught:
        raise Broken("the neighbour takes nothing")

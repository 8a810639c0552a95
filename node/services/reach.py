"""Finding out whether others reach this node, by asking peers to dial it; and dialling those who ask the same.

Knows no transport but what it is asked of one, and judges nothing: `node.core.reachability` counts the voices. Whoever
asks is dialled at the IP address that it is connected from and nowhere else, seldom, and a few at a time.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import structlog
import trio

from node.core.reachability import Reachability, Sight
from node.errors import Broken, Unreachable
from node.ports import PeerStream, Streams, Swarm
from node.relay_ports import Ways
from protocol.addresses import Address
from protocol.dialogue import Dialogue, Role
from protocol.errors import RemoteProtocolError
from protocol.ids import PeerId
from protocol.reach import PROTOCOL_ID, SCRIPT, Ask, Seen

log = structlog.get_logger(__name__)

LOOK: Final = 0.5  # s between two looks at who is there to be asked
ANSWER: Final = 12.0  # s for an answer: the greeting, a dial that fails, the way there and back
KNOCK: Final = 3.0  # s for one dial: a round trip to the other side of the world takes 0.3 s
SELDOM: Final = 20.0  # s between two questions of one peer that are answered by dialling
AT_ONCE: Final = 4  # questions that are answered so together
REMEMBERED: Final = 1024  # peers that have asked


class Reacher:
    """Asks, and answers. `run` is its one long-lived task."""

    def __init__(  # noqa: PLR0913 -- each is one capability
        self,
        swarm: Swarm,
        streams: Streams,
        ways: Ways,
        *,
        ports: tuple[int, ...],
        speaks: Callable[[PeerId], bool],
        met: Callable[[PeerId], Awaitable[bool]],
        changed: Callable[[], None],
    ) -> None:
        """Prepare.

        Args:
            ports: that this node listens at.
            speaks: whether a peer has greeted and knows the protocol.
            met: whether a peer has greeted; waits for it.
            changed: called when a voice has come in.
        """
        self._swarm = swarm
        self._streams = streams
        self._ways = ways
        self._ports = ports
        self._speaks = speaks
        self._met = met
        self._changed = changed
        self._answering = 0
        self._asked_at: dict[PeerId, float] = {}
        self.known = Reachability()

    async def run(self) -> None:
        """Ask whoever is worth asking; return never."""
        self._streams.serve(PROTOCOL_ID, self._answer, frame_bytes=SCRIPT.limit)
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(LOOK)
                connected = self._swarm.connected()
                if not connected:
                    self.known.forget()
                # Those that we dialled first: nobody can make himself one of them by coming to us.
                ordered = sorted(connected, key=self._swarm.dialled, reverse=True)
                candidates = [peer for peer in ordered if self._ways.via(peer) is None and self._speaks(peer)]
                for peer in self.known.whom_to_ask(candidates, trio.current_time()):
                    nursery.start_soon(self._ask, peer)

    async def _ask(self, peer: PeerId) -> None:
        there = self._ways.observed(peer)
        dialogue = Dialogue(SCRIPT, Role.OPENER)
        seen: Seen | None = None
        with trio.move_on_after(ANSWER), suppress(Unreachable, Broken, RemoteProtocolError):
            async with self._streams.open(peer, PROTOCOL_ID, patience=ANSWER, frame_bytes=SCRIPT.limit) as stream:
                await stream.send(dialogue.say(Ask(ports=self._ports)))
                payload = await stream.receive()
                if payload is not None:
                    heard = dialogue.hear(payload)
                    seen = heard if isinstance(heard, Seen) else None
                    await stream.finish()
        if seen is None or seen.host is None or there is None:
            return
        reached = tuple(port for port in seen.reached if port in self._ports)
        sight = Sight(host=seen.host, tried=seen.tried, reached=reached)
        self.known.note(peer, there.host, sight, trio.current_time())
        log.debug("reach.seen", peer=str(peer), host=seen.host, tried=seen.tried, reached=reached)
        self._changed()

    async def _answer(self, stream: PeerStream) -> None:
        dialogue = Dialogue(SCRIPT, Role.ANSWERER)
        with trio.move_on_after(ANSWER):
            if not await self._met(stream.peer):
                return
            payload = await stream.receive()
            asked = None if payload is None else dialogue.hear(payload)
            if isinstance(asked, Ask):
                await stream.send(dialogue.say(await self._look(stream.peer, asked.ports)))
                await stream.receive()

    async def _look(self, peer: PeerId, ports: tuple[int, ...]) -> Seen:
        """Dial a peer where it comes from."""
        there, now = self._ways.observed(peer), trio.current_time()
        if there is None:
            return Seen(tried=(), reached=())
        if self._answering >= AT_ONCE or self._asked_at.get(peer, -SELDOM) + SELDOM > now:
            return Seen(host=there.host, tried=(), reached=())
        self._asked_at.pop(peer, None)
        self._asked_at[peer] = now
        if len(self._asked_at) > REMEMBERED:
            del self._asked_at[next(iter(self._asked_at))]
        wanted = tuple(dict.fromkeys(ports))
        reached: set[int] = set()

        async def knock(port: int) -> None:
            with trio.move_on_after(KNOCK), suppress(Unreachable):
                await self._ways.knock(Address(there.kind, there.host, port, peer))
                reached.add(port)

        self._answering += 1
        try:
            async with trio.open_nursery() as nursery:
                for port in wanted:
                    nursery.start_soon(knock, port)
        finally:
            self._answering -= 1
        return Seen(host=there.host, tried=wanted, reached=tuple(port for port in wanted if port in reached))

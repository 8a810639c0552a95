"""Spreading the administrator's revocations in a private swarm, and parting from whoever they, or the time, put out.

Knows no file and no command line, and decides nothing about certificates: `core.membership` does. Every node tells
the list that it goes by to each member that it meets, and again whenever it has got a later one; so it goes over all
connections at once, and who was away hears it with its first greeting. Gossip is not relied on: it may lose anything.
"""

from collections.abc import Awaitable, Callable, Iterable

import structlog
import trio

from node.core.membership import Members
from node.errors import Broken, NotSpoken, Unreachable
from node.membership_ports import Keep
from node.ports import PeerStream, Streams, Swarm
from protocol.dialogue import Dialogue, Role
from protocol.errors import Reason, RemoteProtocolError
from protocol.ids import ContentDigest, PeerId
from protocol.membership import PROTOCOL_ID, SCRIPT, Taken, Told

log = structlog.get_logger(__name__)

TELLING = 5.0  # s for telling one peer: three round trips to the other side of the world take one
AGAIN = 5.0  # s until who could not be told is told again, and until the next look for certificates that ran out
PARTING = 2.0  # s for closing a connection
PAUSE = 1.0  # s between two lists on one stream: each costs a signature
EXPELLED_FOR = 3600.0  # s that whoever was put out is not dialled; it may come by itself, with another certificate


class Revoking:
    """Keeps outsiders out. `run` is its one long-lived task."""

    def __init__(  # noqa: PLR0913 -- each is one capability
        self,
        swarm: Swarm,
        streams: Streams,
        *,
        members: Members,
        peers: Callable[[], Iterable[PeerId]],
        connections: Callable[[], Iterable[PeerId]],
        met: Callable[[PeerId], Awaitable[bool]],
        expel: Callable[[PeerId, float], None],
        keep: Keep,
        wall: Callable[[], int],
    ) -> None:
        """Prepare.

        Args:
            peers: whoever is taken for a member now, connected or heard of.
            connections: those of them that were met and are connected.
            met: tells whether a peer has greeted, waiting a little while for it.
            expel: forgets a peer, and does not dial it for so many seconds.
            wall: microseconds since 1970.
        """
        self._swarm = swarm
        self._streams = streams
        self._members = members
        self._peers = peers
        self._connections = connections
        self._met = met
        self._expel = expel
        self._keep = keep
        self._wall = wall
        self._knows: dict[PeerId, ContentDigest] = {}  # which list a connected peer goes by
        self._telling: set[PeerId] = set()
        self._out: set[PeerId] = set()  # to be disconnected
        self._unkept = False
        self._news = trio.Event()

    async def run(self) -> None:
        """Tell, hear, part; return never."""
        self._streams.serve(PROTOCOL_ID, self._hear, frame_bytes=SCRIPT.limit)
        async with trio.open_nursery() as nursery:
            while True:
                self._news = trio.Event()
                self._look()
                while self._out:
                    nursery.start_soon(self._part, self._out.pop())
                self._tell_all(nursery)
                with trio.move_on_after(AGAIN):
                    await self._keep_latest()
                    await self._news.wait()

    def met(self, peer: PeerId) -> None:
        """Note that a peer has greeted: what it knew in a former run, it may not know any more."""
        self._knows.pop(peer, None)
        self._news.set()

    def take(self, sealed: bytes) -> bool:
        """Go by a list of revocations from now on, if it is later than ours; return whether it is.

        Raises:
            RemoteProtocolError: it is none of this swarm's administrator's.
        """
        news = self._members.take(sealed)
        if news:
            current = self._members.revocations
            log.info("membership.revocations", revoked=0 if current is None else len(current.body.revoked))
            self._unkept = True
            self._look()
            self._news.set()
        return news

    def _look(self) -> None:
        """Put out whoever is no member any more."""
        now_us = self._wall()
        for peer in tuple(self._peers()):
            if self._members.outsider(peer, now_us):
                log.info("membership.put_out", peer=str(peer), revoked=self._members.revoked(peer))
                self._out.add(peer)
                self._expel(peer, EXPELLED_FOR)

    async def _part(self, peer: PeerId) -> None:
        with trio.move_on_after(PARTING):
            await self._swarm.disconnect(peer)

    async def _keep_latest(self) -> None:
        current = self._members.revocations
        if self._unkept and current is not None:
            self._unkept = False
            await self._keep(current.sealed)

    def _tell_all(self, nursery: trio.Nursery) -> None:
        current = self._members.revocations
        here = frozenset(self._connections())
        self._knows = {peer: digest for peer, digest in self._knows.items() if peer in here}
        if current is None:
            return
        for peer in here - self._telling:
            if self._knows.get(peer) != current.digest:
                self._telling.add(peer)
                nursery.start_soon(self._tell, peer, current.sealed, current.digest)

    async def _tell(self, peer: PeerId, sealed: bytes, digest: ContentDigest) -> None:
        try:
            with trio.move_on_after(TELLING):
                async with self._streams.open(peer, PROTOCOL_ID, patience=TELLING, frame_bytes=SCRIPT.limit) as stream:
                    dialogue = Dialogue(SCRIPT, Role.OPENER)
                    await stream.send(dialogue.say(Told(revocations=sealed)))
                    answer = await stream.receive()
                    if answer is not None:
                        dialogue.hear(answer)
                        self._knows[peer] = digest
                    await stream.finish()
        except NotSpoken:
            self._knows[peer] = digest  # it cannot be told: another version
        except (Unreachable, Broken, RemoteProtocolError) as error:
            log.debug("membership.not_told", peer=str(peer), reason=str(error))
        finally:
            self._telling.discard(peer)

    async def _hear(self, stream: PeerStream) -> None:
        """Take what a member goes by. Raises Broken, RemoteProtocolError."""
        if not await self._met(stream.peer):
            raise RemoteProtocolError(Reason.OUT_OF_TURN, "told before it greeted")
        dialogue = Dialogue(SCRIPT, Role.ANSWERER)
        while (payload := await stream.receive()) is not None:
            message = dialogue.hear(payload)
            if isinstance(message, Told):
                self.take(message.revocations)
                current = self._members.revocations
                if current is not None and current.sealed == message.revocations:
                    self._knows[stream.peer] = current.digest
                await stream.send(dialogue.say(Taken()))
                await trio.sleep(PAUSE)
        dialogue.end()

"""Meeting halfway: two nodes behind routers dial each other at the same moment, so that each router lets the other in.

One of the twelve files that import libp2p. libp2p's DCUtR over TCP: who was called through the relay tells when, both
dial from the port that they listen at, and what comes of it is one connection (RFC 793's simultaneous open) whose roles
were agreed on: who called speaks first. It works where routers keep port numbers; where they draw them, nothing is
heard and the relay stays.

Whoever is connected through a relay may name an address here. Only public ones are dialled, a few of them, for seconds,
and of one peer seldom: see docs/known-attacks.md.
"""

from collections.abc import Sequence

import structlog
import trio
from libp2p.abc import INetConn
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.transport.exceptions import OpenConnectionError
from multiaddr import Multiaddr

from node.adapters.p2p.circuit_words import DCUTR, Said, Words, hear, spoken
from node.adapters.p2p.connections import peer_of, relay_of
from node.adapters.p2p.frames import Muxed
from node.adapters.p2p.host import P2pHost
from node.adapters.p2p.limits import RelayLimits
from node.adapters.p2p.tcp import TcpStream, words
from node.errors import Broken, Unreachable
from protocol.addresses import Address, Reach
from protocol.ids import PeerId

log = structlog.get_logger(__name__)

AT_ONCE = 2  # addresses of the other end that are dialled
MEETING = 6.0  # s that both keep dialling: a first SYN that came too early is said again after 1 s, and after 3 s
KNOCKS = 0.25  # s between two dials of an address that a router refuses at once
PLAIN = 3.0  # s for the other end's own addresses, before anything is agreed on
SELDOM = 30.0  # s between two meetings with one peer that it asks for
REMEMBERED = 256  # peers that this is kept of


class Puncher:
    """Both ends of a meeting."""

    def __init__(self, host: P2pHost, limits: RelayLimits) -> None:
        self._host = host
        self._swarm = host.swarm
        self._limits = limits
        self._ours: tuple[Address, ...] = ()
        self._met_at: dict[PeerId, float] = {}  # peers that asked for it, and when it came to dialling
        host.serve_bytes(DCUTR, self._asked)

    def believe(self, addresses: Sequence[Address]) -> None:
        """See `node.relay_ports.Ways`."""
        self._ours = tuple(each for each in addresses if each.reach is Reach.PUBLIC)[:AT_ONCE]

    async def straighten(self, peer: PeerId) -> None:
        """See `node.relay_ports.Ways`."""
        identity = _id(peer)
        with trio.move_on_after(PLAIN):
            try:
                await self._swarm.reach_directly(identity)
            except Unreachable as error:
                log.debug("p2p.not_direct", peer=str(peer), reason=error.message)
            else:
                return
        relayed = self._relayed(identity)
        if relayed is None:
            raise Unreachable("no relay connects us any more")
        theirs, half = await self._agree(relayed)
        await trio.sleep(half)
        await self._meet(identity, theirs, first=False)

    async def _agree(self, relayed: INetConn) -> tuple[tuple[Address, ...], float]:
        """Agree on the moment; return where to dial, and in how many seconds."""
        if not self._ours:
            raise Unreachable("nobody has told this node yet where it is seen")
        stream: Muxed | None = None
        try:
            with trio.move_on_after(self._limits.step_seconds):
                stream = await self._host.begin_stream(relayed, DCUTR)
                asked_at = trio.current_time()
                await stream.tell(spoken(Words(said=Said.CONNECT, addresses=self._ours), DCUTR))
                answer = await hear(stream, DCUTR)
                took = trio.current_time() - asked_at
                theirs = _worth_dialling(answer.addresses)
                if not theirs:
                    raise Unreachable("it knows no address of its own that could be met at")
                await stream.tell(spoken(Words(said=Said.SYNC), DCUTR))
                await stream.finish()
                return theirs, took / 2
        except Broken as error:
            raise Unreachable(error.message) from error
        raise Unreachable("it does not answer")

    async def _asked(self, connection: INetConn, stream: Muxed) -> None:
        identity = connection.muxed_conn.peer_id
        peer, now = peer_of(identity), trio.current_time()
        if peer is None or relay_of(connection) is None or self._met_at.get(peer, -SELDOM) + SELDOM > now:
            return
        theirs: tuple[Address, ...] = ()
        with trio.move_on_after(self._limits.step_seconds):
            asked = await hear(stream, DCUTR)
            await stream.tell(spoken(Words(said=Said.CONNECT, addresses=self._ours), DCUTR))
            if (await hear(stream, DCUTR)).said is Said.SYNC:
                theirs = _worth_dialling(asked.addresses)
        if theirs and self._ours:
            self._met_at.pop(peer, None)
            self._met_at[peer] = now
            if len(self._met_at) > REMEMBERED:
                del self._met_at[next(iter(self._met_at))]
            await self._meet(identity, theirs, first=True)

    async def _meet(self, identity: ID, theirs: Sequence[Address], *, first: bool) -> None:
        """Dial until there is a connection. `first`: whether this end speaks first on it. Raises Unreachable."""
        port = next((each.port for each in self._host.addresses()), 0)
        found: list[tuple[TcpStream, Address]] = []

        async def dial(address: Address, nursery: trio.Nursery) -> None:
            while not found:
                try:
                    found.append((await self._swarm.tcp.dial_from(address, port), address))
                except OpenConnectionError as error:
                    log.debug("p2p.met_nobody", address=str(address), reason=str(error))
                    await trio.sleep(KNOCKS)
            nursery.cancel_scope.cancel()

        with trio.move_on_after(MEETING):
            async with trio.open_nursery() as nursery:
                for address in theirs:
                    nursery.start_soon(dial, address, nursery)
        for stream, _ in found[1:]:
            await stream.close()
        if not found:
            raise Unreachable(f"nobody was met within {MEETING:g} s")
        await self._shake_hands(identity, *found[0], first=first)

    async def _shake_hands(self, identity: ID, stream: TcpStream, address: Address, *, first: bool) -> None:
        done = False
        try:
            with trio.move_on_after(self._limits.step_seconds):
                if first:
                    await self._swarm.upgrade_outbound_raw_conn(RawConnection(stream, True), identity)
                    done = True
                else:
                    there = Multiaddr(str(address.of(None)))
                    muxed = await self._swarm.upgrade_inbound_raw_conn(RawConnection(stream, False), there)
                    done = muxed.peer_id == identity
        except (BaseLibp2pError, SwarmException) as error:
            raise Unreachable(words(error.__cause__ or error)) from error
        finally:
            if not done:
                with trio.CancelScope(shield=True):
                    await stream.close()
        if not done:
            raise Unreachable("who was met shook no hands, or is somebody else")
        log.info("p2p.met", peer=str(identity), address=str(address))

    def _relayed(self, identity: ID) -> INetConn | None:
        return next((each for each in reversed(self._swarm.alive(identity)) if relay_of(each) is not None), None)


def _worth_dialling(addresses: Sequence[Address]) -> tuple[Address, ...]:
    return tuple(dict.fromkeys(each for each in addresses if each.reach is Reach.PUBLIC))[:AT_ONCE]


def _id(peer: PeerId) -> ID:
    return ID(peer.to_bytes())

"""Being called through a relay, and calling: connections that a third node carries, proven and sealed end to end.

One of the twelve files that import libp2p. A circuit is a stream of the connection with the relay; on it the two ends
shake hands as on a socket, so the relay can neither read nor stand in for either, and all protocols run unchanged.
Whoever is called lets in only what comes by a relay that it has reserved at.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import structlog
import trio
from libp2p.abc import INetConn
from libp2p.connection_types import ConnectionType
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.abc import ReadWriteCloser
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.rcmgr import Direction
from multiaddr import Multiaddr

from node.adapters.p2p.circuit_socket import CircuitSocket
from node.adapters.p2p.circuit_words import HOP, STOP, Code, Said, Words, hear, spoken
from node.adapters.p2p.connections import contained, peer_of, relay_of
from node.adapters.p2p.frames import Muxed
from node.adapters.p2p.host import P2pHost
from node.adapters.p2p.limits import DEFAULT_RELAY_LIMITS, RelayLimits
from node.adapters.p2p.muxer import HardenedYamux
from node.adapters.p2p.origin import Origin
from node.adapters.p2p.punch import Puncher
from node.adapters.p2p.relay import Lender, last_word
from node.adapters.p2p.tcp import words as said_by
from node.errors import Broken, Unreachable
from node.relay_ports import Lent
from protocol.addresses import Address, parse_address
from protocol.ids import PeerId

log = structlog.get_logger(__name__)

HOUSE_SECONDS = 2.0  # how often relayed connections are looked at that a direct one has made superfluous
OURS = "/metainf/"  # what is worth waiting for on such a connection: gossip and the directory begin anew by themselves
SHORTEST, LONGEST, UNTOLD = 30.0, 3600.0, 120.0  # s of a reservation; where the relay's clock says what cannot be


class CircuitStream(CircuitSocket, ReadWriteCloser):
    """What libp2p takes for a socket."""


class P2pWays:
    """`node.relay_ports.Ways`. Made by `open_ways`."""

    def __init__(self, host: P2pHost, limits: RelayLimits, wall: Callable[[], float]) -> None:
        self._host = host
        self._swarm = host.swarm
        self._limits = limits
        self._wall = wall
        self._reserved: set[PeerId] = set()
        self._retired_at: dict[int, float] = {}
        self._lender = Lender(host, limits, wall)
        self._puncher = Puncher(host, limits)
        self._swarm.caller = self.call
        host.serve_bytes(STOP, self._called)

    # -- what there is

    def via(self, peer: PeerId) -> PeerId | None:
        """See `node.relay_ports.Ways`."""
        alive = self._swarm.alive(_id(peer))
        return relay_of(alive[-1]) if alive else None

    def observed(self, peer: PeerId) -> Address | None:
        """See `node.relay_ports.Ways`."""
        for connection in reversed(self._swarm.direct(_id(peer))):
            if isinstance(connection.muxed_conn, HardenedYamux):
                remote = connection.muxed_conn.get_remote_address()
                if remote is not None:
                    host = remote[0].partition("%")[0].removeprefix("::ffff:")
                    found = parse_address(f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/{remote[1]}")
                    return None if found is None else found.of(peer)
        return None

    def called_by(self, peer: PeerId) -> bool:
        """See `node.relay_ports.Ways`."""
        alive = self._swarm.alive(_id(peer))
        last = alive[-1] if alive else None
        return isinstance(last, SwarmConn) and relay_of(last) is not None and last.direction is Direction.INBOUND

    async def knock(self, address: Address) -> None:
        """See `node.relay_ports.Ways`."""
        assert address.peer is not None  # noqa: S101 -- our caller's promise
        with trio.move_on_after(self._limits.step_seconds):
            await self._swarm.knock(_id(address.peer), address)
            return
        raise Unreachable(f"no answer within {self._limits.step_seconds:g} s")

    def lend(self, willing: bool) -> None:
        """See `node.relay_ports.Ways`."""
        self._lender.lend(willing)

    def lent(self) -> Lent:
        """See `node.relay_ports.Ways`."""
        return self._lender.lent()

    def believe(self, addresses: Sequence[Address]) -> None:
        """See `node.relay_ports.Ways`."""
        self._puncher.believe(addresses)

    async def straighten(self, peer: PeerId) -> None:
        """See `node.relay_ports.Ways`."""
        await self._puncher.straighten(peer)

    # -- being called

    async def reserve(self, relay: PeerId) -> float:
        """See `node.relay_ports.Ways`."""
        answer = await self._ask(relay, Words(said=Said.RESERVE), self._limits.step_seconds)
        try:
            if answer[0].code is not Code.OK:
                raise Unreachable(f"relay {relay} takes no call for this node: {answer[0].code.name.lower()}")
        finally:
            await _let_go(answer[1])
        self._reserved.add(relay)
        left = answer[0].expires - self._wall()
        return left if SHORTEST <= left <= LONGEST else UNTOLD

    def release(self, relay: PeerId) -> None:
        """See `node.relay_ports.Ways`."""
        self._reserved.discard(relay)

    async def _called(self, connection: INetConn, stream: Muxed) -> None:
        relay, words = peer_of(connection.muxed_conn.peer_id), None
        with trio.move_on_after(self._limits.step_seconds):
            words = await hear(stream, STOP)
        if relay is None or words is None:
            return
        welcome = relay in self._reserved and relay_of(connection) is None
        if not welcome or words.said is not Said.CONNECT or words.peer is None:
            await last_word(stream, spoken(Words(said=Said.STATUS, code=Code.DENIED), STOP))
            return
        await stream.tell(spoken(Words(said=Said.STATUS), STOP))
        socket = CircuitStream(stream, relay)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(socket.carry)
            await self._swarm.admit(socket, Multiaddr(f"/p2p/{relay}/p2p-circuit"), Origin(party=str(relay)))

    # -- calling

    async def call(self, identity: ID, address: Address) -> INetConn:
        """Connect with a peer through a relay.

        Raises:
            Unreachable: the relay does not answer or will not, or who is there is not the peer.
        """
        relay = address.relay
        assert relay is not None  # noqa: S101 -- our caller's promise
        peer = peer_of(identity)
        if relay == self._host.me or peer is None:
            raise Unreachable("it would have to be called through this node itself")
        if not self._swarm.direct(_id(relay)):
            await self._swarm.reach_at(_id(relay), address.direct())
        answer, stream = await self._ask(relay, Words(said=Said.CONNECT, peer=peer), 2 * self._limits.step_seconds)
        if answer.code is not Code.OK:
            await _let_go(stream)
            raise Unreachable(f"relay {relay} does not reach it: {answer.code.name.lower()}")
        socket = CircuitStream(stream, relay)
        self._swarm.manager.run_task(partial(contained, "p2p.circuit_failed", socket.carry))
        raw = RawConnection(socket, True, ConnectionType.RELAYED, [Multiaddr(str(address))])
        done = False
        try:
            connection = await self._swarm.upgrade_outbound_raw_conn(raw, identity)
            done = True
        except (BaseLibp2pError, SwarmException) as error:
            raise Unreachable(f"by relay {relay}: {said_by(error.__cause__ or error)}") from error
        finally:
            if not done:
                with trio.CancelScope(shield=True):
                    await socket.close()
        log.debug("p2p.called", peer=str(peer), relay=str(relay))
        return connection

    async def _ask(self, relay: PeerId, words: Words, patience: float) -> tuple[Words, Muxed]:
        """Say something to a relay; return its answer and the stream, which is the caller's from then on."""
        connections = self._swarm.direct(_id(relay))
        if not connections:
            raise Unreachable(f"relay {relay} is not connected")
        stream: Muxed | None = None
        answer: Words | None = None
        try:
            with trio.move_on_after(patience):
                stream = await self._host.begin_stream(connections[-1], HOP)
                await stream.tell(spoken(words, HOP))
                answer = await hear(stream, HOP)
        except Broken as error:
            raise Unreachable(f"relay {relay}: {error.message}") from error
        finally:
            if stream is not None and answer is None:
                await _let_go(stream)
        if stream is None or answer is None:
            raise Unreachable(f"relay {relay} did not answer within {patience:g} s")
        if answer.said is not Said.STATUS:
            await _let_go(stream)
            raise Unreachable(f"relay {relay} answered what is no answer")
        return answer, stream

    # -- keeping house

    async def keep_house(self) -> None:
        """Let relayed connections go that a direct one has made superfluous; run for as long as the host does."""
        while True:
            await trio.sleep(HOUSE_SECONDS)
            await self._tidy()

    async def _tidy(self) -> None:
        now, kept = trio.current_time(), {}
        for each in self._swarm.all_alive():
            muxed = each.muxed_conn
            if relay_of(each) is None or not isinstance(muxed, HardenedYamux):
                continue
            muxed.retired = bool(self._swarm.direct(muxed.peer_id))
            if not muxed.retired:
                continue
            since = kept[id(each)] = self._retired_at.get(id(each), now)
            busy = any(str(stream.get_protocol() or "").startswith(OURS) for stream in each.get_streams())
            # Not at the first look: the other end may not know yet of the direct one, and begin something here.
            if since < now and (not busy or since + self._limits.retired_seconds <= now):
                with trio.move_on_after(HOUSE_SECONDS):
                    await each.close()
        self._retired_at = kept


@asynccontextmanager
async def open_ways(
    host: P2pHost, wall: Callable[[], float], limits: RelayLimits = DEFAULT_RELAY_LIMITS
) -> AsyncIterator[P2pWays]:
    """Be called through relays, call, and lend, until left.

    Args:
        wall: seconds since 1970.
    """
    ways = P2pWays(host, limits, wall)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ways.keep_house)
        try:
            yield ways
        finally:
            nursery.cancel_scope.cancel()


async def _let_go(stream: Muxed) -> None:
    with trio.move_on_after(1) as scope:
        scope.shield = True
        await stream.abort()
    stream.forgotten()


def _id(peer: PeerId) -> ID:
    return ID(peer.to_bytes())

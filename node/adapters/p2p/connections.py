"""Connections with peers: who may come in, who is dialled, which handlers' errors stay inside.

One of the twelve files that import libp2p. Overrides what libp2p's network does at its edges; what it does between them
is its own.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache, partial
from typing import Any

import structlog
import trio
from libp2p.abc import INetConn, INetStream, INetwork, INotifee
from libp2p.connection_types import ConnectionType
from libp2p.custom_types import StreamHandlerFn
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.abc import ReadWriteCloser
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore, PeerStoreError
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from node.adapters.p2p.circuit_socket import CircuitSocket
from node.adapters.p2p.dialer import dial_any, patience_for
from node.adapters.p2p.gate import Gate, Ticket
from node.adapters.p2p.limits import P2pLimits
from node.adapters.p2p.origin import Origin, Origins
from node.adapters.p2p.private import Strangers, unlike
from node.adapters.p2p.tcp import Tcp, TcpStream, unreachable, words
from node.adapters.p2p.workarounds import Workaround
from node.errors import Unreachable, WhyNot
from protocol.addresses import Address, parse_address
from protocol.ids import InvalidId, PeerId

log = structlog.get_logger(__name__)

BOOK_PEERS = 4096  # peers whose addresses are remembered in memory, 1 KB each
PEERSTORE_ADDRESSES = 8  # of what others said of a peer; more is a flood


class _Idle(AutoConnector):
    """Never started, it dials nobody. No watermark turns it off: it aims at the middle of the lowest and highest."""

    async def start(self) -> None:
        pass

    async def run_background_task(self, nursery: trio.Nursery) -> None:
        pass


class HardenedSwarm(Swarm):
    """libp2p's network, with our gate before it and our dialer behind it.

    Args:
        identity: this node.
        upgrader: how sockets become multiplexed, authenticated connections.
    """

    def __init__(
        self, identity: ID, upgrader: TransportUpgrader, *, limits: P2pLimits, disabled: AbstractSet[Workaround]
    ) -> None:
        self.strangers = Strangers()
        self.private = False  # whether a handshake takes a private swarm's key
        self.limits = limits
        self.disabled = disabled
        self.tcp = Tcp(disabled)
        self.origins = Origins(limits.trusted)
        self.gate = Gate(limits)
        self.caller: Callable[[ID, Address], Awaitable[INetConn]] | None = None  # connects through relays
        self._scopes: dict[int, trio.CancelScope] = {}
        self._book: OrderedDict[ID, tuple[Address, ...]] = OrderedDict()
        self._failed_at: OrderedDict[ID, float] = OrderedDict()
        super().__init__(
            identity,
            PeerStore(),
            upgrader,
            [self.tcp],
            retry_config=RetryConfig(max_retries=0),
            connection_config=_connection_config(limits),
        )

    def _init_connection_management(self) -> None:
        super()._init_connection_management()
        if Workaround.NO_AUTO_CONNECT not in self.disabled:
            self.auto_connector = _Idle(self)

    # -- handlers

    def set_stream_handler(self, stream_handler: StreamHandlerFn) -> None:
        """Have streams handled, and errors of handlers kept to their stream."""
        if Workaround.HANDLER_ERRORS in self.disabled:
            super().set_stream_handler(stream_handler)
            return

        async def handle(stream: INetStream) -> None:
            if not await contained("p2p.handler_failed", stream_handler, stream):
                await stream.reset()

        super().set_stream_handler(handle)

    # -- connections that others open

    async def _handle_inbound_connection(self, read_write_closer: ReadWriteCloser, maddr: Multiaddr) -> None:
        """Serve one accepted socket for as long as its connection lives."""
        if Workaround.INBOUND_SLOTS in self.disabled:
            await super()._handle_inbound_connection(read_write_closer, maddr)
            return
        remote = read_write_closer.get_remote_address()
        await self.admit(read_write_closer, maddr, None if remote is None else self.origins.of(remote[0]))

    async def admit(self, read_write_closer: ReadWriteCloser, maddr: Multiaddr, origin: Origin | None) -> None:
        """Serve what somebody opened for as long as its connection lives, where the gate lets it in; then close it.

        Args:
            origin: who answers for it: an address, or the relay that brought it.
        """
        ticket = None if origin is None else self._let_in(origin)
        if ticket is None:
            assert isinstance(read_write_closer, TcpStream | CircuitSocket)  # noqa: S101 -- our listener made it
            read_write_closer.drop()  # at once: of those who are refused there may be hundreds a second
            return
        try:
            await contained("p2p.inbound_failed", self._receive, read_write_closer, maddr, ticket)
        finally:
            self._scopes.pop(ticket.number, None)
            self.gate.leave(ticket, trio.current_time())
            with trio.CancelScope(shield=True):
                await read_write_closer.close()

    def _let_in(self, origin: Origin) -> Ticket | None:
        arrival = self.gate.arrive(origin, trio.current_time())
        self._displace(arrival.displaced)
        if arrival.ticket is not None:
            self._scopes[arrival.ticket.number] = trio.CancelScope()
        return arrival.ticket

    def _displace(self, ticket: Ticket | None) -> None:
        if ticket is not None:
            self._scopes[ticket.number].cancel()

    async def _receive(self, stream: ReadWriteCloser, maddr: Multiaddr, ticket: Ticket) -> None:
        muxed: Any = None
        scope = self._scopes[ticket.number]
        scope.deadline = trio.current_time() + self.limits.handshake_seconds
        with scope:
            try:
                muxed = await self.upgrade_inbound_raw_conn(RawConnection(stream, False, _kind(stream)), maddr)
            except (BaseLibp2pError, SwarmException) as error:
                self.strangers.note(error, stream)
                return  # no peer of ours: a scanner, another network, one that gave up
        if muxed is None:
            return
        arrival = self.gate.establish(ticket, peer_of(muxed.peer_id), trio.current_time())
        self._displace(arrival.displaced)
        if arrival.ticket is not None:
            with trio.CancelScope() as inside:
                self._scopes[ticket.number] = inside
                await muxed.event_closed.wait()
                return
        await muxed.close()

    def complain(self, peer: PeerId, origin: Origin | None, reason: str) -> None:
        """Note that a peer that is there says what no honest one says. Its connections stay."""
        log.debug("p2p.complaint", peer=str(peer), reason=reason)
        if self.gate.complain(peer, origin, trio.current_time()):
            log.info("p2p.peer_banned", peer=str(peer), reason=reason)

    def _trim_connections(self, peer_id: ID) -> None:
        """Close the oldest connections with a peer that has too many: the newest is the one it believes in."""
        connections = self.connections[peer_id]
        excess = connections[: -self.limits.per_peer]
        self.connections[peer_id] = connections[-self.limits.per_peer :]
        for connection in excess:
            self.manager.run_task(self._close_connection_async, connection)

    # -- connections that we open

    def learn(self, peer_id: ID, addresses: Sequence[Address]) -> None:
        """Note where a peer may be dialled."""
        self._book[peer_id] = tuple(addresses)
        self._book.move_to_end(peer_id)
        if len(self._book) > BOOK_PEERS:
            self._book.popitem(last=False)

    async def dial_peer(self, peer_id: ID) -> list[INetConn]:
        """Return the open connections with a peer, or a new one. This is how libp2p's own parts dial."""
        if Workaround.OWN_DIALER in self.disabled:
            self.peerstore.add_addrs(peer_id, [Multiaddr(str(each)) for each in self._book.get(peer_id, ())], 120)
            return await super().dial_peer(peer_id)
        failed = self._failed_at.get(peer_id)
        if failed is not None and trio.current_time() < failed + self.limits.dial_pause:
            raise SwarmException("no address of the peer answered a moment ago")
        try:
            return await self.reach(peer_id)
        except Unreachable as error:
            raise SwarmException(error.message) from error

    async def reach(self, peer_id: ID) -> list[INetConn]:
        """Return the open connections with a peer, or one to the address that answers first.

        Raises:
            Unreachable: none answers.
        """
        while not (alive := self.alive(peer_id)):
            if (ongoing := self._ongoing_dials.get(peer_id)) is not None:
                await ongoing.wait()
                if not self.alive(peer_id) and peer_id in self._failed_at:
                    raise Unreachable("another attempt to dial this peer has just failed")
                continue
            over = self._ongoing_dials[peer_id] = trio.Event()
            try:
                return [await self._dial(peer_id)]
            finally:
                del self._ongoing_dials[peer_id]
                over.set()
        return alive

    def alive(self, peer_id: ID) -> list[INetConn]:
        """Return the open connections with a peer, the best last: direct before relayed, then the newest."""
        found = [each for each in self.connections.get(peer_id, ()) if not each.is_closed]
        return found if len(found) < 2 else sorted(found, key=lambda each: relay_of(each) is None)

    def direct(self, peer_id: ID) -> list[INetConn]:
        """Return those of them that no relay carries."""
        return [each for each in self.alive(peer_id) if relay_of(each) is None]

    async def reach_at(self, peer_id: ID, address: Address) -> None:
        """Have a connection with a peer; if there is none, by this address.

        Raises:
            Unreachable: it does not answer.
        """
        if self.direct(peer_id) or (address.relay is not None and self.alive(peer_id)):
            await trio.lowlevel.checkpoint()
            return
        seconds = patience_for(address, self.limits.dial_seconds)
        with trio.move_on_after(seconds):
            await self._dial_one(peer_id, address)
            return
        # A socket that does not open in time is told of as such before: this one is open, or came late.
        raise Unreachable(
            f"it hangs: it accepts the connection, and no handshake comes of it within {seconds:g} s",
            why=WhyNot.HANGING,
        )

    async def _dial_one(self, peer_id: ID, address: Address) -> INetConn:
        try:
            if address.relay is not None:
                if self.caller is None:
                    raise Unreachable("this node calls nobody through relays")
                return await self.caller(peer_id, address)
            return await self.dial_addr(Multiaddr(str(address)), peer_id)
        except (BaseLibp2pError, SwarmException) as error:
            raise unlike(error, private=self.private) or unreachable(error) from error

    async def _dial(self, peer_id: ID) -> INetConn:
        dial_one = partial(self._dial_one, peer_id)
        try:
            connection = await dial_any(
                self._addresses(peer_id), dial_one, patience=self.limits.dial_seconds, at_once=self.limits.dials
            )
        except Unreachable:
            self._failed_at[peer_id] = trio.current_time()
            self._failed_at.move_to_end(peer_id)
            if len(self._failed_at) > BOOK_PEERS:
                self._failed_at.popitem(last=False)
            raise
        self._failed_at.pop(peer_id, None)
        return connection

    def _addresses(self, peer_id: ID) -> list[Address]:
        """Return what the node was told first, then what libp2p heard from others."""
        known = list(self._book.get(peer_id, ()))
        try:
            heard = self.peerstore.addrs(peer_id)[:PEERSTORE_ADDRESSES]
        except PeerStoreError:
            heard = []
        for each in heard:
            address = parse_address(str(each))
            if address is not None and all(address.of(None) != other.of(None) for other in known):
                known.append(address)
        return known

    async def reach_directly(self, peer_id: ID) -> None:
        """Have a connection with a peer that no relay carries, by whichever of its addresses answers.

        Raises:
            Unreachable: none does.
        """
        if not self.direct(peer_id):
            direct = [each for each in self._addresses(peer_id) if each.relay is None]
            dial_one = partial(self._dial_one, peer_id)
            await dial_any(direct, dial_one, patience=self.limits.dial_seconds, at_once=self.limits.dials)

    async def knock(self, peer_id: ID, address: Address) -> None:
        """Dial an address afresh, have whoever is there prove to be the peer, and hang up.

        Raises:
            Unreachable: nobody answers, or somebody else.
        """
        try:
            raw = await self.tcp.dial(Multiaddr(str(address.of(None))))
            try:
                await self.upgrader.upgrade_security(raw, True, peer_id)
            finally:
                with trio.CancelScope(shield=True):
                    await raw.close()
        except (BaseLibp2pError, SwarmException) as error:
            raise Unreachable(words(error.__cause__ or error)) from error

    def all_alive(self) -> list[SwarmConn]:
        """Return every open connection."""
        return [each for peer in list(self.connections) for each in self.alive(peer) if isinstance(each, SwarmConn)]


class Notices(INotifee):
    """Calls `note` whenever a connection came or went; stays silent about the rest."""

    def __init__(self, note: Callable[[], None]) -> None:
        self._note = note

    async def connected(self, network: INetwork, conn: INetConn) -> None:
        """Pass it on."""
        self._note()

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:
        """Pass it on."""
        self._note()

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None:
        """Stay silent."""

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None:
        """Stay silent."""

    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None:
        """Stay silent."""

    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None:
        """Stay silent."""


async def contained(event: str, work: Callable[..., Awaitable[object]], *arguments: object) -> bool:
    """Do some work whose errors must not spread; return whether it went well.

    libp2p runs these in the nursery of the whole host, and what strangers send reaches parsers of several libraries.
    """
    try:
        await work(*arguments)
    except Exception as error:  # -- ends one conversation or one socket; is logged whole
        log.warning(event, exc_info=error)
        return False
    return True


def relay_of(connection: INetConn) -> PeerId | None:
    """Return the relay that carries a connection; None for a direct one."""
    return getattr(connection.muxed_conn, "relay", None)


def peer_of(identity: ID) -> PeerId | None:
    """Return libp2p's id as ours; None if it is not of a sound Ed25519 key."""
    return _peer_of(identity.to_bytes())


@lru_cache(maxsize=BOOK_PEERS)  # asked of every connection, for every prompt
def _peer_of(raw: bytes) -> PeerId | None:
    try:
        return PeerId.from_bytes(raw)
    except InvalidId:
        return None


def _kind(stream: ReadWriteCloser) -> ConnectionType:
    return ConnectionType.RELAYED if isinstance(stream, CircuitSocket) else ConnectionType.DIRECT


def _connection_config(limits: P2pLimits) -> ConnectionConfig:
    most = 4 * limits.inbound  # never reached: the gate bounds what others open, the services what we open
    return ConnectionConfig(
        max_connections=most,
        min_connections=0,
        low_watermark=0,
        high_watermark=most,
        max_connections_per_peer=limits.per_peer,
        inbound_upgrade_timeout=limits.handshake_seconds,
        outbound_upgrade_timeout=limits.dial_seconds,
        outbound_stream_protocol_negotiation_timeout=limits.negotiate_seconds,
        inbound_stream_protocol_negotiation_timeout=limits.negotiate_seconds,
    )

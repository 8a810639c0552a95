"""The node's place in the swarm: one libp2p host, hardened, behind the ports `Swarm`, `Streams` and `Door`.

One of the twelve files that import libp2p. TCP, Noise and yamux only. The identity is the node's own Ed25519 key, so
the transport proves the same peer id that signs records.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager

import structlog
import trio
from libp2p.abc import INetConn, INetStream, ISecureTransport
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.host.basic_host import BasicHost
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.protocol_muxer.exceptions import ProtocolNotSupportedError
from libp2p.rcmgr import Direction
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from node.adapters.p2p.connections import HardenedSwarm, Notices, peer_of
from node.adapters.p2p.frames import FrameStream
from node.adapters.p2p.gate import Refusal
from node.adapters.p2p.limits import DEFAULT_LIMITS, P2pLimits
from node.adapters.p2p.muxer import HardenedYamux, MuxedNetStream
from node.adapters.p2p.negotiate import BoundedAnswerer, BoundedAsker, BoundedSecurityAsker, BoundedTalk, YamuxOnly
from node.adapters.p2p.origin import Origin
from node.adapters.p2p.pool import StreamPool
from node.adapters.p2p.private import PRIVATE_NOISE, PrivateNoise, SwarmKey, WaitingHost
from node.adapters.p2p.workarounds import NONE, Workaround, require_version
from node.edge_ports import Edge
from node.errors import Broken, NotSpoken, Unavailable, Unreachable
from node.ports import PeerStream, StreamHandler
from protocol import limits as protocol_limits
from protocol.addresses import Address
from protocol.errors import RemoteProtocolError
from protocol.ids import PeerId

log = structlog.get_logger(__name__)

SWEEP_SECONDS = 5.0  # how often what waited too long is let go: a twelfth of the shortest wait
CLOSING_SECONDS = 3.0  # for saying good-bye to all peers at once; the sockets close in any case


class P2pHost:
    """`node.ports.Swarm`, `node.ports.Streams` and `node.edge_ports.Door`. Made by `open_host`."""

    def __init__(self, swarm: HardenedSwarm, foreign: BasicHost, limits: P2pLimits) -> None:
        me = peer_of(foreign.get_id())
        assert me is not None  # noqa: S101 -- made from our own key
        self.me = me
        self.foreign = foreign  # for `routing`, which needs libp2p's own host
        self.swarm = swarm
        self._limits = limits
        self._pool: StreamPool[FrameStream] = StreamPool(most=limits.pooled, seconds=limits.pooled_seconds)
        self._moved = trio.Event()
        self._idle_since: dict[int, float] = {}
        swarm.register_notifee(Notices(self._note))

    # -- Swarm

    def addresses(self) -> tuple[Address, ...]:
        """See `node.ports.Swarm`; where all interfaces are listened at, the wildcard is returned as it is."""
        bound = (str(each).split("/") for each in self.foreign.get_transport_addrs())
        return tuple(Address(kind, host, int(port), self.me) for _, kind, host, _, port, *_ in bound)

    def connected(self) -> frozenset[PeerId]:
        """See `node.ports.Swarm`."""
        peers = (peer_of(each) for each in list(self.swarm.connections) if self.swarm.alive(each))
        return frozenset(peer for peer in peers if peer is not None)

    async def changed(self, than: frozenset[PeerId]) -> frozenset[PeerId]:
        """See `node.ports.Swarm`."""
        while (now := self.connected()) == than:
            await self._moved.wait()
        return now

    def dialled(self, peer: PeerId) -> bool:
        """See `node.ports.Swarm`."""
        connections = self.swarm.alive(_id(peer))
        return any(isinstance(each, SwarmConn) and each.direction is Direction.OUTBOUND for each in connections)

    def learn(self, peer: PeerId, addresses: Sequence[Address]) -> None:
        """See `node.ports.Swarm`."""
        self.swarm.learn(_id(peer), addresses)

    async def connect(self, peer: PeerId) -> None:
        """See `node.ports.Swarm`."""
        await self.swarm.reach(_id(peer))

    async def dial(self, address: Address) -> None:
        """See `node.ports.Swarm`."""
        if address.peer is None:
            raise Unreachable("an address that leads to nobody in particular is not dialled")
        await self.swarm.reach_at(_id(address.peer), address)

    async def disconnect(self, peer: PeerId) -> None:
        """See `node.ports.Swarm`."""
        await self._close(self.swarm.alive(_id(peer)))

    def round_trip(self, peer: PeerId) -> float | None:
        """See `node.ports.Swarm`."""
        for connection in reversed(self.swarm.alive(_id(peer))):
            if isinstance(connection, SwarmConn) and isinstance(connection.muxed_conn, HardenedYamux):
                return connection.muxed_conn.rtt() or None
        return None

    def complain(self, peer: PeerId, reason: str) -> None:
        """See `node.edge_ports.Door`."""
        self.swarm.complain(peer, self.origin_of(_id(peer)), reason)

    def origin_of(self, identity: ID) -> Origin | None:
        """Return where a connected peer is; None where that is not known."""
        muxed = (each.muxed_conn for each in self.swarm.alive(identity) if isinstance(each, SwarmConn))
        remotes = (each.get_remote_address() for each in muxed if isinstance(each, HardenedYamux))
        return next((self.swarm.origins.of(remote[0]) for remote in remotes if remote is not None), None)

    def edge(self) -> Edge:
        """See `node.edge_ports.Door`."""
        gate, now = self.swarm.gate, trio.current_time()
        parties, peers = gate.banned(now)
        return Edge(
            inbound=gate.inside,
            handshaking=gate.shaking,
            accepted=gate.accepted,
            refused={reason.value: gate.refusals[reason] for reason in Refusal},
            banned_addresses={str(each.who): each.seconds for each in parties},
            banned_peers={str(each.who): each.seconds for each in peers},
        )

    def admit(self, met: Callable[[PeerId], Awaitable[bool]]) -> None:
        """See `node.membership_ports.Doors`."""
        if not isinstance(self.foreign, WaitingHost):
            return

        async def met_by(identity: ID) -> bool:
            peer = peer_of(identity)
            return peer is not None and await met(peer)

        self.foreign.met = met_by

    def strangers(self) -> int:
        """See `node.membership_ports.Doors`."""
        return self.swarm.strangers.count

    def _note(self) -> None:
        self._moved.set()
        self._moved = trio.Event()

    # -- Streams

    @asynccontextmanager
    async def open(
        self, peer: PeerId, protocol: str, *, patience: float, frame_bytes: int = protocol_limits.FRAME_BYTES
    ) -> AsyncIterator[PeerStream]:
        """See `node.ports.Streams`."""
        stream = await self._take(peer, protocol, patience, frame_bytes)
        whole = False
        try:
            yield stream
            whole = True
        finally:
            if not (whole and stream.kept and stream.alive):
                await stream.leave()
            else:
                stream.fresh = False
                surplus = self._pool.give((peer, protocol), stream, trio.current_time())
                if surplus is not None:
                    await surplus.leave()

    def serve(self, protocol: str, handler: StreamHandler, *, frame_bytes: int = protocol_limits.FRAME_BYTES) -> None:
        """See `node.ports.Streams`."""

        async def handle(foreign: INetStream) -> None:
            assert isinstance(foreign, NetStream)  # noqa: S101 -- the only class there is
            peer = peer_of(foreign.muxed_conn.peer_id)
            if peer is None:
                await foreign.reset()
                return
            stream = FrameStream(MuxedNetStream(foreign), peer, self._limits, frame_bytes)
            try:
                await handler(stream)
                await stream.finish()
                with trio.move_on_after(self._limits.linger_seconds):
                    while await stream.receive() is not None:
                        pass  # the peer has more to say than the handler wanted to know
            except (Broken, RemoteProtocolError) as error:
                log.debug("p2p.stream_ended", protocol=protocol, peer=str(peer), reason=str(error))
                if isinstance(error, RemoteProtocolError):
                    self.complain(peer, error.reason.value)
                await stream.reset()
            except BaseException:  # a bug or cancellation: the peer is told, the error goes on to who reports it
                stream.abandon()
                raise
            finally:
                await stream.leave()

        self.foreign.set_stream_handler(TProtocol(protocol), handle)

    async def _take(self, peer: PeerId, protocol: str, patience: float, frame_bytes: int) -> FrameStream:
        stream, dead = self._pool.take((peer, protocol))
        for each in dead:
            await each.leave()
        if stream is not None:
            stream.begin(frame_bytes)
            return stream
        with trio.move_on_after(patience):
            return await self._new_stream(peer, protocol, frame_bytes)
        raise Unreachable(f"peer {peer} did not answer within {patience:g} s")

    async def _new_stream(self, peer: PeerId, protocol: str, frame_bytes: int) -> FrameStream:
        connections = await self.swarm.reach(_id(peer))
        # The last is the best: direct, and the newest, which is the one that the peer believes in.
        return FrameStream(await self.begin_stream(connections[-1], protocol), peer, self._limits, frame_bytes)

    async def begin_stream(self, connection: INetConn, protocol: str) -> MuxedNetStream:
        """Open a stream on one connection, of bytes as they are.

        Raises:
            Unreachable, NotSpoken: as `open`.
        """
        foreign: NetStream | None = None
        agreed = False
        try:
            assert isinstance(connection, SwarmConn)  # noqa: S101 -- the only class there is
            foreign = await connection.new_stream()
            foreign._direction = Direction.OUTBOUND  # as libp2p's own `new_stream` does
            await BoundedTalk(foreign).agree_on(protocol)
            foreign.set_protocol(TProtocol(protocol))
            agreed = True
            return MuxedNetStream(foreign)
        except ProtocolNotSupportedError as error:
            raise NotSpoken(f"peer {_named(connection)} does not speak {protocol}") from error
        except BaseLibp2pError as error:
            raise Unreachable(f"peer {_named(connection)} did not take a stream: {error}") from error
        finally:
            if foreign is not None and not agreed:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + self._limits.close_seconds):
                    await foreign.reset()

    def serve_bytes(self, protocol: str, handler: Callable[[INetConn, MuxedNetStream], Awaitable[None]]) -> None:
        """Have `handler` called with every stream that peers open for a protocol, and the connection it is on.

        The bytes are as they come. The handler ends the stream in order, or it is reset.
        """

        async def handle(foreign: INetStream) -> None:
            assert isinstance(foreign, NetStream)  # noqa: S101 -- the only class there is
            stream = MuxedNetStream(foreign)
            try:
                assert foreign.swarm_conn is not None  # noqa: S101 -- it came on one
                await handler(foreign.swarm_conn, stream)
            except (Broken, Unreachable) as error:
                log.debug("p2p.stream_ended", protocol=protocol, reason=str(error))
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + self._limits.close_seconds):
                    await stream.abort()
                stream.forgotten()

        self.foreign.set_stream_handler(TProtocol(protocol), handle)

    # -- keeping house

    async def keep_house(self) -> None:
        """Let go of streams and inbound connections that nobody uses; run for as long as the host does."""
        while True:
            await trio.sleep(SWEEP_SECONDS)
            now = trio.current_time()
            for stream in self._pool.expired(now):
                await stream.leave()
            await self._close(self._idle(now))

    def _idle(self, now: float) -> list[SwarmConn]:
        inbound = [each for each in self.swarm.all_alive() if each.direction is Direction.INBOUND]
        unused = {id(each): each for each in inbound if not each.get_streams()}
        self._idle_since = {key: self._idle_since.get(key, now) for key in unused}
        idle = [each for key, each in unused.items() if self._idle_since[key] + self._limits.idle_seconds <= now]
        silent = [each for each in inbound if id(each) not in unused and self._silent(each, now)]
        return [*idle, *silent]

    def _silent(self, connection: SwarmConn, now: float) -> bool:
        muxed = connection.muxed_conn
        return isinstance(muxed, HardenedYamux) and muxed.heard_at + self._limits.quiet_seconds <= now

    async def close_all(self) -> None:
        """Close every connection, all at once."""
        with trio.move_on_after(CLOSING_SECONDS) as scope:
            scope.shield = True
            await self._close(self.swarm.all_alive())

    async def _close(self, connections: Sequence[object]) -> None:
        async with trio.open_nursery() as nursery:
            for each in connections:
                assert isinstance(each, SwarmConn)  # noqa: S101 -- the only class there is
                nursery.start_soon(each.close)


@asynccontextmanager
async def open_host(
    seed: bytes,
    listen: Sequence[Address],
    *,
    limits: P2pLimits = DEFAULT_LIMITS,
    disabled: AbstractSet[Workaround] = NONE,
    private: SwarmKey | None = None,
) -> AsyncIterator[P2pHost]:
    """Join the network under the identity of this Ed25519 seed; leaving says good-bye to every peer.

    Args:
        seed: 32 bytes, never logged.
        listen: IP addresses; port 0 takes any.
        disabled: work-arounds to do without. For tests alone.
        private: the swarm that all connections are of; None: the public one.

    Raises:
        Unavailable: an address cannot be listened at.
    """
    require_version()
    keys = create_new_key_pair(seed)
    security: dict[TProtocol, ISecureTransport]
    if private is None:
        security = {NOISE: NoiseTransport(keys, noise_key_pair().private_key)}
    else:
        security = {PRIVATE_NOISE: PrivateNoise(keys, noise_key_pair().private_key, private=private)}
    if Workaround.NOISE_ONLY in disabled:
        security[PLAINTEXT_PROTOCOL_ID] = InsecureTransport(keys)
    swarm, foreign = _build(keys, security, limits, disabled, private=private is not None)
    host = P2pHost(swarm, foreign, limits)
    refused: Address | None = None
    try:
        async with foreign.run([]):
            for address in listen:
                if refused is None and not await swarm.listen(Multiaddr(str(address))):
                    refused = address
            if refused is None:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(host.keep_house)
                    try:
                        yield host
                    finally:
                        await host.close_all()
                        nursery.cancel_scope.cancel()
    finally:
        swarm.tcp.drop()
    if refused is not None:  # said out here, where no nursery wraps it into a group
        raise Unavailable(f"cannot listen for peers at {refused.host} port {refused.port}: {swarm.tcp.failure}")


def _build(
    keys: KeyPair,
    security: dict[TProtocol, ISecureTransport],
    limits: P2pLimits,
    disabled: AbstractSet[Workaround],
    *,
    private: bool,
) -> tuple[HardenedSwarm, BasicHost]:
    upgrader = TransportUpgrader(security, {}, limits.negotiate_seconds)
    upgrader.muxer_multistream = YamuxOnly(limits, disabled)
    identity = ID.from_pubkey(keys.public_key)
    swarm = HardenedSwarm(identity, upgrader, limits=limits, disabled=disabled)
    swarm.private = private
    swarm.peerstore.add_key_pair(identity, keys)
    # No resource manager: its bounds are for everybody together, so that one stranger exhausts them. See `gate`.
    kind = WaitingHost if private else BasicHost
    foreign = kind(swarm, negotiate_timeout=limits.negotiate_seconds, disable_identify_address_discovery=True)
    if Workaround.BOUNDED_READS not in disabled:
        for each in (upgrader.security_multistream._selector, upgrader.muxer_multistream._selector, foreign):
            each.multiselect = BoundedAnswerer(each.multiselect.handlers)
            each.multiselect_client = BoundedAsker()
        upgrader.security_multistream._selector.multiselect_client = BoundedSecurityAsker()
    return swarm, foreign


def _named(connection: INetConn) -> str:
    return str(connection.muxed_conn.peer_id)


def _id(peer: PeerId) -> ID:
    return ID(peer.to_bytes())

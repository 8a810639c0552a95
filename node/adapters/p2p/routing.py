"""Gossip and the directory: libp2p's gossipsub 1.1 and Kademlia table behind the ports `Gossip` and `Directory`.

One of the twelve files that import libp2p. Neither is relied on for completeness: gossip may lose messages, the table
may forget. What is published and stored is judged by rules that are given; this file knows no record.
"""

import hashlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
import trio
from libp2p.abc import INetConn, INetwork
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.kad_dht.common import ALPHA, PROTOCOL_ID
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.peer.peerstore import PeerStoreError
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.rpc_queue import RpcQueue
from libp2p.records.validator import NamespacedValidator, Validator
from libp2p.tools.anyio_service import background_trio_service

from node.adapters.p2p.connections import Notices, peer_of
from node.adapters.p2p.host import P2pHost
from node.adapters.p2p.scores import Router, Scorer
from node.adapters.p2p.workarounds import NONE, Workaround
from node.clock import wall_us
from protocol import limits
from protocol.addresses import Address, parse_address
from protocol.ids import PeerId

log = structlog.get_logger(__name__)

MESHSUB = TProtocol("/meshsub/1.1.0")  # 1.2's IDONTWANT cost a quarter of all deliveries
DEGREE, DEGREE_LOW, DEGREE_HIGH = 6, 4, 12  # neighbours in a mesh: the specification's figures
HEARTBEAT = 1  # second, the specification's; libp2p's own 120 leaves a mesh broken for two minutes
# Messages of one topic that a neighbour may pass on per second. It passes on what the whole swarm says: 500 nodes
# announce themselves once a minute, and records come in bursts. One costs 3 to 6 ms of CPU.
MESSAGES_PER_SECOND = 200.0
STOCK_MESSAGES_PER_SECOND = 10.0
QUEUE = 1024  # messages on their way to one neighbour, or to one subscriber of ours; beyond it they are lost
MESSAGE_BYTES = limits.GOSSIP_BYTES
SEEN_SECONDS = 120  # a message that comes again within it is the same message
STEP_SECONDS = 4.0  # for one peer to take or give a value; one that is gone must not hold up the rest
IDENTIFY_POLL = 0.2  # seconds between two looks at what a new peer said of itself; no event tells
BOTH_NOTICE = 1.0  # s in which both ends have noticed that a connection has ended
SHORT_KEY = 50  # bytes that libp2p takes in a question for nodes near a key
SHA2_256 = b"\x12\x20"  # a multihash's code and length
LOOKUP_SECONDS = 10.0  # for a whole question to the directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """The rules for the keys `/name/...` of the directory; all nodes must share them.

    Attributes:
        valid: whether a value may stand under a key. Must not raise.
        best: the index of the value that counts, of some that are valid.
    """

    valid: Callable[[str, bytes], bool]
    best: Callable[[str, Sequence[bytes]], int]


class P2pGossip:
    """`node.ports.Gossip`. Made by `open_gossip`."""

    def __init__(self, pubsub: Pubsub, scorer: Scorer, *, stock: bool) -> None:
        self.pubsub = pubsub
        self.scorer = scorer
        self._stock = stock

    def weigh(self, standing: Callable[[PeerId], float]) -> None:
        """Have neighbours weighed by their standing: 1 of whom nothing bad is known, halved by each offence."""
        self.scorer.standing = standing

    async def publish(self, topic: str, data: bytes) -> None:
        """See `node.ports.Gossip`."""
        if len(data) > MESSAGE_BYTES:
            raise ValueError(f"a message has {MESSAGE_BYTES} bytes at most, not {len(data)}")
        await self.pubsub.publish(topic, data)

    @asynccontextmanager
    async def subscribe(
        self, topic: str, judge: Callable[[bytes, PeerId | None], bool]
    ) -> AsyncIterator[trio.MemoryReceiveChannel[bytes]]:
        """See `node.ports.Gossip`."""

        def validate(forwarder: ID, message: rpc_pb2.Message) -> bool:
            if message.from_id == self.pubsub.my_id.to_bytes():
                return True  # libp2p asks of what we say ourselves, too: the judge is for what others say
            return len(message.data) <= MESSAGE_BYTES and judge(message.data, peer_of(forwarder))

        self.pubsub.set_topic_validator(topic, validate, False)
        await self.pubsub.subscribe(topic)
        feed, messages = trio.open_memory_channel[rpc_pb2.Message](QUEUE)
        if not self._stock:
            self.pubsub.subscribed_topics_send[topic] = feed  # in place of one with room for 32
        else:
            messages = self.pubsub.subscribed_topics_receive[topic].receive_channel
        sender, receiver = trio.open_memory_channel[bytes](0)  # the feed is the queue

        async def deliver() -> None:
            async for message in messages:
                if message.from_id != self.pubsub.my_id.to_bytes():
                    await sender.send(message.data)

        async with receiver, trio.open_nursery() as nursery:
            nursery.start_soon(deliver)
            try:
                yield receiver
            finally:
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    await self.pubsub.unsubscribe(topic)
                    self.pubsub.remove_topic_validator(topic)


@asynccontextmanager
async def open_gossip(
    host: P2pHost,
    *,
    topics: AbstractSet[str],
    message_id: Callable[[str, bytes], bytes],
    disabled: AbstractSet[Workaround] = NONE,
) -> AsyncIterator[P2pGossip]:
    """Take part in gossip until left.

    Args:
        topics: the only ones that neighbours may subscribe to.
        message_id: what a message of a topic is called; one that is called like another is dropped.
    """
    stock = Workaround.GOSSIP_LIMITS in disabled
    router = Router(
        host,
        protocols=[MESHSUB],
        degree=DEGREE,
        degree_low=DEGREE_LOW,
        degree_high=DEGREE_HIGH,
        heartbeat_interval=HEARTBEAT,
        adaptive_gossip_enabled=False,
        max_messages_per_topic_per_second=STOCK_MESSAGES_PER_SECOND if stock else MESSAGES_PER_SECOND,
    )
    pubsub = Pubsub(
        host.foreign,
        router,
        seen_ttl=SEEN_SECONDS,
        strict_signing=True,
        msg_id_constructor=lambda message: message_id("\n".join(message.topicIDs), message.data),
        max_inbound_rpc_size=2 * MESSAGE_BYTES,
        allowed_topics=topics,
    )
    pubsub.counter = wall_us()  # libp2p's own counts from the second of the start: a node that says more than one
    # message in a second and starts anew says other words under the same number, and is punished for it
    if not stock:
        pubsub.peer_queues = _Queues()
    async with background_trio_service(pubsub), background_trio_service(router), trio.open_nursery() as nursery:
        await pubsub.wait_until_ready()
        if Workaround.GOSSIP_MOVES not in disabled:
            host.swarm.register_notifee(_Mover(pubsub, nursery))
        yield P2pGossip(pubsub, router.scores, stock=stock)
        nursery.cancel_scope.cancel()


class _Mover(Notices):
    """Has gossip go on over another connection where the one that it went over has ended.

    libp2p keeps the stream that is dead, until something is to be said on it; then each end forgets what topics the
    other wants, and hears of them again only if the other notices later than it does itself.
    """

    def __init__(self, pubsub: Pubsub, nursery: trio.Nursery) -> None:
        super().__init__(lambda: None)
        self._pubsub = pubsub
        self._nursery = nursery
        self._moving: set[ID] = set()

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:
        """Begin anew with a peer that is still connected; both ends do."""
        peer = conn.muxed_conn.peer_id
        if peer not in self._moving and not self._nursery.cancel_scope.cancel_called:
            self._moving.add(peer)
            self._nursery.start_soon(self._move, peer)

    async def _move(self, peer: ID) -> None:
        pubsub = self._pubsub
        try:
            await trio.sleep(BOTH_NOTICE)
            stream = pubsub.peers.get(peer)
            if stream is not None and stream.muxed_conn.is_closed:
                pubsub._handle_dead_peer(peer)  # opens another
            await trio.sleep(BOTH_NOTICE)
            queue = pubsub.peer_queues.get(peer)
            if queue is not None:
                queue.push(pubsub.get_hello_packet())  # the topics, once more: to who has forgotten them meanwhile
        finally:
            self._moving.discard(peer)


class _Queues(dict[ID, RpcQueue]):
    """Outgoing queues by peer; each is given room as it enters."""

    def __setitem__(self, peer: ID, queue: RpcQueue) -> None:
        queue._queue.max_size = QUEUE
        super().__setitem__(peer, queue)


class P2pDirectory:
    """`node.ports.Directory`. Made by `open_directory`."""

    def __init__(self, dht: KadDHT, disabled: AbstractSet[Workaround]) -> None:
        self.dht = dht
        self._disabled = disabled

    async def put(self, key: str, value: bytes) -> int:
        """See `node.ports.Directory`. What libp2p's own `put_value` does, and says nothing of."""
        assert self.dht.validator is not None  # noqa: S101 -- given in `open_directory`
        self.dht.validator.validate(key, value)
        raw = key.encode()
        self.dht.value_store.put(raw, value)
        stored = 0

        async def store(peer: ID) -> None:
            nonlocal stored
            with trio.move_on_after(STEP_SECONDS):
                stored += await self.dht.value_store._store_at_peer(peer, raw, value)

        with trio.move_on_after(LOOKUP_SECONDS):
            lanes = trio.CapacityLimiter(ALPHA)
            async with trio.open_nursery() as nursery:
                for peer in await self._closest(raw):
                    nursery.start_soon(_within, lanes, store, peer)
        return stored

    async def get(self, key: str) -> bytes | None:
        """See `node.ports.Directory`."""
        if Workaround.FRESH_GET not in self._disabled:
            self.dht.value_store.remove(key.encode())
        with trio.move_on_after(LOOKUP_SECONDS):
            return await self.dht.get_value(key)
        return None

    async def provide(self, key: str) -> None:
        """See `node.ports.Directory`."""
        with trio.move_on_after(LOOKUP_SECONDS):
            await self.dht.provider_store.provide(_provider_key(key))

    async def providers(self, key: str) -> tuple[Address, ...]:
        """See `node.ports.Directory`."""
        with trio.move_on_after(LOOKUP_SECONDS):
            found = await self.dht.provider_store.find_providers(_provider_key(key))
            return tuple(address for info in found for address in _addresses(info))
        return ()

    async def _closest(self, key: bytes) -> list[ID]:
        try:
            found = await self.dht.peer_routing.find_closest_peers_network(key)
        except BaseLibp2pError as error:
            log.info("p2p.lookup_failed", reason=str(error))
            return []
        return [peer for peer in found if peer != self.dht.local_peer_id]

    async def keep_table(self, host: P2pHost) -> None:
        """Have every connected server in the routing table and nobody else; libp2p adds only those who ask.

        Whether a peer is a server is known once it has been identified, a moment after it connects.
        """
        known: frozenset[PeerId] = frozenset()
        unsure: set[PeerId] = set()
        while True:
            with trio.move_on_after(IDENTIFY_POLL if unsure else math.inf):
                now = await host.changed(known)
                for peer in known - now:
                    self.dht.routing_table.remove_peer(ID(peer.to_bytes()))
                unsure = (unsure & now) | (now - known)
                known = now
            for peer in list(unsure):
                if await self._enter(ID(peer.to_bytes())):
                    unsure.discard(peer)

    async def _enter(self, identity: ID) -> bool:
        """Add a peer to the table if it is a server; return whether that is known."""
        peerstore = self.dht.host.get_peerstore()
        try:
            protocols = peerstore.get_protocols(identity)
        except PeerStoreError:
            return False
        if PROTOCOL_ID in protocols:
            await self.dht.routing_table.add_peer(
                PeerInfo(identity, peerstore.addrs(identity)), skip_server_mode_check=True
            )
        return bool(protocols)


@asynccontextmanager
async def open_directory(
    host: P2pHost,
    namespaces: Mapping[str, Namespace],
    *,
    serve: bool = True,
    disabled: AbstractSet[Workaround] = NONE,
) -> AsyncIterator[P2pDirectory]:
    """Take part in the directory until left.

    Args:
        namespaces: the only kinds of keys there are.
        serve: whether to hold values for others.
    """
    validator = NamespacedValidator(
        {name: _Rules(rules, disabled) for name, rules in namespaces.items()}, strict_validation=True
    )
    dht = KadDHT(
        host.foreign,
        DHTMode.SERVER if serve else DHTMode.CLIENT,
        validator=validator,
        validator_changed=True,
        strict_validation=True,
    )
    if Workaround.LONG_KEYS not in disabled:
        dht.peer_routing.find_closest_peers_network = _ShortKeys(dht.peer_routing.find_closest_peers_network)
    directory = P2pDirectory(dht, disabled)
    async with background_trio_service(dht), trio.open_nursery() as nursery:
        nursery.start_soon(directory.keep_table, host)
        try:
            yield directory
        finally:
            nursery.cancel_scope.cancel()


class _ShortKeys:
    """Asks for the nodes nearest to a key by its digest, as the multihash that libp2p answers to."""

    def __init__(self, lookup: Callable[[bytes, int], Awaitable[list[ID]]]) -> None:
        self._lookup = lookup

    async def __call__(self, target_key: bytes, count: int = 20) -> list[ID]:
        short = target_key if len(target_key) <= SHORT_KEY else SHA2_256 + hashlib.sha256(target_key).digest()
        return await self._lookup(short, count)


class _Rules(Validator):
    def __init__(self, rules: Namespace, disabled: AbstractSet[Workaround]) -> None:
        self._rules = rules
        self._latest_of_equals = Workaround.EQUAL_REPUBLISH not in disabled

    def validate(self, key: str, value: bytes) -> None:
        if not self._rules.valid(key, value):
            raise ValueError(f"the rules of its namespace refuse the value of {key[:100]}")

    def select(self, key: str, values: list[bytes]) -> int:
        """Choose; of equal values the latest, so that what is published again lives again."""
        best = self._rules.best(key, values)
        if not self._latest_of_equals:
            return best
        return max(index for index, value in enumerate(values) if value == values[best])


def _provider_key(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _addresses(info: PeerInfo) -> list[Address]:
    peer = peer_of(info.peer_id)
    if peer is None:
        return []
    found = (parse_address(str(each)) for each in info.addrs)
    return [each.of(peer) for each in found if each is not None]


async def _within(lanes: trio.CapacityLimiter, work: Callable[[ID], Awaitable[None]], peer: ID) -> None:
    async with lanes:
        await work(peer)

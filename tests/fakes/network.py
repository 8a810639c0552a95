"""A network in memory, with weather: latency, cut links, deaths. Keeps the promises of the ports; runs in virtual time.

What goes wrong is said by calling `cut`, `heal` and `kill`; nothing is random but the jitter, whose luck is given.
A node that is killed dies with a word (its sockets are reset), or in silence, which is noticed as late as a silent
peer is in the real adapter.
"""

import random
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import inf

import trio

from node.edge_ports import Edge
from node.errors import Broken, NotSpoken, OtherSwarm, Unreachable, WhyNot
from node.ports import PeerStream, StreamHandler
from protocol import limits
from protocol.addresses import Address
from protocol.errors import Reason, RemoteProtocolError
from protocol.framing import frame
from protocol.ids import PeerId

WINDOW = 256 * 1024  # bytes on their way to a reader that does not read
PORT = 47470
LINGER = 10.0  # seconds that the end of a conversation is waited for


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """How the network is, in seconds."""

    latency: float = 0.02  # one way
    jitter: float = 0.0  # at most, added to it
    dial: float = 5.0  # until an address counts as dead
    notice: float = 30.0  # until silence is noticed


class _Pipe:
    """One direction of a stream: what is on its way, and whether it will come."""

    def __init__(self, delay: Callable[[], float]) -> None:
        self._delay = delay
        self._items: deque[tuple[float, bytes | None]] = deque()
        self._bytes = 0
        self._last = 0.0
        self._moved = trio.Event()
        self.broken_at = inf
        self.reason = ""
        self.frozen = False

    async def put(self, item: bytes | None) -> None:
        while self._bytes >= WINDOW and not self.broken:
            await self._wait(self.broken_at)
        if self.broken:
            raise Broken(self.reason)
        self._last = max(self._last, trio.current_time() + self._delay())  # jitter never reorders
        self._items.append((self._last, item))
        self._bytes += len(item or b"")
        self._move()

    async def get(self) -> bytes | None:
        while True:
            due = self._items[0][0] if self._items and not self.frozen else inf
            if self.broken and due > self.broken_at:
                raise Broken(self.reason)
            if due <= trio.current_time():  # what was on its way when the line broke has come first
                _, item = self._items.popleft()
                self._bytes -= len(item or b"")
                self._move()
                return item
            await self._wait(min(due, self.broken_at))

    @property
    def broken(self) -> bool:
        return self.broken_at <= trio.current_time()

    @property
    def quiet(self) -> bool:
        return not self._items

    def break_at(self, when: float, reason: str) -> None:
        if when < self.broken_at:
            self.broken_at, self.reason = when, reason
            self._move()

    def freeze(self, frozen: bool) -> None:
        self.frozen = frozen
        if not frozen and not self.broken:
            self.broken_at = inf
        self._move()

    async def _wait(self, until: float) -> None:
        with trio.move_on_at(until):
            await self._moved.wait()

    def _move(self) -> None:
        self._moved.set()
        self._moved = trio.Event()


class FakeStream:
    """`node.ports.PeerStream` between two fake nodes."""

    def __init__(self, peer: PeerId, sending: _Pipe, receiving: _Pipe, latency: float, frame_bytes: int) -> None:
        self.peer = peer
        self.fresh = True
        self.kept = False
        self.sending = sending
        self.receiving = receiving
        self._latency = latency
        self.frame_bytes = frame_bytes
        self._finished = self._ended = False

    async def send(self, *payloads: bytes) -> None:
        for payload in payloads:
            frame(payload)  # raises what the real one raises
        await trio.lowlevel.checkpoint()
        for payload in payloads:
            await self.sending.put(payload)

    async def receive(self) -> bytes | None:
        await trio.lowlevel.checkpoint()
        if self._ended:
            return None
        payload = await self.receiving.get()
        if payload is not None and len(payload) > self.frame_bytes:
            raise RemoteProtocolError(Reason.TOO_LARGE, f"a frame above {self.frame_bytes} bytes")
        self._ended = payload is None
        return payload

    async def finish(self) -> None:
        if not self._finished:
            await self.sending.put(None)
            self._finished = True

    def keep(self) -> None:
        self.kept = True

    @property
    def alive(self) -> bool:
        pipes = (self.sending, self.receiving)
        return not (self._finished or self._ended or any(each.broken for each in pipes)) and self.receiving.quiet

    @property
    def done(self) -> bool:
        return self._finished and self._ended

    def reset(self) -> None:
        now = trio.current_time()
        self.receiving.break_at(now, "the stream was reset by this node")
        self.sending.break_at(now + self._latency, "the peer ended the stream")


class FakeNetwork:
    """Knows every node and link. Nodes join by `node`."""

    def __init__(self, weather: Weather | None = None, *, luck: random.Random | None = None) -> None:
        self.weather = weather or Weather()
        self._luck = luck or random.Random(0)  # noqa: S311 -- weather, not secrets
        self._nodes: dict[PeerId, FakeNode] = {}
        self._cut: dict[frozenset[PeerId], float] = {}
        self._hosts = 0

    @asynccontextmanager
    async def node(self, me: PeerId, *, key: bytes | None = None) -> AsyncIterator["FakeNode"]:
        """Add a node to the network; leaving takes it out, with a word to its peers. Unlike keys never connect."""
        self._hosts += 1
        async with trio.open_nursery() as nursery:
            node = FakeNode(
                self, me, f"10.{self._hosts >> 16 & 255}.{self._hosts >> 8 & 255}.{self._hosts & 255}", nursery
            )
            node.key = key
            self._nodes[me] = node
            try:
                yield node
            finally:
                self.kill(me)
                nursery.cancel_scope.cancel()

    def kill(self, peer: PeerId, *, silently: bool = False) -> None:
        """Have a node die; what it was doing stops at once."""
        node = self._nodes.pop(peer, None)
        if node is None:
            return
        delay = self.weather.notice if silently else self.weather.latency + self.weather.jitter
        for other in list(node.links):
            node.unlink(other, self.weather.latency + self.weather.jitter, "this node died")
            if other in self._nodes:
                self._nodes[other].unlink(peer, delay, "the connection died")
        node.nursery.cancel_scope.cancel()

    def cut(self, one: PeerId, other: PeerId) -> None:
        """Let nothing pass between two nodes; they notice after a while."""
        when = self._cut[frozenset((one, other))] = trio.current_time() + self.weather.notice
        self._freeze(one, other, True)
        for near, far in ((one, other), (other, one)):
            if near in self._nodes and far in self._nodes[near].links:
                self._nodes[near].unlink(far, when - trio.current_time(), "the connection died")

    def heal(self, one: PeerId, other: PeerId) -> None:
        """Let things pass again; connections that nobody gave up yet go on."""
        self._cut.pop(frozenset((one, other)), None)
        self._freeze(one, other, False)

    def is_cut(self, one: PeerId, other: PeerId) -> bool:
        return frozenset((one, other)) in self._cut

    def at(self, address: Address) -> "FakeNode | None":
        return next((node for node in self._nodes.values() if node.address.host == address.host), None)

    def find(self, peer: PeerId) -> "FakeNode | None":
        return self._nodes.get(peer)

    def delay(self) -> float:
        return self.weather.latency + self._luck.uniform(0.0, self.weather.jitter)

    def _freeze(self, one: PeerId, other: PeerId, frozen: bool) -> None:
        for near, far in ((one, other), (other, one)):
            for stream in self._nodes[near].streams[far] if near in self._nodes else ():
                stream.sending.freeze(frozen)
                stream.receiving.freeze(frozen)


@dataclass
class FakeNode:
    """`node.ports.Swarm` and `node.ports.Streams` of one node."""

    network: FakeNetwork
    me: PeerId
    host: str
    nursery: trio.Nursery
    links: set[PeerId] = field(default_factory=set)
    opened: set[PeerId] = field(default_factory=set)  # links that this node dialled
    streams: defaultdict[PeerId, list[FakeStream]] = field(default_factory=lambda: defaultdict(list))
    failures: list[Exception] = field(default_factory=list)  # what handlers raised
    complaints: list[tuple[PeerId, str]] = field(default_factory=list)
    key: bytes | None = None  # of its private swarm
    refused: int = 0  # who dialled it with another key

    def __post_init__(self) -> None:
        self.address = Address("ip4", self.host, PORT, self.me)
        self._handlers: dict[str, tuple[StreamHandler, int]] = {}
        self._book: dict[PeerId, tuple[Address, ...]] = {}
        self._kept: defaultdict[tuple[PeerId, str], list[FakeStream]] = defaultdict(list)
        self._moved = trio.Event()

    # -- Swarm

    def addresses(self) -> tuple[Address, ...]:
        return (self.address,)

    def connected(self) -> frozenset[PeerId]:
        return frozenset(self.links)

    async def changed(self, than: frozenset[PeerId]) -> frozenset[PeerId]:
        while self.connected() == than:
            await self._moved.wait()
        return self.connected()

    def dialled(self, peer: PeerId) -> bool:
        return peer in self.links and peer in self.opened

    def learn(self, peer: PeerId, addresses: Sequence[Address]) -> None:
        self._book[peer] = tuple(addresses)

    async def connect(self, peer: PeerId) -> None:
        if peer in self.links:
            await trio.lowlevel.checkpoint()
            return
        places = self._book.get(peer, ())
        if not places:
            await trio.lowlevel.checkpoint()
            raise Unreachable("no address of this peer is known")
        await self._call(peer, places)

    async def dial(self, address: Address) -> None:
        if address.peer is None:
            raise Unreachable("an address that leads to nobody in particular is not dialled")
        if address.peer in self.links:
            await trio.lowlevel.checkpoint()
            return
        await self._call(address.peer, [address])

    async def _call(self, peer: PeerId, places: Sequence[Address]) -> None:
        there = next((node for each in places if (node := self.network.at(each))), None)
        if there is None or self.network.is_cut(self.me, there.me):
            await trio.sleep(self.network.weather.dial)
            raise Unreachable("no address of this peer answers")
        await trio.sleep(4 * self.network.weather.latency)  # TCP, then Noise
        if there.key != self.key:
            there.refused += 1
            raise OtherSwarm("another swarm answers there", why=WhyNot.WRONG_KEY)
        if there.me != peer or self.network.find(peer) is not there:
            raise Unreachable("somebody else answers there, or nobody any more")
        if peer not in self.links:
            self.opened.add(peer)
            there.opened.discard(self.me)
        for near, far in ((self, peer), (there, self.me)):
            near.links.add(far)
            near.move()

    async def disconnect(self, peer: PeerId) -> None:
        await trio.lowlevel.checkpoint()
        there = self.network.find(peer)
        self.unlink(peer, 0.0, "this node closed the connection")
        if there is not None:
            there.unlink(self.me, self.network.weather.latency, "the connection was closed")

    def admit(self, met: Callable[[PeerId], Awaitable[bool]]) -> None:
        """Gossip here is the air's, which asks nobody whether he was met: what must not be heard is judged."""

    def strangers(self) -> int:
        return self.refused

    def round_trip(self, peer: PeerId) -> float | None:
        return 2 * self.network.weather.latency if peer in self.links else None

    def complain(self, peer: PeerId, reason: str) -> None:
        self.complaints.append((peer, reason))

    def edge(self) -> Edge:
        return Edge(
            inbound=len(self.links - self.opened),
            handshaking=0,
            accepted=0,
            refused={},
            banned_addresses={},
            banned_peers={},
        )

    def unlink(self, peer: PeerId, delay: float, reason: str) -> None:
        when = trio.current_time() + delay
        for stream in self.streams[peer]:
            stream.sending.break_at(when, reason)
            stream.receiving.break_at(when, reason)
        if delay:
            self.nursery.start_soon(self._forget, peer, when)
        else:
            self.links.discard(peer)
            self.move()

    async def _forget(self, peer: PeerId, when: float) -> None:
        await trio.sleep_until(when)
        there = self.network.find(peer)
        if there is None or self.me not in there.links or self.network.is_cut(self.me, peer):
            self.links.discard(peer)
            self.move()

    def move(self) -> None:
        self._moved.set()
        self._moved = trio.Event()

    # -- Streams

    @asynccontextmanager
    async def open(
        self, peer: PeerId, protocol: str, *, patience: float, frame_bytes: int = limits.FRAME_BYTES
    ) -> AsyncIterator[PeerStream]:
        kept = self._kept[peer, protocol]
        stream = next((each for each in reversed(kept) if each.alive), None)
        kept[:] = [each for each in kept if each.alive and each is not stream]
        if stream is None:
            with trio.move_on_after(patience):
                stream = await self._dial(peer, protocol, frame_bytes)
        if stream is None:
            raise Unreachable(f"peer {peer} did not answer within {patience:g} s")
        stream.kept = False
        stream.frame_bytes = frame_bytes  # one that was kept may have had another bound
        whole = False
        try:
            yield stream
            whole = True
        finally:
            if whole and stream.kept and stream.alive:
                stream.fresh = False
                kept.append(stream)
            elif not stream.done:
                stream.reset()

    def serve(self, protocol: str, handler: StreamHandler, *, frame_bytes: int = limits.FRAME_BYTES) -> None:
        self._handlers[protocol] = handler, frame_bytes

    async def _dial(self, peer: PeerId, protocol: str, frame_bytes: int) -> FakeStream:
        await self.connect(peer)
        await trio.sleep(2 * self.network.delay())  # naming the protocol, there and back
        if self.network.is_cut(self.me, peer):  # before, or while the protocol was named
            await trio.sleep_forever()  # the caller's patience ends it
        there = self.network.find(peer)
        if there is None or peer not in self.links:
            raise Unreachable(f"peer {peer} did not take a stream")
        handler = there._handlers.get(protocol)
        if handler is None:
            raise NotSpoken(f"peer {peer} does not speak {protocol}")
        serving, longest = handler
        up, down = _Pipe(self.network.delay), _Pipe(self.network.delay)
        near = FakeStream(peer, up, down, self.network.weather.latency, frame_bytes)
        far = FakeStream(self.me, down, up, self.network.weather.latency, longest)
        self.streams[peer].append(near)
        there.streams[self.me].append(far)
        there.nursery.start_soon(there._handle, serving, far)
        return near

    async def _handle(self, handler: StreamHandler, stream: FakeStream) -> None:
        try:
            await handler(stream)
            await stream.finish()
            with trio.move_on_after(LINGER):
                while await stream.receive() is not None:
                    pass
        except Broken:
            pass
        except RemoteProtocolError as error:
            self.complain(stream.peer, error.reason.value)
        except Exception as error:  # noqa: BLE001 -- any handler, any bug
            self.failures.append(error)
        finally:
            if not stream.done:
                stream.reset()

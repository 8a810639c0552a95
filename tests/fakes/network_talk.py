"""Gossip and directory on the fake network: they reach whom the links reach, lose what they are told to lose."""

import hashlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import trio

from protocol.addresses import Address
from protocol.ids import PeerId
from tests.fakes.network import FakeNetwork, FakeNode

QUEUE = 1024  # messages for one subscriber; what comes while it is full is lost, as in the real one
NEAREST = 20  # nodes that hold a value


class Rules(Protocol):
    """What `node.adapters.p2p.routing.Namespace` says of the values under its keys."""

    @property
    def valid(self) -> Callable[[str, bytes], bool]: ...
    @property
    def best(self) -> Callable[[str, Sequence[bytes]], int]: ...


def reach(network: FakeNetwork, start: PeerId) -> dict[PeerId, tuple[int, PeerId]]:
    """Return every node that a message from `start` comes to over links that hold: by how many, and over whom last."""
    hops, queue = {start: (0, start)}, deque([start])
    while queue:
        here = queue.popleft()
        node = network.find(here)
        for there in node.links if node is not None else ():
            if there not in hops and network.find(there) is not None and not network.is_cut(here, there):
                hops[there] = hops[here][0] + 1, here
                queue.append(there)
    return hops


@dataclass
class FakeAir:
    """Carries gossip between the nodes of a network. `loses` says of each delivery whether it fails."""

    network: FakeNetwork
    loses: Callable[[], bool] = lambda: False
    ears: dict[tuple[PeerId, str], tuple[Callable[[bytes, PeerId | None], bool], "trio.MemorySendChannel[bytes]"]] = (
        field(default_factory=dict)
    )

    def at(self, node: FakeNode) -> "FakeGossip":
        return FakeGossip(self, node)


@dataclass
class FakeGossip:
    """`node.ports.Gossip` of one node."""

    air: FakeAir
    node: FakeNode

    async def publish(self, topic: str, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self._pass_on(self.node, topic, data, {self.node.me})

    def _pass_on(self, here: FakeNode, topic: str, data: bytes, told: set[PeerId]) -> None:
        """Send to the neighbours that have not been told by anybody; one for whom it is lost hears it never."""
        for peer in sorted(here.links - told):
            there = self.air.network.find(peer)
            if there is not None and not self.air.network.is_cut(here.me, peer):
                told.add(peer)
                if not self.air.loses():
                    there.nursery.start_soon(self._deliver, there, topic, data, here.me, told)

    async def _deliver(self, node: FakeNode, topic: str, data: bytes, via: PeerId, told: set[PeerId]) -> None:
        await trio.sleep(self.air.network.delay())
        judge, ear = self.air.ears.get((node.me, topic), (None, None))
        if judge is None or ear is None or not judge(data, via):
            return  # who does not listen, or refuses it, does not pass it on either
        self._pass_on(node, topic, data, told)
        try:
            ear.send_nowait(data)
        except trio.WouldBlock:
            return

    @asynccontextmanager
    async def subscribe(
        self, topic: str, judge: Callable[[bytes, PeerId | None], bool]
    ) -> AsyncIterator[trio.MemoryReceiveChannel[bytes]]:
        sender, receiver = trio.open_memory_channel[bytes](QUEUE)
        self.air.ears[self.node.me, topic] = (judge, sender)
        try:
            with receiver:
                yield receiver
        finally:
            del self.air.ears[self.node.me, topic]


@dataclass
class FakeTable:
    """The directory of a network: what each node holds."""

    network: FakeNetwork
    namespaces: Mapping[str, Rules]
    held: dict[PeerId, dict[str, bytes]] = field(default_factory=dict)
    provided: dict[str, dict[PeerId, tuple[Address, ...]]] = field(default_factory=dict)

    def at(self, node: FakeNode) -> "FakeDirectory":
        self.held.setdefault(node.me, {})
        return FakeDirectory(self, node)


@dataclass
class FakeDirectory:
    """`node.ports.Directory` of one node."""

    table: FakeTable
    node: FakeNode

    async def put(self, key: str, value: bytes) -> int:
        rules = self._rules(key)
        if not rules.valid(key, value):
            raise ValueError("the rules of its namespace refuse the value")
        stored = 0
        for peer in await self._nearest(key):
            old = self.table.held[peer].get(key)
            if old is None or rules.best(key, [old, value]) == 1 or old == value:
                self.table.held[peer][key] = value
                stored += peer != self.node.me
        return stored

    async def get(self, key: str) -> bytes | None:
        held = [self.table.held[peer].get(key) for peer in await self._nearest(key)]
        found = [value for value in held if value is not None]
        return found[self._rules(key).best(key, found)] if found else None

    async def provide(self, key: str) -> None:
        await self._nearest(key)
        self.table.provided.setdefault(key, {})[self.node.me] = self.node.addresses()

    async def providers(self, key: str) -> tuple[Address, ...]:
        await self._nearest(key)
        return tuple(address for places in self.table.provided.get(key, {}).values() for address in places)

    def _rules(self, key: str) -> Rules:
        return self.table.namespaces[key.split("/", 2)[1]]

    async def _nearest(self, key: str) -> list[PeerId]:
        await trio.sleep(4 * self.table.network.delay())  # two steps, there and back
        target = int.from_bytes(hashlib.sha256(key.encode()).digest())
        near = [peer for peer in reach(self.table.network, self.node.me) if peer in self.table.held]
        near.sort(key=lambda peer: int.from_bytes(hashlib.sha256(peer.to_bytes()).digest()) ^ target)
        return near[:NEAREST]
